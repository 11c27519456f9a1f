"""What became of a draft, and what is answered for a request id that is in the chain already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ledger_svc import repeats
from ledger_svc.chain import Stored
from ledger_svc.storage import Known, Storage
from ledger_svc.witnessing import Pending
from provledger.errors import DataLossError, ProvledgerError

# Comparing parses payloads; from this many on it is not done on the event loop.
_THREAD_FROM: Final = 8
_PORTION_BYTES: Final = 8 * 1024 * 1024


class Recorded(NamedTuple):
    """A receipt that is durable.

    Of one that was stored earlier, statement, payload and secret are left empty: a thousand repeats
    may stand for gigabytes. `size_bytes` is how large statement and payload are.
    """

    stored: Stored
    repeated: bool
    size_bytes: int


Outcome = Recorded | Exception
"""A receipt, or why there is none."""


async def answer_known(
    storage: Storage,
    ledger_uid: bytes,
    items: Sequence[Pending],
    known: Mapping[str, Known],
) -> dict[int, Outcome]:
    """Outcomes, by index, for the drafts whose request ids are in the chain.

    An attempt of our own whose answer was lost is told by its receipt id and not compared. The
    others are, in portions, since their payloads are read for it.
    """
    outcomes: dict[int, Outcome] = {}
    portion: list[tuple[int, Pending, Known]] = []
    size = 0
    for index, item in enumerate(items):
        there = known.get(item.draft.request_id)
        if there is None:
            continue
        if portion and size + there.size_bytes > _PORTION_BYTES:
            outcomes.update(await _answer_portion(storage, ledger_uid, portion))
            portion, size = [], 0
        portion.append((index, item, there))
        size += there.size_bytes
    if portion:
        outcomes.update(await _answer_portion(storage, ledger_uid, portion))
    return outcomes


async def _answer_portion(
    storage: Storage, ledger_uid: bytes, portion: Sequence[tuple[int, Pending, Known]]
) -> dict[int, Outcome]:
    seqs = sorted({there.seq for _, _, there in portion})
    rows = await storage.get_rows(ledger_uid, seqs, full=True)
    by_seq = {stored.row.seq: stored for stored in rows}

    def run() -> dict[int, Outcome]:
        return {
            index: _answer(item, there, by_seq.get(there.seq)) for index, item, there in portion
        }

    return run() if len(portion) < _THREAD_FROM else await asyncio.to_thread(run)


def _answer(item: Pending, there: Known, stored: Stored | None) -> Outcome:
    if stored is None:
        return DataLossError(
            "ENTRY_MISSING", f"receipt {there.seq} is missing", metadata={"seq": str(there.seq)}
        )
    recorded = Recorded(stored, False, there.size_bytes)
    outcome = recorded if there.receipt_id == item.receipt_id else compare(item, recorded)
    if isinstance(outcome, Recorded):
        row = stored.row._replace(secret=b"", statement=b"", payload=b"")
        return outcome._replace(stored=Stored(row, stored.previous_hash))
    return outcome


def compare(item: Pending, there: Recorded) -> Outcome:
    """The outcome for a draft whose request id belongs to a receipt that is there."""
    row = there.stored.row
    try:
        repeats.check_same(item.draft, row.statement, row.payload)
    except ProvledgerError as error:
        return error
    return there._replace(repeated=True)
