"""Large calls stand in line at the witness: the first is done first.

Side by side, the first of two would be done no sooner than the second, and who waits for it, the
ledger with the next step of its pipeline, would idle meanwhile and then have both at once. A call
whose drafts take long makes those behind it slow, and keeps none out; small calls do not wait. In
the thread that large drafts go to there is no line: they take turns there one by one.

While small calls come, all others make way for them, by shorter turns.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

LARGE_CALL: Final = 100
"""Drafts of the largest call that stands in no line: as many as a ledger service puts into a flush
while tenants share it, so that what it keeps short for one of them does not wait here."""

TURNS_OF_THE_FIRST: Final = 8
"""Turns of the loop that the first in line has beside one of each behind it."""

SMALL_CALL: Final = 16
"""Drafts of the largest call that others make way for, by shorter turns: it is of somebody who does
little and waits for it."""

GREAT_CALL: Final = 65
"""Drafts of the smallest call beside which others make way. Of a crowd of single appends, a flush
has fewer, and nobody has to make way where no call takes long."""

_TURN_S: Final = 0.0005
_SHORT_TURN_S: Final = 0.0001
_SMALL_FOR_S: Final = 1.0

Turn: TypeAlias = Callable[[], Awaitable[None]]
"""Lets others have their turn, and returns when it is the caller's again."""


async def _next_turn() -> None:
    await asyncio.sleep(0)


class Line:
    """For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._calls: list[object] = []
        self._clock = clock
        self._small_until_s = -math.inf
        self._great = 0

    def turn_s(self, drafts: int) -> float:
        """How long a call of so many drafts works until others have their turn, in seconds.

        About ten usual drafts. A call needs some ten turns to be answered, so that this is what a
        small one waits for beside a great one. While there are both, it is one draft, for all but
        the small ones, so that none of them gains by it.
        """
        if drafts <= SMALL_CALL or not self._great or self._clock() >= self._small_until_s:
            return _TURN_S
        return _SHORT_TURN_S

    @contextmanager
    def place(self, drafts: int) -> Iterator[Turn]:
        """Stand in line with a call of so many drafts, if it has to, until this is left."""
        if drafts <= SMALL_CALL:
            self._small_until_s = self._clock() + _SMALL_FOR_S
        great = drafts >= GREAT_CALL
        self._great += great
        try:
            if drafts <= LARGE_CALL:
                yield _next_turn
            else:
                with self._in_line() as turn:
                    yield turn
        finally:
            self._great -= great

    @contextmanager
    def _in_line(self) -> Iterator[Turn]:
        calls, ours = self._calls, object()

        async def turn() -> None:
            for _ in range(1 + TURNS_OF_THE_FIRST):
                await asyncio.sleep(0)
                if ours is calls[0]:
                    return

        calls.append(ours)
        try:
            yield turn
        finally:
            calls.remove(ours)
