"""What became of a draft, and what is answered for a request id that is in the chain already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ledger_svc import repeats
from ledger_svc.chain import Stored
from ledger_svc.storage import Known, Storage
from ledger_svc.witnessing import Pending
from provledger import logs
from provledger.errors import DataLossError, ReceiptFormatError, StatusError

log = logs.get(__name__)

# Comparing parses payloads, of which a megabyte may take a quarter of a second; of more than this
# it is not done on the event loop.
_LOOP_ITEMS: Final = 8
_LOOP_BYTES: Final = 32 * 1024
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

_Found = tuple[int, Pending, Known]
"""An item by its index, and where its request id is."""


async def answer_known(
    storage: Storage,
    ledger_uid: bytes,
    items: Sequence[Pending],
    known: Mapping[str, Known],
) -> dict[int, Outcome]:
    """Outcomes, by index, for the drafts whose request ids are in the chain.

    An attempt of our own whose answer was lost is told by its receipt id and not compared. The
    others are, in portions, since their payloads are read for it; those of one receipt together.
    """
    by_seq: dict[int, list[_Found]] = {}
    for index, item in enumerate(items):
        there = known.get(item.draft.request_id)
        if there is not None:
            by_seq.setdefault(there.seq, []).append((index, item, there))
    outcomes: dict[int, Outcome] = {}
    portion: list[_Found] = []
    size = 0
    for _, found in sorted(by_seq.items()):
        size_bytes = found[0][2].size_bytes
        if portion and size + size_bytes > _PORTION_BYTES:
            outcomes.update(await _answer_portion(storage, ledger_uid, portion))
            portion, size = [], 0
        portion += found
        size += size_bytes
    if portion:
        outcomes.update(await _answer_portion(storage, ledger_uid, portion))
    return outcomes


async def _answer_portion(
    storage: Storage, ledger_uid: bytes, portion: Sequence[_Found]
) -> dict[int, Outcome]:
    seqs = sorted({there.seq for _, _, there in portion})
    rows = await storage.get_rows(ledger_uid, seqs, full=True)
    by_seq = {stored.row.seq: stored for stored in rows}
    outcomes: dict[int, Outcome] = {}
    others: list[tuple[int, Pending, Recorded]] = []
    for index, item, there in portion:
        stored = by_seq.get(there.seq)
        if stored is None:
            outcomes[index] = DataLossError(
                "ENTRY_MISSING", f"receipt {there.seq} is missing", metadata={"seq": str(there.seq)}
            )
        elif there.receipt_id == item.receipt_id:
            outcomes[index] = Recorded(stored, False, there.size_bytes)
        else:
            others.append((index, item, Recorded(stored, False, there.size_bytes)))
    outcomes.update(await compare(others))
    return {index: _lightened(outcome) for index, outcome in outcomes.items()}


def _lightened(outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Recorded):
        return outcome
    stored = outcome.stored
    row = stored.row._replace(secret=b"", statement=b"", payload=b"")
    return outcome._replace(stored=Stored(row, stored.previous_hash))


async def compare(found: Sequence[tuple[int, Pending, Recorded]]) -> dict[int, Outcome]:
    """Outcomes, by index, for drafts whose request ids belong to receipts that are there."""
    if len(found) < _LOOP_ITEMS and _size_bytes(found) <= _LOOP_BYTES:
        return _compare(found)
    return await asyncio.to_thread(_compare, found)


def _size_bytes(found: Sequence[tuple[int, Pending, Recorded]]) -> int:
    return sum(item.size_bytes + there.size_bytes for _, item, there in found)


def _compare(found: Sequence[tuple[int, Pending, Recorded]]) -> dict[int, Outcome]:
    """As `compare`. Whatever fails is the outcome of that one draft: others may be recorded."""
    outcomes: dict[int, Outcome] = {}
    contents: dict[int, repeats.Content] = {}
    for index, item, there in found:
        row = there.stored.row
        content = contents.get(row.seq)
        if content is None:
            content = contents[row.seq] = repeats.Content(row.statement, row.payload)
        try:
            content.check(item.draft)
        except StatusError as error:
            outcomes[index] = error
        except ReceiptFormatError:
            outcomes[index] = DataLossError(
                "CHAIN_BROKEN",
                f"receipt {row.seq}: statement cannot be read",
                metadata={"seq": str(row.seq), "column": "statement"},
            )
        except Exception as error:
            log.error("append.repeat_not_compared", exc_info=error, seq=row.seq)
            outcomes[index] = error
        else:
            outcomes[index] = there._replace(repeated=True)
    for seq, content in contents.items():
        if content.damaged:
            uid = found[0][2].stored.row.ledger_uid
            log.error(
                "append.stored_damaged", ledger_uid=uid.hex(), seq=seq, column=content.damaged
            )
    return outcomes
