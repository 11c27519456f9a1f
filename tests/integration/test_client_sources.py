"""Where a stream's drafts come from: a source may block, fail or yield nonsense, and is heard."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from provledger.client import AsyncClient, Client, Mutation
from provledger.errors import CancelledError, IdentifierError, InvalidArgumentError
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, InThread, create, serving


def test_a_source_that_yields_none_is_told_and_does_not_end_the_stream_in_silence() -> None:
    def source() -> Iterator[Any]:
        yield create(0)
        yield None
        yield create(2)

    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        stream = client.append_stream(LEDGER, source())
        assert next(stream).request_id == "r-0"
        with pytest.raises(IdentifierError, match="Mutation or a Document"):
            next(stream)
        assert len(fake.receipts) == 1


async def test_what_is_no_draft_fails_alone_in_a_batch() -> None:
    nothing: Any = None
    fake = FakeLedger()
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        results = await client.append_batch(LEDGER, [create(0), nothing, create(2)])
    assert [type(result.error) for result in results] == [
        type(None),
        InvalidArgumentError,
        type(None),
    ]


async def test_a_source_that_meets_a_cancelled_task_ends_the_stream_with_an_error() -> None:
    async def source() -> AsyncIterator[Mutation]:
        yield create(0)
        work = asyncio.ensure_future(asyncio.Event().wait())
        work.cancel()
        await work
        yield create(2)

    fake = FakeLedger()
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        stream = client.append_stream(LEDGER, source())
        async with asyncio.timeout(30):
            assert (await anext(stream)).request_id == "r-0"
            with pytest.raises(CancelledError) as caught:
                await anext(stream)
    assert caught.value.reason == "SOURCE_CANCELLED"


async def test_a_stream_that_is_cancelled_itself_says_nothing_of_its_source() -> None:
    asked = asyncio.Event()

    async def source() -> AsyncIterator[Mutation]:
        asked.set()
        await asyncio.Event().wait()
        yield create(0)

    fake = FakeLedger()
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        waiting = asyncio.ensure_future(anext(client.append_stream(LEDGER, source())))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("failure", ["cancelled", "fails"])
def test_a_blocking_source_that_fails_ends_the_stream_with_its_error(failure: str) -> None:
    def source() -> Iterator[Mutation]:
        yield create(0)
        work: concurrent.futures.Future[Mutation] = concurrent.futures.Future()
        if failure == "cancelled":
            work.cancel()
        else:
            work.set_exception(ZeroDivisionError("of the source"))
        yield work.result()

    expected = {"cancelled": CancelledError, "fails": ZeroDivisionError}
    met: list[BaseException] = []

    def run(client: Client) -> None:
        try:
            list(client.append_stream(LEDGER, source()))
        except BaseException as error:
            met.append(error)

    with InThread() as (fake, endpoint):
        # In a daemon: a stream that never ends must not keep the tests from ending.
        client = Client(endpoint, policy=QUICK)
        running = threading.Thread(target=run, args=(client,), daemon=True)
        running.start()
        running.join(30)
        assert [type(error) for error in met] == [expected[failure]]
        assert len(fake.receipts) == 1
        client.close()
