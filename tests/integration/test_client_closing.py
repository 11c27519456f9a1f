"""A closed client: what is under way on it ends with an error of ours, and nothing is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from provledger.client import AsyncClient, CallPolicy, Mutation
from provledger.errors import FailedPreconditionError
from provledger.retry import RetryPolicy
from tests.integration.client_simulator import (
    HANGS,
    LEDGER,
    UNAVAILABLE,
    FakeLedger,
    create,
    serving,
)

PATIENT = CallPolicy(retry=RetryPolicy(attempts=10_000, base_s=0.01, cap_s=0.02, budget_s=60.0))


@pytest.fixture
def fake() -> FakeLedger:
    return FakeLedger()


@pytest_asyncio.fixture
async def client(fake: FakeLedger) -> AsyncIterator[AsyncClient]:
    async with serving(fake) as endpoint:
        yield AsyncClient(endpoint, keys_endpoint=endpoint, policy=PATIENT)


async def _called(fake: FakeLedger, count: int) -> None:
    async with asyncio.timeout(30):
        for _ in range(count):
            await fake.begun.acquire()


async def _is_told(work: asyncio.Future[Any]) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(FailedPreconditionError) as caught:
            await work
    assert caught.value.reason == "CLIENT_CLOSED"


async def test_calls_of_a_closed_client_are_refused_and_open_nothing(client: AsyncClient) -> None:
    await client.get_ledger(LEDGER)
    await client.close()
    await client.close()
    for call in (
        client.get_ledger(LEDGER),
        client.append(LEDGER, create(1)),
        client.append_batch(LEDGER, [create(1)]),
        client.jwks(),
        anext(client.append_stream(LEDGER, [create(1)])),
        anext(client.list_receipts(LEDGER)),
    ):
        await _is_told(asyncio.ensure_future(call))
    assert not client._channels


@pytest.mark.parametrize("fault", [HANGS, UNAVAILABLE])
async def test_appends_under_way_say_that_the_client_was_closed(
    client: AsyncClient, fake: FakeLedger, fault: str
) -> None:
    """Those that are sent or wait for another try, and those that wait to share a call."""
    fake.faults.extend([fault] * 10_000)
    appends = [asyncio.ensure_future(client.append(LEDGER, create(n))) for n in range(10)]
    await _called(fake, 2)
    await client.close()
    for append in appends:
        await _is_told(append)


async def test_a_stream_does_not_outlive_its_client(client: AsyncClient, fake: FakeLedger) -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[Mutation]:
        yield create(0)
        await closed.wait()
        yield create(1)

    stream = aiter(client.append_stream(LEDGER, source()))
    assert (await anext(stream)).error is None
    await client.close()
    closed.set()
    await _is_told(asyncio.ensure_future(anext(stream)))
    assert len(fake.receipts) == 1
    assert not client._channels


async def test_whoever_cancels_a_call_himself_meets_his_own_cancelling(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.append(HANGS)
    append = asyncio.ensure_future(client.append(LEDGER, create(1)))
    await _called(fake, 1)
    append.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await append
