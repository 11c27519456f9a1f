"""AppendStream: drafts as they come, answers in their order, and no more in flight than agreed.

One task reads, the handler writes. The reader stops while the stream's window is full of drafts
whose answers were not taken, or those of all streams are too many (`unread`), so that a client that
does not read its answers slows only itself; and while the service has no room for more of its
tenant. A draft that is refused for good is an answer like any other. What ends the stream, behind
the answers to all before, is a broken stream (another ledger, a message that is none), drafts for
which the tenant's quota has no room for long, and, behind its answer, one that fails for the
moment: those behind them must not come before them (`order`).

A message brings one draft or many. Those of one message are recorded together, and answered
together, as far as the answers fit into one message. Where the tenant has a quota of fewer a
second, they go portion by portion, so that answers come while the rest waits.

When the client half-closes, everything read so far is answered, then the stream ends. When it goes
away, what was read so far is recorded all the same: the same request ids will find it. When the
service is to end, nothing more is read, and the stream ends behind the last answer (`draining`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger_svc.draining import Draining, server_draining
from ledger_svc.order import Order, is_for_the_moment
from ledger_svc.outcomes import Outcome, Recorded
from ledger_svc.unread import Window
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import DeadlineExceededError

FIELD: Final = "draft"
FIELD_OF_MANY: Final = "drafts[{index}]"

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Statements and payloads in one answer, beyond which the rest goes into the next one."""

# Tasks that go on although their stream is gone; the event loop itself keeps no reference.
_running: Final[set[asyncio.Task[list[Outcome]]]] = set()

FIRST_MESSAGE_S: Final = 60.0
"""How long a stream may stay silent at its beginning: as long as a unary call may take. Until then
it counts against no tenant."""


class Portion(NamedTuple):
    """Outcomes that are answered together.

    `first_index` counts the drafts of the stream, `first_place` those of their message; `field` is
    where in a message a draft stands.
    """

    outcomes: list[Outcome]
    first_index: int
    first_place: int
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done with the requests of one stream.

    check: raises for a request that breaks the stream. portion: how many drafts may enter at once.
    enter: waits for a place for so many drafts of so many bytes, or raises, which ends the stream;
    leave: gives up the place of so many bytes. submit: records the drafts of one
    message; raises, or returns an exception for each that is refused. answer: fills in results.
    order: of all drafts of the stream.
    """

    check: Callable[[ledger_pb2.AppendStreamRequest], None]
    portion: Callable[[], int]
    enter: Callable[[int, int], Awaitable[None]]
    leave: Callable[[int], None]
    submit: Callable[[Sequence[common_pb2.Draft]], Awaitable[list[Outcome]]]
    answer: Callable[[Portion, Sequence[common_pb2.AppendResult]], Awaitable[None]]
    order: Order


@dataclass(frozen=True, slots=True)
class _Message:
    """The drafts of one message, or a portion of them, on their way.

    `first_place` counts the drafts of their message.
    """

    recording: asyncio.Future[list[Outcome]]
    count: int
    size_bytes: int
    is_batch: bool
    first_place: int


_Queued = _Message | Exception | None
"""A message on its way, what broke the stream, or its end."""


async def first_message(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest], draining: Draining
) -> ledger_pb2.AppendStreamRequest | None:
    """The message that a stream begins with; None if it ends without one.

    Raises:
        DeadlineExceededError: STREAM_SILENT.
        UnavailableError: SERVER_DRAINING.
    """

    async def read() -> ledger_pb2.AppendStreamRequest | None:
        return await anext(requests, None)

    reading = asyncio.create_task(read())
    try:
        draining.ends(reading)
        done, _ = await asyncio.wait({reading}, timeout=FIRST_MESSAGE_S)
    finally:
        reading.cancel()
    if done:
        if reading.cancelled():
            draining.check()
        # A call that its client gave up is cancelled here as well.
        return reading.result()
    raise DeadlineExceededError(
        "STREAM_SILENT", f"nothing was sent on the stream for {FIRST_MESSAGE_S:g} s"
    )


async def answers(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest],
    steps: Steps,
    window: Window,
    draining: Draining,
) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
    """The answers to a stream of requests, in order.

    Raises:
        UnavailableError: SERVER_DRAINING, behind the answers to all that was taken in.
        ResourceExhaustedError: QUOTA_EXCEEDED; likewise.
        StatusError: why a draft was refused for the moment, behind the answer that says so.
    """
    queue: asyncio.Queue[_Queued] = asyncio.Queue()
    reader = asyncio.create_task(_read(requests, steps, window, queue))

    def ended(_: asyncio.Task[None]) -> None:
        if reader.cancelled() and draining.begun:
            queue.put_nowait(server_draining())

    reader.add_done_callback(ended)
    draining.ends(reader)
    try:
        index = 0
        while (queued := await queue.get()) is not None:
            if isinstance(queued, Exception):
                raise queued
            # Shielded: a client that goes away ends the waiting, not the recording.
            outcomes = await asyncio.shield(queued.recording)
            if queued.is_batch:
                for portion in portions(outcomes, index, queued.first_place):
                    response = ledger_pb2.AppendStreamResponse()
                    await steps.answer(portion, [response.results.add() for _ in portion.outcomes])
                    yield response
            else:
                response = ledger_pb2.AppendStreamResponse()
                await steps.answer(Portion(outcomes, index, 0, FIELD), [response.result])
                yield response
            failed = next(filter(is_for_the_moment, outcomes), None)
            if failed is not None:
                raise failed
            window.release(queued.count, queued.size_bytes)
            index += queued.count
    finally:
        reader.cancel()
        window.close()


def portions(outcomes: list[Outcome], first_index: int, first_place: int = 0) -> Iterator[Portion]:
    """Outcomes of one message, as many at once as fit into an answer even in the FULL view."""
    start = size = 0
    for place, outcome in enumerate(outcomes):
        size_bytes = outcome.size_bytes if isinstance(outcome, Recorded) else 0
        if place > start and size + size_bytes > MAX_ANSWER_BYTES:
            shown = outcomes[start:place]
            yield Portion(shown, first_index + start, first_place + start, FIELD_OF_MANY)
            start, size = place, 0
        size += size_bytes
    rest = outcomes[start:]
    yield Portion(rest, first_index + start, first_place + start, FIELD_OF_MANY)


async def _read(
    requests: AsyncIterator[ledger_pb2.AppendStreamRequest],
    steps: Steps,
    window: Window,
    queue: asyncio.Queue[_Queued],
) -> None:
    """Read as long as there is room. What waits for room is one message, the last one read."""
    try:
        async for request in requests:
            steps.check(request)
            many = request.drafts
            drafts = list(many) if many else [request.draft]
            size_bytes = request.ByteSize()
            await window.acquire(len(drafts), size_bytes)
            most, first_place = steps.portion(), 0
            while first_place < len(drafts):
                part = drafts[first_place : first_place + most]
                is_last = first_place + most >= len(drafts)
                part_bytes = size_bytes
                if not is_last:
                    part_bytes = min(size_bytes, sum(draft.ByteSize() for draft in part))
                recording = await _enter(steps, part, part_bytes)
                queue.put_nowait(
                    _Message(recording, len(part), part_bytes, bool(many), first_place)
                )
                size_bytes -= part_bytes
                first_place += len(part)
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


async def _enter(
    steps: Steps, drafts: Sequence[common_pb2.Draft], size_bytes: int
) -> asyncio.Future[list[Outcome]]:
    """Record drafts once there is room for them."""
    await steps.enter(len(drafts), size_bytes)
    recording = asyncio.create_task(_submit(steps, drafts, size_bytes))
    _running.add(recording)
    recording.add_done_callback(_running.discard)
    return recording


async def _submit(
    steps: Steps, drafts: Sequence[common_pb2.Draft], size_bytes: int
) -> list[Outcome]:
    try:
        failed = steps.order.failure_at()
        return [failed] * len(drafts) if failed is not None else await steps.submit(drafts)
    except Exception as error:
        steps.order.fail(error)
        return [error] * len(drafts)
    finally:
        steps.leave(size_bytes)
