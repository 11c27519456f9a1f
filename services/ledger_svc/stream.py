"""AppendStream: drafts as they come, answers in their order, and no more in flight than agreed.

One task reads, the handler writes. The reader stops while the stream's window is full of drafts
whose answers were not taken, so that a client that does not read its answers slows only itself;
and while the service has no room for more of its tenant. A draft that is refused is an answer like
any other; what ends the stream is a broken stream: another ledger, a message that is none.

When the client half-closes, everything read so far is answered, then the stream ends. When it goes
away, what was read so far is recorded all the same: the same request ids will find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ledger_svc.outcomes import Outcome
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2

FIELD: Final = "draft"

# Tasks that go on although their stream is gone; the event loop itself keeps no reference.
_running: Final[set[asyncio.Task[Outcome]]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done with the requests of one stream.

    check: raises for a request that breaks the stream. enter: waits for a place for a draft of so
    many bytes; leave: gives it up. submit: records a draft; raises or returns an exception for one
    that is refused. answer: makes a result of an outcome, given its index.
    """

    check: Callable[[ledger_pb2.AppendStreamRequest], None]
    enter: Callable[[int], Awaitable[None]]
    leave: Callable[[int], None]
    submit: Callable[[common_pb2.Draft], Awaitable[Outcome]]
    answer: Callable[[int, Outcome], Awaitable[common_pb2.AppendResult]]


class Window:
    """How much of one stream may be without an answer: so many drafts, and bytes of them.

    An empty window takes any draft.
    """

    def __init__(self, drafts: int, size_bytes: int) -> None:
        self._drafts = drafts
        self._bytes = size_bytes
        self._held_drafts = 0
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def acquire(self, size_bytes: int) -> None:
        """Wait until a draft fits; for one waiter at a time."""
        while self._held_drafts and (
            self._held_drafts >= self._drafts or self._held_bytes + size_bytes > self._bytes
        ):
            self._changed.clear()
            await self._changed.wait()
        self._held_drafts += 1
        self._held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Take out a draft whose answer was taken."""
        self._held_drafts -= 1
        self._held_bytes -= size_bytes
        self._changed.set()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A draft on its way."""

    task: asyncio.Task[Outcome]
    size_bytes: int


_Queued = _Draft | Exception | None
"""A draft on its way, what broke the stream, or its end."""


async def answers(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest], steps: Steps, window: Window
) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
    """The answers to a stream of requests, in order."""
    queue: asyncio.Queue[_Queued] = asyncio.Queue()
    reader = asyncio.create_task(_read(requests, steps, window, queue))
    try:
        index = 0
        while (queued := await queue.get()) is not None:
            if isinstance(queued, Exception):
                raise queued
            # Shielded: a client that goes away ends the waiting, not the recording.
            outcome = await asyncio.shield(queued.task)
            yield ledger_pb2.AppendStreamResponse(result=await steps.answer(index, outcome))
            window.release(queued.size_bytes)
            index += 1
    finally:
        reader.cancel()


async def _read(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest],
    steps: Steps,
    window: Window,
    queue: asyncio.Queue[_Queued],
) -> None:
    """Read as long as there is room. What waits for room is one draft, the last one read."""
    try:
        async for request in requests:
            steps.check(request)
            size_bytes = request.draft.ByteSize()
            await window.acquire(size_bytes)
            await steps.enter(size_bytes)
            task = asyncio.ensure_future(_submit(steps, request.draft, size_bytes))
            _running.add(task)
            task.add_done_callback(_running.discard)
            queue.put_nowait(_Draft(task, size_bytes))
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


async def _submit(steps: Steps, draft: common_pb2.Draft, size_bytes: int) -> Outcome:
    try:
        return await steps.submit(draft)
    except Exception as error:
        return error
    finally:
        steps.leave(size_bytes)
