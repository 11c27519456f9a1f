"""Lists of receipts by what one can filter by, against the whole of a ledger. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TypeAlias

from provledger.client import ReceiptFilter
from provledger.receipt import Receipt
from provledger.statement import Statement, parse_statement

Place: TypeAlias = tuple[int, bytes]
"""Of a receipt: its seq, and its hash."""
Lists: TypeAlias = Mapping[ReceiptFilter, Sequence[Place]]
"""What a ledger lists, by the conditions."""

_NEWEST, _OTHERS = 2, 2
"""So many resources of a ledger are listed, of its newest receipts and of older ones."""
_MOST = 4
"""So many actors, and types, of each kind: the first ones, of a ledger that has very many."""


def conditions(receipts: Sequence[Receipt]) -> list[ReceiptFilter]:
    """By what to list a ledger: actors, types, spans of time, some resources, several at once."""
    return _conditions([(each, parse_statement(each.statement)) for each in receipts])


def _conditions(stated: Sequence[tuple[Receipt, Statement]]) -> list[ReceiptFilter]:
    if not stated:
        return []
    middle = stated[len(stated) // 2][0].t_ns
    some = [*stated[-_NEWEST:], *stated[:: len(stated) // _OTHERS or 1]]
    _, last = stated[-1]
    found = [
        *_some(ReceiptFilter(actor_id=said.actor_id) for _, said in stated),
        *_some(ReceiptFilter(receipt_type=each.receipt_type) for each, _ in stated),
        *_some(ReceiptFilter(resource_type=said.resource_type) for _, said in stated),
        *(
            ReceiptFilter(said.resource_type, said.resource_id)
            for _, said in some
            if said.resource_type
        ),
        ReceiptFilter(start_t_ns=middle),
        ReceiptFilter(end_t_ns=middle),
        ReceiptFilter(last.resource_type, actor_id=last.actor_id, start_t_ns=middle),
    ]
    return list(dict.fromkeys(found))


def _some(each: Iterable[ReceiptFilter]) -> list[ReceiptFilter]:
    """But for an empty word, which would mean any."""
    return [where for where in dict.fromkeys(each) if where != ReceiptFilter()][:_MOST]


def _fits(receipt: Receipt, said: Statement, where: ReceiptFilter) -> bool:
    return (
        where.resource_type in ("", said.resource_type)
        and where.resource_id in ("", said.resource_id)
        and where.actor_id in ("", said.actor_id)
        and where.receipt_type in ("", receipt.receipt_type)
        and where.start_t_ns <= receipt.t_ns
        and (not where.end_t_ns or receipt.t_ns < where.end_t_ns)
    )


def described(where: ReceiptFilter) -> str:
    """Conditions, as far as they are any."""
    return ", ".join(f"{name}={value}" for name, value in asdict(where).items() if value)


def wrong_lists(receipts: Sequence[Receipt], lists: Lists) -> Iterator[str]:
    """What is wrong with the lists of a ledger, all of whose receipts these are."""
    stated = [(each, parse_statement(each.statement)) for each in receipts]
    for where in _conditions(stated):
        if where not in lists:
            yield f"was not listed by {described(where)}"
            continue
        wanted = [
            (each.seq, each.receipt_hash) for each, said in stated if _fits(each, said, where)
        ]
        shown = list(lists[where])
        if shown != wanted:
            absent = [seq for seq, _ in sorted({*wanted} - {*shown})]
            others = [seq for seq, _ in sorted({*shown} - {*wanted})]
            yield (
                f"a list by {described(where)} lacks seq {absent} and has seq {others}, or is out "
                "of order"
            )


def wrong_span(first_seq: int, shown: Sequence[Place]) -> str:
    """What is wrong with a list from the time of a receipt on, or "": times rise with seq."""
    seqs = [seq for seq, _ in shown]
    whole = seqs == [*range(first_seq, first_seq + len(seqs))]
    return "" if whole else f"lists seq {seqs} from seq {first_seq} on"


def lacking(known: Iterable[Place], shown: Iterable[Place]) -> str:
    """Which receipts a list lacks that were acknowledged before it was asked for, or ""."""
    missing = sorted({*known} - {*shown})
    return f"lists no seq {[seq for seq, _ in missing]}, acknowledged before" if missing else ""
