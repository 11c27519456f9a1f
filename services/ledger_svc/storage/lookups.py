"""Reads of ledgers and receipts. Each function runs in one snapshot of a reading thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.engine import Connection

from ledger_svc.chain import BatchRow, Head, HeadState, LedgerInfo, Row, Stored
from ledger_svc.storage import FoundRequests, Known, ListQuery, LogRun, Page, PageBounds, spans
from ledger_svc.storage.sql import Sql
from provledger.errors import DataLossError


def get_ledger(connection: Connection, sql: Sql, tenant: str, ledger: str) -> LedgerInfo | None:
    """A ledger by its ids."""
    row = connection.exec_driver_sql(
        sql("SELECT {ledger} FROM ledgers l WHERE l.tenant = ? AND l.ledger = ?"),
        (tenant, ledger),
    ).first()
    return None if row is None else LedgerInfo(*row)


def list_ledgers(
    connection: Connection, sql: Sql, tenant: str, after: tuple[str, str], limit: int
) -> list[tuple[LedgerInfo, HeadState]]:
    """Ledgers behind `after`, by tenant and ledger id."""
    rows = connection.exec_driver_sql(
        sql(
            "SELECT {ledger}, {state} FROM ledgers l JOIN heads h ON h.ledger_uid = l.ledger_uid "
            "WHERE (l.tenant, l.ledger) > (?, ?) AND (l.tenant = ? OR ? = '') "
            "ORDER BY l.tenant, l.ledger LIMIT ?"
        ),
        # Within one tenant the listing starts there, not with the tenants before it.
        (*max(after, (tenant, "")), tenant, tenant, limit),
    )
    return [(LedgerInfo(*row[:7]), _state(row[7:])) for row in rows]


def get_head(connection: Connection, sql: Sql, ledger_uid: bytes) -> HeadState:
    """The head of a ledger."""
    row = connection.exec_driver_sql(
        sql("SELECT {state} FROM heads h WHERE h.ledger_uid = ?"), (ledger_uid,)
    ).first()
    if row is None:
        raise DataLossError("HEAD_MISSING", "the ledger has no row in heads")
    return _state(row)


def count_ledgers(connection: Connection, sql: Sql) -> tuple[int, int]:
    """How many ledgers can be found by name, and how many of them are known to be in a log."""
    # Nobody finds one whose row in `ledgers` is gone, or says another name than its genesis.
    counted = connection.exec_driver_sql(
        sql(
            "SELECT count(*), count(CASE WHEN logged_seq >= 0 THEN 1 END) FROM heads "
            "JOIN ledgers l USING (ledger_uid) JOIN entries e USING (ledger_uid) "
            "WHERE e.seq = 0 AND {named}"
        )
    ).one()
    return int(counted[0]), int(counted[1])


def _state(row: Sequence[Any]) -> HeadState:
    return HeadState(Head(row[0], row[1], row[2]), row[3], row[4])


def find_requests(
    connection: Connection, sql: Sql, ledger_uid: bytes, request_ids: Sequence[str]
) -> FoundRequests:
    """Where request ids are; what is not found was not there as of the head: it is one snapshot."""
    rows = connection.exec_driver_sql(
        sql(
            "SELECT h.seq, e.request_id, e.seq, e.receipt_id, {size} "
            "FROM heads h LEFT JOIN entries e "
            "ON e.ledger_uid = h.ledger_uid AND e.request_id {among} WHERE h.ledger_uid = ?"
        ),
        (sql.values(request_ids), ledger_uid),
    ).all()
    if not rows:
        raise DataLossError("HEAD_MISSING", "the ledger has no row in heads")
    known = {row[1]: Known(row[2], row[3], row[4]) for row in rows if row[1] is not None}
    return FoundRequests(rows[0][0], known)


def get_receipt(
    connection: Connection, sql: Sql, ledger_uid: bytes, receipt_id: bytes
) -> Stored | None:
    """A receipt by its id."""
    row = connection.exec_driver_sql(
        sql(
            "SELECT {entry}, p.receipt_hash FROM entries e "
            "LEFT JOIN entries p ON p.ledger_uid = e.ledger_uid AND p.seq = e.seq - 1 "
            "WHERE e.ledger_uid = ? AND e.receipt_id = ?"
        ),
        (ledger_uid, receipt_id),
    ).first()
    return None if row is None else _stored(row)


_FULL_BY_SEQ: Final = (
    "SELECT {entry}, p.receipt_hash FROM entries e "
    "LEFT JOIN entries p ON p.ledger_uid = e.ledger_uid AND p.seq = e.seq - 1 "
    "WHERE e.ledger_uid = ? AND e.seq {among} ORDER BY e.seq"
)
_LIGHT_BY_SEQ: Final = (
    "SELECT {light}, p.receipt_hash FROM entries e "
    "LEFT JOIN entries p ON p.ledger_uid = e.ledger_uid AND p.seq = e.seq - 1 "
    "WHERE e.ledger_uid = ? AND e.seq {among} ORDER BY e.seq"
)
_FULL_RANGE: Final = (
    "SELECT {entry} FROM entries e WHERE e.ledger_uid = ? AND e.seq BETWEEN ? AND ? ORDER BY e.seq"
)
_LIGHT_RANGE: Final = (
    "SELECT {light} FROM entries e WHERE e.ledger_uid = ? AND e.seq BETWEEN ? AND ? ORDER BY e.seq"
)


def get_rows(
    connection: Connection, sql: Sql, ledger_uid: bytes, seqs: Sequence[int], full: bool
) -> list[Stored]:
    """Receipts by seq, in order."""
    if not seqs:
        return []
    if seqs[-1] - seqs[0] == len(seqs) - 1:
        return get_range(connection, sql, ledger_uid, seqs[0], seqs[-1], full=full)
    rows = connection.exec_driver_sql(
        sql(_FULL_BY_SEQ if full else _LIGHT_BY_SEQ), (ledger_uid, sql.values(seqs))
    )
    return [_stored(row) for row in rows]


def get_range(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    first_seq: int,
    last_seq: int,
    *,
    full: bool = True,
) -> list[Stored]:
    """Receipts from first to last seq; one index range instead of a lookup for each."""
    previous_hash = receipt_hash_at(connection, sql, ledger_uid, first_seq - 1)
    rows = connection.exec_driver_sql(
        sql(_FULL_RANGE if full else _LIGHT_RANGE), (ledger_uid, first_seq, last_seq)
    )
    found = []
    for columns in rows:
        row = Row(*columns)
        found.append(Stored(row, previous_hash))
        previous_hash = row.receipt_hash
    return found


def _stored(columns: Sequence[Any]) -> Stored:
    return Stored(Row(*columns[:-1]), columns[-1])


def receipt_hash_at(connection: Connection, sql: Sql, ledger_uid: bytes, seq: int) -> bytes | None:
    """The stored receipt hash of a seq."""
    found: bytes | None = connection.exec_driver_sql(
        sql("SELECT receipt_hash FROM entries WHERE ledger_uid = ? AND seq = ?"),
        (ledger_uid, seq),
    ).scalar()
    return found


def get_batches(
    connection: Connection, sql: Sql, ledger_uid: bytes, batch_seqs: Sequence[int]
) -> dict[int, BatchRow]:
    """Signed batches by their seq."""
    if not batch_seqs:
        return {}
    rows = connection.exec_driver_sql(
        sql("SELECT {batch} FROM batches WHERE ledger_uid = ? AND batch_seq {among}"),
        (ledger_uid, sql.values(batch_seqs)),
    )
    return {row[1]: BatchRow(*row) for row in rows}


def log_runs(
    connection: Connection, sql: Sql, ledger_uid: bytes, first_seq: int, last_seq: int
) -> list[LogRun]:
    """Runs that overlap a range of seqs: the last one that starts before it, and those within."""
    rows = connection.exec_driver_sql(
        sql(
            "SELECT start_seq, start_index, count FROM log_runs "
            "WHERE ledger_uid = ? AND start_seq <= ? AND start_seq >= coalesce((SELECT "
            "max(start_seq) FROM log_runs WHERE ledger_uid = ? AND start_seq <= ?), 0) "
            "ORDER BY start_seq"
        ),
        (ledger_uid, last_seq, ledger_uid, first_seq),
    )
    return [LogRun(*row) for row in rows]


# --- listing -------------------------------------------------------------------------------------

_BY_INDEX: Final = (
    "SELECT seq, {size}, receipt_type, resource_type, actor_id FROM entries "
    "WHERE ledger_uid = ?{columns} AND seq >= ? AND seq <= ? ORDER BY seq LIMIT ?"
)


def find_page(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    query: ListQuery,
    after_seq: int,
    bounds: PageBounds,
    full: bool,
) -> Page:
    """The first receipts behind a seq that fit a query, from the index that narrows it most.

    Conditions that the index does not cover are looked at row by row, which is why the number of
    rows is bounded, and a page may be short.
    """
    state = get_head(connection, sql, ledger_uid)
    first_seq, last_seq = _time_bounds(
        connection, sql, ledger_uid, query, after_seq + 1, state.head.seq
    )
    if first_seq > last_seq:
        return Page((), max(after_seq, last_seq), ended=True, logged_seq=state.logged_seq)
    rest = _Rest.of(query)
    wanted = bounds.rows if rest.any else bounds.receipts
    rows = _rows(connection, sql, ledger_uid, _index_for(query), first_seq, last_seq, wanted)
    seqs: list[int] = []
    position, size_bytes = after_seq, 0
    ended = len(rows) < wanted
    for seq, size, receipt_type, resource_type, actor_id in rows:
        if rest.fits(receipt_type, resource_type, actor_id):
            size_bytes += size
            if full and seqs and size_bytes > bounds.size_bytes:
                ended = False
                break
            seqs.append(seq)
        position = seq
        if len(seqs) == bounds.receipts:
            ended = ended and seq == rows[-1][0]
            break
    return Page(
        get_rows(connection, sql, ledger_uid, seqs, full), position, ended, state.logged_seq
    )


class _Rest:
    """The conditions of a query that its index does not decide."""

    def __init__(self, receipt_type: str, resource_type: str, actor_id: str) -> None:
        self.receipt_type = receipt_type
        self.resource_type = resource_type
        self.actor_id = actor_id
        self.any = bool(receipt_type or resource_type or actor_id)

    @classmethod
    def of(cls, query: ListQuery) -> _Rest:
        by_resource = bool(query.resource_id)
        return cls(
            query.receipt_type,
            "" if by_resource else query.resource_type,
            query.actor_id if by_resource else "",
        )

    def fits(self, receipt_type: str, resource_type: str, actor_id: str) -> bool:
        return (
            self.receipt_type in ("", receipt_type)
            and self.resource_type in ("", resource_type)
            and self.actor_id in ("", actor_id)
        )


def _index_for(query: ListQuery) -> list[tuple[str, str]]:
    """What the index that narrows it most decides: a resource, else an actor, else the chain."""
    if query.resource_id:
        return [("resource_type", query.resource_type), ("resource_id", query.resource_id)]
    if query.actor_id:
        return [("actor_id", query.actor_id)]
    return []


def _rows(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    conditions: Sequence[tuple[str, str]],
    first_seq: int,
    last_seq: int,
    limit: int,
) -> Sequence[Sequence[Any]]:
    if conditions and sql.is_sqlite:
        return spans.search(connection, sql, ledger_uid, conditions, first_seq, last_seq, limit)
    columns = "".join(f" AND {column} = ?" for column, _ in conditions)
    values = [value for _, value in conditions]
    return connection.exec_driver_sql(
        sql(_BY_INDEX.replace("{columns}", columns)),
        (ledger_uid, *values, first_seq, last_seq, limit),
    ).all()


def _time_bounds(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    query: ListQuery,
    first_seq: int,
    last_seq: int,
) -> tuple[int, int]:
    """The first and last seq that times allow, of those given."""
    if query.end_t_ns:
        last_seq = _seq_at(connection, sql, ledger_uid, query.end_t_ns, last_seq) - 1
    if query.start_t_ns:
        start = _seq_at(connection, sql, ledger_uid, query.start_t_ns, last_seq)
        first_seq = max(first_seq, start)
    return first_seq, last_seq


def _seq_at(connection: Connection, sql: Sql, ledger_uid: bytes, t_ns: int, last_seq: int) -> int:
    """The first seq with a time at or after `t_ns`, one behind `last_seq` if there is none.

    Times increase strictly along the chain, so that the primary key can be bisected.
    """
    low, high = 0, last_seq + 1
    while low < high:
        middle = (low + high) // 2
        found = connection.exec_driver_sql(
            sql("SELECT t_ns FROM entries WHERE ledger_uid = ? AND seq = ?"),
            (ledger_uid, middle),
        ).scalar()
        if found is None:
            raise DataLossError(
                "ENTRY_MISSING", f"receipt {middle} is missing", metadata={"seq": str(middle)}
            )
        if found < t_ns:
            low = middle + 1
        else:
            high = middle
    return low
