"""Feeds stored rows to the auditor, in chunks, all from one snapshot.

A chunk is bounded by rows and bytes: a megabyte of JSON may take a quarter of a second, and between
two chunks it is looked whether anybody still waits. PostgreSQL, too, ends a session that is silent
in its transaction for long (`provledger.db.engine`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.engine import Connection

from ledger_svc.audit import Auditor, broken
from ledger_svc.chain import BatchRow, LedgerInfo, Row
from ledger_svc.storage import Verified, lookups
from ledger_svc.storage.sql import Sql
from provledger.errors import OutOfRangeError, ProvledgerError

CHUNK_ROWS: Final = 256
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Statements and payloads; one row at least."""


class GivenUpError(ProvledgerError):
    """Nobody waits for the result any more."""


def verify_range(
    connection: Connection,
    sql: Sql,
    ledger: LedgerInfo,
    start_seq: int,
    end_seq: int,
    given_up: Callable[[], bool],
) -> Verified:
    """Check the rows from start to end, the head, the genesis and the runs in the log.

    The ledger's own row is read again: what is known of it may be older than what is stored.

    Raises:
        DataLossError, OutOfRangeError: as `Storage.verify_range`.
        GivenUpError: `given_up` said so between two chunks.
    """
    stored = lookups.get_ledger(connection, sql, ledger.tenant, ledger.ledger)
    if stored is None:
        raise broken(ledger, 0, "ledgers.tenant or ledgers.ledger", "are missing")
    ledger, uid = stored, stored.uid
    state = lookups.get_head(connection, sql, uid)
    last_seq = _last_seq(connection, sql, uid)
    if start_seq > max(state.head.seq, last_seq):
        raise OutOfRangeError(
            "OUT_OF_RANGE",
            f"{ledger.name} ends at {state.head.seq}",
            metadata={"headSeq": str(state.head.seq)},
        )
    end_seq = min(end_seq, max(state.head.seq, last_seq))
    previous = _row(connection, sql, uid, start_seq - 1) if start_seq else None
    auditor = Auditor(ledger, state, previous)
    if start_seq and previous is None:
        auditor.missing(start_seq - 1)
    auditor.check_genesis(_row(connection, sql, uid, 0))
    first = start_seq
    while first <= end_seq:
        if given_up():
            raise GivenUpError
        last = _chunk_end(connection, sql, uid, first, end_seq)
        _check_chunk(connection, sql, auditor, uid, first, last)
        first = last + 1
    auditor.check_head(last_seq)
    runs = lookups.log_runs(connection, sql, uid, start_seq, end_seq)
    found = [(run.start_seq, run.start_index, run.count) for run in runs]
    auditor.check_runs(found, start_seq, end_seq)
    checked = auditor.previous
    return Verified(
        checked_seq=end_seq,
        checked_count=auditor.checked_count,
        head_seq=state.head.seq,
        receipt_hash=b"" if checked is None else checked.receipt_hash,
    )


def _chunk_end(connection: Connection, sql: Sql, uid: bytes, first: int, end_seq: int) -> int:
    """The last seq of the chunk that begins at `first`."""
    last, size_bytes = min(first + CHUNK_ROWS - 1, end_seq), 0
    rows = connection.exec_driver_sql(
        sql(
            "SELECT seq, {size} FROM entries WHERE ledger_uid = ? AND seq BETWEEN ? AND ? "
            "ORDER BY seq"
        ),
        (uid, first, last),
    ).all()
    for seq, row_bytes in rows:
        size_bytes += row_bytes
        if seq > first and size_bytes > CHUNK_BYTES:
            return int(seq) - 1
    return last


def _check_chunk(
    connection: Connection, sql: Sql, auditor: Auditor, uid: bytes, first: int, last: int
) -> None:
    stored = lookups.get_range(connection, sql, uid, first, last + 1)
    rows = [item.row for item in stored if item.row.seq <= last]
    following = stored[-1].row if stored and stored[-1].row.seq > last else None
    before = auditor.previous
    first_batch = first if before is None else before.batch_seq
    batches = _batches(connection, sql, uid, min(first_batch, first), last)
    auditor.check(rows, batches, following)
    if len(rows) <= last - first:
        auditor.missing(first + len(rows))


def _last_seq(connection: Connection, sql: Sql, uid: bytes) -> int:
    found = connection.exec_driver_sql(
        sql("SELECT coalesce(max(seq), -1) FROM entries WHERE ledger_uid = ?"), (uid,)
    ).scalar_one()
    return int(found)


def _row(connection: Connection, sql: Sql, uid: bytes, seq: int) -> Row | None:
    found = lookups.get_range(connection, sql, uid, seq, seq)
    return found[0].row if found else None


def _batches(
    connection: Connection, sql: Sql, uid: bytes, first: int, last: int
) -> dict[int, BatchRow]:
    rows = connection.exec_driver_sql(
        sql("SELECT {batch} FROM batches WHERE ledger_uid = ? AND batch_seq BETWEEN ? AND ?"),
        (uid, first, last),
    )
    return {row[1]: BatchRow(*row) for row in rows}
