"""A rebuilding of the registry that is cancelled leaves a thread, and no room for another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from keys_svc import rebuilding
from keys_svc.servicer import KeysServicer
from keys_svc.turns import Turns
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import InvalidArgumentError


class Thread:
    """Work that lasts until `go_on` is set, and then fails if it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.go_on = threading.Event()
        self.runs = 0
        self._fails = fails

    def __call__(self, *_: Any, **__: Any) -> None:
        self.runs += 1
        self.go_on.wait(30.0)
        if self._fails:
            raise InvalidArgumentError("KEY_LEDGER_BROKEN", "as a history of somebody else")


async def until(thread: Thread, runs: int) -> None:
    async with asyncio.timeout(30.0):
        while thread.runs < runs:  # noqa: ASYNC110 - polled from outside
            await asyncio.sleep(0.001)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("fails", [False, True])
async def test_a_turn_lasts_until_its_thread_has_ended(fails: bool) -> None:
    turns, thread, order = Turns(), Thread(fails=fails), list[str]()
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def work() -> None:
        async with turns.take() as in_thread:
            await in_thread(thread)

    async def next_one() -> None:
        async with turns.take():
            order.append("the next turn" if thread.go_on.is_set() else "too early")

    first = asyncio.create_task(work())
    await until(thread, 1)
    await cancel(first)  # who waits no more does not wait for the thread either
    given_up = asyncio.create_task(next_one())
    waiting = asyncio.create_task(next_one())
    for _ in range(10):
        await asyncio.sleep(0)
    await cancel(given_up)
    thread.go_on.set()
    async with asyncio.timeout(30.0):
        await waiting
    assert order == ["the next turn"]
    assert not reported


async def test_what_is_done_or_raised_in_a_turn_is_handed_on() -> None:
    turns = Turns()
    async with turns.take() as in_thread:
        assert await in_thread(sorted, [2, 1], reverse=True) == [2, 1]
    failing = Thread(fails=True)
    failing.go_on.set()
    async with turns.take() as in_thread:
        with pytest.raises(InvalidArgumentError):
            await in_thread(failing)
    async with asyncio.timeout(30.0), turns.take():
        pass


class _Live:
    async def load(self) -> None:
        return None

    async def update(self, _: Any) -> Any:
        return SimpleNamespace(keys=[1, 2], events=[])


async def test_streams_that_are_cancelled_verify_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread = Thread()
    monkeypatch.setattr("keys_svc.convert.rebuild_from_pb", lambda *_, **__: [None])
    monkeypatch.setattr("provledger.names.receipt_time_ns", lambda *_: 0)
    monkeypatch.setattr(rebuilding, "check_empty", lambda *_: True)
    monkeypatch.setattr(rebuilding, "verified", thread)
    live: Any = _Live()
    servicer = KeysServicer(live, drain_ns=0, lease_ms=1000)

    async def parts() -> AsyncIterator[pb.RebuildRegistryStreamRequest]:
        yield pb.RebuildRegistryStreamRequest(payloads=[b"1"], receipts=["1"], event_count=1)

    def stream() -> asyncio.Task[Any]:
        return asyncio.create_task(servicer.RebuildRegistryStream(parts(), None))

    first = stream()
    await until(thread, 1)
    await cancel(first)
    second = stream()
    done, _ = await asyncio.wait([second], timeout=0.1)
    assert (done, thread.runs) == (set(), 1)
    thread.go_on.set()
    assert (await second).key_count == 2
    assert thread.runs == 2
