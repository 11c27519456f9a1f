"""AppendStream as an iterator: drafts in, results out, over as many connections as it takes.

At most `window` drafts are unanswered at once; the source is not read further until an answer was
taken, so a slow reader or service slows the source down instead of filling memory. When a
connection breaks, or answers stop coming, a new stream starts with the unanswered drafts, in
order and with their request ids, so nothing is lost or recorded twice.

Three tasks share one `_State`: the pump reads the source, the writer sends, the reader (whoever
iterates) takes answers. Only the pump ever awaits the source: cancelling the others loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc

from provledger import telemetry
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import convert
from provledger.client.batches import too_large
from provledger.client.calls import CallPolicy, is_retryable, next_wait, waits
from provledger.client.drafts import Draft
from provledger.client.values import AppendResult
from provledger.errors import DeadlineExceededError, InternalError, StatusError, UnavailableError
from provledger.rpc.errors import from_rpc_error

DEFAULT_WINDOW: Final = 256

AppendOne = Callable[[common_pb2.Draft], Awaitable[AppendResult]]
"""Appends one draft by a call of its own, for items that a stream turned away for now."""


@dataclass(slots=True)
class _State:
    """What outlives a connection."""

    window: asyncio.Semaphore
    queue: asyncio.Queue[common_pb2.Draft | None]
    # Sent or about to be, not answered yet; oldest first.
    unanswered: deque[common_pb2.Draft] = field(default_factory=deque)
    ended: bool = False
    failure: BaseException | None = None


async def append_stream(
    stub: Callable[[], Any],
    ledger: str,
    drafts: AsyncIterable[Draft] | Iterable[Draft],
    *,
    full: bool,
    window: int,
    policy: CallPolicy,
    append_one: AppendOne,
) -> AsyncGenerator[AppendResult]:
    """Yield one result for each draft, in order.

    Raises:
        InputError: for a draft that cannot be written down, once all before it are answered.
        StatusError: where the stream fails for good, or for `policy.timeout_s` without progress.
    """
    state = _State(asyncio.Semaphore(window), asyncio.Queue())
    pump = asyncio.ensure_future(_pump(drafts, state))
    index = 0
    try:
        delays = waits(policy)
        progress_s = time.monotonic()
        while not (state.ended and not state.unanswered):
            try:
                async with aclosing(_session(stub(), ledger, state, full, policy)) as outcomes:
                    async for outcome in outcomes:
                        draft = state.unanswered.popleft()
                        state.window.release()
                        result = convert.result_from_pb(
                            outcome, index=index, request_id=draft.request_id, full=full
                        )
                        if result.error is not None and is_retryable(result.error):
                            result = await _alone(append_one, draft, index)
                        index += 1
                        yield result
                        delays, progress_s = waits(policy), time.monotonic()
            except grpc.RpcError as exc:
                await _before_retry(from_rpc_error(exc), delays, progress_s, policy)
            except StatusError as error:
                await _before_retry(error, delays, progress_s, policy)
        if state.failure is not None:
            raise state.failure
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def _before_retry(
    error: StatusError, delays: Iterator[float], progress_s: float, policy: CallPolicy
) -> None:
    """Wait before a new connection, or raise `error` if there is to be none."""
    wait_s = next_wait(error, delays) if is_retryable(error) else None
    if wait_s is None or time.monotonic() + wait_s >= progress_s + policy.timeout_s:
        raise error
    await asyncio.sleep(wait_s)


async def _alone(append_one: AppendOne, draft: common_pb2.Draft, index: int) -> AppendResult:
    """Append a draft by a call of its own; a failure is that draft's alone."""
    try:
        return replace(await append_one(draft), index=index)
    except StatusError as error:
        return AppendResult(index, draft.request_id, error=error)


async def _pump(drafts: AsyncIterable[Draft] | Iterable[Draft], state: _State) -> None:
    """Read the source as the window opens; a failure of it ends it and is raised at the end."""
    try:
        count = 0
        async for draft in _as_async(drafts):
            message = convert.draft_to_pb(draft)
            refusal = too_large(message, f"drafts[{count}]")
            if refusal is not None:
                raise refusal
            await state.window.acquire()
            state.queue.put_nowait(message)
            count += 1
    except Exception as exc:
        state.failure = exc
    state.queue.put_nowait(None)


async def _as_async(drafts: AsyncIterable[Draft] | Iterable[Draft]) -> AsyncIterator[Draft]:
    if isinstance(drafts, AsyncIterable):
        async for draft in drafts:
            yield draft
        return
    for draft in drafts:
        yield draft


async def _session(
    stub: Any, ledger: str, state: _State, full: bool, policy: CallPolicy
) -> AsyncGenerator[common_pb2.AppendResult]:
    """One connection: resend what is unanswered, go on with the source, yield the answers."""
    call = stub.AppendStream(metadata=telemetry.outgoing_metadata())
    writer = asyncio.ensure_future(_write(call, ledger, state, full))
    answered = 0
    try:
        while True:
            response = await _next_answer(call, state, policy.attempt_timeout_s)
            if response is None:
                return
            if response.result.index != answered or not state.unanswered:
                raise InternalError("BAD_RESPONSE", "the stream answered out of order")
            answered += 1
            yield response.result
    finally:
        writer.cancel()
        call.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _write(call: Any, ledger: str, state: _State, full: bool) -> None:
    view = common_pb2.RECEIPT_VIEW_FULL if full else common_pb2.RECEIPT_VIEW_BASIC

    async def send(draft: common_pb2.Draft) -> None:
        await call.write(ledger_pb2.AppendStreamRequest(ledger=ledger, draft=draft, view=view))

    for draft in list(state.unanswered):
        await send(draft)
    while not state.ended:
        fresh = await state.queue.get()
        if fresh is None:
            state.ended = True
            break
        # Before it is sent: from here on it counts as perhaps recorded.
        state.unanswered.append(fresh)
        await send(fresh)
    await call.done_writing()


async def _next_answer(
    call: Any, state: _State, patience_s: float
) -> ledger_pb2.AppendStreamResponse | None:
    """The next answer; None at the orderly end. Raises if nothing comes that should."""
    reading = asyncio.ensure_future(call.read())
    try:
        while not reading.done():
            due = bool(state.unanswered)
            await asyncio.wait({reading}, timeout=patience_s)
            # Something had been due for the whole wait: the answer is lost, or the server hangs.
            if not reading.done() and due:
                raise DeadlineExceededError("STREAM_STALLED", "no answer came on the stream")
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
        raise UnavailableError("STREAM_ENDED", "the service ended the stream early")
    return None
