"""Group commit: the one adaptive batcher of all services.

What arrives while one flush runs is the next flush. At low load nothing waits and there is no
timer; at high load batches grow until they are full, and what a flush costs is shared by all of
them. The queue is bounded: when it is full, callers are told to come back, and when.

    batcher = GroupCommit(flush, max_items=1000, max_queued_items=20_000)
    results = await batcher.submit_many(items, size_bytes=size)

Items of one `submit_many` stay together and in order, and cost one future, whatever their number.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from provledger.errors import InternalError, ResourceExhaustedError, UnavailableError

T = TypeVar("T")
R = TypeVar("R")

Flush = Callable[[list[T]], Awaitable[Sequence[R | Exception]]]

_MIN_RETRY_DELAY_S: Final = 0.05
_MAX_RETRY_DELAY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BatchStats:
    """A batcher's state, for metrics; taken at one moment."""

    queued_items: int
    queued_bytes: int
    flushes_in_flight: int
    flushes: int
    """Flushes finished since the start."""
    items: int
    """Items in those flushes."""
    last_items: int
    last_fill: float
    """Items of the last flush, as a part of `max_items`."""
    last_flush_s: float


@dataclass(slots=True, eq=False)
class _Group(Generic[T, R]):
    items: Sequence[T]
    size_bytes: int
    future: asyncio.Future[list[R | Exception]]


class GroupCommit(Generic[T, R]):
    """Collects items and flushes them in batches; for one event loop.

    flush: takes the items of a batch in order of submission and returns as many results, each a
        value or an exception for that item. If it raises, all its callers get that exception.
    max_items, max_bytes: bounds of one batch; a larger group goes alone, and is not split.
    max_queued_items, max_queued_bytes: bounds of what waits.
    max_in_flight: flushes running at once; they start in order of submission.
    """

    def __init__(
        self,
        flush: Flush[T, R],
        *,
        max_items: int = 1000,
        max_bytes: int = 8 * 1024 * 1024,
        max_queued_items: int = 20_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
        max_in_flight: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_queued_items = max_queued_items
        self._max_queued_bytes = max_queued_bytes
        self._max_in_flight = max_in_flight
        self._clock = clock
        # Flushes run in the context of the batcher, not of the caller who happened to start one:
        # neither its principal nor its span may leak into its neighbours' work.
        self._context = contextvars.copy_context()
        self._queue: deque[_Group[T, R]] = deque()
        self._queued_items = 0
        self._queued_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_scheduled = False
        self._closing = False
        self._flushes = 0
        self._items = 0
        self._last_items = 0
        self._last_flush_s = 0.0

    async def submit(self, item: T, size_bytes: int = 0) -> R:
        """Submit one item; its result.

        Raises:
            ResourceExhaustedError, UnavailableError: as `submit_many`.
            The exception that `flush` returned for the item, or raised.
        """
        result = (await self.submit_many((item,), size_bytes))[0]
        if isinstance(result, Exception):
            raise result
        return result

    async def submit_many(self, items: Sequence[T], size_bytes: int = 0) -> list[R | Exception]:
        """Submit items that stay together and in order; a result or an exception for each.

        size_bytes: their size together, counted against the bounds. Cancelling the wait leaves
        the flush and its other callers alone; a group that no flush has begun is then dropped.

        Raises:
            ResourceExhaustedError: QUEUE_FULL, with the delay after which to try again.
            UnavailableError: SHUTTING_DOWN, after `close`.
            Whatever `flush` raised.
        """
        count = len(items)
        if count == 0:
            return []
        if self._closing:
            raise _shutting_down()
        # An empty queue takes anything, so that no group is too large for ever.
        if self._queue and (
            self._queued_items + count > self._max_queued_items
            or self._queued_bytes + size_bytes > self._max_queued_bytes
        ):
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                "too much is waiting already; try again later",
                retry_delay_s=self._retry_delay_s(),
            )
        loop = asyncio.get_running_loop()
        group: _Group[T, R] = _Group(items, size_bytes, loop.create_future())
        self._queue.append(group)
        self._queued_items += count
        self._queued_bytes += size_bytes
        self._schedule_pump()
        return await group.future

    async def close(self) -> None:
        """Refuse new items, flush what waits, and return when the last flush has ended."""
        self._closing = True
        while self._queue or self._tasks:
            self._pump()
            if self._tasks:
                await asyncio.wait(set(self._tasks))

    def stats(self) -> BatchStats:
        """The present state."""
        return BatchStats(
            queued_items=self._queued_items,
            queued_bytes=self._queued_bytes,
            flushes_in_flight=len(self._tasks),
            flushes=self._flushes,
            items=self._items,
            last_items=self._last_items,
            last_fill=self._last_items / self._max_items,
            last_flush_s=self._last_flush_s,
        )

    def _retry_delay_s(self) -> float:
        """About how long the queue needs to drain at the pace of the last flush."""
        flushes = math.ceil(self._queued_items / self._max_items) / self._max_in_flight
        estimate_s = flushes * self._last_flush_s
        return min(_MAX_RETRY_DELAY_S, max(_MIN_RETRY_DELAY_S, estimate_s))

    def _schedule_pump(self) -> None:
        """Start flushes at the end of this turn of the loop: what arrives in one turn, as the
        requests read from one socket do, goes together."""
        if not self._pump_scheduled and len(self._tasks) < self._max_in_flight:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._queue and len(self._tasks) < self._max_in_flight:
            groups = self._take()
            if groups:
                task = asyncio.get_running_loop().create_task(
                    self._run(groups), context=self._context.copy()
                )
                self._tasks.add(task)
                task.add_done_callback(self._on_done)

    def _take(self) -> list[_Group[T, R]]:
        """The next batch: whole groups, as many as fit, without those given up meanwhile."""
        groups: list[_Group[T, R]] = []
        items = size_bytes = 0
        while self._queue:
            group = self._queue[0]
            if groups and (
                items + len(group.items) > self._max_items
                or size_bytes + group.size_bytes > self._max_bytes
            ):
                break
            self._queue.popleft()
            self._queued_items -= len(group.items)
            self._queued_bytes -= group.size_bytes
            if group.future.done():
                continue
            groups.append(group)
            items += len(group.items)
            size_bytes += group.size_bytes
        return groups

    async def _run(self, groups: list[_Group[T, R]]) -> None:
        items: list[T] = [item for group in groups for item in group.items]
        started_s = self._clock()
        try:
            results = await self._flush(items)
            if len(results) != len(items):
                raise InternalError("INTERNAL", "a flush returned another number of results")
        except asyncio.CancelledError:
            _fail(groups, _shutting_down())
            raise
        except Exception as exc:
            _fail(groups, exc)
        else:
            _resolve(groups, results)
        finally:
            self._last_flush_s = self._clock() - started_s
            self._last_items = len(items)
            self._items += len(items)
            self._flushes += 1

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue:
            # Not at once: the callers just answered run first, and may submit again.
            self._schedule_pump()


def _resolve(groups: list[_Group[T, R]], results: Sequence[R | Exception]) -> None:
    start = 0
    for group in groups:
        end = start + len(group.items)
        if not group.future.done():
            group.future.set_result(cast("list[R | Exception]", list(results[start:end])))
        start = end


def _fail(groups: list[_Group[T, R]], exc: Exception) -> None:
    for group in groups:
        if not group.future.done():
            group.future.set_exception(exc)


def _shutting_down() -> UnavailableError:
    return UnavailableError("SHUTTING_DOWN", "the service is shutting down", retry_delay_s=1.0)
