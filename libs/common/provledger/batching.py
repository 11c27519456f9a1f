"""Group commit: the one adaptive batcher of all services.

What arrives while one flush runs is the next flush. With a latency budget, a batch also has a
*target*, fixed before its first item: what arrives in `TARGET_SHARE` of the budget at the rate of
late (`provledger.pacing`), at least 1. It goes once it has reached the target, and at the latest
when its first item has waited for the budget. So at low load nothing waits and there is no timer;
at a steady load batches are full; at high load they grow to `max_items`, and what a flush costs is
shared by all of them. Without a budget every target is 1. The queue is bounded: when it is full,
callers are told to come back, and when.

With `linger_s` instead, or as well while there is no `patience` for the budget, a batch waits for
those who were just answered and will be back, as long as there are many of them
(`provledger.pacing.Crowd`), and for no longer than that; a second flush runs beside a first one
only if it is as full. Few callers wait for nobody then either.

    batcher = GroupCommit(flush, max_items=1000, max_queued_items=20_000, budget_s=0.008)
    results = await batcher.submit_many(items, size_bytes=size)

Items of one `submit_many` stay together and in order, and cost one future, whatever their number.
Where several batchers share something, `turns` says when each may take its next batch.

A flush in two parts returns an awaitable of its results instead of them: the next one may begin,
and what is left of this one goes on beside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar, cast

from provledger import telemetry
from provledger._batching_groups import Group, callers_of, fail, joined, resolve
from provledger._batching_port import BatchStats, Turns
from provledger.errors import InternalError, ResourceExhaustedError, UnavailableError
from provledger.pacing import ArrivalRate, Crowd, target_items

__all__ = ["BatchStats", "GroupCommit", "Turns"]

T = TypeVar("T")
R = TypeVar("R")

Results: TypeAlias = Sequence[R | Exception]
Flush = Callable[[list[T]], Awaitable[Results[R] | Awaitable[Results[R]]]]

_MIN_RETRY_DELAY_S: Final = 0.05
_MAX_RETRY_DELAY_S: Final = 5.0
# Groups given up that may stay in the queue until their turn, however few others there are.
_FEW_GIVEN_UP: Final = 100
# Timers may come a little before their time.
_CLOCK_STEP_S: Final = 0.0002

_queue = telemetry.level("batch.queue.items", doc="Items that wait for a flush, by batcher")
_fill = telemetry.histogram(
    "batch.fill",
    unit="1",
    doc="Items of a batch as a part of its target, at most 1, by batcher",
    bounds=[tenths / 10 for tenths in range(1, 11)],
)
_sizes = telemetry.histogram("batch.items", unit="1", doc="Items of a batch, by batcher")
_flush_s = telemetry.histogram("batch.flush.duration", doc="One flush, by batcher")
_commit_s = telemetry.histogram(
    "batch.commit.duration", doc="From the submission of a batch's first item to its answer"
)


class GroupCommit(Generic[T, R]):
    """Collects items and flushes them in batches; for one event loop.

    flush: takes the items of a batch in order of submission and returns as many results, each a
        value or an exception for that item. If it raises, all its callers get that exception.
        Instead of the results it may return an awaitable of them, and counts as in flight no more.
    max_items, max_bytes: bounds of one batch; a larger group goes alone, and is not split.
    max_queued_items, max_queued_bytes: bounds of what waits.
    max_in_flight: flushes running at once; they start in order of submission.
    one_more_from: with so many items waiting, one more flush may run; None for never.
    max_unanswered: the same, with those that have returned and whose results are still to come.
    budget_s: the longest an item waits for others to make its batch full, in seconds; 0 for not at
        all. What it waits for flushes that run comes on top.
    patience: the part of the budget that a batch waits at most, asked anew each time; its target is
        that of the whole. More than 1 is so many budgets.
    linger_s: the longest a batch waits for a crowd to come back, in seconds; 0 for not at all. With
        a budget as well, that is what it waits for while the patience is 0; else it waits for no
        more items than a crowd has callers, unless the patience is more than 1.
    fixed_items: the target of every batch, instead of one that follows the arrival rate.
    turns: asked before each flush; None flushes as soon as `max_in_flight` allows.
    name: of the batcher, in metrics. What waits in all those of one name is added up.
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
        one_more_from: int | None = None,
        max_unanswered: int = 16,
        budget_s: float = 0.0,
        patience: Callable[[], float] = lambda: 1.0,
        linger_s: float = 0.0,
        fixed_items: int | None = None,
        turns: Turns | None = None,
        name: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_queued_items = max_queued_items
        self._max_queued_bytes = max_queued_bytes
        self._max_in_flight = max_in_flight
        self._one_more_from = math.inf if one_more_from is None else one_more_from
        self._max_unanswered = max(max_unanswered, max_in_flight)
        self._in_flight = 0
        self._budget_s = budget_s
        self._patience = patience
        self._linger_s = linger_s
        self._crowd = Crowd()
        self._callers_in_flight = 0
        self._ended_s = -math.inf
        self._fixed_items = fixed_items
        self._labels = {"batcher": name}
        self._turns = turns
        self._asked: asyncio.Future[None] | None = None
        self._clock = clock
        self._rate = ArrivalRate()
        # The batch that fills up at the head of the queue: what it waits for, and who ends that.
        self._target = 1
        self._timer: asyncio.TimerHandle | None = None
        # Flushes belong to no caller: neither to who started one, nor to who was the first to need
        # a batcher, of whose trace they would be part for good.
        self._context = contextvars.Context()
        self._queue: deque[Group[T, R]] = deque()
        self._queued_items = 0
        _queue.watch(self, lambda batcher: batcher._queued_items, self._labels)
        self._queued_bytes = 0
        self._urgent_groups = 0
        self._given_up = 0
        self._tasks: set[asyncio.Task[None]] = set()
        # Those of them that are not in flight any more.
        self._unanswered: set[asyncio.Task[None]] = set()
        self._pump_scheduled = False
        self._closing = False
        self._flushes = 0
        self._items = 0
        self._last_items = 0
        self._last_target = 1
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

    async def submit_many(
        self, items: Sequence[T], size_bytes: int = 0, *, urgent: bool = False
    ) -> list[R | Exception]:
        """Submit items that stay together and in order; a result or an exception for each.

        size_bytes: their size together, counted against the bounds. Cancelling the wait leaves
        the flush and its other callers alone; a group that no flush has begun is then dropped, and
        takes no room any more.
        urgent: have the batch that they are in, and those before it, go as soon as they may, full
            or not.

        Raises:
            ResourceExhaustedError: QUEUE_FULL, with the delay after which to try again.
            UnavailableError: SHUTTING_DOWN, after `close`.
            Whatever `flush` raised.
        """
        return await self.submit_groups([(items, size_bytes)], urgent=urgent)

    async def submit_groups(
        self, groups: Sequence[tuple[Sequence[T], int]], *, urgent: bool = False
    ) -> list[R | Exception]:
        """As `submit_many`, for items that need not be flushed all at once: all of them are queued
        or none. A flush that raises is the outcome of its own groups; if all do, it is raised.
        """
        groups = [(items, size_bytes) for items, size_bytes in groups if items]
        if not groups:
            return []
        if self._closing:
            raise _shutting_down()
        count = sum(len(items) for items, _ in groups)
        # An empty queue takes anything, so that no group is too large for ever.
        if self._queued_items and (
            self._queued_items + count > self._max_queued_items
            or self._queued_bytes + sum(size for _, size in groups) > self._max_queued_bytes
        ):
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                "too much is waiting already; try again later",
                retry_delay_s=self._retry_delay_s(),
            )
        loop = asyncio.get_running_loop()
        now_s = self._clock()
        if not self._queued_items:
            self._target = self._next_target(now_s)
        if urgent:
            self._target = 1
            self._urgent_groups += len(groups)
        self._rate.add(count, now_s)
        queued: list[Group[T, R]] = []
        for items, size_bytes in groups:
            queued.append(Group(items, size_bytes, loop.create_future(), now_s, urgent))
            self._queued_bytes += size_bytes
        self._queue.extend(queued)
        self._queued_items += count
        self._schedule_pump()
        try:
            if len(queued) == 1:
                return await queued[0].future
            futures = [group.future for group in queued]
            return joined(queued, await asyncio.gather(*futures, return_exceptions=True))
        except asyncio.CancelledError:
            self._give_up(queued)
            raise

    def _give_up(self, groups: Sequence[Group[T, R]]) -> None:
        """Let go of what nobody waits for any more and no flush has begun: it takes no room.

        Whoever tries again and again would fill the queue with it, and others be refused for that.
        """
        for group in groups:
            if group.queued:
                self._queued_items -= len(group.items)
                self._queued_bytes -= group.size_bytes
                self._urgent_groups -= group.urgent
                group.items, group.size_bytes, group.urgent = (), 0, False
                self._given_up += 1
        if self._given_up > max(_FEW_GIVEN_UP, len(self._queue) // 2):
            self._queue = deque(group for group in self._queue if group.items)
            self._given_up = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits, or runs, or has been asked for: it may be let go of unclosed."""
        return not self._queue and not self._tasks and self._asked is None

    async def close(self) -> None:
        """Refuse new items, flush what waits, and return when the last flush has ended."""
        self._closing = True
        while self._queue or self._tasks:
            self._pump()
            waiting: set[asyncio.Future[None]] = set(self._tasks)
            if self._asked is not None:
                waiting.add(self._asked)
            if waiting:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def stats(self) -> BatchStats:
        """The present state."""
        return BatchStats(
            queued_items=self._queued_items,
            queued_bytes=self._queued_bytes,
            flushes_in_flight=self._in_flight,
            flushes=self._flushes,
            items=self._items,
            last_items=self._last_items,
            last_fill=self._last_items / self._last_target,
            last_flush_s=self._last_flush_s,
            last_target=self._last_target,
        )

    def _retry_delay_s(self) -> float:
        """About how long the queue needs to drain at the pace of the last flush."""
        flushes = math.ceil(self._queued_items / self._max_items) / self._max_in_flight
        estimate_s = flushes * self._last_flush_s
        return min(_MAX_RETRY_DELAY_S, max(_MIN_RETRY_DELAY_S, estimate_s))

    def _next_target(self, now_s: float) -> int:
        """What the batch about to begin waits for, by what is known before its first item."""
        if self._urgent_groups:
            return 1
        if self._fixed_items is not None:
            return max(1, min(self._fixed_items, self._max_items))
        if self._lingers(self._limit_s()):
            return self._crowd.target(self._max_items)
        limit_s = max(self._budget_s, self._limit_s())
        target = target_items(self._rate.per_s(now_s), limit_s, self._max_items)
        if self._linger_s > 0 and limit_s <= self._budget_s:
            # Of callers who wait for their answers, no more come than there are.
            return min(target, self._crowd.share())
        return target

    def _wait_s(self) -> float:
        """How long the batch at the head of the queue may wait for more, in seconds."""
        if self._closing or self._queued_items >= self._target:
            return 0.0
        if self._queued_bytes >= self._max_bytes:
            return 0.0
        limit_s = self._limit_s()
        if self._lingers(limit_s):
            if self._tasks:
                return math.inf  # its end will be heard of
            began_s = max(self._queue[0].submitted_s, self._ended_s)
            return began_s + self._linger_s - self._clock()
        if limit_s <= 0:
            return 0.0
        return self._queue[0].submitted_s + limit_s - self._clock()

    def _limit_s(self) -> float:
        """How long an item waits for others at present, in seconds."""
        return self._budget_s * self._patience() if self._budget_s > 0 else 0.0

    def _lingers(self, limit_s: float) -> bool:
        """Whether a batch waits for a crowd, and not for as long as `limit_s`."""
        return self._linger_s > 0 and limit_s <= 0

    def _schedule_pump(self) -> None:
        """Start flushes at the end of this turn of the loop: what arrives in one turn, as the
        requests read from one socket do, goes together."""
        if self._pump_scheduled or not self._has_room():
            return
        if self._timer is not None:
            if self._wait_s() > 0:
                return  # it will be looked at in time
            self._timer.cancel()
            self._timer = None
        self._pump_scheduled = True
        asyncio.get_running_loop().call_soon(self._pump, context=self._context)

    def _has_room(self) -> bool:
        """Whether one more flush may run."""
        if len(self._tasks) >= self._max_unanswered:
            return False
        more = self._in_flight - self._max_in_flight
        return more < 0 or (more == 0 and self._queued_items >= self._one_more_from)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._queue and self._asked is None and self._has_room():
            wait_s = self._wait_s()
            if wait_s > _CLOCK_STEP_S:
                if self._timer is None and wait_s < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(
                        wait_s, self._on_timer, context=self._context
                    )
                return
            if self._turns is None:
                self._start(self._max_items)
            else:
                self._asked = asyncio.get_running_loop().create_future()
                self._turns.ask(self._on_turn)

    def _on_turn(self) -> None:
        """Take what has come together until now; where the turn was waited for, that is more."""
        turns, asked = cast(Turns, self._turns), self._asked
        self._asked = None
        if asked is not None and not asked.done():
            asked.set_result(None)
        bound = turns.most_items()
        count = self._start(self._max_items if bound is None else min(bound, self._max_items))
        if count:
            self._pump()

    def _start(self, max_items: int) -> int:
        """Start a flush of what fits, if there is anything; how many items it has."""
        groups = self._take(max_items)
        try:
            count = self._begin(groups)
        except Exception as exc:
            # They are in no queue any more, and no flush will answer them or end the turn.
            fail(groups, exc)
            self._end_turn()
            if self._queue:
                self._schedule_pump()
            raise
        if not groups:
            self._end_turn()
        return count

    def _begin(self, groups: list[Group[T, R]]) -> int:
        """Flush groups that were taken from the queue; how many items they have."""
        target = self._target
        self._crowd.see(callers_of(groups) + self._callers_in_flight)
        if self._queue:
            # What stays begins the next batch, and was there before anybody looked at it.
            self._target = self._next_target(self._clock())
        count = sum(len(group.items) for group in groups)
        if self._turns is not None:
            self._turns.took(count)
        if groups:
            task = asyncio.get_running_loop().create_task(
                self._run(groups, target), context=self._context.copy()
            )
            self._tasks.add(task)
            self._in_flight += 1
            task.add_done_callback(self._on_done)
        return count

    def _take(self, max_items: int) -> list[Group[T, R]]:
        """The next batch: whole groups, as many as fit, without those given up meanwhile."""
        groups: list[Group[T, R]] = []
        items = size_bytes = 0
        while self._queue:
            group = self._queue[0]
            if groups and (
                items + len(group.items) > max_items
                or size_bytes + group.size_bytes > self._max_bytes
            ):
                break
            self._queue.popleft()
            group.queued = False
            self._queued_items -= len(group.items)
            self._queued_bytes -= group.size_bytes
            self._urgent_groups -= group.urgent
            if group.future.done():
                self._given_up -= not group.items
                continue
            groups.append(group)
            items += len(group.items)
            size_bytes += group.size_bytes
        return groups

    async def _run(self, groups: list[Group[T, R]], target: int) -> None:
        items: list[T] = [item for group in groups for item in group.items]
        started_s = self._clock()
        self._last_items, self._last_target = len(items), target
        self._callers_in_flight += callers_of(groups)
        try:
            results = await self._flush(items)
            if isinstance(results, Awaitable):
                self._unanswered.add(cast("asyncio.Task[None]", asyncio.current_task()))
                self._land()
                if self._queue:
                    self._schedule_pump()
                results = await results
            if len(results) != len(items):
                raise InternalError("INTERNAL", "a flush returned another number of results")
        except asyncio.CancelledError:
            fail(groups, _shutting_down())
            raise
        except Exception as exc:
            fail(groups, exc)
        else:
            resolve(groups, results)
        finally:
            self._callers_in_flight -= callers_of(groups)
            self._ended_s = self._clock()
            self._last_flush_s = self._ended_s - started_s
            self._items += len(items)
            self._flushes += 1
            # Once for each flush: a metric for each item costs a single append a tenth of it.
            _flush_s.record(self._last_flush_s, self._labels)
            _commit_s.record(self._ended_s - groups[0].submitted_s, self._labels)
            _sizes.record(len(items), self._labels)
            _fill.record(min(1.0, len(items) / target), self._labels)

    def _land(self) -> None:
        """A flush has ended, or its first part has."""
        self._in_flight -= 1
        self._end_turn()

    def _end_turn(self) -> None:
        if self._turns is not None:
            self._turns.end()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task in self._unanswered:
            self._unanswered.discard(task)
        else:
            self._land()
        if self._queue:
            # Not at once: the callers just answered run first, and may submit again.
            self._schedule_pump()


def _shutting_down() -> UnavailableError:
    return UnavailableError("SHUTTING_DOWN", "the service is shutting down", retry_delay_s=1.0)
