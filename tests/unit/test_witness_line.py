"""Large calls stand in line at the witness; nobody is kept out."""

from __future__ import annotations

import asyncio

import pytest

from witness_svc.line import GREAT_CALL, LARGE_CALL, SMALL_CALL, TURNS_OF_THE_FIRST, Line

LARGE = LARGE_CALL + 1


class Work:
    """Calls that take a number of turns each; `done` has their names as they end."""

    def __init__(self) -> None:
        self.line = Line()
        self.steps: list[str] = []
        self.done: list[str] = []

    async def call(self, name: str, drafts: int, turns: int) -> None:
        with self.line.place(drafts) as turn:
            for _ in range(turns):
                self.steps.append(name)
                await turn()
        self.done.append(name)


async def test_the_first_of_two_large_calls_is_done_first() -> None:
    work = Work()
    await asyncio.gather(work.call("a", LARGE, 90), work.call("b", LARGE, 90))
    assert work.done == ["a", "b"]
    # Nine tenths of the time was a's until it was done.
    before = work.steps[: 90 + 90 // TURNS_OF_THE_FIRST]
    assert 0 < before.count("b") <= 90 // TURNS_OF_THE_FIRST + 1


async def test_a_call_that_takes_long_keeps_none_out() -> None:
    work = Work()
    await asyncio.gather(work.call("long", LARGE, 10_000), work.call("b", LARGE, 20))
    assert work.done == ["b", "long"]


async def test_a_small_call_does_not_wait() -> None:
    work = Work()
    calls = [
        work.call("a", LARGE, 90),
        work.call("b", LARGE, 90),
        work.call("small", LARGE_CALL, 9),
    ]
    await asyncio.gather(*calls)
    assert work.done == ["small", "a", "b"]
    assert work.steps[:30].count("small") == 9


async def test_who_fails_or_is_given_up_leaves_the_line() -> None:
    line = Line()
    with pytest.raises(ValueError, match="bad"), line.place(LARGE):
        raise ValueError("bad")
    work = Work()
    given_up = asyncio.create_task(work.call("a", LARGE, 1000))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    await work.call("b", LARGE, 5)
    assert work.done == ["b"]
    assert not line._calls
    assert not work.line._calls


def test_while_small_calls_come_others_make_way_by_shorter_turns() -> None:
    now_s = 0.0
    line = Line(clock=lambda: now_s)
    with line.place(LARGE):
        usual_s = line.turn_s(LARGE)
        with line.place(SMALL_CALL + 1):
            assert line.turn_s(LARGE) == usual_s
        with line.place(SMALL_CALL):
            pass
        # All but the small ones, so that nobody gains by being a little smaller.
        assert line.turn_s(LARGE) == line.turn_s(SMALL_CALL + 1) == usual_s / 5
        assert line.turn_s(SMALL_CALL) == usual_s
        now_s = 0.9
        assert line.turn_s(LARGE) < usual_s
        now_s = 1.1
        assert line.turn_s(LARGE) == usual_s


@pytest.mark.parametrize("drafts", [GREAT_CALL, LARGE_CALL, LARGE])
def test_nobody_makes_way_where_no_call_is_great(drafts: int) -> None:
    line = Line(clock=lambda: 0.0)
    with line.place(SMALL_CALL), line.place(GREAT_CALL - 1):
        usual_s = line.turn_s(GREAT_CALL - 1)
        with line.place(drafts):
            assert line.turn_s(GREAT_CALL - 1) < usual_s
        assert line.turn_s(GREAT_CALL - 1) == usual_s
