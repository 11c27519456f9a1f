"""A small flush as one statement, for PostgreSQL: one round trip to the server instead of eight.

The head is not locked and read first: the statement moves it only if it still is what the caller
last knew of it, a compare-and-set under the row's lock, and everything else hangs on that. Where it
is not, nothing happens, and the flush takes the way of `appends`, which reads the head. So nothing
is decided here that is not decided there as well.

Nor does anything happen where the statement comes late to what was decided, by the server's clock:
a process that was halted in between may have missed that a key was revoked. What the server's clock
says at a decision is told by what it said at the last statement, and by how long ago that was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.engine import Connection

from ledger_svc.chain import MAX_CLOCK_AHEAD_NS, BatchRow, Head, HeadState, Linked, Row
from ledger_svc.storage import D, Decide
from ledger_svc.storage.appends import REFUSED
from ledger_svc.storage.sql import Sql
from provledger.db.continuity import pinned
from provledger.errors import ProvledgerError

MAX_ROWS: Final = 100
"""From about here on binary COPY is faster, round trips and all."""

# All rows of a flush are of one ledger and one batch.
_SAME: Final = ("ledger_uid", "batch_seq")
_TYPES: Final = {
    "seq": "int8",
    "t_ns": "int8",
    "batch_index": "int4",
    "commitment_size": "int4",
    "request_id": "text",
    "receipt_type": "text",
    "resource_type": "text",
    "resource_id": "text",
    "actor_id": "text",
}
_OWN: Final = [name for name in Row._fields if name not in _SAME]
_PLACES: Final = [Row._fields.index(name) for name in _OWN]

_MAX_DELAY_NS: Final = 10_000_000_000
"""A statement that comes later than this to its decision does nothing."""
_SERVER_CLOCK: Final = "provledger_server_clock"

_APPEND: Final = f"""
WITH moved AS (
  UPDATE heads SET seq = %b, t_ns = %b, receipt_hash = %b
  WHERE ledger_uid = %b AND seq = %b AND t_ns = %b AND receipt_hash = %b
    AND tableoid::int8 = %b AND read_only_reason = '' AND %b <= {{now_ns}} + {MAX_CLOCK_AHEAD_NS}
    AND {{now_ns}} <= %b
  RETURNING ledger_uid
), stored AS (
  INSERT INTO entries (ledger_uid, batch_seq, {", ".join(_OWN)})
  SELECT moved.ledger_uid, %b::int8, row.* FROM moved, unnest(
    {", ".join(f"%b::{_TYPES.get(name, 'bytea')}[]" for name in _OWN)}
  ) AS row ({", ".join(_OWN)})
), sealed AS (
  INSERT INTO batches ({", ".join(BatchRow._fields)})
  SELECT {", ".join(["%b"] * len(BatchRow._fields))} FROM moved
)
SELECT count(*), {{now_ns}} FROM moved
"""  # noqa: S608 - made of our own column names


def append(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    last: Head,
    clock: Callable[[], int],
    decide: Decide[D],
) -> D | None:
    """Store what is decided for a head that may be out of date; None if nothing was stored.

    Request ids are not looked up: they are unique, and one that is there fails the statement.

    last: what the head was last. clock: as in `decide`, Unix nanoseconds. In autocommit: the answer
        of the statement is that of its commit.
    """
    now_ns = clock()
    latest_ns = _server_ns(connection, now_ns) + _MAX_DELAY_NS
    try:
        decided = decide(HeadState(last, -1, ""), {}, now_ns)
    except ProvledgerError:
        # It may be due to what was guessed: the database's clock, for one. There it is decided.
        return None
    linked = decided.linked
    if linked is None or len(linked.rows) > MAX_ROWS:
        return None
    try:
        moved, server_ns = connection.exec_driver_sql(
            sql(_APPEND),
            _parameters(ledger_uid, last, linked, pinned(connection), now_ns, latest_ns),
        ).one()
    except REFUSED:
        # Which row is to blame, or that a request id is there already, is found out there.
        return None
    connection.info[_SERVER_CLOCK] = server_ns - time.monotonic_ns()
    return decided if moved == 1 else None


def _server_ns(connection: Connection, now_ns: int) -> int:
    """About what the server's clock says now; our own's `now_ns` before the first statement."""
    ahead_ns = connection.info.get(_SERVER_CLOCK)
    return now_ns if ahead_ns is None else time.monotonic_ns() + int(ahead_ns)


def _parameters(
    ledger_uid: bytes, last: Head, linked: Linked, table: int, now_ns: int, latest_ns: int
) -> tuple[Any, ...]:
    head, columns = linked.head, list(zip(*linked.rows, strict=True))
    return (
        head.seq,
        head.t_ns,
        head.receipt_hash,
        ledger_uid,
        last.seq,
        last.t_ns,
        last.receipt_hash,
        table,
        # Neither our clock nor the witness's may be too far ahead of the server's.
        max(now_ns, linked.signed_at_ns),
        latest_ns,
        linked.batch.batch_seq,
        *[list(columns[place]) for place in _PLACES],
        *linked.batch,
    )
