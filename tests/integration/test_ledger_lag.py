"""Appends stop while anchoring is later than a fail-closed policy allows, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from ledger_svc import convert
from ledger_svc.lag import ANCHOR_OVERDUE, Lag
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import UnavailableError
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import append, create_ledger, draft, ledger_service

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


async def test_only_the_tenant_whose_promise_is_broken_is_refused(database_url: str) -> None:
    anchor = InMemoryAnchor()
    ledgers = ["tenants/strict/ledgers/main", "tenants/calm/ledgers/main"]
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        for name in ledgers:
            await create_ledger(service, name)
        anchor.tenants = [
            anchor_pb2.TenantPromise(tenant="tenants/strict", policy=policy(overdue=True))
        ]
        await service.lag.ask(service.lag._promises.copy().popitem()[0])
        with pytest.raises(UnavailableError) as refused:
            await append(service, draft("first"), ledger=ledgers[0])
        assert refused.value.reason == ANCHOR_OVERDUE
        await append(service, draft("first"), ledger=ledgers[1])
        # The log's own promise does not hold for whoever has one of their own.
        anchor.policy = policy(overdue=True)
        anchor.tenants = [anchor_pb2.TenantPromise(tenant="tenants/strict", policy=policy())]
        await service.lag.ask(service.lag._promises.copy().popitem()[0])
        await append(service, draft("second"), ledger=ledgers[0])
        with pytest.raises(UnavailableError):
            await append(service, draft("second"), ledger=ledgers[1])


async def test_no_ledger_is_made_while_the_promise_to_its_tenant_is_broken(
    database_url: str,
) -> None:
    """Its genesis would be acknowledged as an append is; one that is there is found as before."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        await create_ledger(service, "tenants/strict/ledgers/before")
        anchor.tenants = [
            anchor_pb2.TenantPromise(tenant="tenants/strict", policy=policy(overdue=True))
        ]
        with pytest.raises(UnavailableError) as refused:
            await create_ledger(service, "tenants/strict/ledgers/main")
        assert refused.value.reason == ANCHOR_OVERDUE
        await create_ledger(service, "tenants/strict/ledgers/before")
        await create_ledger(service, "tenants/calm/ledgers/main")
        anchor.tenants = []
        await create_ledger(service, "tenants/strict/ledgers/main")


async def test_a_tenants_receipts_are_anchored_by_its_own_policy(database_url: str) -> None:
    anchor = InMemoryAnchor()
    anchor.tenants = [anchor_pb2.TenantPromise(tenant="tenants/strict", anchored_size=0)]
    ledgers = ["tenants/strict/ledgers/main", "tenants/calm/ledgers/main"]
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        states = []
        for name, state in zip(ledgers[::-1], (convert.ANCHORED, convert.LOGGED), strict=True):
            await create_ledger(service, name)
            receipt = (await append(service, draft("first"), ledger=name)).receipt
            wanted = ledger_pb2.GetReceiptRequest(
                name=receipt.name, view=convert.BASIC, wait_for=state
            )
            answer = await service.servicer.GetReceipt(wanted, None)
            states.append(answer.receipt.anchor_state)
        assert states == [convert.ANCHORED, convert.LOGGED]
