"""The work behind `backup`: one moment of all services, while they run, in one file.

1. what is there is checked as `restore` checks it (`sound`): who keeps a backup counts on it;
2. snapshots of the databases are opened (`moment`), and copied;
3. what belongs to them is taken behind that, since files only grow: keys, and the published
   checkpoint of the snapshot with the tiles it covers;
4. the archive is synced, read again, and gets its name.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from provledger import tiles
from provledger.db import as_storage_error
from provledger.db.migrate import revisions as known_revisions
from provledger.errors import LogDamagedError
from provledger.hashing import HASH_BYTES
from provledger_cli import placing, scratch
from provledger_cli.backups import archive, contents, copying, key_files, own_tables, sound
from provledger_cli.backups.manifests import Manifest
from provledger_cli.backups.moment import REVISION, snapshots
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import PIN_FILE, DataDir
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.tlog.logfiles import elsewhere
from provledger_cli.tlog.stored import AnchorRows

_SPOOL_BYTES: Final = 16 << 20

_LOGS = sa.text(
    "SELECT l.log_uid, l.origin, l.size, l.tiled_size, "
    "(SELECT max(c.size) FROM checkpoints c WHERE c.log_uid = l.log_uid "
    "AND c.published_at_ns IS NOT NULL) AS published FROM logs l ORDER BY l.log_uid"
)
_NOTE = sa.text("SELECT note FROM checkpoints WHERE log_uid = :log AND size = :size")


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
) -> Manifest:
    """Write a backup to `out`, which appears when it is whole, synced and was read again.

    Raises:
        CommandError: something cannot be read, or `out` not be written or there already, or is
            standard output; tiles are in a bucket; a newer version made a database. Exit code 1:
            what is there is damaged, and could not be restored.
        StatusError: a database cannot be reached any more.
    """
    if placing.is_stdout(out):
        raise CommandError(
            "a backup is read again before it has its name: it cannot go to standard output",
            hint="name a file; what is to go elsewhere can be copied from there",
        )
    if not out.name:
        raise CommandError("--out names no file", hint="give the name of a file that is not there")
    try:
        scratch.clear(out)  # also what is left of the command that gave `out` its name
        if out.exists():
            raise CommandError(f"{out} is there already", hint="name another file")
        # In its file system, which must have room for it anyway, and not in a small /tmp.
        with scratch.beside(out) as directory:
            on_progress("recomputing the logs")
            _check_source(data_dir, config)
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
            hint=_advice(error),
        ) from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise as_storage_error(error) or CommandError(
            f"no backup was made: a database cannot be copied ({type(error).__name__})",
            hint="it needs room for the archive and for the largest database, where the file is "
            "to be; see what is wrong with the databases with `provledger log fsck`",
        ) from error
    return manifest


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        return "make that directory, or name another file"
    return scratch.advice(error) or (
        "it needs room for the archive and for the largest database, where the file is to be"
    )


def _check_source(data_dir: DataDir, config: Config) -> None:
    """Refuse what `restore` would: its checks, of what is there now."""

    def look(anchor: AnchorRows) -> None:
        for uid in anchor.log_uids():
            _refuse_elsewhere(data_dir, uid, anchor.log(uid).origin)

    try:
        sound.check_logs(data_dir, config, {}, look, sound.Newest)
    except LogDamagedError as error:
        raise _damaged(error.message, "mend it first: docs/runbooks/damaged-log.md") from error


def _damaged(what: str, hint: str) -> CommandError:
    return CommandError(
        f"no backup was made, since it could not be restored: {what}",
        hint=hint,
        exit_code=DOES_NOT_HOLD,
    )


def _write_all(
    writer: archive.Writer,
    data_dir: DataDir,
    config: Config,
    directory: Path,
    with_keys: bool,
    on_progress: Callable[[str], None],
) -> dict[str, Any]:
    writer.add_bytes("config.json", _config(config))
    on_progress("databases")
    with snapshots(data_dir, config) as connections:
        taken_at_ns = time.time_ns()
        logs = _logs(connections["anchor"])
        for log in logs:
            _refuse_elsewhere(data_dir, log.uid, log.origin)
        revisions = {
            name: str(connection.execute(REVISION).scalar())
            for name, connection in connections.items()
        }
        _check_known(revisions)
        # Behind the ledger, which holds nothing of an import or a genesis whose file is not there.
        for name in (PIN_FILE, "import.key"):
            if (data_dir.path / name).is_file():
                writer.add_file(name, data_dir.path / name, private=name == "import.key")
        dump = _dump_postgres if config.database_url else _dump_sqlite
        others = [
            other
            for name, connection in connections.items()
            for other in dump(writer, name, connection, directory)
        ]
        # After the registry, which knows of no key that is not there yet.
        left_out = _write_keys(writer, data_dir, connections["keys"]) if with_keys else []
        for log in logs:
            on_progress(f"tiles of {log.origin}")
            _write_tiles(writer, data_dir, log, connections["anchor"])
    return {
        "takenAtNs": str(taken_at_ns),
        "version": version("provledger"),
        "database": config.database,
        "revisions": revisions,
        "databaseLeftOut": others,
        "fips": config.fips,
        "privateKeys": with_keys,
        "privateKeysLeftOut": left_out,
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


def _check_known(revisions: Mapping[str, str]) -> None:
    """Refuse databases of a newer version, of which nobody here knows what belongs to them."""
    for name, revision in revisions.items():
        if revision not in known_revisions(f"{name}_svc.migrations"):
            raise CommandError(
                f"no backup was made: the database of the {name} service is of a version "
                f"({revision}) that is not known to this one",
                hint="back it up with the version that made it, or a later one",
            )


def _config(config: Config) -> bytes:
    """The configuration without the address of the database, which may hold a password."""
    import json

    value = {"database_url": "", "sinks": list(config.sinks), "fips": config.fips}
    return json.dumps(value, indent=2).encode() + b"\n"


def _logs(connection: Connection) -> list[LogAt]:
    return [
        LogAt(bytes(row.log_uid), row.origin, row.size, row.tiled_size, row.published or 0)
        for row in connection.execute(_LOGS)
    ]


def _write_keys(writer: archive.Writer, data_dir: DataDir, connection: Connection) -> list[str]:
    """Private keys: those in use, and whatever *.pem is beside them. Which could not be taken."""
    named = key_files.names(row.uri for row in connection.execute(key_files.KEYS))
    beside = [path.name for path in data_dir.keys.glob("*.pem")]
    left_out = []
    for name in sorted({*named, *beside}):
        member = f"keys/{name}"
        if contents.is_name(member) and (data_dir.keys / name).is_file():
            writer.add_file(member, data_dir.keys / name, private=True)
        else:
            left_out.append(name)
    return left_out


# --- databases -----------------------------------------------------------------------------------


def _dump_sqlite(
    writer: archive.Writer, name: str, connection: Connection, directory: Path
) -> list[str]:
    """The snapshot that the connection is in, as a database file of its own.

    Returns what was left out.
    """
    source: Any = connection.connection.dbapi_connection
    path = directory / f"{name}.sqlite3"
    target = sqlite3.connect(path)
    try:
        source.backup(target)
        # A copy in WAL mode would need its side files; and nobody has it open.
        target.execute("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
    left_out = _take_out(path, name)
    if wrong := sound.fault(path):
        raise _damaged(
            f"the database of the {name} service is damaged: {wrong}",
            "restore the last good backup: docs/runbooks/restore.md",
        )
    writer.add_file(f"db/{path.name}", path, private=True)
    path.unlink()
    return left_out


def _take_out(path: Path, name: str) -> list[str]:
    """Take an operator's views and triggers, with which nothing is restored, out of a copy."""
    taken = []
    # What is wrong with a damaged one is asked next.
    damaged = suppress(sqlite3.DatabaseError, UnicodeDecodeError)
    with closing(sqlite3.connect(path)) as copy, damaged:
        for kind, what in sound.foreign(copy):
            if kind not in ("view", "trigger"):
                raise CommandError(
                    f"no backup was made: the database of the {name} service holds a "
                    f"{kind}, {what!r}, and could not be restored with it",
                    hint="move it to a database of its own",
                )
            quoted = what.replace('"', '""')
            copy.execute(f'DROP {kind} IF EXISTS "{quoted}"')  # those of a view go with it
            taken.append(f"{name}.{what}")
    return taken


def _dump_postgres(
    writer: archive.Writer, name: str, connection: Connection, directory: Path
) -> list[str]:
    """Every table of ours as COPY text, its columns named in the first line.

    Returns what else is in the service's schema.
    """
    revision = str(connection.execute(REVISION).scalar())
    ours = own_tables.made(name, revision, directory)
    lacking, others = own_tables.compare(connection, name, ours)
    if lacking:
        raise _damaged(
            f"the database does not have, or does not store, {lacking[0]}",
            "make it what it was; or restore the last good backup: docs/runbooks/restore.md",
        )
    raw: Any = connection.connection.dbapi_connection
    for table, columns in sorted(ours.items()):
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
    return others


# --- tiles ---------------------------------------------------------------------------------------


def _refuse_elsewhere(data_dir: DataDir, uid: bytes, origin: str) -> None:
    """Refuse a log whose tiles are in a bucket: without them the backup could not be restored."""
    place = elsewhere(data_dir.tiles / "logs" / uid.hex())
    if place:
        raise CommandError(
            f"the tiles of {origin} are not in {data_dir.path}, but in {place}",
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
    for tile in tiles.tiles_for_size(log.published):
        yield from _tile(root, tile)
    for tile in tiles.tiles_for_size(max(log.published, log.tiled_size), log.published):
        if tile.width == tiles.TILE_WIDTH:
            yield from _tile(root, tile)


def _tile(root: Path, tile: tiles.Tile) -> Iterator[tuple[str, bytes]]:
    """A tile, and the entries below one of level 0."""
    full = tiles.tile_path(tile.level, tile.index)
    path = tiles.tile_path(tile.level, tile.index, tile.width)
    yield path, _read(root, path, full, tile.width)
    if tile.level == 0:
        path = tiles.entries_path(tile.index, tile.width)
        yield path, _read(root, path, tiles.entries_path(tile.index), tile.width)


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
