"""The event loop of a blocking client, in a thread of its own.

Whoever asks for something waits for it; the thread itself cannot, and is told so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from provledger.client import forks
from provledger.client.items import Items, Open
from provledger.client.transport import closed_error
from provledger.errors import FailedPreconditionError

R = TypeVar("R")

_END_S: Final = 0.5
"""How long calls have to end when the client is closed; what waits for a source does not."""


class OwnLoop:
    """Begins work in the thread, and waits for it.

    close_client: ends its calls, each with an error of its own.
    """

    def __init__(self, close_client: Callable[[], Awaitable[None]]) -> None:
        self.opened = Open()
        self._pid = os.getpid()
        self._close_client = close_client
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgets to close its client still ends.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="provledger-client", daemon=True
        )
        self._thread.start()
        # Taken for good by whoever closes: in one step, that nothing comes in the middle of.
        self._ending = threading.Lock()
        # Work is begun under it, so that `close` knows of all there is. Never taken by the client's
        # own thread, which others wait for. Entered twice where a handler of a signal, or what the
        # collector finds, uses the client in the middle of it: that is in the same thread.
        self._closing = threading.RLock()
        self._shutting: concurrent.futures.Future[None] | None = None

    def close(self) -> None:
        """End the thread; calls in flight fail. May be called twice.

        Raises FailedPreconditionError in the thread itself, see `_own_thread_error`.
        """
        if self._is_forked():
            return
        if self._is_own_thread():
            raise _own_thread_error()
        if not self._ending.acquire(blocking=False):
            return
        with self._closing:
            # What was begun before is begun there before this, and what remains is cancelled.
            self._shutting = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        self._shutting.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        await self._close_client()
        await self.opened.close_resting()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        if tasks:
            # Calls end by themselves then, with errors of their own, which have their request ids.
            await asyncio.wait(tasks, timeout=_END_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Those that had another item all the same.
        await self.opened.close_resting()
        await self._loop.shutdown_asyncgens()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Do it in the other thread, and wait for it.

        Raises FailedPreconditionError: CLIENT_FORKED, CLIENT_THREAD or CLIENT_CLOSED.
        """
        if self._is_forked():
            # Before any lock, which the parent may have held.
            work.close()
            raise forks.forked_error() if self._shutting is None else closed_error()
        if self._is_own_thread():
            work.close()
            raise _own_thread_error()
        outcome = _Outcome[R]()
        future = self._begin(outcome.of(work), work)
        try:
            return outcome.wait()
        except concurrent.futures.CancelledError:
            if self._ending.locked():
                raise closed_error() from None
            raise
        except BaseException:
            # Ctrl-C in this thread must not leave the call running in the other. It is not waited
            # for, see `Iteration`.
            future.cancel()
            raise

    def _begin(
        self, noted: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Any]
    ) -> concurrent.futures.Future[None]:
        with self._closing:
            if self._shutting is None:
                future = self._handed_over(noted)
                if future is not None:
                    return future
        noted.close()
        work.close()
        raise closed_error()

    def _handed_over(self, work: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R] | None:
        """Begin it; None where the client was closed in the middle of that, in the same thread."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            return None
        # A loop takes what comes once it is closed, and never looks at it.
        return None if self._loop.is_closed() and not future.done() else future

    def leave(self, items: Items[Any]) -> None:
        """Close what was iterated over, and wait for it; closing the client does it besides."""
        if self._is_own_thread():
            self.drop(items)
            return
        # It may be closed by now.
        with contextlib.suppress(FailedPreconditionError):
            self.run(items.close())

    def drop(self, items: Items[Any]) -> None:
        """Begin to close what nobody has any more; waits for nothing, and takes no lock."""
        # What a fork shares with its parent's loop would wake that.
        if self._is_forked():
            return
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.opened.leave, items)

    def wait_closed(self) -> None:
        """Wait until all has ended, where closing has begun."""
        if self._shutting is not None and not self._is_forked():
            concurrent.futures.wait([self._shutting])

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread


class _Outcome(Generic[R]):
    """What work in the loop came to, for one thread that waits.

    Not by its future: whoever begins to wait for that holds its lock for a moment, which the loop
    needs, and a handler of a signal that comes just then may wait for the loop.
    """

    def __init__(self) -> None:
        self._ended = threading.Lock()
        self._ended.acquire()
        self._values: list[R] = []
        self._error: BaseException | None = None

    async def of(self, work: Coroutine[Any, Any, R]) -> None:
        """Do it, and note what it returns or raises; in the loop."""
        try:
            self._values.append(await work)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._ended.release()

    def wait(self) -> R:
        """What it returned, or raised; where it was cancelled, as its future would say it."""
        self._ended.acquire()
        try:
            if isinstance(self._error, asyncio.CancelledError):
                raise concurrent.futures.CancelledError
            if self._error is not None:
                raise self._error
            return self._values[0]
        finally:
            # The error knows this frame.
            self._error = None


def _own_thread_error() -> FailedPreconditionError:
    """What would wait for itself: `progress` of `verify_range` is called in the client's thread."""
    return FailedPreconditionError(
        "CLIENT_THREAD", "the client's own thread cannot wait for it: use another client there"
    )
