"""The work behind `restore`: a backup becomes a data directory, or nothing is written at all.

1. the whole archive is read and checked against its manifest, before anything is written;
2. everything is put into a directory beside the target, and databases are checked as such;
3. each log is recomputed from its entries and compared with tiles, heads and ledger rows
   (`log fsck`), as far as that can be told without the services;
4. each log is marked as restored, so that the anchor signs nothing until its sinks have confirmed
   that they hold nothing later (`anchor_svc.restored`);
5. the directory takes its place by one rename.

PostgreSQL: the schemas must not be there; they are made at the backup's revision and filled in one
transaction each, and taken back if anything fails.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Engine

from provledger.db import as_storage_error, migrate, open_engine
from provledger.db.engine import begin_write
from provledger.errors import LogDamagedError
from provledger_cli import archive
from provledger_cli import config as configs
from provledger_cli import fsck as fscks
from provledger_cli.config import Config
from provledger_cli.datadir import DataDir, sync_directory, write_atomically, write_json
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.logfiles import DirFiles
from provledger_cli.stored import AnchorRows, LedgerRows, open_database

MARKER: Final = "restored.json"
_PIECE: Final = 1 << 20
_COLUMNS: Final = re.compile(r'"[a-z0-9_]+"(?:, "[a-z0-9_]+")*')


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. missing_keys: private keys that have to be brought by other means."""

    manifest: archive.Manifest
    checked: tuple[fscks.Checked, ...]
    missing_keys: tuple[str, ...]
    accepted: bool


def restore(
    path: Path,
    target: DataDir,
    *,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Restored:
    """Make `target`, which must not be there yet, out of a backup.

    sinks: instead of those in the backup, if any. accepted: that no sink can confirm it.

    Raises:
        CommandError: exit code 1 for a backup that is damaged or does not hang together.
    """
    if target.path.exists() and any(target.path.iterdir()):
        raise CommandError(
            f"{target.path} is not empty: nothing is restored over what is there",
            hint="name another --data-dir, or move that one away",
        )
    on_progress("checking the archive")
    manifest = archive.verify(path)
    postgres = manifest.about.get("database") != "sqlite"
    if postgres != bool(database_url):
        raise CommandError(
            f"this is a backup of {manifest.about.get('database')}",
            hint="give --database-url for a PostgreSQL backup, and for no other",
        )
    target.path.parent.mkdir(parents=True, exist_ok=True)
    staged = DataDir(target.path.with_name(f".{target.path.name}.{secrets.token_hex(6)}"))
    engines: list[Engine] = []
    try:
        staged.make()
        on_progress("writing files")
        config = _write_files(path, manifest, staged, database_url, sinks)
        if postgres:
            on_progress("filling the database")
            engines = _fill_postgres(path, manifest, staged, config)
        else:
            _check_sqlite(staged)
        on_progress("recomputing the logs")
        checked = _check_logs(staged, config)
        _mark(staged, manifest, accepted)
        missing = _missing_keys(staged, config)
        if target.path.exists():
            target.path.rmdir()
        staged.path.rename(target.path)
        sync_directory(target.path.parent)
    except BaseException:
        for engine in engines:
            _drop(engine)
        shutil.rmtree(staged.path, ignore_errors=True)
        raise
    finally:
        for engine in engines:
            engine.dispose()
    return Restored(manifest, checked, missing, accepted)


# --- files ---------------------------------------------------------------------------------------


def _write_files(
    path: Path,
    manifest: archive.Manifest,
    staged: DataDir,
    database_url: str,
    sinks: tuple[str, ...],
) -> Config:
    def place(name: str) -> IO[bytes] | None:
        if name.endswith(".copy"):
            return None  # goes into the database
        file = staged.path / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = file.open("xb")
        private = not name.startswith("tiles/") and name != "key-ledger.pin"
        file.chmod(0o600 if private else 0o644)
        return opened

    archive.extract(path, manifest, place)
    kept = configs.load(staged)
    if kept is None:
        raise _broken("it holds no config.json")
    config = Config(database_url, sinks or kept.sinks, kept.fips)
    write_json(
        staged.config,
        {
            "database_url": config.database_url,
            "sinks": list(config.sinks),
            "fips": config.fips,
        },
    )
    return config


def _mark(staged: DataDir, manifest: archive.Manifest, accepted: bool) -> None:
    """Leave word for the anchor, in the directory of each log; a log cannot be without."""
    for log in manifest.about["logs"]:
        directory = staged.tiles / "logs" / log["uid"]
        directory.mkdir(parents=True, exist_ok=True)
        value = {"v": "1", "takenAtNs": manifest.about["takenAtNs"], "accepted": accepted}
        write_atomically(directory / MARKER, json.dumps(value).encode() + b"\n", mode=0o644)


def _missing_keys(staged: DataDir, config: Config) -> tuple[str, ...]:
    """Files of the `local:` keys that the registry knows and may still sign, and that are away."""
    engine = open_database(staged, config, "keys")
    try:
        with engine.connect() as connection:
            query = sa.text("SELECT uri FROM keys WHERE uri LIKE 'local:%' ORDER BY kid")
            uris = [str(row.uri) for row in connection.execute(query)]
    finally:
        engine.dispose()
    names = [uri.removeprefix("local:") for uri in uris]
    return tuple(name for name in names if not (staged.keys / name).is_file())


# --- SQLite --------------------------------------------------------------------------------------


def _check_sqlite(staged: DataDir) -> None:
    for service in ("keys", "anchor", "ledger"):
        path = staged.databases / f"{service}.sqlite3"
        if not path.is_file():
            raise _broken(f"the database of the {service} service is not in it")
        with closing(sqlite3.connect(path)) as connection:
            try:
                said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            except sqlite3.DatabaseError as error:
                said = [str(error)]
        if said != ["ok"]:
            raise _broken(f"{path.name} is no whole database: {said[0]}")


# --- PostgreSQL ----------------------------------------------------------------------------------


def _fill_postgres(
    path: Path, manifest: archive.Manifest, staged: DataDir, config: Config
) -> list[Engine]:
    """Make the schemas and fill them; the engines, for whoever has to take it back."""
    made: list[Engine] = []
    with tempfile.TemporaryDirectory(prefix="provledger-restore-") as scratch:

        def place(name: str) -> IO[bytes] | None:
            if not name.endswith(".copy"):
                return None
            return cast(IO[bytes], (Path(scratch) / name.replace("/", "+")).open("xb"))

        archive.extract(path, manifest, place)
        try:
            for service, revision in manifest.about["revisions"].items():
                engine = open_engine(config.database_url, service, pool_size=2)
                _refuse_schema(engine, service)
                made.append(engine)
                migrate(engine, f"{service}_svc.migrations", service, revision=str(revision))
                with begin_write(engine) as connection:
                    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                    raw: Any = connection.connection.dbapi_connection
                    for file in sorted(Path(scratch).glob(f"db+{service}+*.copy")):
                        table = file.name.removesuffix(".copy").rpartition("+")[2]
                        _copy_in(raw, service, table, file)
        except BaseException as error:
            for engine in made:
                _drop(engine)
                engine.dispose()
            if isinstance(error, sa.exc.SQLAlchemyError):
                raise as_storage_error(error) or _broken(type(error).__name__) from error
            raise
    return made


def _copy_in(raw: Any, schema: str, table: str, file: Path) -> None:
    with file.open("rb") as rows, raw.cursor() as cursor:
        columns = rows.readline().decode().rstrip("\n")
        if _COLUMNS.fullmatch(columns) is None:
            raise _broken(f"{table} names no columns")
        # What a migration puts into a new table is in the backup as well.
        place = sql.Identifier(schema, table)
        names = sql.SQL(", ").join(map(sql.Identifier, columns[1:-1].split('", "')))
        cursor.execute(sql.SQL("DELETE FROM {}").format(place))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(place, names)
        with cursor.copy(statement) as copy:
            while piece := rows.read(_PIECE):
                copy.write(piece)


def _refuse_schema(engine: Engine, schema: str) -> None:
    query = sa.text("SELECT 1 FROM information_schema.schemata WHERE schema_name = :name")
    with engine.connect() as connection:
        if connection.execute(query, {"name": schema}).first() is not None:
            engine.dispose()
            raise CommandError(
                f"the database has a schema {schema!r} already: nothing is restored over it",
                hint="give --database-url of an empty database",
            )


def _drop(engine: Engine) -> None:
    """Take back a schema that this command made a moment ago."""
    with begin_write(engine) as connection:
        name = connection.execute(sa.text("SHOW search_path")).scalar()
        connection.execute(sa.text(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'))


# --- does it hang together? ----------------------------------------------------------------------


def _check_logs(staged: DataDir, config: Config) -> tuple[fscks.Checked, ...]:
    anchor = AnchorRows(open_database(staged, config, "anchor"))
    rows = LedgerRows(open_database(staged, config, "ledger"))
    try:
        return tuple(
            fscks.check_stored(
                anchor,
                uid,
                DirFiles(staged.tiles / "logs" / uid.hex()),
                rows,
                None,
                lambda done, total: None,
            )
            for uid in anchor.log_uids()
        )
    except LogDamagedError as error:
        raise _broken(error.message) from error
    finally:
        anchor.close()
        rows.close()


def _broken(what: str) -> CommandError:
    return CommandError(
        f"the backup does not hang together: {what}",
        hint="nothing was restored; take another backup",
        exit_code=DOES_NOT_HOLD,
    )
