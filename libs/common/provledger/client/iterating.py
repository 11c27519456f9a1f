"""What the blocking client iterates over, on the side of whoever asks; `items` is the loop's.

Whoever closes an iteration waits for its end. One that is only dropped does not: the collector
finds it wherever something is made, also in the middle of a wait, and under any lock.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from provledger.client.items import END, Items
from provledger.client.own_loop import OwnLoop
from provledger.client.transport import is_closed_error
from provledger.errors import CancelledError

R = TypeVar("R")


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
