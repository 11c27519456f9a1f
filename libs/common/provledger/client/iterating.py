"""What the blocking client iterates over: on one side its event loop, on the other whoever asks.

`Items` belongs to the loop, `Iteration` to the caller. Whoever closes an iteration waits for its
end. One that is only dropped does not: the collector finds it wherever something is made, also in
the middle of a wait, and under any lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from provledger.client.transport import is_closed_error
from provledger.errors import CancelledError

if TYPE_CHECKING:
    from provledger.client.own_loop import OwnLoop

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


class Iteration(Iterator[R]):
    """A listing or a stream of the blocking client, for one thread at a time.

    unanswered: the request ids of what was sent and not handed over; for CLIENT_CLOSED, where the
        client was closed while nobody waited for the next item, and for ITERATION_CLOSED.
    """

    def __init__(
        self, own: OwnLoop, items: Items[R], unanswered: Callable[[], tuple[str, ...]]
    ) -> None:
        self._ended = False
        self._own = own
        self._items = items
        self._unanswered = unanswered
        self._busy = threading.Lock()

    def __next__(self) -> R:
        """Return the next item. What it raises is the end of the iteration, as for a generator.

        Raises CancelledError (ITERATION_CLOSED) where it is closed meanwhile: by another thread, or
        by the handler of a signal.
        """
        if not self._busy.acquire(blocking=False):
            raise ValueError("another thread waits for the next item already")
        try:
            return self._next()
        finally:
            self._busy.release()

    def _next(self) -> R:
        if self._ended:
            raise StopIteration
        try:
            item: R | Any = self._own.run(self._items.take())
        except BaseException as error:
            was_closed, self._ended = self._ended, True
            if was_closed and isinstance(error, concurrent.futures.CancelledError):
                cancelled = CancelledError(
                    "ITERATION_CLOSED", "it was closed while its next item was waited for"
                )
                cancelled.request_ids = self._unanswered()
                raise cancelled from None
            if is_closed_error(error):
                # The closing tells what became of it.
                self._own.wait_closed()
                error.request_ids = error.request_ids or self._unanswered()
            else:
                self._own.leave(self._items)
            raise
        if item is END:
            self._ended = True
            raise StopIteration
        return item

    def close(self) -> None:
        """End it here, and wait for that; nothing comes any more.

        Whoever waits for the next item is told, see `__next__`.
        """
        if not self._ended:
            self._ended = True
            self._own.leave(self._items)

    def __del__(self) -> None:
        """Begin its end, without a wait: see the head of the module."""
        if not self._ended:
            self._ended = True
            self._own.drop(self._items)
