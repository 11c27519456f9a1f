"""Appends stop while anchoring is later than a fail-closed policy allows, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from ledger_svc.lag import ANCHOR_OVERDUE, Lag
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import UnavailableError
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import append, draft, ledger_service

LOG = "logs/-"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def policy(*, overdue: bool = False, fail_closed: bool = True) -> Any:
    return anchor_pb2.AnchorPolicy(fail_closed=fail_closed, within_s=60, overdue=overdue)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        (None, False),
        (policy(), False),
        (policy(overdue=True, fail_closed=False), False),
        (policy(overdue=True), True),
    ],
)
async def test_only_a_broken_promise_refuses(said: Any, refused: bool) -> None:
    anchor = InMemoryAnchor()
    anchor.policy = said
    lag = Lag(anchor, timeout_s=1)
    await lag.ask(LOG)
    if refused:
        with pytest.raises(UnavailableError, match="60 s"):
            lag.check(LOG)
    else:
        lag.check(LOG)


async def test_silent_anchor_breaks_the_promise_in_the_end() -> None:
    anchor, clock = InMemoryAnchor(), Clock()
    anchor.policy = policy()
    lag = Lag(anchor, timeout_s=1, monotonic=clock)
    await lag.ask(LOG)
    clock.now_s += 60
    lag.check(LOG)
    clock.now_s += 1
    with pytest.raises(UnavailableError):
        lag.check(LOG)
    await lag.ask(LOG)
    lag.check(LOG)


async def test_appends_are_refused_and_taken_again(database_url: str) -> None:
    anchor = InMemoryAnchor()
    anchor.policy = policy()
    async with ledger_service(database_url, anchor=anchor) as service:
        await service.lag.ask(LOG)
        await append(service, draft("first"))
        anchor.policy = policy(overdue=True)
        for name in service.lag._promises:
            await service.lag.ask(name)
        with pytest.raises(UnavailableError) as refused:
            await append(service, draft("second"))
        assert refused.value.reason == ANCHOR_OVERDUE
        anchor.policy = policy()
        for name in service.lag._promises:
            await service.lag.ask(name)
        await append(service, draft("second"))
