"""Single appends that are under way at the same time share calls.

What is appended in one turn of the event loop goes together, as one AppendBatch; whoever is alone
goes in a call of his own. While `MAX_CALLS` to one ledger are under way, the next ones wait for the
first of these to be answered: with many callers, what a call costs is paid once for all of them.
Who was answered together comes back together, and many divide themselves evenly among the calls, so
that one is prepared while another is recorded. Each caller has an answer or an error of its own all
the same. Those that wait for the log go with others that wait for the same, and are never kept from
being recorded by calls that wait for it in vain.

A caller who may call Append and not AppendBatch (`allowed_callers`) shares none once it was told.

Whoever comes when somebody before him has waited for longer than he would is told so at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from provledger.api.common.v1 import common_pb2
from provledger.client import convert
from provledger.client.batches import MAX_BATCH_ITEMS
from provledger.client.values import AppendResult
from provledger.errors import (
    DeadlineExceededError,
    PermissionDeniedError,
    ProvledgerError,
    ResourceExhaustedError,
)

MAX_CALLS: Final = 2
"""Calls under way to one ledger before appends share them."""

MAX_LINGER_S: Final = 0.01
"""How long an append waits for the end of a call that waits for the log: while that is away, such a
call takes seconds."""

MIN_SHARED_WAIT_S: Final = 10.0
"""Who wants to wait for less asks alone: the service waits no longer than most of a deadline."""

FEW: Final = 16
"""So many go together and leave nobody for the next call, which would cost more than it gains."""

MAX_SHARED_BYTES: Final = 1024 * 1024
"""Bytes of drafts in a shared call: receipts come back whole."""

MAX_WAITING: Final = 20_000
_RETRY_DELAY_S: Final = 0.1
# The second is what a proxy that allows by method says, without our details.
_NOT_ALLOWED: Final = frozenset({"CALLER_NOT_ALLOWED", "PERMISSION_DENIED"})


@dataclass(frozen=True, slots=True)
class Aim:
    """What appends that share a call have in common: the ledger, and what they wait for."""

    ledger: str
    wait_for: common_pb2.AnchorState = common_pb2.ANCHOR_STATE_UNSPECIFIED


One: TypeAlias = Callable[[Aim, common_pb2.Draft, float], Awaitable[AppendResult]]
"""Appends one draft with a time limit in seconds."""

Many: TypeAlias = Callable[[Aim, Sequence[common_pb2.Draft], float], AsyncIterator[AppendResult]]
"""Appends some drafts; the result of each as it is known, with its index."""


class _Waiting:
    """An append on its way.

    `future` has its result, or None once it is to go alone. `context` is its caller's: a shared
    call is part of what the first in it traces. `left`: of one in a shared call, called when its
    caller does not wait any more, with whether he gave up.
    """

    __slots__ = (
        "alone",
        "context",
        "deadline_s",
        "draft",
        "future",
        "left",
        "since_s",
        "size_bytes",
    )

    def __init__(self, draft: common_pb2.Draft, now_s: float, timeout_s: float) -> None:
        self.draft = draft
        self.size_bytes = draft.ByteSize()
        self.since_s = now_s
        self.deadline_s = now_s + timeout_s
        self.alone = False
        self.context = contextvars.copy_context()
        self.left: Callable[[bool], None] | None = None
        self.future: asyncio.Future[AppendResult | None] = (
            asyncio.get_running_loop().create_future()
        )


class _Lane:
    """The appends with one aim.

    `waiting`: those not sent, oldest first; who gives up is taken out. `calls`: for each call under
    way, since when the first append in it has waited, and `under_way` the appends in all of them.
    `timer`: sends what waits, where that must not be for long. `sending`: whether what waits will
    be looked at before the next turn of the loop.
    """

    __slots__ = ("calls", "sending", "timer", "under_way", "waiting")

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.sending = False
        self.under_way = 0
        self.waiting: OrderedDict[_Waiting, None] = OrderedDict()
        self.timer: asyncio.TimerHandle | None = None


class SingleAppends:
    """The single appends of a client; for one event loop.

    max_wait_s: while somebody has waited for longer than so many seconds, nobody is let in; 0 for
        his own time limit. Those that were let in are sent whatever happens to those behind them.
    """

    def __init__(
        self,
        one: One,
        many: Many,
        *,
        max_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._one = one
        self._many = many
        self._max_wait_s = max_wait_s
        self._clock = clock
        # Set once the service has said that this caller may not call AppendBatch.
        self._apart = False
        self._lanes: dict[Aim, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, aim: Aim, draft: common_pb2.Draft, timeout_s: float) -> AppendResult:
        """Append a draft; its result, which may hold an error.

        Raises:
            DeadlineExceededError: it took longer. It may be recorded all the same.
            ResourceExhaustedError: QUEUE_FULL, too many wait here, or for too long.
            StatusError: the call failed.
        """
        if self._apart or (aim.wait_for and timeout_s < MIN_SHARED_WAIT_S):
            return await self._one(aim, draft, timeout_s)
        if timeout_s < 0.0:
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "no time left for the call")
        lane = self._lanes.get(aim)
        if lane is None:
            lane = self._lanes[aim] = _Lane()
        now_s = self._clock()
        self._check_wait(aim, lane, now_s, timeout_s)
        item = _Waiting(draft, now_s, timeout_s)
        lane.waiting[item] = None
        self._send_soon(aim, lane)
        if aim.wait_for and lane.timer is None:
            loop = asyncio.get_running_loop()
            lane.timer = loop.call_later(MAX_LINGER_S, self._send, aim, lane, True)
        try:
            result = await _within(timeout_s, item.future)
            if result is not None:
                return result
            # In the task of its caller: it is part of what he traces, and ends if he does.
            return await self._one(aim, draft, item.deadline_s - self._clock())
        finally:
            lane.waiting.pop(item, None)
            if item.left is not None:
                item.left(item.future.cancelled())
            if item.alone:
                self._ended(aim, lane, item.since_s, 1)

    async def close(self) -> None:
        """Cancel what is under way or waits; nothing more is sent."""
        # First those that wait: the end of a call would send them.
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
            while lane.waiting:
                lane.waiting.popitem(last=False)[0].future.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check_wait(self, aim: Aim, lane: _Lane, now_s: float, timeout_s: float) -> None:
        """Refuse one that would wait for too long, by how long others have waited already."""
        # One that was given up at this moment has not been taken out yet.
        while lane.waiting and (first := next(iter(lane.waiting))).future.done():
            del lane.waiting[first]
        if len(lane.waiting) >= MAX_WAITING:
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                f"{MAX_WAITING} appends wait in this client already",
                retry_delay_s=_RETRY_DELAY_S,
            )
        oldest_s = next(iter(lane.waiting)).since_s if lane.waiting else now_s
        # Those under way that wait for the log do so by their own wish.
        if self._max_wait_s and not aim.wait_for:
            oldest_s = min(oldest_s, *lane.calls, now_s)
        waited_s = now_s - oldest_s
        limit_s = min(self._max_wait_s or timeout_s, timeout_s)
        if waited_s > limit_s:
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                f"appends of this client wait for {waited_s:.3g} s already",
                retry_delay_s=max(_RETRY_DELAY_S, waited_s - limit_s),
            )

    def _ended(self, aim: Aim, lane: _Lane, since_s: float, appends: int) -> None:
        lane.calls.remove(since_s)
        lane.under_way -= appends
        self._send_soon(aim, lane)

    def _send_soon(self, aim: Aim, lane: _Lane) -> None:
        """Send what waits once all have had their turn that come, or come back, in this one."""
        if not lane.sending and len(lane.calls) < MAX_CALLS:
            lane.sending = True
            asyncio.get_running_loop().call_soon(self._send_now, aim, lane)

    def _send_now(self, aim: Aim, lane: _Lane) -> None:
        lane.sending = False
        self._send(aim, lane)
        if not lane.calls and not lane.waiting:
            self._lanes.pop(aim, None)

    def _send(self, aim: Aim, lane: _Lane, overdue: bool = False) -> None:
        """Send what waits: in as many calls as may be under way, or all once it is overdue."""
        share = math.ceil((len(lane.waiting) + lane.under_way) / MAX_CALLS)
        most = MAX_BATCH_ITEMS if overdue else min(max(share, FEW), MAX_BATCH_ITEMS)
        while (overdue or len(lane.calls) < MAX_CALLS) and (items := _take(lane.waiting, most)):
            lane.calls.append(items[0].since_s)
            lane.under_way += len(items)
            if len(items) == 1:
                items[0].alone = True
                items[0].future.set_result(None)
                continue
            self._start(aim, lane, items)
        if lane.timer is not None and not lane.waiting:
            lane.timer.cancel()
            lane.timer = None

    def _start(self, aim: Aim, lane: _Lane, items: list[_Waiting]) -> None:
        """Begin a shared call, which is given up once nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(aim, items), context=items[0].context)
        self._tasks.add(task)
        waiting = len(items)

        def left(gave_up: bool) -> None:
            nonlocal waiting
            waiting -= 1
            if gave_up and not waiting:
                task.cancel()

        def ended(task: asyncio.Task[None]) -> None:
            # Not in the task itself, which may be cancelled before it begins.
            self._tasks.discard(task)
            for item in items:
                item.future.cancel()
            self._ended(aim, lane, items[0].since_s, len(items))

        for item in items:
            item.left = left
        task.add_done_callback(ended)

    async def _run(self, aim: Aim, items: list[_Waiting]) -> None:
        """Send some together, and give each its result as it comes."""
        timeout_s = max(item.deadline_s for item in items) - self._clock()
        try:
            await self._run_shared(aim, items, timeout_s)
        except BaseException as error:
            for item in items:
                if not item.future.done():
                    if isinstance(error, Exception):
                        item.future.set_exception(_own(error))
                    else:
                        item.future.cancel()
            if not isinstance(error, Exception):
                raise

    async def _run_shared(self, aim: Aim, items: list[_Waiting], timeout_s: float) -> None:
        """Send some in a call, or each in its own where this caller may not share them."""
        if not self._apart:
            try:
                async for result in self._many(aim, [item.draft for item in items], timeout_s):
                    _answer(items[result.index], result)
                return
            except PermissionDeniedError as error:
                if error.reason not in _NOT_ALLOWED:
                    raise
                self._apart = True
        await asyncio.gather(*(self._run_apart(aim, item) for item in items))

    async def _run_apart(self, aim: Aim, item: _Waiting) -> None:
        if item.future.done():
            return
        try:
            _answer(item, await self._one(aim, item.draft, item.deadline_s - self._clock()))
        except Exception as error:
            if not item.future.done():
                item.future.set_exception(error)


async def _within(
    timeout_s: float, future: asyncio.Future[AppendResult | None]
) -> AppendResult | None:
    try:
        async with asyncio.timeout(timeout_s):
            return await future
    except TimeoutError:
        raise DeadlineExceededError(
            "DEADLINE_EXCEEDED", "the append was not answered in time"
        ) from None


def _take(waiting: OrderedDict[_Waiting, None], most: int) -> list[_Waiting]:
    """The next `most` that fit into a call, without those given up at this moment."""
    items: list[_Waiting] = []
    size = 0
    while waiting and len(items) < most:
        item = next(iter(waiting))
        if items and size + item.size_bytes > MAX_SHARED_BYTES:
            break
        del waiting[item]
        if not item.future.done():
            items.append(item)
            size += item.size_bytes
    return items


def _answer(item: _Waiting, result: AppendResult) -> None:
    if item.future.done():
        return
    if result.error is not None:
        result = AppendResult(
            0, result.request_id, error=convert.about_draft(result.error, "draft")
        )
    item.future.set_result(result)


def _own(error: Exception) -> Exception:
    """The error of a shared call once more, for one of those in it: his request id is put there."""
    if not isinstance(error, ProvledgerError):
        return error
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    return own
