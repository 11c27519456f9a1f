"""The thread of a sink: what blocks is done there, one after another.

One, so that an attempt that hangs is not overtaken by the next. A daemon, and none of a pool: a
disk, a store or a name server that does not answer would keep the process from ending, which waits
for the threads of every pool. What such an end cuts short is as after a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from anchor_svc.sinks import SinkError

T = TypeVar("T")


class SinkThread:
    """Started when there is something to do. Belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises; it is not begun if nobody waits for it by then.

        Raises:
            SinkError: the sink is closed, also before its turn came, or no thread can be started.
        """
        if self._closed:
            raise SinkError("the sink is closed")
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise SinkError(f"no thread can be started for it: {error}") from error
            self._thread = thread
        answer: Future[T] = Future()
        self._jobs.put((answer, work))
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Let the thread end; what it is doing is not waited for."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                answer, _ = job
                # Not cancelled: whoever waits would take that for an end of its own.
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(SinkError("the sink is closed"))
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            answer, work = job
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)
