"""The blocking client is called from many threads, its own among them, also while it is closed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from provledger.client import Client
from provledger.errors import FailedPreconditionError, ProvledgerError
from tests.integration.client_simulator import HANGS, LEDGER, QUICK, InThread, create


def _outcome(work: Callable[[], object]) -> object:
    """What it returns or raises, in a daemon: what waits for itself must not stop the tests."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(work())
        except BaseException as error:
            outcomes.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(30)
    assert outcomes, "it still waits"
    return outcomes[0]


@pytest.mark.parametrize("use", [lambda client: client.get_ledger(LEDGER), Client.close])
def test_a_client_that_is_called_in_its_own_thread_says_so(use: Callable[[Client], Any]) -> None:
    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        client.append(LEDGER, create(1))
        met = _outcome(lambda: client.verify_range(LEDGER, progress=lambda _: use(client)))
        assert isinstance(met, FailedPreconditionError)
        assert met.reason == "CLIENT_THREAD"
        # Nothing happened to it.
        assert client.get_ledger(LEDGER).seq == 1
        client.close()


def test_a_listing_that_is_collected_in_the_own_thread_does_not_wait_for_itself() -> None:
    """The collector runs wherever something is made, and closes what it finds abandoned."""
    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        client.append_batch(LEDGER, [create(n) for n in range(30)])
        listing: Any = client.list_receipts(LEDGER, page_size=10)
        assert next(listing).seq == 1
        client._own._loop.call_soon_threadsafe(listing.close)
        assert _outcome(lambda: client.get_ledger(LEDGER).seq) == 30
        client.close()


def test_ctrl_c_is_raised_by_what_is_iterated_over_once_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, ended = threading.main_thread().ident or 0, list[bool]()

    async def listing(*_args: Any, **_options: Any) -> AsyncIterator[int]:
        try:
            yield 1
            # To where it waits, as the terminal's does.
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            ended.append(True)

    with Client("127.0.0.1:1") as client:
        monkeypatch.setattr(client._client, "list_receipts", listing)
        with pytest.raises(KeyboardInterrupt):
            list(client.list_receipts(LEDGER))
        assert ended


def test_a_call_that_comes_while_the_client_is_closed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had looked whether the client is closed, and goes on only when that is done."""
    looked, closed = threading.Event(), threading.Event()
    begin = asyncio.run_coroutine_threadsafe

    def slow(work: Any, loop: Any) -> Any:
        if threading.current_thread() is not closing:
            looked.set()
            # In vain, where closing waits for this in turn.
            closed.wait(0.5)
        return begin(work, loop)

    def close() -> None:
        assert looked.wait(30)
        client.close()
        closed.set()

    client = Client("127.0.0.1:1", policy=QUICK)
    closing = threading.Thread(target=close, daemon=True)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slow)
    closing.start()
    met = _outcome(lambda: client.get_ledger(LEDGER))
    assert isinstance(met, ProvledgerError)
    assert closed.wait(30)


def test_a_call_in_flight_says_that_the_client_was_closed() -> None:
    with InThread() as (fake, endpoint):
        fake.faults.append(HANGS)
        client = Client(endpoint)
        calling = threading.Thread(
            target=lambda: met.append(_outcome(lambda: client.append(LEDGER, create(1))))
        )
        met: list[object] = []
        calling.start()
        while not fake.calls:
            calling.join(0.01)
        client.close()
        calling.join(30)
        assert isinstance(met[0], FailedPreconditionError)
        assert met[0].reason == "CLIENT_CLOSED"


def test_a_client_can_be_told_to_share_no_calls() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, share_calls=False) as client:
        threads = [
            threading.Thread(target=client.append, args=(LEDGER, create(n))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert fake.calls == [1] * 20


@pytest.mark.parametrize("where", ["before", "within", "behind"])
def test_a_call_in_the_middle_of_which_its_own_thread_closes_the_client_ends(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As a handler of a signal does, or what the collector finds."""
    client = Client("127.0.0.1:1", policy=QUICK)
    loop, begin = client._own._loop, asyncio.run_coroutine_threadsafe

    def interrupted(work: Any, loop: Any) -> Any:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", begin)
        if where == "before":
            client.close()
        begun = begin(work, loop)
        if where == "behind":
            client.close()
        return begun

    def appends_late() -> None:
        # Between its look whether the loop is closed and its way into the queue.
        monkeypatch.setattr(loop, "_check_closed", check)
        check()
        client.close()

    check = loop._check_closed  # type: ignore[attr-defined]
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    if where == "within":
        monkeypatch.setattr(loop, "_check_closed", appends_late)
    met = _outcome(lambda: client.get_ledger(LEDGER))
    assert isinstance(met, ProvledgerError)
    assert getattr(met, "reason", "") == "CLIENT_CLOSED"
    assert loop.is_closed()


def test_a_client_can_be_used_and_closed_in_the_middle_of_its_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = asyncio.run_coroutine_threadsafe
    seen: list[int] = []

    def interrupted(work: Any, loop: Any) -> Any:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", begin)
        client.close()
        seen.append(client.append(LEDGER, create(1)).seq)
        return begin(work, loop)

    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
        assert _outcome(client.close) is None
        assert seen == [1]
        assert client._own._loop.is_closed()


def test_a_client_that_is_closed_as_its_own_thread_begins_to_wait_ends_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock of what is waited for is held then, and the loop must not need it."""
    client = Client("127.0.0.1:1", policy=QUICK)
    wait = threading.Condition.wait

    def interrupted(condition: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread() in calling:
            calling.clear()
            client.close()
        return wait(condition, timeout)

    def call() -> object:
        begin = asyncio.run_coroutine_threadsafe

        def begun(work: Any, loop: Any) -> concurrent.futures.Future[Any]:
            monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", begin)
            # The loop is held up until the wait has begun.
            loop.call_soon_threadsafe(held.acquire, True, 0.5)
            calling.append(threading.current_thread())
            return begin(work, loop)

        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", begun)
        return client.get_ledger(LEDGER)

    calling, held = list[threading.Thread](), threading.Lock()
    held.acquire()
    monkeypatch.setattr(threading.Condition, "wait", interrupted)
    assert isinstance(_outcome(call), ProvledgerError)
    calling.clear()
    client.close()
