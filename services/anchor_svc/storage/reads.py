"""The reading half of `anchor_svc.storage.sql`: queries that change nothing, in reader threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from anchor_svc.storage import (
    DEFAULT_ALIAS,
    AnchorRow,
    CheckpointRow,
    EntryPiece,
    LogRow,
    PolicyRow,
    RunStart,
)
from anchor_svc.storage.tables import ANCHORS, CHECKPOINTS, ENTRIES, LEDGERS, LOGS, POLICIES, RUNS
from anchor_svc.submission import LedgerState
from provledger import tiles
from provledger.db import Readers
from provledger.errors import DataLossError, TileError


class Reads:
    """Queries of the port; see `anchor_svc.storage.Storage` for what each means."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    async def default_log(self) -> LogRow | None:
        return await self._readers.run(read_log, LOGS.c.alias == DEFAULT_ALIAS)

    async def logs(self) -> list[LogRow]:
        return await self._readers.run(_logs)

    async def log(self, log_uid: bytes) -> LogRow:
        row = await self._readers.run(read_log, LOGS.c.log_uid == log_uid)
        if row is None:
            raise log_row_lost()
        return row

    async def leaf_counts(self, log_uid: bytes) -> tuple[int, int]:
        return await self._readers.run(_leaf_counts, log_uid)

    async def pieces(self, log_uid: bytes, start_index: int) -> list[EntryPiece]:
        return await self._readers.run(_pieces, log_uid, start_index)

    async def ledgers(
        self, log_uid: bytes, ledger_uids: Sequence[bytes]
    ) -> dict[bytes, LedgerState]:
        return await self._readers.run(_ledgers, log_uid, list(ledger_uids))

    async def runs(
        self, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
    ) -> list[RunStart]:
        return await self._readers.run(_runs, log_uid, ledger_uid, start_seq, end_seq)

    async def ledger_runs(
        self, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
    ) -> tuple[LedgerState | None, list[RunStart]]:
        return await self._readers.run(_ledger_runs, log_uid, ledger_uid, start_seq, end_seq)

    async def runs_around(
        self, log_uid: bytes, ledger_uid: bytes, log_index: int
    ) -> tuple[RunStart, RunStart | None] | None:
        return await self._readers.run(_runs_around, log_uid, ledger_uid, log_index)

    async def ledger_count(self) -> int:
        return await self._readers.run(_ledger_count)

    async def checkpoint(self, log_uid: bytes, size: int) -> CheckpointRow | None:
        return await self._readers.run(_checkpoint, log_uid, CHECKPOINTS.c.size == size)

    async def newest_checkpoint(self, log_uid: bytes) -> CheckpointRow | None:
        return await self._readers.run(_checkpoint, log_uid, sa.true())

    async def newest_signed(self, log_uid: bytes) -> CheckpointRow | None:
        return await self._readers.run(_checkpoint, log_uid, CHECKPOINTS.c.note.is_not(None))

    async def newest_published(
        self, log_uid: bytes, *, below: int | None = None
    ) -> CheckpointRow | None:
        smaller = sa.true() if below is None else CHECKPOINTS.c.size < below
        return await self._readers.run(
            _checkpoint, log_uid, CHECKPOINTS.c.published_at_ns.is_not(None) & smaller
        )

    async def cursors(self, log_uid: bytes, sinks: Sequence[str]) -> Mapping[str, int]:
        return await self._readers.run(_cursors, log_uid, list(sinks))

    async def oldest_published(self, log_uid: bytes, above: int) -> int | None:
        return await self._readers.run(_oldest_published, log_uid, above)

    async def oldest_intended(self, log_uid: bytes, above: int) -> int | None:
        return await self._readers.run(_oldest_intended, log_uid, above)

    async def anchors(
        self, log_uid: bytes, *, after: tuple[int, str] | None, sink: str, limit: int
    ) -> list[AnchorRow]:
        return await self._readers.run(_anchors, log_uid, after, sink, limit)

    async def evidence(self, log_uid: bytes, size: int) -> list[AnchorRow]:
        return await self._readers.run(_evidence, log_uid, size)

    async def policies(self, log_uid: bytes) -> list[PolicyRow]:
        return await self._readers.run(_policies, log_uid)

    async def policy(self, log_uid: bytes, tenant: str, version: int) -> PolicyRow | None:
        return await self._readers.run(read_policy, log_uid, tenant, version)


def read_policy(
    connection: Connection, log_uid: bytes, tenant: str, version: int
) -> PolicyRow | None:
    """One version of a policy, inside of any transaction."""
    row = connection.execute(
        _SELECT_POLICY.where(
            POLICIES.c.log_uid == log_uid,
            POLICIES.c.tenant == tenant,
            POLICIES.c.version == version,
        )
    ).first()
    return None if row is None else _policy_row(row)


_SELECT_POLICY = sa.select(
    POLICIES.c.tenant,
    POLICIES.c.version,
    POLICIES.c.text,
    POLICIES.c.set_at_ns,
    POLICIES.c.set_by,
)


def _policy_row(row: Any) -> PolicyRow:
    return PolicyRow(row.tenant, row.version, bytes(row.text), row.set_at_ns, row.set_by)


def _policies(connection: Connection, log_uid: bytes) -> list[PolicyRow]:
    rows = connection.execute(
        _SELECT_POLICY.where(POLICIES.c.log_uid == log_uid).order_by(
            POLICIES.c.tenant, POLICIES.c.version
        )
    )
    return [_policy_row(row) for row in rows]


def read_log(connection: Connection, where: sa.ColumnElement[bool]) -> LogRow | None:
    """The log that matches, inside of any transaction."""
    query = _SELECT_LOG.where(where)
    if connection.dialect.name != "sqlite":
        query = query.add_columns(_DATABASE_NS)
    row = connection.execute(query).first()
    if row is None:
        return None
    return replace(_log_row(row), database_ns=getattr(row, "database_ns", None))


_SELECT_LOG = sa.select(
    LOGS.c.log_uid,
    LOGS.c.alias,
    LOGS.c.origin,
    LOGS.c.suite,
    LOGS.c.size,
    LOGS.c.root,
    LOGS.c.tiled_size,
    LOGS.c.writer_epoch,
    LOGS.c.created_at_ns,
)

_DATABASE_NS: sa.Label[int] = sa.literal_column(
    "CAST(extract(epoch FROM clock_timestamp()) * 1000000000 AS bigint)", sa.BigInteger
).label("database_ns")


def _log_row(row: Any) -> LogRow:
    return LogRow(
        log_uid=bytes(row.log_uid),
        origin=row.origin,
        suite=row.suite,
        size=row.size,
        root=bytes(row.root),
        tiled_size=row.tiled_size,
        writer_epoch=row.writer_epoch,
        created_at_ns=row.created_at_ns,
        alias=row.alias,
    )


def log_row_lost() -> DataLossError:
    """The error for a log whose row is not there any more."""
    return DataLossError("LOG_ROW_LOST", "the row of the log is gone from the database")


def _leaf_counts(connection: Connection, log_uid: bytes) -> tuple[int, int]:
    # One statement: a flush moves both, and may come between two.
    # SQLite's `sum` fails beyond 64 bits, where somebody has put such a seq; `total` does not.
    add = sa.func.total if connection.dialect.name == "sqlite" else sa.func.sum
    ledgers = sa.select(sa.func.count() + sa.func.coalesce(add(LEDGERS.c.seq), 0)).where(
        LEDGERS.c.log_uid == log_uid
    )
    row = connection.execute(
        sa.select(LOGS.c.size, ledgers.scalar_subquery().label("entries")).where(
            LOGS.c.log_uid == log_uid
        )
    ).first()
    if row is None:
        raise log_row_lost()
    return row.size, int(row.entries)


def _logs(connection: Connection) -> list[LogRow]:
    rows = connection.execute(_SELECT_LOG.order_by(LOGS.c.created_at_ns, LOGS.c.log_uid))
    return [_log_row(row) for row in rows]


def _ledger_count(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(LEDGERS)).scalar_one())


def _pieces(connection: Connection, log_uid: bytes, start_index: int) -> list[EntryPiece]:
    rows = connection.execute(
        sa.select(ENTRIES.c.start_index, ENTRIES.c.bundle)
        .where(ENTRIES.c.log_uid == log_uid, ENTRIES.c.start_index >= start_index)
        .order_by(ENTRIES.c.start_index)
    ).all()
    pieces = []
    for row in rows:
        try:
            pieces.append(EntryPiece(row.start_index, tiles.decode_bundle(bytes(row.bundle))))
        except TileError as error:
            raise DataLossError(
                "ENTRIES_DAMAGED",
                f"the stored entries from log index {row.start_index} on cannot be read",
                metadata={"logIndex": str(row.start_index)},
            ) from error
    return pieces


def _ledgers(
    connection: Connection, log_uid: bytes, ledger_uids: list[bytes]
) -> dict[bytes, LedgerState]:
    rows = connection.execute(
        sa.select(
            LEDGERS.c.ledger_uid,
            LEDGERS.c.suite,
            LEDGERS.c.seq,
            LEDGERS.c.receipt_hash,
            LEDGERS.c.log_index,
            LEDGERS.c.run_start_seq,
            LEDGERS.c.forked_seq,
        ).where(LEDGERS.c.log_uid == log_uid, LEDGERS.c.ledger_uid.in_(ledger_uids))
    ).all()
    states = (
        LedgerState(
            ledger_uid=bytes(row.ledger_uid),
            suite=row.suite,
            seq=row.seq,
            receipt_hash=bytes(row.receipt_hash),
            log_index=row.log_index,
            run_start_seq=row.run_start_seq,
            forked_seq=row.forked_seq,
        )
        for row in rows
    )
    return {state.ledger_uid: state for state in states}


def _ledger_runs(
    connection: Connection, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
) -> tuple[LedgerState | None, list[RunStart]]:
    state = _ledgers(connection, log_uid, [ledger_uid]).get(ledger_uid)
    if state is None:
        return None, []
    return state, _runs(connection, log_uid, ledger_uid, start_seq, end_seq)


def _runs(
    connection: Connection, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
) -> list[RunStart]:
    ledger = (RUNS.c.log_uid == log_uid, RUNS.c.ledger_uid == ledger_uid)
    # The run that holds `start_seq` may begin long before it.
    first = (
        sa.select(sa.func.max(RUNS.c.start_seq))
        .where(*ledger, RUNS.c.start_seq <= start_seq)
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(RUNS.c.start_seq, RUNS.c.start_index)
        .where(*ledger, RUNS.c.start_seq >= first, RUNS.c.start_seq < end_seq)
        .order_by(RUNS.c.start_seq)
    ).all()
    return [RunStart(ledger_uid, row.start_seq, row.start_index) for row in rows]


def _runs_around(
    connection: Connection, log_uid: bytes, ledger_uid: bytes, log_index: int
) -> tuple[RunStart, RunStart | None] | None:
    query = sa.select(RUNS.c.start_seq, RUNS.c.start_index).where(
        RUNS.c.log_uid == log_uid, RUNS.c.ledger_uid == ledger_uid
    )
    last = connection.execute(
        query.where(RUNS.c.start_index < log_index).order_by(RUNS.c.start_seq.desc()).limit(1)
    ).first()
    if last is None:
        return None
    following = connection.execute(
        query.where(RUNS.c.start_seq > last.start_seq).order_by(RUNS.c.start_seq).limit(1)
    ).first()
    run = RunStart(ledger_uid, last.start_seq, last.start_index)
    if following is None:
        return run, None
    return run, RunStart(ledger_uid, following.start_seq, following.start_index)


def _checkpoint(
    connection: Connection, log_uid: bytes, where: sa.ColumnElement[bool]
) -> CheckpointRow | None:
    row = connection.execute(
        sa.select(
            CHECKPOINTS.c.size,
            CHECKPOINTS.c.root,
            CHECKPOINTS.c.note,
            CHECKPOINTS.c.intended_at_ns,
            CHECKPOINTS.c.published_at_ns,
        )
        .where(CHECKPOINTS.c.log_uid == log_uid, where)
        .order_by(CHECKPOINTS.c.size.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    return CheckpointRow(
        size=row.size,
        root=bytes(row.root),
        note=None if row.note is None else bytes(row.note),
        intended_at_ns=row.intended_at_ns,
        published_at_ns=row.published_at_ns,
    )


def _cursors(connection: Connection, log_uid: bytes, sinks: list[str]) -> Mapping[str, int]:
    newest = {}
    for sink in sinks:
        size = connection.execute(
            sa.select(sa.func.max(ANCHORS.c.size)).where(
                ANCHORS.c.log_uid == log_uid, ANCHORS.c.sink == sink
            )
        ).scalar()
        newest[sink] = int(size or 0)
    return newest


def _oldest_published(connection: Connection, log_uid: bytes, above: int) -> int | None:
    # The smallest of them is the oldest: sizes are published in their order.
    when = connection.execute(
        sa.select(CHECKPOINTS.c.published_at_ns)
        .where(
            CHECKPOINTS.c.log_uid == log_uid,
            CHECKPOINTS.c.size > above,
            CHECKPOINTS.c.published_at_ns.is_not(None),
        )
        .order_by(CHECKPOINTS.c.size)
        .limit(1)
    ).scalar()
    return None if when is None else int(when)


def _oldest_intended(connection: Connection, log_uid: bytes, above: int) -> int | None:
    when = connection.execute(
        sa.select(CHECKPOINTS.c.intended_at_ns)
        .where(CHECKPOINTS.c.log_uid == log_uid, CHECKPOINTS.c.size > above)
        .order_by(CHECKPOINTS.c.size)
        .limit(1)
    ).scalar()
    return None if when is None else int(when)


def _anchors(
    connection: Connection, log_uid: bytes, after: tuple[int, str] | None, sink: str, limit: int
) -> list[AnchorRow]:
    query = _anchor_query().where(ANCHORS.c.log_uid == log_uid)
    if sink:
        query = query.where(ANCHORS.c.sink == sink)
    if after is not None:
        query = query.where(sa.tuple_(ANCHORS.c.size, ANCHORS.c.sink) < sa.tuple_(*after))
    query = query.order_by(ANCHORS.c.size.desc(), ANCHORS.c.sink.desc()).limit(limit)
    return [_anchor(row) for row in connection.execute(query).all()]


def _evidence(connection: Connection, log_uid: bytes, size: int) -> list[AnchorRow]:
    query = _anchor_query().where(ANCHORS.c.log_uid == log_uid, ANCHORS.c.size == size)
    return [_anchor(row) for row in connection.execute(query.order_by(ANCHORS.c.sink)).all()]


def read_anchor(connection: Connection, log_uid: bytes, size: int, sink: str) -> AnchorRow:
    """The evidence of one sink for one checkpoint, which is there, locked until the transaction's
    end."""
    query = _anchor_query().where(
        ANCHORS.c.log_uid == log_uid, ANCHORS.c.size == size, ANCHORS.c.sink == sink
    )
    return _anchor(connection.execute(query.with_for_update()).one())


def _anchor_query() -> sa.Select[Any]:
    return sa.select(
        ANCHORS.c.size,
        ANCHORS.c.sink,
        ANCHORS.c.kind,
        ANCHORS.c.acknowledged_at_ns,
        ANCHORS.c.evidence,
    )


def _anchor(row: Any) -> AnchorRow:
    return AnchorRow(
        size=row.size,
        sink=row.sink,
        kind=row.kind,
        acknowledged_at_ns=row.acknowledged_at_ns,
        evidence=bytes(row.evidence),
    )
