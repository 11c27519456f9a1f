"""AppendStream as an iterator: drafts in, results out, over as many connections as it takes.

At most `window` drafts are unanswered at once, and `WINDOW_BYTES` of them; the source is not read
further until an answer was taken, so a slow reader or service slows the source down instead of
filling memory. When a connection breaks, or answers stop coming, a new stream starts with the
unanswered drafts, in order and with their request ids, so nothing is lost or recorded twice. So it
does where a draft is refused for the moment: what was not sent yet cannot overtake it.

Drafts that wait to be sent go together in one message, and their answers come together: a source
that has the next draft at hand gets the speed of batches, a slow one is answered draft by draft.

Three tasks share one `_State`: the pump reads the source, the writer sends, the reader (whoever
iterates) takes answers. Only the pump ever awaits the source: cancelling the others loses nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from provledger import telemetry
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import convert
from provledger.client.answers import bad_response, check_results
from provledger.client.batches import too_large
from provledger.client.calls import CallPolicy, next_wait, waits, with_reason_before
from provledger.client.drafts import Draft
from provledger.client.ending import Ending
from provledger.client.values import AppendResult
from provledger.client.window import Window
from provledger.errors import (
    CancelledError,
    DeadlineExceededError,
    ProvledgerError,
    StatusError,
    UnavailableError,
)
from provledger.rpc.errors import from_rpc_error, is_retryable

DEFAULT_WINDOW: Final = 512

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of unanswered drafts; a larger one would go alone. More than a service takes of a
stream at once, and more than the default window of usual drafts."""

STREAM_ENDED: Final = "STREAM_ENDED"
"""The reason where the service ended the stream, in order, and drafts were to come."""

END_S: Final = 1.0
"""How long the service has to end a stream on which all is answered and nothing follows."""

MAX_MESSAGE_DRAFTS: Final = 256
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Bounds of one message: it leaves room in the window for the next one, and on the wire."""


@dataclass(slots=True)
class _State:
    """What outlives a connection."""

    window: Window
    queue: asyncio.Queue[common_pb2.Draft | None]
    # Sent or about to be, not answered yet; oldest first.
    unanswered: deque[common_pb2.Draft] = field(default_factory=deque)
    ended: bool = False
    failure: BaseException | None = None
    # Since when nothing has come that should: the last answer, or the first draft after a pause.
    waiting_since_s: float = field(default_factory=time.monotonic)
    # What the connection before met, since then.
    met: StatusError | None = None

    def take(self, fresh: Sequence[common_pb2.Draft | None]) -> list[common_pb2.Draft]:
        """Count drafts that were read as perhaps recorded; they are to be sent."""
        if fresh[-1] is None:
            self.ended = True
        drafts = [draft for draft in fresh if draft is not None]
        if not self.unanswered:
            self.progressed()
        self.unanswered.extend(drafts)
        return drafts

    def progressed(self) -> None:
        """What is waited for from now on has nothing to do with what was before."""
        self.waiting_since_s, self.met = time.monotonic(), None


class Unanswered:
    """Where a stream leaves the request ids of what was sent and has no result yet, once it ended.

    Whoever closes it between two results meets no error that could have them.
    """

    def __init__(self) -> None:
        self._ids: tuple[str, ...] = ()

    def ids(self) -> tuple[str, ...]:
        """In the order of their drafts."""
        return self._ids

    def note(self, ids: Iterable[str]) -> None:
        """Leave them."""
        self._ids = tuple(ids)


async def append_stream(
    stub: Callable[[], Any],
    ledger: str,
    drafts: AsyncIterable[Draft] | Iterable[Draft],
    *,
    full: bool,
    window: int,
    policy: CallPolicy,
    left: Unanswered | None = None,
) -> AsyncGenerator[AppendResult]:
    """Yield one result for each draft, in order.

    left: is told the request ids of what was sent and not yielded, however it ends.

    Raises:
        InputError: for a draft that cannot be written down, once all before it are answered.
        CancelledError: SOURCE_CANCELLED, where what the source waited for was cancelled; then too.
        StatusError: where the stream fails for good, or for `policy.timeout_s` without progress. It
            has the request ids of the drafts that may be recorded and were not answered.
    """
    state = _State(Window(window, WINDOW_BYTES), asyncio.Queue())
    pump = asyncio.ensure_future(_pump(drafts, state))
    index = 0
    # Answered, and not taken yet.
    final: deque[AppendResult] = deque()
    try:
        delays = waits(policy)
        while not (state.ended and not state.unanswered):
            if not state.unanswered:
                # A stream on which nothing is sent holds a place at the service, and is ended.
                state.take(await _waiting(state.queue))
                delays = waits(policy)
                continue
            try:
                async with aclosing(_session(stub(), ledger, state, full, policy)) as outcomes:
                    async for answered in outcomes:
                        # They are taken out once the answer is known to be theirs.
                        done = list(itertools.islice(state.unanswered, len(answered)))
                        check_results(answered, done, ledger)
                        results = [
                            convert.result_from_pb(
                                outcome, index=index + n, request_id=draft.request_id, full=full
                            )
                            for n, (outcome, draft) in enumerate(zip(answered, done, strict=True))
                        ]
                        final.extend(itertools.takewhile(_is_final, results))
                        answered_here = len(final)
                        for _ in final:
                            state.unanswered.popleft()
                        index += answered_here
                        while final:
                            state.window.release()
                            # Whoever closes it here has this one.
                            yield final.popleft()
                        if answered_here:
                            state.progressed()
                            delays = waits(policy)
                        refused = (
                            results[answered_here].error if answered_here < len(results) else None
                        )
                        if refused is not None:
                            raise refused
            except grpc.RpcError as exc:
                if state.unanswered:
                    await _before_retry(from_rpc_error(exc), delays, state, policy)
            except StatusError as error:
                # One that was ended while nothing was due has failed nobody.
                if state.unanswered or error.reason != STREAM_ENDED:
                    await _before_retry(error, delays, state, policy)
    except ProvledgerError as error:
        error.request_ids = tuple([draft.request_id for draft in state.unanswered])
        raise
    finally:
        if left is not None:
            left.note(
                [result.request_id for result in final]
                + [draft.request_id for draft in state.unanswered]
            )
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
    if state.failure is not None:
        raise state.failure


def _is_final(result: AppendResult) -> bool:
    return result.error is None or not is_retryable(result.error)


async def _before_retry(
    error: StatusError, delays: Iterator[float], state: _State, policy: CallPolicy
) -> None:
    """Wait before a new connection, or raise `error` if there is to be none."""
    error = state.met = with_reason_before(error, state.met)
    wait_s = next_wait(error, delays) if is_retryable(error) else None
    if wait_s is None or time.monotonic() + wait_s >= state.waiting_since_s + policy.timeout_s:
        raise error
    await asyncio.sleep(wait_s)


async def _pump(drafts: AsyncIterable[Draft] | Iterable[Draft], state: _State) -> None:
    """Read the source as the window opens; a failure of it ends it and is raised at the end."""
    count = 0
    try:
        async for draft in _as_async(drafts):
            message = convert.draft_to_pb(draft)
            size_bytes = message.ByteSize()  # Which encodes all of it.
            refusal = too_large(size_bytes, f"drafts[{count}]")
            if refusal is not None:
                raise refusal
            await state.window.acquire(size_bytes)
            state.queue.put_nowait(message)
            count += 1
    except (asyncio.CancelledError, concurrent.futures.CancelledError) as exc:
        if _is_cancelled():
            raise
        # Something that the source waited for was cancelled, not the stream.
        state.failure = CancelledError("SOURCE_CANCELLED", f"drafts[{count}]: was cancelled")
        state.failure.__cause__ = exc
    except BaseException as exc:
        state.failure = exc
        if not isinstance(exc, Exception):
            raise
    finally:
        # However it ended: the others wait for it.
        state.queue.put_nowait(None)


def _is_cancelled() -> bool:
    """Whether the running task itself was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _as_async(drafts: AsyncIterable[Draft] | Iterable[Draft]) -> AsyncIterator[Draft]:
    if isinstance(drafts, AsyncIterable):
        async for draft in drafts:
            yield draft
        return
    for draft in drafts:
        yield draft


async def _session(
    stub: Any, ledger: str, state: _State, full: bool, policy: CallPolicy
) -> AsyncGenerator[Sequence[common_pb2.AppendResult]]:
    """One connection: resend what is unanswered, go on with the source, yield the answers, as many
    at once as came together."""
    call = stub.AppendStream(metadata=telemetry.outgoing_metadata())
    ending = Ending(call)
    writer = asyncio.ensure_future(_write(call, ledger, state, full))
    answered = 0
    try:
        while True:
            response = await _next_answer(call, writer, state, policy)
            if response is None:
                return
            results = response.results or (response.result,)
            if len(results) > len(state.unanswered) or any(
                result.index != answered + n for n, result in enumerate(results)
            ):
                raise bad_response("the stream answered out of order")
            answered += len(results)
            yield results
    except grpc.RpcError as exc:
        error: Any = await ending.instead_of(exc)
        if error.code() is grpc.StatusCode.OK:
            raise _ended_early() from None
        raise error from None
    finally:
        writer.cancel()
        call.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _write(call: Any, ledger: str, state: _State, full: bool) -> None:
    view = common_pb2.RECEIPT_VIEW_FULL if full else common_pb2.RECEIPT_VIEW_BASIC

    async def send(drafts: Sequence[common_pb2.Draft]) -> None:
        request = ledger_pb2.AppendStreamRequest(ledger=ledger, view=view)
        if len(drafts) == 1:
            request.draft.CopyFrom(drafts[0])
        else:
            request.drafts.extend(drafts)
        await call.write(request)

    for drafts in _messages(list(state.unanswered)):
        await send(drafts)
    while not state.ended:
        # Taken before they are sent: from here on they count as perhaps recorded.
        for drafts in _messages(state.take(await _waiting(state.queue))):
            await send(drafts)
    await call.done_writing()


async def _waiting(queue: asyncio.Queue[common_pb2.Draft | None]) -> list[common_pb2.Draft | None]:
    """All that waits, at least one; nothing comes behind the None at the end."""
    waiting = [await queue.get()]
    while not queue.empty():
        waiting.append(queue.get_nowait())
    return waiting


def _messages(drafts: Sequence[common_pb2.Draft]) -> Iterator[Sequence[common_pb2.Draft]]:
    """Drafts as they are sent together."""
    start = size = 0
    for place, draft in enumerate(drafts):
        draft_bytes = draft.ByteSize()
        is_full = place - start >= MAX_MESSAGE_DRAFTS or size + draft_bytes > MAX_MESSAGE_BYTES
        if place > start and is_full:
            yield drafts[start:place]
            start, size = place, 0
        size += draft_bytes
    if start < len(drafts):
        yield drafts[start:]


def _patience_s(state: _State, begun_s: float, policy: CallPolicy) -> float:
    """How long to wait on for an answer, which has been read for since `begun_s`.

    What becomes due during a wait for nothing becomes overdue behind its end alone.
    """
    if not state.unanswered:
        return min(policy.attempt_timeout_s, policy.timeout_s)
    since_s = state.waiting_since_s
    attempt_s = max(begun_s, since_s) + policy.attempt_timeout_s
    return min(attempt_s, since_s + policy.timeout_s) - time.monotonic()


async def _next_answer(
    call: Any, writer: asyncio.Task[None], state: _State, policy: CallPolicy
) -> ledger_pb2.AppendStreamResponse | None:
    """The next answer; None at the orderly end, or where that does not come and nothing is due.

    Raises if nothing comes that should, and what the writer raised: nothing comes then either.
    """
    begun_s = time.monotonic()
    reading = asyncio.ensure_future(call.read())
    try:
        while not reading.done():
            # A writer that meets the end of the call knows less of it than the reader will.
            if writer.done() and not call.done():
                writer.result()
            due = bool(state.unanswered)
            over = state.ended and not due
            patience_s = END_S if over else _patience_s(state, begun_s, policy)
            # The answer is lost, or the server hangs.
            if patience_s <= 0.0:
                raise DeadlineExceededError("STREAM_STALLED", "no answer came on the stream")
            running = {reading} if writer.done() else {reading, writer}
            done, _ = await asyncio.wait(
                running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done and over:
                return None
    finally:
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    if not reading.cancelled():
        response = reading.result()
        if response is not grpc.aio.EOF:
            return response  # type: ignore[no-any-return]
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )
    if state.unanswered or not state.ended:
        raise _ended_early()
    return None


def _ended_early() -> UnavailableError:
    return UnavailableError(STREAM_ENDED, "the service ended the stream early")
