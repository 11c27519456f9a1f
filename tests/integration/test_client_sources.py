"""Where a stream's drafts come from: a source may block, fail or yield nonsense, and is heard."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from provledger.client import AppendResult, AsyncClient, Client, Mutation
from provledger.errors import CancelledError, IdentifierError, InvalidArgumentError
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, InThread, create, serving


class _Clock:
    """Stands for the module `time`."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


async def test_a_stream_whose_source_was_silent_for_long_is_continued_when_it_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timeout is for answers that do not come, and none was due in the pause."""
    clock = _Clock()
    monkeypatch.setattr("provledger.client.stream.time", clock)
    answered = asyncio.Event()

    async def source() -> AsyncIterator[Mutation]:
        yield create(0)
        await answered.wait()
        clock.now_s += 10 * QUICK.timeout_s
        yield create(1)

    fake = FakeLedger()
    fake.break_stream_after = [1]
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        async for result in client.append_stream(LEDGER, source()):
            assert result.error is None
            answered.set()
    assert fake.stream_sessions == 2
    assert len(fake.receipts) == 2


def _run(work: Callable[[], object]) -> threading.Thread:
    """Start it in a daemon: what never ends must not keep the tests from ending."""
    running = threading.Thread(target=work, daemon=True)
    running.start()
    return running


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


@pytest.mark.parametrize("failure", ["cancelled", "exits", "fails"])
def test_a_blocking_source_that_fails_ends_the_stream_with_its_error(failure: str) -> None:
    def source() -> Iterator[Mutation]:
        yield create(0)
        work: concurrent.futures.Future[Mutation] = concurrent.futures.Future()
        if failure == "cancelled":
            work.cancel()
        elif failure == "exits":
            work.set_exception(SystemExit(7))
        else:
            work.set_exception(ZeroDivisionError("of the source"))
        yield work.result()

    expected = {
        "cancelled": CancelledError,
        "exits": CancelledError,
        "fails": ZeroDivisionError,
    }
    met: list[BaseException] = []

    def run(client: Client) -> None:
        try:
            list(client.append_stream(LEDGER, source()))
        except BaseException as error:
            met.append(error)

    with InThread() as (fake, endpoint):
        client = Client(endpoint, policy=QUICK)
        _run(lambda: run(client)).join(30)
        assert [type(error) for error in met] == [expected[failure]]
        assert len(fake.receipts) == 1
        client.close()


def test_a_client_closes_while_its_source_blocks() -> None:
    asked, never = threading.Event(), threading.Event()

    def source() -> Iterator[Mutation]:
        yield create(0)
        asked.set()
        never.wait()
        yield create(1)

    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        for result in client.append_stream(LEDGER, source()):
            assert result.error is None
            assert asked.wait(30)
            break
        closing = _run(client.close)
        closing.join(30)
        closed = not closing.is_alive()
        # The source goes on, and nobody listens any more.
        never.set()
        assert closed


def test_a_program_ends_while_a_source_blocks() -> None:
    """Also one that forgot to close its client."""
    program = """
import queue, threading
from provledger.client import Client

asked = threading.Event()

def source():
    asked.set()
    yield queue.Queue().get()

stream = Client("127.0.0.1:1").append_stream("tenants/a/ledgers/main", source())
threading.Thread(target=lambda: next(stream, None), daemon=True).start()
assert asked.wait(30)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_sources_that_block_keep_no_other_from_being_read() -> None:
    # More than the threads of asyncio's pool, which has five and one for each processor, up to 32.
    count = min(32, (os.cpu_count() or 1) + 4) + 1
    never = threading.Event()
    asked = threading.Semaphore(0)

    def blocked() -> Iterator[Mutation]:
        asked.release()
        never.wait()
        return
        yield

    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        waiting = [
            _run(lambda: list(client.append_stream(LEDGER, blocked()))) for _ in range(count)
        ]
        for _ in range(count - 1):
            assert asked.acquire(timeout=30)
        results: list[AppendResult] = []
        ready = _run(lambda: results.extend(client.append_stream(LEDGER, [create(0)])))
        ready.join(30)
        assert [result.error for result in results] == [None]
        never.set()
        for each in waiting:
            each.join(30)
        client.close()


def test_a_blocking_source_is_read_no_further_than_the_window() -> None:
    taken: list[int] = []

    def source() -> Iterator[Mutation]:
        for number in range(10_000):
            taken.append(number)
            yield create(number)

    with InThread() as (_, endpoint), Client(endpoint, policy=QUICK) as client:
        stream = client.append_stream(LEDGER, source(), window=10)
        for _ in range(5):
            next(stream)
        assert len(taken) <= 5 + 10 + 1
        stream.close()  # type: ignore[attr-defined]


def test_a_blocking_source_keeps_the_context_of_who_began_the_stream() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="")
    seen: list[str] = []

    def source() -> Iterator[Mutation]:
        seen.append(tenant.get())
        yield create(0)

    with InThread() as (_, endpoint), Client(endpoint, policy=QUICK) as client:
        tenant.set("acme")
        list(client.append_stream(LEDGER, source()))
    assert seen == ["acme"]
