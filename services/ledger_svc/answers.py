"""Outcomes of appends as results of RPCs.

Receipts of this very flush are shown as pending, without a question to anybody; repeats are shown
as they are now, in the FULL view with their proofs. So are those that were waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from ledger_svc import convert, room
from ledger_svc.chain import LedgerInfo
from ledger_svc.outcomes import Outcome, Recorded
from ledger_svc.reads import Reads
from provledger.api.common.v1 import common_pb2

MAX_FULL_BYTES: Final = 12 * 1024 * 1024
"""Statements and payloads of one answer; signatures still fit into 16 MiB beside it, and proofs as
far as `room` lets them."""

_STEP_ITEMS: Final = 250

Filled: TypeAlias = Sequence[tuple[common_pb2.Receipt, Recorded]]
"""Receipts of an answer, each beside the outcome it is filled in from."""

Fill: TypeAlias = Callable[[Filled], Awaitable[None]]


async def fill_receipts(
    reads: Reads,
    ledger: LedgerInfo,
    recorded: Filled,
    view: common_pb2.ReceiptView,
) -> None:
    """Fill in the receipt beside each outcome.

    Raises:
        InvalidArgumentError: RESPONSE_TOO_LARGE. Everything is recorded all the same, and the
            same request with another view shows it.
    """
    if view == convert.FULL:
        _check_size([outcome for _, outcome in recorded])
    fresh = [(receipt, done.stored) for receipt, done in recorded if not done.repeated]
    receipts = [receipt for receipt, _ in fresh]
    if fresh:
        await reads.fresh(ledger, [stored for _, stored in fresh], view, receipts)
    if len(fresh) < len(recorded):
        repeated = [each for each in recorded if each[1].repeated]
        beside_bytes = room.size_bytes(receipts) if view == convert.FULL else 0
        await _show(reads, ledger, repeated, view, beside_bytes)


async def fill_waited(
    reads: Reads,
    ledger: LedgerInfo,
    recorded: Filled,
    view: common_pb2.ReceiptView,
    *,
    just_logged: bool,
) -> None:
    """Fill in receipts that were waited for, as they are now.

    just_logged: the log has taken them in this moment, and they are wanted whole.

    Raises:
        InvalidArgumentError: RESPONSE_TOO_LARGE; see `fill_receipts`.
    """
    if view == convert.FULL:
        _check_size([outcome for _, outcome in recorded])
    if just_logged:
        stored = [done.stored for _, done in recorded]
        await reads.just_logged(ledger, stored, [receipt for receipt, _ in recorded])
    else:
        await _show(reads, ledger, recorded, view)


async def _show(
    reads: Reads,
    ledger: LedgerInfo,
    recorded: Filled,
    view: common_pb2.ReceiptView,
    beside_bytes: int = 0,
) -> None:
    ordered = sorted(recorded, key=lambda each: each[1].stored.row.seq)
    stored = [done.stored for _, done in ordered]
    receipts = [receipt for receipt, _ in ordered]
    await reads.show(ledger, stored, view, receipts, beside_bytes=beside_bytes)


async def fill_results(
    reads: Reads,
    ledger: LedgerInfo,
    outcomes: Sequence[Outcome],
    view: common_pb2.ReceiptView,
    field: str,
    results: Sequence[common_pb2.AppendResult],
    first_index: int = 0,
    first_place: int = 0,
    fill: Fill | None = None,
) -> None:
    """Fill in the result of each outcome; `field` with its place is where the draft stands.

    fill: fills in receipts, instead of `fill_receipts`.
    """
    recorded: list[tuple[common_pb2.Receipt, Recorded]] = []
    if view == convert.FULL:
        _check_size([outcome for outcome in outcomes if isinstance(outcome, Recorded)])
    for index, (outcome, result) in enumerate(zip(outcomes, results, strict=True)):
        result.index = first_index + index
        if isinstance(outcome, Recorded):
            if outcome.repeated:
                result.repeated_request = True
            recorded.append((result.receipt, outcome))
        else:
            where = field.format(index=first_place + index)
            result.error.CopyFrom(convert.item_status(outcome, where))
    # Whole receipts are put together in a thread, all at once: they share the room of the answer.
    items = max(1, len(recorded)) if view == convert.FULL else _STEP_ITEMS
    for start in range(0, len(recorded), items):
        if start:
            # A thousand receipts are some milliseconds of work: others have their turn.
            await asyncio.sleep(0)
        step = recorded[start : start + items]
        await (fill_receipts(reads, ledger, step, view) if fill is None else fill(step))


def _check_size(outcomes: Sequence[Recorded]) -> None:
    size = sum(outcome.size_bytes for outcome in outcomes)
    if size > MAX_FULL_BYTES and len(outcomes) > 1:
        raise convert.violation(
            "view",
            "the receipts are recorded, but too large to be returned in full in one answer; "
            "ask for BASIC and read them one by one",
            "RESPONSE_TOO_LARGE",
        )
