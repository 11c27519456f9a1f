"""What a call cannot be made with is refused by its name, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from provledger.client import AnchorState, AsyncClient, CallPolicy, Client
from provledger.errors import DeadlineExceededError, IdentifierError
from tests.integration.client_simulator import (
    HANGS,
    LEDGER,
    QUICK,
    UNAVAILABLE,
    FakeLedger,
    InThread,
    create,
    serving,
)

NAN = float("nan")
NAME = f"{LEDGER}/receipts/018f0000-0000-7000-8000-000000000001"


@pytest.fixture
def fake() -> FakeLedger:
    return FakeLedger()


@pytest_asyncio.fixture
async def client(fake: FakeLedger) -> AsyncIterator[AsyncClient]:
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        yield client


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.append(LEDGER, create(1), timeout_s=NAN),
        lambda client: client.append_batch(LEDGER, [create(1)], timeout_s=NAN),
        lambda client: client.get_ledger(LEDGER, timeout_s=NAN),
        lambda client: client.wait_for_anchor(NAME, timeout_s=NAN),
        lambda client: anext(client.list_receipts(LEDGER, timeout_s=NAN)),
    ],
)
async def test_a_time_that_is_no_number_is_no_call_without_end(
    client: AsyncClient, fake: FakeLedger, call: Callable[[AsyncClient], Any]
) -> None:
    """No moment is later than it, so that no deadline would ever pass."""
    fake.faults.extend([UNAVAILABLE] * 10_000)
    async with asyncio.timeout(5.0):
        with pytest.raises(IdentifierError) as caught:
            await call(client)
    assert caught.value.field == "timeout_s"
    assert fake.begun.locked()


@pytest.mark.parametrize("field", ["timeout_s", "attempt_timeout_s", "max_wait_s"])
def test_a_policy_has_no_time_that_is_no_number(field: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        CallPolicy(**{field: NAN})  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_infinity_is_no_limit_and_no_time_is_a_passed_deadline(
    client: AsyncClient, fake: FakeLedger
) -> None:
    for timeout_s in (0.0, -1.0, float("-inf")):
        with pytest.raises(DeadlineExceededError):
            await client.append(LEDGER, create(1), timeout_s=timeout_s)
    assert not fake.receipts
    fake.faults.append(HANGS)
    await client.append(LEDGER, create(1), timeout_s=float("inf"))
    assert len(fake.receipts) == 1


@pytest.mark.parametrize("state", ["bogus", None, 1, []])
async def test_what_is_no_anchor_state_is_refused(
    client: AsyncClient, fake: FakeLedger, state: Any
) -> None:
    calls = {
        "wait_for": (
            client.append(LEDGER, create(1), wait_for=state),
            client.append_batch(LEDGER, [create(1)], wait_for=state),
        ),
        "state": (client.wait_for_anchor(NAME, state=state),),
    }
    for field, each in calls.items():
        for call in each:
            with pytest.raises(IdentifierError, match="pending, logged, anchored") as caught:
                await call
            assert caught.value.field == field
    assert fake.begun.locked()


async def test_an_anchor_state_may_be_its_text(client: AsyncClient, fake: FakeLedger) -> None:
    text: Any = AnchorState.PENDING.value
    await client.append(LEDGER, create(1), wait_for=text)
    assert len(fake.receipts) == 1


async def test_drafts_of_a_batch_may_come_from_a_generator(
    client: AsyncClient, fake: FakeLedger
) -> None:
    """All of them were recorded, and a TypeError was all that came back."""
    results = await client.append_batch(LEDGER, (create(n) for n in range(3)))
    assert [result.request_id for result in results] == ["r-0", "r-1", "r-2"]
    assert len(fake.receipts) == 3


async def test_of_a_generator_that_fails_nothing_is_sent(
    client: AsyncClient, fake: FakeLedger
) -> None:
    with pytest.raises(ZeroDivisionError):
        await client.append_batch(LEDGER, (create(1 // n) for n in (1, 0)))
    assert fake.begun.locked()


def test_a_generator_for_the_blocking_client_may_use_it() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        client.append(LEDGER, create(0))
        drafts = (create(client.get_ledger(LEDGER).seq + n) for n in range(2))
        assert len(client.append_batch(LEDGER, drafts)) == 2
        assert len(fake.receipts) == 3
