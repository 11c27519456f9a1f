"""Receipts of a resource or an actor on SQLite: an index in spans of the chain.

An index by resource has as many places as there are resources. Once it is large, each receipt of a
flush falls on a page of its own, which SQLite writes to its WAL and back as a whole: at 300,000
receipts that was two thirds of what an insert costs. So here the index leads with the *span*, the
`SPAN_SEQS` receipts among which a seq lies, and a flush touches only the pages of the last one; a
search looks into each span by itself. It takes a few microseconds for a span, 122 spans for a
million receipts. PostgreSQL keeps one index over all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy.engine import Connection

from ledger_svc.storage.sql import SPAN_BITS, Sql

SPAN_SEQS: Final = 1 << SPAN_BITS
"""Receipts in a span. The index of one is a megabyte at most: small beside the receipts of a flush,
which are one, and large enough that searching a long chain is not a matter of spans."""

_MOST_SPANS: Final = 256
"""Spans that are searched by one statement, at most."""

_ONE_SPAN: Final = (
    "SELECT e.seq, {size}, e.receipt_type, e.resource_type, e.actor_id FROM entries e "
    "WHERE e.ledger_uid = ? AND {span} = ? AND {columns} AND e.seq BETWEEN ? AND ? "
    "ORDER BY e.seq LIMIT ?"
)
# CROSS JOIN keeps the order: first the spans, then the index in each.
_MANY_SPANS: Final = (
    "SELECT e.seq, {size}, e.receipt_type, e.resource_type, e.actor_id "
    "FROM json_each(?) s CROSS JOIN entries e "
    "WHERE e.ledger_uid = ? AND {span} = s.value AND {columns} AND e.seq BETWEEN ? AND ? "
    "ORDER BY e.seq LIMIT ?"
)


def search(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    conditions: Sequence[tuple[str, str]],
    first_seq: int,
    last_seq: int,
    limit: int,
) -> list[Sequence[Any]]:
    """Rows from `first_seq` to `last_seq` that fit, at most `limit`, in order of their seqs.

    conditions: columns of one of the indexes and their values.
    """
    columns = " AND ".join(f"e.{column} = ?" for column, _ in conditions)
    values = [value for _, value in conditions]
    found: list[Sequence[Any]] = []
    for first_span, last_span in _steps(first_seq >> SPAN_BITS, last_seq >> SPAN_BITS):
        bounds = (*values, first_seq, last_seq, limit - len(found))
        if first_span == last_span:
            statement = _ONE_SPAN.replace("{columns}", columns)
            parameters: tuple[Any, ...] = (ledger_uid, first_span, *bounds)
        else:
            statement = _MANY_SPANS.replace("{columns}", columns)
            spans = sql.values(range(first_span, last_span + 1))
            parameters = (spans, ledger_uid, *bounds)
        found += connection.exec_driver_sql(sql(statement), parameters).all()
        if len(found) >= limit:
            break
    return found


def _steps(first_span: int, last_span: int) -> Iterator[tuple[int, int]]:
    """Spans to search together, in order. One of them is read in order and stops at the limit; of
    several, what fits is sorted, so that it takes a step that found little to make the next longer.
    """
    length = 1
    while first_span <= last_span:
        yield first_span, min(first_span + length - 1, last_span)
        first_span += length
        length = min(2 * length, _MOST_SPANS)
