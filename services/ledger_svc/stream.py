"""AppendStream: drafts as they come, answers in their order, and no more in flight than agreed.

One task reads, the handler writes. The reader stops while `limit` drafts are without an answer, so
that a client that does not read its answers slows only itself. A draft that is refused is an answer
like any other; what ends the stream is a broken stream: another ledger, a message that is none.

When the client half-closes, everything read so far is answered, then the stream ends. When it goes
away, what was read so far is recorded all the same: the same request ids will find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from ledger_svc.outcomes import Outcome
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2

FIELD: Final = "draft"

Submit = Callable[[common_pb2.Draft], Awaitable[Outcome]]
Answer = Callable[[int, Outcome], Awaitable[common_pb2.AppendResult]]

_Queued = asyncio.Task[Outcome] | Exception | None
"""A draft on its way, what broke the stream, or its end."""

# Tasks that go on although their stream is gone; the event loop itself keeps no reference.
_running: Final[set[asyncio.Task[Outcome]]] = set()


async def answers(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest],
    check: Callable[[ledger_pb2.AppendStreamRequest], None],
    submit: Submit,
    answer: Answer,
    limit: int,
) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
    """The answers to a stream of requests, in order.

    check: raises for a request that breaks the stream. submit: records a draft; raises or returns
    an exception for one that is refused. answer: makes a result of an outcome.
    """
    slots = asyncio.Semaphore(limit)
    queue: asyncio.Queue[_Queued] = asyncio.Queue()
    reader = asyncio.create_task(_read(requests, check, submit, slots, queue))
    try:
        index = 0
        while (queued := await queue.get()) is not None:
            if isinstance(queued, Exception):
                raise queued
            outcome = await _outcome(queued)
            yield ledger_pb2.AppendStreamResponse(result=await answer(index, outcome))
            slots.release()
            index += 1
    finally:
        reader.cancel()


async def _read(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest],
    check: Callable[[ledger_pb2.AppendStreamRequest], None],
    submit: Submit,
    slots: asyncio.Semaphore,
    queue: asyncio.Queue[_Queued],
) -> None:
    try:
        await slots.acquire()
        async for request in requests:
            check(request)
            task = asyncio.ensure_future(_submit(submit, request.draft))
            _running.add(task)
            task.add_done_callback(_running.discard)
            queue.put_nowait(task)
            await slots.acquire()
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


async def _submit(submit: Submit, draft: common_pb2.Draft) -> Outcome:
    try:
        return await submit(draft)
    except Exception as error:
        return error


async def _outcome(task: asyncio.Task[Outcome]) -> Outcome:
    # Shielded: a client that goes away ends the waiting, not the recording.
    return await asyncio.shield(task)
