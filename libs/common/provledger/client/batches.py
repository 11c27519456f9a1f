"""A list of drafts of any length, as calls of AppendBatch that fit its limits.

Batches are sent one after the other, so that the chain has the drafts in the order they were given.
Items that the service turned away for now (a full queue, a draining server) are sent again with
the same request id until the time is up; the other outcomes are final at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import convert
from provledger.client.answers import check_results
from provledger.client.calls import CallPolicy, next_wait, waits
from provledger.client.drafts import Draft
from provledger.client.values import AppendResult
from provledger.errors import InputError, InvalidArgumentError, ProvledgerError, StatusError
from provledger.rpc.errors import MESSAGE_TOO_LARGE, as_status_error, is_retryable

MAX_BATCH_ITEMS: Final = 1000
"""Most drafts in one AppendBatch."""

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Bytes of drafts in one call: half of the 16 MiB a message may have."""

MAX_FULL_BATCH_BYTES: Final = 4 * 1024 * 1024
"""The same where receipts come back whole: twice the drafts, and what stands around them. The
ledger service refuses such a call of several drafts above 6 MiB."""

MAX_DRAFT_BYTES: Final = 15 * 1024 * 1024
"""A single draft beyond this would not fit a message; it is refused here."""

_ANSWER_TOO_LARGE: Final = frozenset({MESSAGE_TOO_LARGE, "RESPONSE_TOO_LARGE"})

Call: TypeAlias = Callable[
    [ledger_pb2.AppendBatchRequest, float], Awaitable[ledger_pb2.AppendBatchResponse]
]
"""Sends one batch with a time limit in seconds, with retries of its own."""

_Item: TypeAlias = tuple[int, common_pb2.Draft]


def too_large(size_bytes: int, field: str) -> InvalidArgumentError | None:
    """The error for a draft of a size that no message can carry, None for any other."""
    if size_bytes <= MAX_DRAFT_BYTES:
        return None
    return InvalidArgumentError(
        MESSAGE_TOO_LARGE, f"{field}: is larger than {MAX_DRAFT_BYTES} bytes", metadata={}
    )


def split(
    items: Iterable[_Item],
    *,
    max_items: int = MAX_BATCH_ITEMS,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Iterator[list[_Item]]:
    """Cut items into runs of at most `max_items` and about `max_bytes`, in order, none empty."""
    batch: list[_Item] = []
    size = 0
    for item in items:
        item_bytes = item[1].ByteSize()
        if batch and (len(batch) >= max_items or size + item_bytes > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_bytes
    if batch:
        yield batch


async def append_all(
    call: Call,
    ledger: str,
    drafts: Iterable[Draft],
    *,
    full: bool,
    timeout_s: float,
    policy: CallPolicy,
    wait_for: common_pb2.AnchorState = common_pb2.ANCHOR_STATE_UNSPECIFIED,
) -> list[AppendResult]:
    """Record all drafts; one result for each, in order. All are read before any is sent.

    Once a draft was answered, a call that fails for good is the error of those that were not: their
    results say so, with the request ids to send them again under.

    Raises:
        StatusError: where a whole call fails for good, and none was answered before. It has a
            request id for each draft, "" where one without could not be written down.
    """
    results: dict[int, AppendResult] = {}
    items: list[_Item] = []
    request_ids: list[str] = []
    for index, draft in enumerate(drafts):
        try:
            message = convert.draft_to_pb(draft)
        except InputError as exc:
            error = as_status_error(exc, field=f"drafts[{index}]")
            # It may be no draft at all.
            request_id = str(getattr(draft, "request_id", ""))
            request_ids.append(request_id)
            results[index] = AppendResult(index, request_id, error=error)
            continue
        request_ids.append(message.request_id)
        refusal = too_large(message.ByteSize(), f"drafts[{index}]")
        if refusal is not None:
            results[index] = AppendResult(index, message.request_id, error=refusal)
        else:
            items.append((index, message))
    deadline_s = time.monotonic() + timeout_s
    try:
        results |= await _append_items(call, ledger, items, full, deadline_s, policy, wait_for)
    except ProvledgerError as error:
        error.request_ids = tuple(request_ids)
        raise
    return [results[index] for index in range(len(request_ids))]


async def _append_items(
    call: Call,
    ledger: str,
    items: Sequence[_Item],
    full: bool,
    deadline_s: float,
    policy: CallPolicy,
    wait_for: common_pb2.AnchorState = common_pb2.ANCHOR_STATE_UNSPECIFIED,
) -> dict[int, AppendResult]:
    """Send items in calls that fit, one after the other; the result of each, by its index.

    A call that fails ends it, and one that leaves a draft refused for now: what comes later in the
    chain is not sent before what failed.
    """
    results: dict[int, AppendResult] = {}
    try:
        for batch in split(items, max_bytes=MAX_FULL_BATCH_BYTES if full else MAX_BATCH_BYTES):
            async for result in append_some(
                call, ledger, batch, full, deadline_s, policy, wait_for
            ):
                results[result.index] = result
            refused = _refused(results[index] for index, _ in batch)
            if refused is not None:
                raise refused
    except StatusError as error:
        # Some may be recorded under request ids that only we know: they are not thrown away. The
        # error takes them along where nothing else does, see `append_all`.
        if not results:
            raise
        for index, message in items:
            if index not in results:
                results[index] = AppendResult(index, message.request_id, error=error)
    return results


async def append_some(
    call: Call,
    ledger: str,
    batch: list[_Item],
    full: bool,
    deadline_s: float,
    policy: CallPolicy,
    wait_for: common_pb2.AnchorState = common_pb2.ANCHOR_STATE_UNSPECIFIED,
) -> AsyncIterator[AppendResult]:
    """Send what fits one call, then again what was turned away for now; results as they are final.

    Where their receipts do not fit into one answer, they are asked for in halves.

    Raises:
        StatusError: where the call fails for good, or leaves a half refused for now: the other is
            not sent then. InternalError (BAD_RESPONSE) where its answer is not of these drafts.
    """
    view = common_pb2.RECEIPT_VIEW_FULL if full else common_pb2.RECEIPT_VIEW_BASIC
    delays = waits(policy)
    while True:
        request = convert.request(
            ledger_pb2.AppendBatchRequest,
            ledger=ledger,
            drafts=[message for _, message in batch],
            view=view,
            wait_for=wait_for,
        )
        try:
            response = await call(request, deadline_s - time.monotonic())
        except StatusError as error:
            # How large evidence is, and what a repeat has of it, only the service knows. They are
            # recorded by now: their request ids bring the same receipts.
            if error.reason not in _ANSWER_TOO_LARGE or len(batch) == 1:
                raise
            middle = len(batch) // 2
            refused = None
            for half in (batch[:middle], batch[middle:]):
                if refused is not None:
                    # As behind a call that fails, see `_append_items`.
                    raise refused from None
                async for result in append_some(
                    call, ledger, half, full, deadline_s, policy, wait_for
                ):
                    yield result
                    refused = refused or _refused([result])
            return
        check_results(response.results, request.drafts, ledger)
        results = [
            convert.result_from_pb(outcome, index=index, request_id=message.request_id, full=full)
            for (index, message), outcome in zip(batch, response.results, strict=True)
        ]
        refused = _refused(results)
        # All that may be sent again are, or none: a later one must not come before an earlier one.
        wait_s = None if refused is None else next_wait(refused, delays)
        if wait_s is None or time.monotonic() + wait_s >= deadline_s:
            for result in results:
                yield result
            return
        again: list[_Item] = []
        for item, result in zip(batch, results, strict=True):
            if result.error is not None and is_retryable(result.error):
                again.append(item)
            else:
                yield result
        await asyncio.sleep(wait_s)
        batch = again


def _refused(results: Iterable[AppendResult]) -> StatusError | None:
    """Why the first of those was refused that may be sent again; None if there is none."""
    errors = (result.error for result in results if result.error is not None)
    return next(filter(is_retryable, errors), None)
