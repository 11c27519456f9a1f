"""Reads the rows of stopped or running services out of their databases, for `log fsck`.

Each function is one short transaction, so that nobody waits for us: rows once written never change,
and what grows meanwhile is looked at next time. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from provledger import tiles
from provledger.db import as_storage_error, open_engine
from provledger.errors import LogDamagedError, TileError
from provledger.names import ledger_name
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.tlog.places import Named, Place

_PAGE: Final = 500
_BATCHES_PAGE: Final = 20_000
"""Bodies of batches are a kilobyte or two, and what reads them has the services' 30 s."""

_LOGS = sa.text("SELECT log_uid, origin, suite, size, root, tiled_size FROM logs ORDER BY log_uid")
_PIECES = sa.text(
    "SELECT start_index, bundle FROM entries WHERE log_uid = :log AND start_index >= :start "
    "ORDER BY start_index"
)
_CHECKPOINTS = sa.text(
    "SELECT size, root, note FROM checkpoints WHERE log_uid = :log AND size > :after "
    "AND size <= :upto ORDER BY size LIMIT :page"
)
# What was published was signed before, and what a sink has was published: neither is taken back.
_UNSIGNED = sa.text(
    "SELECT min(p.size) AS size FROM (SELECT size FROM checkpoints WHERE log_uid = :log "
    "AND published_at_ns IS NOT NULL UNION SELECT size FROM anchors WHERE log_uid = :log "
    "UNION SELECT CAST(:shown AS BIGINT)) p "
    "LEFT JOIN checkpoints c ON c.log_uid = :log AND c.size = p.size AND c.note IS NOT NULL "
    "WHERE p.size > 0 AND c.size IS NULL"
)
_PLACES = sa.text(
    "SELECT ledger_uid, suite, seq, receipt_hash, log_index, run_start_seq FROM ledgers "
    "WHERE log_uid = :log"
)
_COUNT_RUNS = sa.text("SELECT count(*) AS runs FROM runs WHERE log_uid = :log")
_RUNS = sa.text(
    "SELECT start_seq, start_index FROM runs WHERE log_uid = :log AND ledger_uid = :ledger "
    "AND start_seq >= :start AND start_seq < :end"
)
_PUBLISHED = sa.text(
    "SELECT max(size) AS size FROM checkpoints WHERE log_uid = :log AND published_at_ns IS NOT NULL"
)
_LEDGERS = sa.text(
    "SELECT l.ledger_uid, h.logged_seq FROM ledgers l JOIN heads h "
    "ON h.ledger_uid = l.ledger_uid WHERE l.log_origin = :origin"
)
_HASHES = sa.text(
    "SELECT seq, receipt_hash FROM entries WHERE ledger_uid = :ledger AND seq >= :start "
    "AND seq < :end "
    # Rows that no name and no head leads to are lost to whoever asks for them.
    "AND EXISTS (SELECT 1 FROM ledgers l JOIN heads h ON h.ledger_uid = l.ledger_uid "
    "WHERE l.ledger_uid = :ledger)"
)
_GENESIS = sa.text(
    "SELECT l.tenant, l.ledger, l.log_origin, e.statement FROM ledgers l "
    "JOIN entries e ON e.ledger_uid = l.ledger_uid AND e.seq = 0 WHERE l.ledger_uid = :ledger"
)
_KEY_EVENTS = sa.text(
    "SELECT e.receipt_type, e.payload FROM entries e JOIN ledgers l "
    "ON l.ledger_uid = e.ledger_uid WHERE l.tenant = 'system' AND l.ledger = 'keys' "
    "AND e.seq > 0 ORDER BY e.seq"
)
_KIDS = sa.text(
    "SELECT ledger_uid, batch_seq, kid FROM batches "
    "WHERE (ledger_uid, batch_seq) > (:ledger, :seq) ORDER BY ledger_uid, batch_seq LIMIT :page"
)


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A row of `logs`, the entries that are in no full tile yet, and what there is of ledgers.

    tail: entries from log index `tiled_size` on. ledgers: by uid. runs: how many rows there are.
    """

    uid: bytes
    origin: str
    suite: str
    size: int
    root: bytes
    tiled_size: int
    tail: Sequence[bytes]
    ledgers: Mapping[bytes, Place]
    runs: int


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A row of `checkpoints`; `note` is None while it is only intended."""

    size: int
    root: bytes
    note: bytes | None


def _missing_from(log_index: int) -> LogDamagedError:
    return LogDamagedError(
        f"the stored entries from log index {log_index} on are missing or cannot be read",
        check="stored_entries",
        log_index=log_index,
    )


class AnchorRows:
    """The anchor's database, read only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def log_uids(self) -> list[bytes]:
        """All logs there are."""
        return [_blob(row.log_uid, "log_uid") for row in _rows(self._engine, _LOGS)]

    def log(self, uid: bytes) -> StoredLog:
        """One log as it is now; raises LogDamagedError for entries that cannot be read."""
        with self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ")
            row = next(
                row
                for row in connection.execute(_LOGS).all()
                if _blob(row.log_uid, "log_uid") == uid
            )
            pieces = connection.execute(_PIECES, {"log": uid, "start": row.tiled_size}).all()
            ledgers = {
                _blob(each.ledger_uid, "ledger_uid"): Place(
                    each.suite,
                    each.seq,
                    _blob(each.receipt_hash, "receipt_hash"),
                    each.log_index,
                    each.run_start_seq,
                )
                for each in connection.execute(_PLACES, {"log": uid})
            }
            runs = connection.execute(_COUNT_RUNS, {"log": uid}).scalar_one()
        tail: list[bytes] = []
        for piece in pieces:
            at = row.tiled_size + len(tail)
            try:
                entries = tiles.decode_bundle(_blob(piece.bundle, "bundle"))
            except TileError:
                entries = []
            if piece.start_index != at or not entries:
                raise _missing_from(at)
            tail += entries
        # Published tiles may hold them too, but the next flush begins with what stands here.
        if row.tiled_size + len(tail) < row.size:
            raise _missing_from(row.tiled_size + len(tail))
        return StoredLog(
            uid,
            row.origin,
            row.suite,
            row.size,
            _blob(row.root, "root"),
            row.tiled_size,
            tail,
            ledgers,
            runs,
        )

    def runs(
        self, uid: bytes, ledger_uid: bytes, start_seq: int, count: int
    ) -> list[tuple[int, int]]:
        """(start seq, start index) of a ledger's runs that begin among these seqs."""
        bounds = {"log": uid, "ledger": ledger_uid, "start": start_seq, "end": start_seq + count}
        return [(row.start_seq, row.start_index) for row in _rows(self._engine, _RUNS, bounds)]

    def unsigned_size(self, uid: bytes, shown: int) -> int | None:
        """The smallest size without a signed checkpoint that was published, or that a sink has.

        shown: of the checkpoint that is published, 0 if none is.
        """
        found = _rows(self._engine, _UNSIGNED, {"log": uid, "shown": shown})
        size: int | None = found[0].size
        return size

    def published_size(self, uid: bytes) -> int:
        """Size of the newest checkpoint that is known to have been published, 0 if none is."""
        return _rows(self._engine, _PUBLISHED, {"log": uid})[0].size or 0

    def heads(self, uid: bytes, upto: int) -> Iterator[StoredHead]:
        """The heads of a log up to a size, smallest first."""
        after = 0
        while True:
            page = _rows(
                self._engine,
                _CHECKPOINTS,
                {"log": uid, "after": after, "upto": upto, "page": _PAGE},
            )
            for row in page:
                note = None if row.note is None else _blob(row.note, "note")
                yield StoredHead(row.size, _blob(row.root, "root"), note)
            if len(page) < _PAGE:
                return
            after = page[-1].size

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


class LedgerRows:
    """The ledger's database, read only; a `Rows` of `provledger_cli.tlog.fsck`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ends(self, origin: str) -> list[tuple[bytes, int]]:
        """(uid, last seq that counts as logged) of the ledgers in a log."""
        rows = _rows(self._engine, _LEDGERS, {"origin": origin})
        return [(_blob(row.ledger_uid, "ledger_uid"), row.logged_seq) for row in rows]

    def hashes(self, ledger_uid: bytes, start_seq: int, count: int) -> list[bytes | None]:
        """Receipt hashes from a seq on, None where there is no row."""
        bounds = {"ledger": ledger_uid, "start": start_seq, "end": start_seq + count}
        found = {
            row.seq: _blob(row.receipt_hash, "receipt_hash")
            for row in _rows(self._engine, _HASHES, bounds)
        }
        return [found.get(seq) for seq in range(start_seq, start_seq + count)]

    def genesis(self, ledger_uid: bytes) -> Named | None:
        """What a ledger's own row says, and the statement of its genesis; None without either."""
        found = _rows(self._engine, _GENESIS, {"ledger": ledger_uid})
        return next(
            (
                Named(
                    ledger_name(row.tenant, row.ledger),
                    row.log_origin,
                    _blob(row.statement, "statement"),
                )
                for row in found
            ),
            None,
        )

    def kids(self) -> set[str]:
        """The keys that signed receipts."""
        found: set[str] = set()
        ledger, seq = b"", -1
        while True:
            # In the order of the primary key: no index has the kids, and a look at all of a large
            # ledger takes longer than one statement may.
            values = {"ledger": ledger, "seq": seq, "page": _BATCHES_PAGE}
            page = _rows(self._engine, _KIDS, values)
            found.update(row.kid for row in page)
            if len(page) < _BATCHES_PAGE:
                return found
            ledger, seq = _blob(page[-1].ledger_uid, "ledger_uid"), page[-1].batch_seq

    def key_events(self) -> list[tuple[str, bytes]]:
        """(receipt type, payload) of the key ledger's receipts after its genesis, in order.

        Empty if there is no key ledger. A payload that is gone is empty, which is no event.
        """
        rows = _rows(self._engine, _KEY_EVENTS)
        return [(row.receipt_type, _blob(row.payload or b"", "payload")) for row in rows]

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def open_database(
    data_dir: DataDir, config: Config, service: str, schema: str | None = None
) -> Engine:
    """The database of a service that has been there before; raises CommandError.

    schema: PostgreSQL schema, if it does not have the service's name yet.
    """
    if not config.database_url:
        path = data_dir.databases / f"{service}.sqlite3"
        if not path.is_file():
            raise CommandError(f"{path} is missing", hint="name the data directory with --data-dir")
    return open_engine(config.url(data_dir, service), schema or service, pool_size=2)


def _blob(value: Any, column: str) -> bytes:
    """A value that is bytes; raises LogDamagedError. SQLite keeps any value in any column."""
    if not isinstance(value, bytes | memoryview):
        raise LogDamagedError(
            f"a value of the column {column} in the database is of another type than it is ever "
            "written with",
            check="row",
        )
    return bytes(value)


def _rows(engine: Engine, query: Any, values: dict[str, Any] | None = None) -> Sequence[Any]:
    try:
        with engine.connect() as connection:
            return connection.execute(query, values or {}).all()
    except sa.exc.SQLAlchemyError as error:
        # Without its options, of which `password` may be one.
        shown = engine.url.set(query={}).render_as_string(hide_password=True)
        raise as_storage_error(error) or CommandError(
            f"the database {shown} cannot be read: {type(error).__name__}"
        ) from error
