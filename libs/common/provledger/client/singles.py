"""Single appends that are under way at the same time share calls.

A few go each in a call of its own, at once. While `MAX_CALLS` of them to one ledger are under way,
the next ones wait for the first of these to be answered, and then go together, as one AppendBatch:
with many callers, what a call costs is paid once for all of them. Each caller has an answer or an
error of its own all the same.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from provledger.api.common.v1 import common_pb2
from provledger.client.batches import MAX_BATCH_ITEMS
from provledger.client.values import AppendResult
from provledger.errors import (
    DeadlineExceededError,
    FieldViolation,
    ResourceExhaustedError,
    StatusError,
)

MAX_CALLS: Final = 2
"""Calls under way to one ledger before appends share them."""

MAX_SHARED_BYTES: Final = 1024 * 1024
"""Bytes of drafts in a shared call: receipts come back whole."""

MAX_WAITING: Final = 20_000
_RETRY_DELAY_S: Final = 0.1
_IN_BATCH: Final = re.compile(r"\bdrafts\[\d+\]")

One: TypeAlias = Callable[[str, common_pb2.Draft, float], Awaitable[AppendResult]]
"""Appends one draft to a ledger with a time limit in seconds."""

Many: TypeAlias = Callable[[str, Sequence[common_pb2.Draft], float], AsyncIterator[AppendResult]]
"""Appends some drafts; the result of each as it is known, with its index."""


class _Waiting:
    __slots__ = ("deadline_s", "draft", "future", "size_bytes")

    def __init__(self, draft: common_pb2.Draft, deadline_s: float) -> None:
        self.draft = draft
        self.size_bytes = draft.ByteSize()
        self.deadline_s = deadline_s
        self.future: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()


class _Lane:
    """The appends to one ledger."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.calls = 0
        self.waiting: deque[_Waiting] = deque()


class SingleAppends:
    """The single appends of a client; for one event loop."""

    def __init__(self, one: One, many: Many) -> None:
        self._one = one
        self._many = many
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, ledger: str, draft: common_pb2.Draft, timeout_s: float) -> AppendResult:
        """Append a draft; its result, which may hold an error.

        Raises:
            DeadlineExceededError: it took longer. It may be recorded all the same.
            ResourceExhaustedError: QUEUE_FULL, too many wait here.
            StatusError: the call failed.
        """
        lane = self._lanes.get(ledger)
        if lane is None:
            lane = self._lanes[ledger] = _Lane()
        if lane.calls < MAX_CALLS and not lane.waiting:
            lane.calls += 1
            try:
                return await self._one(ledger, draft, timeout_s)
            finally:
                self._ended(ledger, lane)
        if len(lane.waiting) >= MAX_WAITING:
            raise ResourceExhaustedError(
                "QUEUE_FULL",
                f"{MAX_WAITING} appends wait in this client already",
                retry_delay_s=_RETRY_DELAY_S,
            )
        item = _Waiting(draft, time.monotonic() + timeout_s)
        lane.waiting.append(item)
        try:
            async with asyncio.timeout(timeout_s):
                return await item.future
        except TimeoutError:
            raise DeadlineExceededError(
                "DEADLINE_EXCEEDED", "the append was not answered in time"
            ) from None

    async def close(self) -> None:
        """Cancel what is under way or waits; nothing more is sent."""
        # First those that wait: the end of a call would send them.
        for lane in self._lanes.values():
            while lane.waiting:
                lane.waiting.popleft().future.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, ledger: str, lane: _Lane) -> None:
        lane.calls -= 1
        while lane.calls < MAX_CALLS and (items := _take(lane.waiting)):
            lane.calls += 1
            task = asyncio.get_running_loop().create_task(self._run(ledger, lane, items))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not lane.calls:
            self._lanes.pop(ledger, None)

    async def _run(self, ledger: str, lane: _Lane, items: list[_Waiting]) -> None:
        """Send some together, and give each its result as it comes."""
        timeout_s = max(item.deadline_s for item in items) - time.monotonic()
        try:
            if len(items) == 1:
                _answer(items[0], await self._one(ledger, items[0].draft, timeout_s))
            else:
                drafts = [item.draft for item in items]
                async for result in self._many(ledger, drafts, timeout_s):
                    _answer(items[result.index], result)
        except BaseException as error:
            for item in items:
                if not item.future.done():
                    if isinstance(error, Exception):
                        item.future.set_exception(error)
                    else:
                        item.future.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            self._ended(ledger, lane)


def _take(waiting: deque[_Waiting]) -> list[_Waiting]:
    """The next ones that fit into a call, without those given up meanwhile."""
    items: list[_Waiting] = []
    size = 0
    while waiting and len(items) < MAX_BATCH_ITEMS:
        item = waiting[0]
        if items and size + item.size_bytes > MAX_SHARED_BYTES:
            break
        waiting.popleft()
        if not item.future.done():
            items.append(item)
            size += item.size_bytes
    return items


def _answer(item: _Waiting, result: AppendResult) -> None:
    if item.future.done():
        return
    if result.error is not None:
        result = AppendResult(0, result.request_id, error=_of_one(result.error))
    item.future.set_result(result)


def _of_one(error: StatusError) -> StatusError:
    """An error about one of several drafts, as one about the draft of a call of its own."""
    return type(error)(
        error.reason,
        _IN_BATCH.sub("draft", error.message),
        metadata=error.metadata,
        violations=[
            FieldViolation(_IN_BATCH.sub("draft", item.field), item.description, item.reason)
            for item in error.violations
        ],
        retry_delay_s=error.retry_delay_s,
    )
