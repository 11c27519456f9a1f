"""The work behind `backup`: one moment of all services, while they run, in one file.

What must fit together at that moment:

    ledger >= anchor          every logged entry has its row, or the ledger would have to be refused
    ledger's logged_seq <= anchor    what counts as logged is in the log
    keys <= ledger            a key event that the registry counts as recorded is in the key ledger

    keys >= ledger, anchor    what signed a receipt or a checkpoint is in the registry

PostgreSQL has all of it in one REPEATABLE READ snapshot. SQLite has a file for each service: read
transactions are opened on keys, anchor and ledger, in this order, so that the first and third hold
by themselves. Whether the second holds is looked up; and the fourth does if the registry, which
counts its changes, has had none when the last one is open. Where a relay or a rotation was in
between, they are opened anew. Services go on meanwhile; nobody is locked.

The published checkpoint is taken out of the snapshot, with the tiles it covers: files only grow.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from provledger import tiles
from provledger.db import as_storage_error, is_sqlite
from provledger.hashing import HASH_BYTES
from provledger_cli import archive, copying, scratch
from provledger_cli.config import Config
from provledger_cli.datadir import PIN_FILE, DataDir
from provledger_cli.failures import CommandError
from provledger_cli.logfiles import elsewhere
from provledger_cli.stored import open_database

SERVICES: Final = ("keys", "anchor", "ledger")
"""Those with a database, in the order in which their snapshots are taken."""

_TRIES: Final = 200
_PAUSE_S: Final = 0.05
_PIECE: Final = 1 << 20
_SPOOL_BYTES: Final = 16 << 20

_LOGGED = sa.text("SELECT ledger_uid, logged_seq FROM heads WHERE logged_seq >= 0")
_IN_LOGS = sa.text("SELECT ledger_uid, max(seq) AS seq FROM ledgers GROUP BY ledger_uid")
_LOGS = sa.text(
    "SELECT l.log_uid, l.origin, l.size, l.tiled_size, "
    "(SELECT max(c.size) FROM checkpoints c WHERE c.log_uid = l.log_uid "
    "AND c.published_at_ns IS NOT NULL) AS published FROM logs l ORDER BY l.log_uid"
)
_NOTE = sa.text("SELECT note FROM checkpoints WHERE log_uid = :log AND size = :size")
_CHANGES = sa.text("SELECT revision FROM registry")
_REVISION = sa.text("SELECT version_num FROM alembic_version")


@dataclass(frozen=True, slots=True)
class LogAt:
    """A log at the moment of the backup; `published` is 0 before the first."""

    uid: bytes
    origin: str
    size: int
    tiled_size: int
    published: int


def write(
    out: Path,
    data_dir: DataDir,
    config: Config,
    *,
    with_keys: bool,
    on_progress: Callable[[str], None] = lambda what: None,
) -> archive.Manifest:
    """Write a backup to `out`, which appears when it is whole, synced and was read again.

    Raises:
        CommandError: something cannot be read, or `out` not be written or there already; tiles are
            in a bucket.
        StatusError: a database cannot be reached any more.
    """
    if out.exists():
        raise CommandError(f"{out} is there already", hint="name another file")
    try:
        # In its file system, which must have room for it anyway, and not in a small /tmp.
        with scratch.beside(out) as directory:
            unnamed = directory / "archive"
            with unnamed.open("xb") as file:
                unnamed.chmod(0o600)
                with archive.writing(file, compress=out.name.endswith(".gz")) as writer:
                    about = _write_all(writer, data_dir, config, directory, with_keys, on_progress)
                    writer.finish(about)
                file.flush()
                os.fsync(file.fileno())
            on_progress("reading it again")
            manifest = archive.verify(unnamed)
            scratch.give_name(unnamed, out)
    except OSError as error:
        raise CommandError(
            f"no backup was made: {error.filename or out}: {error.strerror or error}",
            hint="it needs room for the archive and for the largest database, where the file is "
            "to be",
        ) from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise as_storage_error(error) or CommandError(
            f"no backup was made: a database cannot be copied ({type(error).__name__})",
            hint="it needs room for the archive and for the largest database, where the file is "
            "to be; see what is wrong with the databases with `provledger log fsck`",
        ) from error
    return manifest


def _write_all(
    writer: archive.Writer,
    data_dir: DataDir,
    config: Config,
    directory: Path,
    with_keys: bool,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    writer.add_bytes("config.json", _config(config))
    for name in (PIN_FILE, "import.key"):
        if (data_dir.path / name).is_file():
            writer.add_file(name, data_dir.path / name, private=name == "import.key")
    on_progress("databases")
    with _snapshots(data_dir, config) as connections:
        taken_at_ns = time.time_ns()
        logs = _logs(connections["anchor"])
        for log in logs:
            _refuse_elsewhere(data_dir, log)
        revisions = {
            name: str(connection.execute(_REVISION).scalar())
            for name, connection in connections.items()
        }
        dump = _dump_postgres if config.database_url else _dump_sqlite
        for name, connection in connections.items():
            dump(writer, name, connection, directory)
        if with_keys:
            # After the registry, which knows of no key that is not there yet.
            for path in sorted(data_dir.keys.glob("*.pem")):
                writer.add_file(f"keys/{path.name}", path, private=True)
        for log in logs:
            on_progress(f"tiles of {log.origin}")
            _write_tiles(writer, data_dir, log, connections["anchor"])
    return {
        "takenAtNs": str(taken_at_ns),
        "version": version("provledger"),
        "database": config.database,
        "revisions": revisions,
        "fips": config.fips,
        "privateKeys": with_keys,
        "logs": [
            {
                "uid": log.uid.hex(),
                "origin": log.origin,
                "size": log.size,
                "published": log.published,
            }
            for log in logs
        ],
    }


def _config(config: Config) -> bytes:
    """The configuration without the address of the database, which may hold a password."""
    import json

    value = {"database_url": "", "sinks": list(config.sinks), "fips": config.fips}
    return json.dumps(value, indent=2).encode() + b"\n"


# --- one moment ----------------------------------------------------------------------------------


@contextmanager
def _snapshots(data_dir: DataDir, config: Config) -> Iterator[Mapping[str, Connection]]:
    """A connection for each service, inside of a read transaction of one moment."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        with ExitStack() as opened:
            try:
                found = (
                    _one_snapshot(data_dir, config, opened)
                    if config.database_url
                    else _three_snapshots(data_dir, config, opened)
                )
            except sa.exc.SQLAlchemyError as error:
                raise as_storage_error(error) or CommandError(
                    f"a database cannot be read: {type(error).__name__}",
                    hint="have the services been started once?",
                ) from error
            if _fit(found):
                yield found
                return
    raise CommandError(
        "the services were too busy to find a moment in which they agree",
        hint="try again, or stop them with `provledger down` first",
    )


def _three_snapshots(data_dir: DataDir, config: Config, opened: ExitStack) -> dict[str, Connection]:
    found = {}
    for name in SERVICES:
        engine = open_database(data_dir, config, name)
        opened.callback(engine.dispose)
        found[name] = opened.enter_context(engine.connect())
    # The first read fixes what a transaction sees: one right after the other.
    for connection in found.values():
        connection.execute(_REVISION).scalar()
    return found


def _one_snapshot(data_dir: DataDir, config: Config, opened: ExitStack) -> dict[str, Connection]:
    """Three connections to PostgreSQL that share one exported snapshot."""
    found: dict[str, Connection] = {}
    snapshot = ""
    for name in SERVICES:
        engine = open_database(data_dir, config, name)
        opened.callback(engine.dispose)
        connection = opened.enter_context(engine.connect())
        connection.execution_options(isolation_level="REPEATABLE READ")
        if snapshot:
            connection.execute(sa.text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        else:
            snapshot = str(connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar())
        # A large database takes longer than a service may.
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        found[name] = connection
    return found


def _fit(connections: Mapping[str, Connection]) -> bool:
    """Whether all that counts as logged is in the logs, and all that signed in the registry."""
    in_logs = {bytes(row.ledger_uid): row.seq for row in connections["anchor"].execute(_IN_LOGS)}
    return _same_registry(connections["keys"]) and all(
        row.logged_seq <= in_logs.get(bytes(row.ledger_uid), -1)
        for row in connections["ledger"].execute(_LOGGED)
    )


def _same_registry(keys: Connection) -> bool:
    """Whether the registry is still as in this snapshot, the oldest of all."""
    if not is_sqlite(keys.engine):
        return True  # there is one for all
    with keys.engine.connect() as now:
        return bool(now.execute(_CHANGES).scalar() == keys.execute(_CHANGES).scalar())


def _logs(connection: Connection) -> list[LogAt]:
    return [
        LogAt(bytes(row.log_uid), row.origin, row.size, row.tiled_size, row.published or 0)
        for row in connection.execute(_LOGS)
    ]


# --- databases -----------------------------------------------------------------------------------


def _dump_sqlite(
    writer: archive.Writer, name: str, connection: Connection, directory: Path
) -> None:
    """The snapshot that the connection is in, as a database file of its own."""
    source: Any = connection.connection.dbapi_connection
    path = directory / f"{name}.sqlite3"
    target = sqlite3.connect(path)
    try:
        source.backup(target)
        # A copy in WAL mode would need its side files; and nobody has it open.
        target.execute("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
    writer.add_file(f"db/{path.name}", path, private=True)
    path.unlink()


def _dump_postgres(
    writer: archive.Writer, name: str, connection: Connection, directory: Path
) -> None:
    """Every table of the service's schema as COPY text, its columns named in the first line."""
    tables = connection.execute(
        sa.text(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = :schema "
            "AND table_type = 'BASE TABLE' ORDER BY table_name"
        ),
        {"schema": name},
    ).scalars()
    raw: Any = connection.connection.dbapi_connection
    for table in list(tables):
        columns = connection.execute(
            sa.text(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = :schema "
                "AND table_name = :name AND is_generated = 'NEVER' ORDER BY ordinal_position"
            ),
            {"schema": name, "name": table},
        ).scalars()
        quoted = ", ".join(f'"{column}"' for column in columns)
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(directory)) as spool:
            spool.write(quoted.encode() + b"\n")
            with (
                copying.errors(),
                raw.cursor() as cursor,
                cursor.copy(f'COPY "{name}"."{table}" ({quoted}) TO STDOUT') as copy,
            ):
                for piece in copy:
                    spool.write(piece)
            size = spool.tell()
            spool.seek(0)
            writer.add_stream(f"db/{name}/{table}.copy", spool, size, private=True)


# --- tiles ---------------------------------------------------------------------------------------


def _refuse_elsewhere(data_dir: DataDir, log: LogAt) -> None:
    """Refuse a log whose tiles are in a bucket: without them the backup could not be restored."""
    place = elsewhere(data_dir.tiles / "logs" / log.uid.hex())
    if place:
        raise CommandError(
            f"the tiles of {log.origin} are not in {data_dir.path}, but in {place}",
            hint="back up database and bucket by their own means: docs/runbooks/restore.md, "
            '"Tiles in a bucket"',
        )


def _write_tiles(
    writer: archive.Writer, data_dir: DataDir, log: LogAt, connection: Connection
) -> None:
    root = data_dir.tiles / "logs" / log.uid.hex()
    prefix = f"tiles/logs/{log.uid.hex()}/"
    for path, data in _covered(root, log):
        writer.add_bytes(prefix + path, data)
    if log.published:
        note = connection.execute(_NOTE, {"log": log.uid, "size": log.published}).scalar()
        writer.add_bytes(f"{prefix}checkpoint", bytes(note or b""))


def _covered(root: Path, log: LogAt) -> Iterator[tuple[str, bytes]]:
    """The files of the published tree, and full ones beyond it that the database relies on."""
    wanted: dict[str, tuple[str, int]] = {}
    for size, partials in ((log.published, True), (log.tiled_size, False)):
        for tile in tiles.tiles_for_size(size):
            if tile.width < tiles.TILE_WIDTH and not partials:
                continue
            full = tiles.tile_path(tile.level, tile.index)
            path = tiles.tile_path(tile.level, tile.index, tile.width)
            wanted[path] = (full, tile.width)
            if tile.level == 0:
                full = tiles.entries_path(tile.index)
                wanted[tiles.entries_path(tile.index, tile.width)] = (full, tile.width)
    for path, (full, width) in wanted.items():
        yield path, _read(root, path, full, width)


def _read(root: Path, path: str, full: str, width: int) -> bytes:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError:
        pass
    try:
        # A partial file goes when the full one is there, which begins with the same.
        data = (root / full).read_bytes()
    except FileNotFoundError:
        raise CommandError(
            f"{root / path} is missing", hint="see what is wrong with `provledger log fsck`"
        ) from None
    if path.startswith("tile/entries/"):
        return tiles.encode_bundle(tiles.decode_bundle(data)[:width])
    return data[: width * HASH_BYTES]
