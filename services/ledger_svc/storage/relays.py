"""What the relay stores and reads: leases, runs in the log, entry bytes rebuilt.

A lease keeps two replicas from doing the same work. Nothing depends on it for correctness: the
log takes an entry once, and `logged_seq` moves by compare-and-set. It is of the database's clock.
Where that was set back, one that ends later than any could that is given now counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from ledger_svc import chain
from ledger_svc.chain import HeadState, LedgerInfo, Stored
from ledger_svc.storage import LogEntries, LogRun, Unlogged, lookups
from ledger_svc.storage.sql import Sql
from provledger.errors import DataLossError
from provledger.hashing import HASH_BYTES
from provledger.witness_batch import signature_digest

_NS: int = 1_000_000_000


def find_unlogged(connection: Connection, sql: Sql, owner: str) -> list[Unlogged]:
    """Ledgers with receipts that are not logged, and whether a relay of `owner` may work."""
    rows = connection.exec_driver_sql(
        sql(
            "SELECT {ledger}, h.seq, h.logged_seq, (h.lease_owner = ? OR {lease_over}) "
            "FROM heads h JOIN ledgers l ON l.ledger_uid = h.ledger_uid "
            "WHERE h.seq > h.logged_seq AND h.read_only_reason = ''"
        ),
        (owner,),
    )
    return [
        Unlogged(LedgerInfo(*ledger), head_seq, logged_seq, bool(is_free))
        for *ledger, head_seq, logged_seq, is_free in rows
    ]


def acquire_lease(
    connection: Connection, sql: Sql, ledger_uid: bytes, owner: str, ttl_s: float
) -> HeadState | None:
    """Take or renew a lease by compare-and-set; the head's state if it is ours now."""
    taken = connection.exec_driver_sql(
        sql(
            "UPDATE heads SET lease_owner = ?, lease_until_ns = {now_ns} + ? "
            "WHERE ledger_uid = ? AND (lease_owner = ? OR {lease_over})"
        ),
        (owner, int(ttl_s * _NS), ledger_uid, owner),
    )
    if taken.rowcount != 1:
        return None
    return lookups.get_head(connection, sql, ledger_uid)


def release_lease(connection: Connection, sql: Sql, ledger_uid: bytes, owner: str) -> None:
    """Give a lease up, if it is still ours."""
    connection.exec_driver_sql(
        sql(
            "UPDATE heads SET lease_owner = '', lease_until_ns = 0 "
            "WHERE ledger_uid = ? AND lease_owner = ?"
        ),
        (ledger_uid, owner),
    )


def end_leases(connection: Connection, sql: Sql) -> None:
    """End every lease: whoever holds one is no more."""
    connection.exec_driver_sql(
        sql("UPDATE heads SET lease_owner = '', lease_until_ns = 0 WHERE lease_owner <> ''")
    )


def latch(connection: Connection, sql: Sql, ledger_uid: bytes, reason: str) -> None:
    """Make a ledger read-only; the first reason stays."""
    connection.exec_driver_sql(
        sql("UPDATE heads SET read_only_reason = ? WHERE ledger_uid = ? AND read_only_reason = ''"),
        (reason, ledger_uid),
    )


def record_runs(
    connection: Connection,
    sql: Sql,
    ledger_uid: bytes,
    runs: Sequence[LogRun],
    old_logged_seq: int,
    owner: str,
    lease_ttl_s: float,
) -> bool:
    """Store runs that begin at `old_logged_seq + 1`; False if `logged_seq` is another by now."""
    new_logged_seq = runs[-1].start_seq + runs[-1].count - 1
    moved = connection.exec_driver_sql(
        sql(
            "UPDATE heads SET logged_seq = ?, lease_until_ns = "
            "CASE WHEN lease_owner = ? THEN {now_ns} + ? ELSE lease_until_ns END "
            "WHERE ledger_uid = ? AND logged_seq = ?"
        ),
        (new_logged_seq, owner, int(lease_ttl_s * _NS), ledger_uid, old_logged_seq),
    )
    if moved.rowcount != 1:
        return False
    last = connection.exec_driver_sql(
        sql(
            "SELECT start_seq, start_index, count FROM log_runs "
            "WHERE ledger_uid = ? ORDER BY start_seq DESC LIMIT 1"
        ),
        (ledger_uid,),
    ).first()
    stored = [] if last is None else [LogRun(*last)]
    merged = merge_runs([*stored, *runs])
    if stored and merged[0].start_seq == stored[0].start_seq:
        if merged[0].count != stored[0].count:
            connection.exec_driver_sql(
                sql("UPDATE log_runs SET count = ? WHERE ledger_uid = ? AND start_seq = ?"),
                (merged[0].count, ledger_uid, merged[0].start_seq),
            )
        merged = merged[1:]
    _insert_runs(connection, sql, ledger_uid, merged)
    return True


def replace_runs(
    connection: Connection, sql: Sql, ledger_uid: bytes, runs: Sequence[LogRun], logged_seq: int
) -> bool:
    """Put runs that end at `logged_seq` in the place of the stored ones from where the first of
    them starts, which must be where a stored one does; False if `logged_seq` is another by now."""
    # It locks the row, and changes nothing of it.
    held = connection.exec_driver_sql(
        sql("UPDATE heads SET logged_seq = ? WHERE ledger_uid = ? AND logged_seq = ?"),
        (logged_seq, ledger_uid, logged_seq),
    )
    if held.rowcount != 1:
        return False
    connection.exec_driver_sql(
        sql("DELETE FROM log_runs WHERE ledger_uid = ? AND start_seq >= ?"),
        (ledger_uid, runs[0].start_seq),
    )
    _insert_runs(connection, sql, ledger_uid, runs)
    return True


def _insert_runs(
    connection: Connection, sql: Sql, ledger_uid: bytes, runs: Sequence[LogRun]
) -> None:
    for run in runs:
        connection.exec_driver_sql(
            sql(
                "INSERT INTO log_runs (ledger_uid, start_seq, start_index, count) "
                "VALUES (?, ?, ?, ?)"
            ),
            (ledger_uid, run.start_seq, run.start_index, run.count),
        )


def merge_runs(runs: Sequence[LogRun]) -> list[LogRun]:
    """Join runs that follow each other both in the ledger and in the log."""
    merged: list[LogRun] = []
    for run in runs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.start_seq + last.count == run.start_seq
            and last.start_index + last.count == run.start_index
        ):
            merged[-1] = LogRun(last.start_seq, last.start_index, last.count + run.count)
        else:
            merged.append(run)
    return merged


def entries_for_log(
    connection: Connection,
    sql: Sql,
    ledger: LedgerInfo,
    start_seq: int,
    limit: int,
    max_bytes: int,
) -> LogEntries:
    """Rebuild entry bytes, and compare each one's hash with the stored one.

    Statements and payloads are not read: the leaf hash stands in the batch.
    """
    state = lookups.get_head(connection, sql, ledger.uid)
    last_seq = min(state.head.seq, start_seq + limit - 1)
    if start_seq > last_seq:
        return LogEntries((), state)
    rows = _light_rows(connection, sql, ledger.uid, start_seq, last_seq)
    batch_seqs = sorted({stored.row.batch_seq for stored in rows})
    batches = lookups.get_batches(connection, sql, ledger.uid, batch_seqs)
    signatures = {
        seq: signature_digest(ledger.suite, batch.body, batch.sig).hex()
        for seq, batch in batches.items()
    }
    entries: list[bytes] = []
    size = 0
    for seq, stored in zip(range(start_seq, last_seq + 1), rows, strict=False):
        row = stored.row
        batch = batches.get(row.batch_seq)
        if batch is None or row.seq != seq:
            raise _broken(ledger, seq)
        start = (row.batch_index - batch.first_index) * HASH_BYTES
        if start < 0:
            raise _broken(ledger, seq)
        leaf_hash = batch.leaf_hashes[start : start + HASH_BYTES]
        entry, receipt_hash = chain.entry_of(ledger, stored, leaf_hash, signatures[row.batch_seq])
        if receipt_hash != row.receipt_hash:
            raise _broken(ledger, seq)
        size += len(entry)
        if entries and size > max_bytes:
            break
        entries.append(entry)
    return LogEntries(entries, state)


def _light_rows(
    connection: Connection, sql: Sql, ledger_uid: bytes, first_seq: int, last_seq: int
) -> list[Stored]:
    previous_hash = lookups.receipt_hash_at(connection, sql, ledger_uid, first_seq - 1)
    columns = connection.exec_driver_sql(
        sql(
            "SELECT seq, t_ns, receipt_hash, payload_hash, batch_seq, batch_index FROM entries "
            "WHERE ledger_uid = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        ),
        (ledger_uid, first_seq, last_seq),
    )
    found = []
    for seq, t_ns, receipt_hash, payload_hash, batch_seq, batch_index in columns:
        row = chain.Row(
            ledger_uid=ledger_uid,
            seq=seq,
            t_ns=t_ns,
            receipt_id=b"",
            receipt_hash=receipt_hash,
            payload_hash=payload_hash,
            batch_seq=batch_seq,
            batch_index=batch_index,
            commitment_size=0,
            request_id="",
            receipt_type="",
            resource_type="",
            resource_id="",
            actor_id="",
            secret=b"",
            statement=b"",
            payload=b"",
        )
        found.append(Stored(row, previous_hash))
        previous_hash = receipt_hash
    return found


def _broken(ledger: LedgerInfo, seq: int) -> DataLossError:
    return DataLossError(
        "CHAIN_BROKEN",
        f"{ledger.name}: receipt {seq} does not hash to what was acknowledged; nothing behind it "
        "is logged until it is repaired",
        metadata={"ledger": ledger.name, "seq": str(seq)},
    )
