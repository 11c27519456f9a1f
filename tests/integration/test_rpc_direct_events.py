"""The queue of gRPC's core in the event loop: how it is emptied, shared and let go of.

How the loop shares its time between events and other work is seen by a clock of ours, with a queue
of ours.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest

from provledger.rpc.direct import core
from provledger.rpc.direct import events as module
from provledger.rpc.direct.events import Events
from provledger.rpc.direct.server import DirectServer
from tests.support.direct import echo, serving
from tests.support.ledgering import eventually

EVENT_S = 0.0001
"""What an event takes."""
MANY = 2_000
EMPTY = SimpleNamespace(completion_type=core.CompletionType.queue_timeout)


class Core:
    """A completion queue with so many events, and what was done meanwhile: `e` for an event, `o`
    for a turn of other work."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.left = 0
        self.done: list[str] = []

    def perf_counter(self) -> float:
        return self.now_s

    def event(self) -> Any:
        kind = core.CompletionType.operation_complete
        return SimpleNamespace(completion_type=kind, tag=self._take)

    def poll(self, _: float) -> Any:
        if not self.left:
            return EMPTY
        self.left -= 1
        return self.event()

    def _take(self, _: Any) -> None:
        self.now_s += EVENT_S
        self.done.append("e")

    async def other(self, count: int, took_s: float) -> None:
        for _ in range(count):
            self.now_s += took_s
            self.done.append("o")
            await asyncio.sleep(0)

    def runs(self) -> list[tuple[str, int]]:
        return [(kind, len(list(found))) for kind, found in groupby(self.done)]


@asynccontextmanager
async def taking(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Core, Events]]:
    fake = Core()
    events = Events.join()
    queue, events.queue = events.queue, fake
    monkeypatch.setattr(module, "time", fake)
    try:
        yield fake, events
    finally:
        events.queue = queue
        await events.leave()


async def test_other_work_has_some_turns_after_each_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with taking(monkeypatch) as (fake, events):
        fake.left = 60
        events._begin(fake.event())
        await fake.other(200, 0.0)
        runs = fake.runs()
        assert fake.done.count("e") == 61
        assert max(count for kind, count in runs if kind == "e") <= 5
        between = [count for kind, count in runs[1:-1] if kind == "o"]
        assert len(between) > 10
        assert min(between[1:]) >= 5


async def test_other_work_that_takes_long_has_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it stands before a call that came in."""
    async with taking(monkeypatch) as (fake, events):
        fake.left = 30
        events._begin(fake.event())
        await fake.other(100, 0.001)
        assert fake.done.count("e") == 31
        assert max(count for kind, count in fake.runs()[1:-1] if kind == "o") <= 2


async def test_who_waits_for_long_is_taken_before_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with taking(monkeypatch) as (fake, events):
        fake.left = MANY
        events._begin(fake.event())
        await fake.other(1_000, 0.0)
        assert fake.done.count("e") == MANY + 1
        last = [count for kind, count in fake.runs()[-9:-3] if kind == "o"]
        assert set(last) == {1}
        # For as long as they may wait, they did.
        short = [count for kind, count in fake.runs() if kind == "e" and count <= 5]
        assert 10 < len(short) < 60
        # And so it stays for a while.
        for pause_s, most in ((0.5, 60), (1.0, 5)):
            fake.now_s += pause_s
            fake.done.clear()
            fake.left = 60
            events._begin(fake.event())
            await fake.other(200, 0.0)
            assert max(count for kind, count in fake.runs() if kind == "e") in (most, most - 1)


async def test_a_queue_that_was_waited_for_is_not_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with taking(monkeypatch) as (fake, events):
        events._begin(fake.event())
        await fake.other(50, 0.0)
        fake.now_s += 60.0
        fake.done.clear()
        fake.left = 60
        events._begin(fake.event())
        await fake.other(200, 0.0)
        assert max(count for kind, count in fake.runs() if kind == "e") <= 5


async def test_the_loop_has_its_turn_between_large_messages() -> None:
    """Each takes the loop a moment to take; not all of them at once."""
    turns = [0]
    async with serving(echo) as calls:
        events = Events.join()
        take, turn = events._take, events._turn_once

        def slow(event: Any) -> None:
            turns[-1] += 1
            end_s = time.perf_counter() + 0.004
            while time.perf_counter() < end_s:
                pass
            take(event)

        def counted() -> None:
            turns.append(0)
            turn()

        events._take, events._turn_once = slow, counted  # type: ignore[method-assign]
        await asyncio.gather(*(calls.unary(b"x", timeout=60) for _ in range(20)))
        await events.leave()
    assert sum(turns) >= 60
    assert max(turns) <= 4


@pytest.mark.parametrize("at", ["_take", "_turn_once"])
async def test_an_interrupt_in_the_middle_leaves_the_events_to_be_taken(at: str) -> None:
    async with serving(echo) as calls:
        events = Events.join()
        usual, caught = getattr(events, at), list[Any]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: caught.append(context))

        def interrupted(*arguments: Any) -> None:
            setattr(events, at, usual)
            if at == "_take":
                usual(*arguments)
            raise RuntimeError("interrupted")

        for _ in range(10):
            setattr(events, at, interrupted)
            assert await calls.unary(b"x", timeout=30) == b"x"
        assert len(caught) == 10
        await events.leave()


async def test_an_idle_loop_is_left_alone() -> None:
    async with serving(echo) as calls:
        assert await calls.unary(b"x") == b"x"
        events = Events.join()
        turns = 0
        turn = events._turn

        def counted() -> None:
            nonlocal turns
            turns += 1
            turn()

        events._turn = counted  # type: ignore[method-assign]
        for _ in range(100):
            await asyncio.sleep(0)
        before = turns
        await asyncio.sleep(0.1)
        assert turns == before
        assert await calls.unary(b"y") == b"y"
        assert turns > before
        await events.leave()


async def test_the_thread_ends_with_the_last_server() -> None:
    """Whether it waits for events then, or the loop takes them."""
    for _ in range(20):
        async with serving(echo) as calls:
            assert await calls.unary(b"x") == b"x"
    await eventually(lambda: "grpc-events" not in [each.name for each in threading.enumerate()])


async def test_servers_of_a_loop_share_the_queue_until_the_last_is_stopped() -> None:
    async with serving(echo) as first:
        async with serving(echo) as second:
            assert await second.unary(b"2") == b"2"
            await first.server.stop(0.0)
            assert await second.unary(b"2") == b"2"
        assert asyncio.get_running_loop() not in Events._of_loop


async def test_an_event_that_cannot_be_taken_stops_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(echo) as calls:
        monkeypatch.setattr(DirectServer, "_ask", _refuse_once(DirectServer._ask))
        await asyncio.wait({asyncio.ensure_future(calls.unary(b"x", timeout=0.2))})
        assert await calls.unary(b"x", timeout=30) == b"x"


def _refuse_once(ask: Any) -> Any:
    refused: list[bool] = []

    def asked(self: Any, events: Any, method: str) -> None:
        if not refused:
            refused.append(True)
            raise RuntimeError("broken")
        ask(self, events, method)

    return asked
