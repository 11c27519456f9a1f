"""Drafts gathered into batches in a thread, for an event loop that has answers to take meanwhile.

The thread reads on only while a batch is wanted, and so is one draft ahead at most. A pipe may have
nothing for hours: what is there leaves when its first line has waited for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from provledger.api.common.v1 import common_pb2
from provledger.client.batches import MAX_BATCH_BYTES, MAX_BATCH_ITEMS

Item: TypeAlias = tuple[int, common_pb2.Draft]
"""A line's number and the draft it stands for."""


@dataclass(slots=True)
class Batch:
    """Lines by number, how large they were together at first, and what they are about."""

    items: list[Item] = field(default_factory=list)
    size_bytes: int = 0
    resources: set[str] = field(default_factory=set)

    def takes(self, item: Item) -> bool:
        """Whether there is room for one more in a call."""
        return not self.items or self.size_bytes + item[1].ByteSize() <= MAX_BATCH_BYTES

    def add(self, item: Item) -> None:
        """Put one more at its end."""
        mutation = item[1].mutation
        self.items.append(item)
        self.size_bytes += item[1].ByteSize()
        self.resources.add(f"{mutation.resource_type}/{mutation.resource_id}")


class Gathering:
    """Batches out of what a thread reads. For one task of the loop that it was made in.

    linger_s: how long the first line of a batch waits for others; None: until the batch is full.
    """

    def __init__(self, items: Iterable[Item], batch_items: int, linger_s: float | None) -> None:
        self._items = items
        self._most = min(batch_items, MAX_BATCH_ITEMS)
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        # What follows belongs to whoever holds it.
        self._lock = threading.Condition()
        self._batch = Batch()
        self._wanted = self._full = self._ended = self._closed = False
        self._error: Exception | None = None
        # A daemon: a source that cannot be stopped must not keep the command from ending.
        threading.Thread(target=self._read, name="read-lines", daemon=True).start()

    async def next(self) -> Batch | None:
        """The next batch; None at the end, be it that of the source or an error."""
        with self._lock:
            self._wanted = True
            self._lock.notify()
        due_s: float | None = None
        while True:
            now_s = self._loop.time()
            with self._lock:
                if self._full or self._ended or (due_s is not None and now_s >= due_s):
                    return self._take()
                if due_s is None and self._batch.items and self._linger_s is not None:
                    due_s = now_s + self._linger_s
                self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._news.wait()

    def check(self) -> None:
        """Raise what ended the reading, if that was an error. What was read before is not lost."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Read no further."""
        with self._lock:
            self._closed = True
            self._lock.notify()

    def _take(self) -> Batch | None:
        taken, self._batch = self._batch, Batch()
        self._wanted = self._full = False
        return taken if taken.items else None

    def _read(self) -> None:
        error: Exception | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except Exception as raised:
            error = raised
        finally:
            with self._lock:
                self._error, self._ended = error, True
                self._tell()

    def _put(self, item: Item) -> bool:
        """Add it to the batch that is wanted, once there is room; False if none will be wanted."""
        with self._lock:
            while not (self._wanted and not self._full and self._batch.takes(item)):
                if self._closed:
                    return False
                if self._wanted and not self._full:
                    self._full = True
                    self._tell()
                self._lock.wait()
            self._batch.add(item)
            self._full = len(self._batch.items) >= self._most
            if self._full or len(self._batch.items) == 1:
                self._tell()
            return not self._closed

    def _tell(self) -> None:
        # The loop is closed where the command has ended without waiting for us.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)
