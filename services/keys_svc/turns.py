"""One piece of work at a time, with what it leaves running in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class InThread(Protocol):
    """Runs `work` in a thread and returns what it does, as `asyncio.to_thread`."""

    async def __call__(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


class Turns:
    """Whoever has a turn is alone, also with the threads that he began in it.

    A thread is not cancelled with the call that it runs for, and goes on with all that it holds.
    The next turn begins when it has ended; nobody else waits for it. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[InThread]:
        """A turn, and what runs its work in threads, one at a time."""
        await self._lock.acquire()
        begun: list[asyncio.Task[Any]] = []
        try:
            yield partial(_in_thread, begun)
        finally:
            if begun and not begun[-1].done():
                begun[-1].add_done_callback(self._ended)
            else:
                self._lock.release()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._lock.release()
        # Taken, so that an error that nobody waits for any more is not reported as forgotten.
        if not task.cancelled():
            task.exception()


async def _in_thread(
    begun: list[asyncio.Task[Any]], work: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    begun[:] = [task]
    await asyncio.wait([task])  # which leaves it alone when it is cancelled itself
    return task.result()
