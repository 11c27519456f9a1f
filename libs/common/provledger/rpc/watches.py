"""Server streams that last until somebody goes away, and how one of them is ended from outside.

gRPC sends the initial metadata with the first message. If the task is cancelled in the middle of
that, gRPC does not know that they are sent, sends them again with the status, is refused by its own
core, and the call dangles: its caller hears nothing, and the server's stop waits for it until its
grace is over. So nothing is cancelled there: a watch that is sending its first message is told
right after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from provledger.errors import StatusError, UnavailableError

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Watches:
    """The watches of one server, which a drain ends; for one event loop."""

    def __init__(self) -> None:
        self._running: set[Stream] = set()
        self._over = False

    def end(self) -> None:
        """End all with UNAVAILABLE, and those that come later at once."""
        self._over = True
        for watch in self._running:
            watch.end(draining())

    def ending(self, inner: Behaviour) -> Behaviour:
        """`inner`, a server stream as coroutine, so that `end` can end it."""

        async def run(request: Any, context: Any) -> Any:
            if self._over:
                raise draining()
            watch = Stream(context)
            self._running.add(watch)
            try:
                return await watch.run(inner, request)
            finally:
                self._running.discard(watch)

        return run


class Stream:
    """One of them, and the context that its servicer sees; made in the task that runs it."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._opening = False
        self._opened = False
        self._ended: StatusError | None = None
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def run(self, inner: Behaviour, request: Any) -> Any:
        """`inner`, until it ends or is ended.

        Raises:
            StatusError: the one it was ended with.
        """
        try:
            return await inner(request, self)
        except asyncio.CancelledError:
            # Only a cancellation of ours is turned into an answer.
            if self._ended is None or self._context.cancelled():
                raise
            self._task.uncancel()
            raise self._ended from None

    def end(self, error: StatusError) -> None:
        """End it with an error, if nothing has yet."""
        if self._ended is not None:
            return
        self._ended = error
        if not self._opening:
            self._task.cancel()

    async def write(self, message: Any) -> None:
        """As gRPC's context has it.

        Raises:
            StatusError: the one it was ended with, if that was meanwhile.
        """
        if self._opened:
            await self._context.write(message)
            return
        self._opening = True
        try:
            await self._context.write(message)
        finally:
            self._opening, self._opened = False, True
        if self._ended is not None:
            raise self._ended


def draining() -> UnavailableError:
    """What a watch ends with while its server does."""
    return UnavailableError("SERVER_DRAINING", "the server is shutting down")
