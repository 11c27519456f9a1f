"""Who may open another server stream, and who is kept out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger.errors import ResourceExhaustedError
from provledger.rpc.auth import set_principal
from provledger.rpc.watch_room import WatchRoom, most_watches

MOST = 2048


@dataclass
class Context:
    connection: str = "ipv4:127.0.0.1:1"

    def peer(self) -> str:
        return self.connection


class Callers:
    """Callers of one server; `open` has how many watches each holds."""

    def __init__(self, most: int = MOST) -> None:
        self.room = WatchRoom(most)
        self.open: dict[str, list[asyncio.Task[Any]]] = {}
        self._watch = self.room.bounding(self._forever)

    async def _forever(self, request: Any, context: Any) -> None:
        await asyncio.Event().wait()

    async def _call(self, caller: str) -> None:
        if not caller.startswith("ipv4:"):
            set_principal(caller)
        await self._watch(b"", Context(caller))

    async def ask(self, caller: str, count: int) -> int:
        """Open some more; how many of them may stay."""
        tasks = [asyncio.ensure_future(self._call(caller)) for _ in range(count)]
        await asyncio.sleep(0)
        going = [task for task in tasks if not task.done()]
        self.open.setdefault(caller, []).extend(going)
        for task in tasks:
            if task.done():
                error = task.exception()
                assert isinstance(error, ResourceExhaustedError)
                assert error.reason == "TOO_MANY_WATCHES"
                assert error.retry_delay_s
        return len(going)

    async def end(self, caller: str) -> None:
        tasks = self.open.pop(caller)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end_all(self) -> None:
        for caller in [*self.open]:
            await self.end(caller)


async def test_one_caller_alone_has_its_share() -> None:
    callers = Callers()
    assert await callers.ask("greedy", MOST) == 768
    await callers.end("greedy")
    assert await callers.ask("greedy", MOST) == 768
    await callers.end_all()


async def test_many_greedy_callers_keep_no_service_out() -> None:
    callers = Callers()
    for number in range(40):
        await callers.ask(f"greedy{number}", MOST)
    for service in ("witness", "ledger", "anchor"):
        assert await callers.ask(service, 8) == 8
    await callers.end_all()


@pytest.mark.parametrize("places", [32, 33, 47, 64, 100, 128, 255, 256, 257, 1024, 8192])
async def test_three_replicas_of_three_services_watch_at_any_size(places: int) -> None:
    """Also beside one caller that takes what it can, and calls have half of the places."""
    most = most_watches(places)
    assert most <= places // 2
    callers = Callers(most)
    for held in (0, 2):
        await callers.ask("greedy", held * most)
        for _replica in range(3):
            for service in ("witness", "ledger", "anchor"):
                assert await callers.ask(service, 1) == 1
        await callers.end_all()


async def test_anonymous_callers_are_told_apart_by_their_connections() -> None:
    callers = Callers()
    assert await callers.ask("ipv4:127.0.0.1:1", MOST) == 768
    assert await callers.ask("ipv4:127.0.0.1:2", 8) == 8
    await callers.end_all()


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=20))
def test_no_more_are_open_than_may_be_and_none_is_remembered(
    most: int, asked: list[tuple[int, int]]
) -> None:
    async def run() -> None:
        callers = Callers(most)
        held = 0
        for caller, count in asked:
            held += await callers.ask(str(caller), count)
            assert held <= most
        # Nobody who holds none is kept out by few others: each may have four of the half.
        if most >= 82:
            assert await callers.ask("ledger", 1) == 1
        await callers.end_all()
        assert not callers.room._held_by
        assert not callers.room._held

    asyncio.run(run())
