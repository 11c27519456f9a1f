"""How the event loop shares its time between gRPC's events and other work, by a clock of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest

from provledger.rpc.direct import core
from provledger.rpc.direct import events as module
from provledger.rpc.direct.events import Events

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
