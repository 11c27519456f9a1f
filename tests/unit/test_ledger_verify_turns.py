"""Turns of verification: whose call runs, while a tenant asks for many."""

from __future__ import annotations

import asyncio

from ledger_svc.verify_turns import VerifyTurns


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Calls:
    """Calls that hold their turn until they are ended; `began` has their names in order."""

    def __init__(self, turns: VerifyTurns) -> None:
        self._turns = turns
        self._gates: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.began: list[str] = []

    async def ask(self, *names: str) -> None:
        """Calls by name, which begins with that of the tenant: `a1`."""
        for name in names:
            self._gates[name] = asyncio.Event()
            self.tasks[name] = asyncio.ensure_future(self._call(name))
        await settled()

    async def _call(self, name: str) -> None:
        async with self._turns.turn(name[0]):
            self.began.append(name)
            await self._gates[name].wait()

    async def end(self, name: str) -> None:
        self._gates[name].set()
        await settled()

    async def cancel(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_tenant_with_many_calls_leaves_room_for_another() -> None:
    calls = Calls(VerifyTurns(2))
    await calls.ask(*(f"a{n}" for n in range(50)))
    assert calls.began == ["a0"]
    await calls.ask("b0")
    assert calls.began == ["a0", "b0"]
    await calls.end("a0")
    assert calls.began == ["a0", "b0", "a1"], "a tenant's own are in their order"
    await calls.cancel(*calls.tasks)


async def test_whoever_had_the_least_time_is_next() -> None:
    clock = Clock()
    calls = Calls(VerifyTurns(1, clock))
    await calls.ask("a0", "a1", "b0", "b1", "b2", "c0")
    for name in ("a0", "b0", "c0", "b1"):
        assert calls.began[-1] == name
        clock.now_s += 10.0 if name == "a0" else 1.0
        await calls.end(name)
    # It had two seconds by now, and the other one ten.
    assert calls.began[-1] == "b2"
    await calls.end("b2")
    assert calls.began[-1] == "a1"
    await calls.end("a1")


async def test_those_that_gave_up_have_no_turn() -> None:
    calls = Calls(VerifyTurns(1))
    await calls.ask("a0", "a1", "a2", "b0", "b1", "c0")
    await calls.cancel("a1", "b0", "b1", "a0")
    assert calls.began == ["a0", "c0"]
    await calls.ask("b2")
    await calls.end("c0")
    await calls.end("a2")
    await calls.end("b2")
    assert sorted(calls.began[2:]) == ["a2", "b2"]


async def test_a_turn_that_came_as_its_call_was_given_up_goes_on() -> None:
    calls = Calls(VerifyTurns(1))
    await calls.ask("a0", "a1", "b0")
    calls.tasks["a0"].cancel()
    await asyncio.sleep(0)
    # Whoever was chosen in that moment has not begun yet.
    calls.tasks["b0"].cancel()
    await settled()
    assert calls.began == ["a0", "a1"]
    await calls.end("a1")


async def test_nothing_is_remembered_of_those_that_are_done() -> None:
    turns = VerifyTurns(2)
    calls = Calls(turns)
    await calls.ask(*(f"{tenant}{n}" for tenant in "abc" for n in range(3)))
    await calls.cancel("a2", "b2", "c2")
    for name in ("a0", "b0", "c0", "a1", "b1", "c1"):
        await calls.end(name)
    for task in calls.tasks.values():
        assert task.done()
    assert not turns._waiting
    assert not turns._running
    assert not len(turns._queue)
