"""Large calls stand in line at the witness: the first is done first.

Side by side, the first of two would be done no sooner than the second, and who waits for it, the
ledger with the next step of its pipeline, would idle meanwhile and then have both at once. A call
whose drafts take long makes those behind it slow, and keeps none out; small calls do not wait. In
the thread that large drafts go to there is no line: they take turns there one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

LARGE_CALL: Final = 100
"""Drafts of the largest call that stands in no line: as many as a ledger service puts into a flush
while tenants share it, so that what it keeps short for one of them does not wait here."""

TURNS_OF_THE_FIRST: Final = 8
"""Turns of the loop that the first in line has beside one of each behind it."""

Turn: TypeAlias = Callable[[], Awaitable[None]]
"""Lets others have their turn, and returns when it is the caller's again."""


async def _next_turn() -> None:
    await asyncio.sleep(0)


class Line:
    """For one event loop."""

    def __init__(self) -> None:
        self._calls: list[object] = []

    @contextmanager
    def place(self, drafts: int) -> Iterator[Turn]:
        """Stand in line with a call of so many drafts, if it has to, until this is left."""
        if drafts <= LARGE_CALL:
            yield _next_turn
            return
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
