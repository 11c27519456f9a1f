"""Outcomes of appends as results of RPCs.

Receipts of this very flush are shown as pending, without a question to anybody; repeats are shown
as they are now, in the FULL view with their proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger_svc import convert
from ledger_svc.chain import LedgerInfo, Stored
from ledger_svc.outcomes import Outcome, Recorded
from ledger_svc.reads import Reads
from provledger.api.common.v1 import common_pb2

MAX_FULL_BYTES: Final = 12 * 1024 * 1024
"""Statements and payloads of one answer; signatures and proofs still fit into 16 MiB beside it."""


async def receipts_of(
    reads: Reads,
    ledger: LedgerInfo,
    outcomes: Sequence[Outcome],
    view: common_pb2.ReceiptView,
) -> dict[int, common_pb2.Receipt]:
    """The receipt of each outcome that has one, by its index.

    Raises:
        InvalidArgumentError: RESPONSE_TOO_LARGE. Everything is recorded all the same, and the
            same request with another view shows it.
    """
    fresh = _of(outcomes, repeated=False)
    repeated = _of(outcomes, repeated=True)
    if view == convert.FULL:
        _check_size(outcomes)
    receipts: dict[int, common_pb2.Receipt] = {}
    if fresh:
        shown = await reads.fresh(ledger, [stored for _, stored in fresh], view)
        receipts = {index: receipt for (index, _), receipt in zip(fresh, shown, strict=True)}
    if repeated:
        by_seq: dict[int, Stored] = {stored.row.seq: stored for _, stored in repeated}
        rendered = await reads.render(ledger, [by_seq[seq] for seq in sorted(by_seq)], view)
        shown_by_seq = {receipt.seq: receipt for receipt in rendered.receipts}
        for index, stored in repeated:
            receipts[index] = shown_by_seq[stored.row.seq]
    return receipts


async def results_of(
    reads: Reads,
    ledger: LedgerInfo,
    outcomes: Sequence[Outcome],
    view: common_pb2.ReceiptView,
    field: str,
    first_index: int = 0,
    first_place: int = 0,
) -> list[common_pb2.AppendResult]:
    """One result for each outcome; `field` with its place is where the draft stands."""
    receipts = await receipts_of(reads, ledger, outcomes, view)
    results = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Recorded):
            result = common_pb2.AppendResult(
                index=first_index + index,
                receipt=receipts[index],
                repeated_request=outcome.repeated,
            )
        else:
            where = field.format(index=first_place + index)
            result = common_pb2.AppendResult(
                index=first_index + index, error=convert.item_status(outcome, where)
            )
        results.append(result)
    return results


def _of(outcomes: Sequence[Outcome], *, repeated: bool) -> list[tuple[int, Stored]]:
    """Index and receipt of the outcomes that are, or are not, repeats."""
    return [
        (index, outcome.stored)
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Recorded) and outcome.repeated is repeated
    ]


def _check_size(outcomes: Sequence[Outcome]) -> None:
    size = sum(outcome.size_bytes for outcome in outcomes if isinstance(outcome, Recorded))
    if size > MAX_FULL_BYTES and len(outcomes) > 1:
        raise convert.violation(
            "view",
            "the receipts are recorded, but too large to be returned in full in one answer; "
            "ask for BASIC and read them one by one",
            "RESPONSE_TOO_LARGE",
        )
