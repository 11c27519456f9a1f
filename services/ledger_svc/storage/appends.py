"""The transaction of a flush: lock the head, look up the request ids, decide, insert, move on.

At READ COMMITTED, the lookup is a statement of its own after the lock was granted, so that it sees
what whoever held the lock before has committed (design §5, "Append"). It is left out where the head
is still where it was when they were last looked up: every receipt has moved the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ledger_svc.chain import Head, HeadState, LedgerInfo, Linked, Row
from ledger_svc.storage import D, Decide, Known, RowsRefusedError
from ledger_svc.storage.sql import Sql
from provledger.db.continuity import pinned, replaced
from provledger.errors import AbortedError, DataLossError

_COPY_TYPES: Final = (
    "bytea int8 int8 bytea bytea bytea int8 int4 int4 text text text text text bytea bytea bytea"
).split()
_INSERT_ONE: Final = "INSERT INTO entries ({entry_names}) VALUES ({entry_marks})"
_ROWS_AT_ONCE: Final = 50
REFUSED: Final = (sa.exc.IntegrityError, sa.exc.DataError, OverflowError, UnicodeError)
"""What the data itself is to blame for; a lost connection or a full disk is not among them."""


def append(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    request_ids: Sequence[str],
    known_seq: int,
    decide: Decide[D],
) -> D:
    """Run one flush; see `ledger_svc.storage.Storage.append`."""
    state, database_ns = lock_head(connection, sql, ledger_uid)
    known: dict[str, Known] = {}
    if state.head.seq != known_seq:
        known = find_known(connection, sql, ledger_uid, request_ids)
    decided = decide(state, known, database_ns)
    if decided.linked is not None:
        insert(connection, sql, decided.linked)
        _move_head(connection, sql, ledger_uid, state.head, decided.linked.head)
    return decided


def lock_head(connection: Connection, sql: Sql, ledger_uid: bytes) -> tuple[HeadState, int]:
    """Lock the head of a ledger; its state, and the database's clock in Unix nanoseconds."""
    row = connection.exec_driver_sql(
        sql("SELECT {state}, {now_ns}, {table} FROM heads h WHERE h.ledger_uid = ? {for_update}"),
        (ledger_uid,),
    ).first()
    if row is None:
        raise DataLossError("HEAD_MISSING", "the ledger has no row in heads")
    if row[6] != pinned(connection):
        raise replaced()
    return HeadState(Head(row[0], row[1], row[2]), row[3], row[4]), row[5]


def find_known(
    connection: Connection, sql: Sql, ledger_uid: bytes, request_ids: Sequence[str]
) -> dict[str, Known]:
    """Where those of the request ids are that are in the chain."""
    found = connection.exec_driver_sql(
        sql(
            "SELECT request_id, seq, receipt_id, {size} FROM entries "
            "WHERE ledger_uid = ? AND request_id {among}"
        ),
        (ledger_uid, sql.values(request_ids)),
    )
    return {row[0]: Known(row[1], row[2], row[3]) for row in found}


def insert(connection: Connection, sql: Sql, linked: Linked) -> None:
    """Insert the receipts and the batch of a flush.

    Raises:
        RowsRefusedError: the data cannot be stored.
    """
    try:
        if sql.is_sqlite:
            _insert_rows(connection, sql, linked.rows)
        else:
            _copy(
                connection, sql("COPY entries ({entry_names}) FROM STDIN (FORMAT BINARY)"), linked
            )
        connection.exec_driver_sql(
            sql("INSERT INTO batches ({batch_names}) VALUES ({batch_marks})"), tuple(linked.batch)
        )
    except REFUSED as error:
        raise RowsRefusedError(type(error).__name__) from error


def _insert_rows(connection: Connection, sql: Sql, rows: Sequence[Row]) -> None:
    """Many rows by one statement: SQLite works on them without Python's lock, which the event loop
    has meanwhile; taken and given back for each row, it would be fought over."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        # The driver keeps as many prepared statements as there are lengths, and then some.
        connection.exec_driver_sql(
            sql(_INSERT_ONE + ", ({entry_marks})" * (len(chunk) - 1)),
            tuple(chain.from_iterable(chunk)),
        )


def _copy(connection: Connection, statement: str, linked: Linked) -> None:
    """Binary COPY, half again as fast as prepared inserts and without their parameter limits."""
    import psycopg  # eighty milliseconds that SQLite's users need not wait for

    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(_COPY_TYPES)
            for row in linked.rows:
                copy.write_row(row)
    except psycopg.Error as error:
        broken: Any = error  # psycopg's class, which SQLAlchemy knows by its module only
        lost = connection.dialect.is_disconnect(broken, raw, None)
        raise sa.exc.DBAPIError.instance(
            statement,
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=connection.dialect,
        ) from error


def _move_head(connection: Connection, sql: Sql, ledger_uid: bytes, old: Head, new: Head) -> None:
    """Move the head on; it is locked, so that a row that is not as it was read is a fault."""
    result = connection.exec_driver_sql(
        sql(
            "UPDATE heads SET seq = ?, t_ns = ?, receipt_hash = ? WHERE ledger_uid = ? AND seq = ?"
        ),
        (new.seq, new.t_ns, new.receipt_hash, ledger_uid, old.seq),
    )
    if result.rowcount != 1:
        raise AbortedError("HEAD_MOVED", "the head of the ledger moved under its lock")


def insert_ledger(
    connection: Connection,
    sql: Sql,
    ledger: LedgerInfo,
    linked: Linked,
    check: Callable[[int], None],
) -> bool:
    """Store a new ledger with its genesis unless `check` raises, which is given the database's time
    in Unix nanoseconds; False if its name is taken."""
    made = connection.exec_driver_sql(
        sql(
            "INSERT INTO ledgers "
            "(ledger_uid, tenant, ledger, suite, log_name, log_origin, created_at_ns) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, ledger) DO NOTHING"
        ),
        (
            ledger.uid,
            ledger.tenant,
            ledger.ledger,
            ledger.suite,
            ledger.log_name,
            ledger.log_origin,
            ledger.created_at_ns,
        ),
    )
    if made.rowcount != 1:
        return False
    check(connection.exec_driver_sql(sql("SELECT {now_ns}")).scalar_one())
    head = linked.head
    connection.exec_driver_sql(
        sql(
            "INSERT INTO heads (ledger_uid, seq, t_ns, receipt_hash, logged_seq, "
            "read_only_reason, lease_owner, lease_until_ns) VALUES (?, ?, ?, ?, -1, '', '', 0)"
        ),
        (ledger.uid, head.seq, head.t_ns, head.receipt_hash),
    )
    insert(connection, sql, linked)
    return True
