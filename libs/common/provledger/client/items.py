"""What the blocking client iterates over, on its event loop's side; `iterating` is the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, Generic, TypeVar

R = TypeVar("R")

END: Final = object()


class Open:
    """The items of one event loop that were begun and have not ended; only used there."""

    def __init__(self) -> None:
        self.items: set[Items[Any]] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def close_resting(self) -> None:
        """Close all that nobody waits for."""
        resting = [items for items in self.items if not items.is_taken_from()]
        await asyncio.gather(*(items.close() for items in resting), return_exceptions=True)

    def leave(self, items: Items[Any]) -> None:
        """Begin to close what nobody has any more."""
        if items in self.items:
            task = asyncio.get_running_loop().create_task(items.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


class Items(Generic[R]):
    """Items of an asynchronous iterator; only used in the event loop."""

    def __init__(self, items: AsyncIterator[R], opened: Open) -> None:
        self._items = items
        self._opened = opened
        self._taking: asyncio.Task[Any] | None = None

    def is_taken_from(self) -> bool:
        """Whether the next one is waited for."""
        return self._taking is not None and not self._taking.done()

    async def take(self) -> R | Any:
        """The next one; `END` behind the last."""
        self._taking = asyncio.current_task()
        self._opened.items.add(self)
        item = END
        try:
            item = await anext(self._items, END)
        finally:
            if item is END:
                # By itself, or by what it raised. An interrupted one is closed besides.
                self._opened.items.discard(self)
        return item

    async def close(self) -> None:
        """End it; once."""
        self._opened.items.discard(self)
        # What was interrupted is on its way out, and nothing is closed while it runs. It is not
        # cancelled twice, which would cut its own cleaning up short.
        if self._taking is not None and not self._taking.done():
            if not self._taking.cancelling():
                self._taking.cancel()
            await asyncio.wait({self._taking})
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()
