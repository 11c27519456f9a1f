"""An iterator that may block, read from an event loop.

Each has a daemon thread of its own. Not a pool: as many sources as it has threads, each waiting for
its next draft, would keep all others from being read, and a program does not end before its pools.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import AsyncGenerator, Iterable
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")

_END: Final = object()

_Read: TypeAlias = tuple[Any, BaseException | None]
"""An item, `_END` at the end; or what the source failed with."""


async def in_thread(items: Iterable[T]) -> AsyncGenerator[T]:
    """Yield the items; each is asked for when it is wanted, and never before.

    Raises:
        Exception: what the source raised.
        concurrent.futures.CancelledError: it ended by SystemExit or the like, which would end the
            thread of the event loop.
    """
    loop = asyncio.get_running_loop()
    wanted: SimpleQueue[asyncio.Future[_Read] | None] = SimpleQueue()
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run,
        args=(_read, items, wanted, loop),
        name="provledger-client-source",
        # It may be waiting for what never comes, when the stream or the program ends.
        daemon=True,
    ).start()
    try:
        while True:
            answer: asyncio.Future[_Read] = loop.create_future()
            wanted.put(answer)
            item, error = await answer
            if error is not None:
                raise _passed_on(error)
            if item is _END:
                return
            yield item
    finally:
        wanted.put(None)


def _passed_on(error: BaseException) -> BaseException:
    if isinstance(error, Exception | asyncio.CancelledError):
        return error
    cancelled = concurrent.futures.CancelledError(f"the source ended by {type(error).__name__}")
    cancelled.__cause__ = error
    return cancelled


def _read(
    items: Iterable[Any],
    wanted: SimpleQueue[asyncio.Future[_Read] | None],
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Answer each future in turn, until there are no more; in the thread."""
    source = None
    while (answer := wanted.get()) is not None:
        read: _Read
        try:
            if source is None:
                source = iter(items)
            read = (next(source, _END), None)
        except BaseException as error:
            read = (_END, error)
        try:
            loop.call_soon_threadsafe(_hand_over, answer, read)
        except RuntimeError:
            # The loop was closed while the source blocked.
            return


def _hand_over(answer: asyncio.Future[_Read], read: _Read) -> None:
    # Nobody waits for it where the stream was left meanwhile.
    if not answer.done():
        answer.set_result(read)
