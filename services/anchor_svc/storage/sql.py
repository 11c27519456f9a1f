"""The port of `anchor_svc.storage` on SQLite and PostgreSQL, by SQLAlchemy Core.

Writes begin by the fence: the log's row is updated `WHERE writer_epoch = <ours>`, which also locks
it until the end of the transaction. A new writer raises the epoch in the same row, so that whatever
an older one still has under way either committed before, and is read at start-up, or fails. It is
raised by a random step: a standby that lagged may have forgotten the last one, and would give it to
a second writer.

On PostgreSQL several flushes can be on their way, each on a connection of its own: that lock makes
them one after the other. On SQLite one thread writes.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, CursorResult, Engine

from anchor_svc.quorum import joined
from anchor_svc.storage import (
    NONE_SIGNED,
    AnchorRow,
    EntryPiece,
    FencedError,
    Flush,
    LogRow,
    PolicyRow,
    RunStart,
    Signed,
    postgres,
)
from anchor_svc.storage.reads import Reads, log_row_lost, read_anchor, read_log, read_policy
from anchor_svc.storage.tables import ANCHORS, CHECKPOINTS, ENTRIES, LEDGERS, LOGS, POLICIES, RUNS
from anchor_svc.submission import LedgerState
from provledger import tiles
from provledger.db import Readers, Writer, is_sqlite
from provledger.errors import DataLossError

_EPOCH_STEP: Final = 1 << 31
"""Most that an epoch is raised by; a 64-bit column is enough for billions of starts."""
_LANES: Final = 6
"""Connections to PostgreSQL that flushes and notes are written by; made when they are needed."""


class SQLStorage(Reads):
    """Everything of the anchor in one database. `engine` has been migrated, and is owned from now
    on. For one event loop."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(Readers(engine, threads=2, name="anchor-reader"))
        self.engine = engine
        self._writer = Writer(engine, name="anchor-writer")
        # Flushes on PostgreSQL are one statement each, and do not wait for other writes.
        self._single = not is_sqlite(engine)
        self._flushers = (
            [Writer(engine, name="anchor-flusher", autocommit=True) for _ in range(_LANES)]
            if self._single
            else [self._writer]
        )
        # A heap: who is used most is quickest, its statements are prepared.
        self._free = [*range(self.lanes)]

    @property
    def lanes(self) -> int:
        """How many flushes and notes can be written at the same time."""
        return len(self._flushers)

    @contextmanager
    def _lane(self) -> Iterator[Writer]:
        """The first lane that is free, or else the first, behind what runs in it."""
        if not self._free:
            yield self._flushers[0]
            return
        lane = heapq.heappop(self._free)
        try:
            yield self._flushers[lane]
        finally:
            heapq.heappush(self._free, lane)

    async def create_log(self, log: LogRow, first_entry: bytes) -> LogRow:
        return await self._writer.run(_create_log, log, first_entry, idempotent=True)

    async def acquire(self, log_uid: bytes) -> LogRow:
        return await self._writer.run(_acquire, log_uid, idempotent=True)

    async def commit(
        self, log_uid: bytes, epoch: int, flush: Flush, signed: Signed = NONE_SIGNED
    ) -> Mapping[int, bytes]:
        work = _commit_at_once if self._single else _commit
        with self._lane() as lane:
            return await lane.run(work, log_uid, epoch, flush, signed, idempotent=True)

    async def store_notes(self, log_uid: bytes, epoch: int, signed: Signed) -> Mapping[int, bytes]:
        work = _store_notes_at_once if self._single else _store_notes
        with self._lane() as lane:
            return await lane.run(work, log_uid, epoch, signed, idempotent=True)

    async def mark_published(self, log_uid: bytes, epoch: int, size: int, now_ns: int) -> None:
        # Not in a transaction of several round trips: it would keep flushes waiting for its lock.
        work = _mark_published_at_once if self._single else _mark_published
        with self._lane() as lane:
            await lane.run(work, log_uid, epoch, size, now_ns, idempotent=True)

    async def add_anchor(self, log_uid: bytes, anchor: AnchorRow) -> AnchorRow:
        return await self._writer.run(_add_anchor, log_uid, anchor, idempotent=True)

    async def add_policy(self, log_uid: bytes, epoch: int, policy: PolicyRow) -> bool:
        return await self._writer.run(_add_policy, log_uid, epoch, policy, idempotent=True)

    async def close(self) -> None:
        for flusher in {*self._flushers, self._writer}:
            await flusher.close()
        await self._readers.close()
        self.engine.dispose()


def _create_log(connection: Connection, log: LogRow, first_entry: bytes) -> LogRow:
    made = connection.execute(
        _INSERT_LOG[connection.dialect.name],
        {
            "log_uid": log.log_uid,
            "alias": log.alias,
            "origin": log.origin,
            "suite": log.suite,
            "size": log.size,
            "root": log.root,
            "tiled_size": 0,
            "writer_epoch": 0,
            "created_at_ns": log.created_at_ns,
        },
    )
    if made.first() is not None:
        _insert_pieces(connection, log.log_uid, [EntryPiece(0, [first_entry])])
        _insert_intent(connection, log.log_uid, log.size, log.root, log.created_at_ns)
    row = read_log(connection, LOGS.c.alias == log.alias)
    assert row is not None  # noqa: S101 - inserted above, by us or before us
    return row


def _acquire(connection: Connection, log_uid: bytes) -> LogRow:
    step = 1 + secrets.randbelow(_EPOCH_STEP)
    connection.execute(_RAISE_EPOCH, {"for_log": log_uid, "step": step})
    row = read_log(connection, LOGS.c.log_uid == log_uid)
    if row is None:
        raise log_row_lost()
    return row


def _commit(
    connection: Connection, log_uid: bytes, epoch: int, flush: Flush, signed: Signed
) -> Mapping[int, bytes]:
    for each in (*flush.earlier, flush):
        _commit_one(connection, log_uid, epoch, each)
    return _store_notes(connection, log_uid, epoch, signed) if signed.notes else {}


def _commit_one(connection: Connection, log_uid: bytes, epoch: int, flush: Flush) -> None:
    moved = connection.execute(
        _GROW,
        {
            "for_log": log_uid,
            "epoch": epoch,
            "old_size": flush.old_size,
            "new_size": flush.size,
            "new_root": flush.root,
        },
    )
    if moved.rowcount != 1:
        _check_not_moved(connection, log_uid, epoch, flush)
        return
    if flush.pieces:
        _insert_pieces(connection, log_uid, flush.pieces)
        _insert_intent(connection, log_uid, flush.size, flush.root, flush.now_ns)
    if flush.runs:
        connection.execute(_INSERT_RUN, [_run_row(log_uid, run) for run in flush.runs])
    if flush.ledgers:
        connection.execute(
            _UPSERT_LEDGER[connection.dialect.name],
            [_ledger_row(log_uid, state) for state in flush.ledgers],
        )


def _commit_at_once(
    connection: Connection, log_uid: bytes, epoch: int, flush: Flush, signed: Signed
) -> Mapping[int, bytes]:
    stored = postgres.commit(connection, log_uid, epoch, flush, signed)
    if stored is None:
        _check_not_moved(connection, log_uid, epoch, flush)
        return _store_notes_at_once(connection, log_uid, epoch, signed) if signed.notes else {}
    return _first_stored(connection, log_uid, signed, stored)


def _check_not_moved(connection: Connection, log_uid: bytes, epoch: int, flush: Flush) -> None:
    """Find out why a flush did not find the log as it was; returns if it is stored already.

    A later one has stored it then, or an attempt whose answer was lost.
    """
    row = read_log(connection, LOGS.c.log_uid == log_uid)
    if row is None or row.writer_epoch != epoch:
        raise FencedError("another process writes to this log now")
    head = {"for_log": log_uid, "at_size": flush.size}
    stored = connection.execute(_READ_ROOT, head).scalar()
    if flush.size == flush.old_size or stored is None or bytes(stored) != flush.root:
        raise DataLossError("LOG_ROW_CHANGED", "the size of the log was changed under its writer")


def _store_notes_at_once(
    connection: Connection, log_uid: bytes, epoch: int, signed: Signed
) -> Mapping[int, bytes]:
    stored = postgres.store_notes(connection, log_uid, epoch, signed)
    if stored is None:
        raise FencedError("another process writes to this log now")
    return _first_stored(connection, log_uid, signed, stored)


def _first_stored(
    connection: Connection, log_uid: bytes, signed: Signed, stored: int
) -> Mapping[int, bytes]:
    """The notes that are stored: those just given if they were the first, as they are mostly."""
    if stored == len(signed.notes):
        return signed.notes
    return {size: _read_note(connection, log_uid, size) for size in signed.notes}


def _read_note(connection: Connection, log_uid: bytes, size: int) -> bytes:
    first = connection.execute(_READ_NOTE, {"for_log": log_uid, "at_size": size}).scalar()
    if first is None:
        raise DataLossError("CHECKPOINT_LOST", f"the intended checkpoint of size {size} is gone")
    return bytes(first)


def _store_notes(
    connection: Connection, log_uid: bytes, epoch: int, signed: Signed
) -> Mapping[int, bytes]:
    fence = {"for_log": log_uid, "epoch": epoch}
    if signed.tiled_size:
        _require_writer(
            connection.execute(_SET_TILED, {**fence, "new_tiled_size": signed.tiled_size})
        )
        connection.execute(_DROP_ENTRIES, {"for_log": log_uid, "below": signed.tiled_size})
    else:
        _require_writer(connection.execute(_HOLD, fence))
    notes = {}
    for size, note in signed.notes.items():
        # SPEC: released is only the first signature stored for a size (design §4, "Log").
        place = {"for_log": log_uid, "at_size": size, "new_note": note}
        first = connection.execute(_STORE_NOTE, place).rowcount == 1
        notes[size] = note if first else _read_note(connection, log_uid, size)
    return notes


def _mark_published_at_once(
    connection: Connection, log_uid: bytes, epoch: int, size: int, now_ns: int
) -> None:
    if not postgres.mark_published(connection, log_uid, epoch, size, now_ns):
        raise FencedError("another process writes to this log now")


def _mark_published(
    connection: Connection, log_uid: bytes, epoch: int, size: int, now_ns: int
) -> None:
    _require_writer(connection.execute(_HOLD, {"for_log": log_uid, "epoch": epoch}))
    connection.execute(_PUBLISH, {"for_log": log_uid, "at_size": size, "now_ns": now_ns})


def _add_anchor(connection: Connection, log_uid: bytes, anchor: AnchorRow) -> AnchorRow:
    added = connection.execute(
        _INSERT_ANCHOR[connection.dialect.name],
        {
            "log_uid": log_uid,
            "size": anchor.size,
            "sink": anchor.sink,
            "kind": anchor.kind,
            "acknowledged_at_ns": anchor.acknowledged_at_ns,
            "evidence": anchor.evidence,
        },
    )
    if added.rowcount == 1:
        return anchor
    held = read_anchor(connection, log_uid, anchor.size, anchor.sink)
    whole = joined(held, anchor)
    if whole != held:
        connection.execute(
            _SET_EVIDENCE,
            {
                "for_log": log_uid,
                "at_size": anchor.size,
                "of_sink": anchor.sink,
                "evidence": whole.evidence,
            },
        )
    return whole


def _add_policy(connection: Connection, log_uid: bytes, epoch: int, policy: PolicyRow) -> bool:
    _require_writer(connection.execute(_HOLD, {"for_log": log_uid, "epoch": epoch}))
    connection.execute(
        _INSERT_POLICY[connection.dialect.name], {"log_uid": log_uid, **asdict(policy)}
    )
    # After an attempt whose answer was lost, it is ours that is there.
    return read_policy(connection, log_uid, policy.tenant, policy.version) == policy


def _require_writer(held: CursorResult[Any]) -> None:
    """The fence: the update of the log's row, which is locked now, must have found our epoch."""
    if held.rowcount != 1:
        raise FencedError("another process writes to this log now")


def _insert_pieces(connection: Connection, log_uid: bytes, pieces: Sequence[EntryPiece]) -> None:
    connection.execute(
        _INSERT_ENTRIES,
        [
            {
                "log_uid": log_uid,
                "start_index": piece.start_index,
                "bundle": tiles.encode_bundle(piece.entries),
            }
            for piece in pieces
        ],
    )


def _insert_intent(
    connection: Connection, log_uid: bytes, size: int, root: bytes, now_ns: int
) -> None:
    connection.execute(
        _INSERT_INTENT,
        {"log_uid": log_uid, "size": size, "root": root, "intended_at_ns": now_ns},
    )


def _run_row(log_uid: bytes, run: RunStart) -> Mapping[str, Any]:
    return {
        "log_uid": log_uid,
        "ledger_uid": run.ledger_uid,
        "start_seq": run.start_seq,
        "start_index": run.start_index,
    }


def _ledger_row(log_uid: bytes, state: LedgerState) -> Mapping[str, Any]:
    row = {name: getattr(state, name) for name in _LEDGER_VALUES}
    return {"log_uid": log_uid, "ledger_uid": state.ledger_uid, "suite": state.suite, **row}


# Statements, made once: making one costs more than running it. ON CONFLICT is spelt alike by both
# databases and has to be made for each.

_LEDGER_VALUES: Final = ("seq", "receipt_hash", "log_index", "run_start_seq", "forked_seq")
_INSERTS: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

_THIS_LOG: Final = LOGS.c.log_uid == sa.bindparam("for_log")
_OUR_EPOCH: Final = LOGS.c.writer_epoch == sa.bindparam("epoch")
_THIS_HEAD: Final = sa.and_(
    CHECKPOINTS.c.log_uid == sa.bindparam("for_log"),
    CHECKPOINTS.c.size == sa.bindparam("at_size"),
)

_RAISE_EPOCH: Final = (
    sa.update(LOGS)
    .where(_THIS_LOG)
    .values(writer_epoch=LOGS.c.writer_epoch + sa.bindparam("step", type_=sa.BigInteger))
)
_GROW: Final = (
    sa.update(LOGS)
    .where(_THIS_LOG, _OUR_EPOCH, LOGS.c.size == sa.bindparam("old_size"))
    .values(size=sa.bindparam("new_size"), root=sa.bindparam("new_root"))
)
_NEW_TILED: Final = sa.bindparam("new_tiled_size", type_=sa.BigInteger)
# Notes may be stored in another order than they were made.
_SET_TILED: Final = (
    sa.update(LOGS)
    .where(_THIS_LOG, _OUR_EPOCH)
    .values(
        tiled_size=sa.case((LOGS.c.tiled_size > _NEW_TILED, LOGS.c.tiled_size), else_=_NEW_TILED)
    )
)
_HOLD: Final = sa.update(LOGS).where(_THIS_LOG, _OUR_EPOCH).values(writer_epoch=LOGS.c.writer_epoch)
_STORE_NOTE: Final = (
    sa.update(CHECKPOINTS)
    .where(_THIS_HEAD, CHECKPOINTS.c.note.is_(None))
    .values(note=sa.bindparam("new_note"))
)
_READ_NOTE: Final = sa.select(CHECKPOINTS.c.note).where(_THIS_HEAD)
_READ_ROOT: Final = sa.select(CHECKPOINTS.c.root).where(_THIS_HEAD)
_PUBLISH: Final = (
    sa.update(CHECKPOINTS)
    .where(_THIS_HEAD, CHECKPOINTS.c.note.is_not(None), CHECKPOINTS.c.published_at_ns.is_(None))
    .values(published_at_ns=sa.bindparam("now_ns"))
)
_DROP_ENTRIES: Final = sa.delete(ENTRIES).where(
    ENTRIES.c.log_uid == sa.bindparam("for_log"), ENTRIES.c.start_index < sa.bindparam("below")
)
_INSERT_ENTRIES: Final = sa.insert(ENTRIES)
_INSERT_RUN: Final = sa.insert(RUNS)
_INSERT_INTENT: Final = sa.insert(CHECKPOINTS).values(
    {name: sa.bindparam(name) for name in ("log_uid", "size", "root", "intended_at_ns")}
)
_INSERT_LOG: Final = {
    name: insert(LOGS).on_conflict_do_nothing(index_elements=["alias"]).returning(LOGS.c.log_uid)
    for name, insert in _INSERTS.items()
}
_INSERT_POLICY: Final = {
    name: insert(POLICIES).on_conflict_do_nothing() for name, insert in _INSERTS.items()
}
_INSERT_ANCHOR: Final = {
    name: insert(ANCHORS).on_conflict_do_nothing() for name, insert in _INSERTS.items()
}
_SET_EVIDENCE: Final = (
    ANCHORS.update()
    .where(
        ANCHORS.c.log_uid == sa.bindparam("for_log"),
        ANCHORS.c.size == sa.bindparam("at_size"),
        ANCHORS.c.sink == sa.bindparam("of_sink"),
    )
    .values(evidence=sa.bindparam("evidence"))
)


def _upsert_ledger(insert: Any) -> sa.Insert:
    statement = insert(LEDGERS)
    new_values = {name: statement.excluded[name] for name in _LEDGER_VALUES}
    upsert: sa.Insert = statement.on_conflict_do_update(
        index_elements=["log_uid", "ledger_uid"], set_=new_values
    )
    return upsert


_UPSERT_LEDGER: Final = {name: _upsert_ledger(insert) for name, insert in _INSERTS.items()}
