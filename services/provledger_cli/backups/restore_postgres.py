"""Puts a backup of PostgreSQL into schemas that no service looks for, until all of it is right.

    provledger_restoring_<id>_<service>     filled, one transaction each, and checked there
    <service>                               what all three are called by one last transaction

That is done when the data directory, with its mark that the sinks have to confirm it, is in its
place: schemas that a service would use are never there without it. Their comment says which restore
made them, so that one that was killed right behind that can be finished. If it was killed in the
middle, the server may still commit: the next one waits until that has ended (`settled`).

What a restore that was killed before has left is dropped by the next one into the same database. A
session lock of each restore tells whether it still is at work.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, cast

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection, Engine

from provledger.db import as_storage_error, check_durable, migrate, open_engine
from provledger.db.engine import begin_write
from provledger_cli.backups import archive, copying
from provledger_cli.backups.manifests import Manifest
from provledger_cli.failures import DOES_NOT_HOLD, CommandError

_SERVICES: Final = ("keys", "anchor", "ledger")
_PIECE: Final = 1 << 20
_COLUMNS: Final = re.compile(r'"[a-z0-9_]+"(?:, "[a-z0-9_]+")*')
_LEFT: Final = re.compile(r"provledger_restoring_([0-9a-f]{12})_(?:keys|anchor|ledger)")
_DATA_ERRORS: Final = ("22", "23")
"""SQLSTATE classes that are about what was to be stored: data, and integrity constraints."""
_TAKEN: Final = ("42P06", "23505")
"""A schema is there already; the same, if it was made at the same moment."""

_NO_PLACE: Final = ("42P01", "42703")
"""No such table; no such column."""

_NO_LOCK: Final = "55P03"
"""Whoever has the lock kept it for longer than `lock_timeout`."""

# Its session has nothing to say for as long as it takes to fill the schemas. The setting came with
# PostgreSQL 14.
_STAY: Final = sa.text(
    "SELECT set_config('idle_session_timeout', '0', false) "
    "WHERE current_setting('idle_session_timeout', true) IS NOT NULL"
)
_NAMES: Final = sa.text("SELECT nspname FROM pg_catalog.pg_namespace")
_COMMENT: Final = sa.text(
    "SELECT obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = :name"
)


class Schemas:
    """The schemas of one restore, filled, under names of their own. Made by `filled`."""

    def __init__(self, engine: Engine, uid: str, comment: str) -> None:
        self._engine = engine
        self._comment = comment
        self.names = {service: f"provledger_restoring_{uid}_{service}" for service in _SERVICES}
        self.committing = False
        """From then on the services may find them, whatever the database answers."""

    def publish(self) -> None:
        """Give all of them the names that services look for, in one step; durable on return."""
        with _said(taking_names=True), begin_write(self._engine) as connection:
            for service, name in self.names.items():
                connection.execute(sa.text(f'ALTER SCHEMA "{name}" RENAME TO "{service}"'))
                connection.execute(sa.text(f"COMMENT ON SCHEMA \"{service}\" IS '{self._comment}'"))
            self.committing = True

    def drop(self, connection: Connection) -> None:
        """Take them back, as far as they are there under these names."""
        for name in self.names.values():
            connection.execute(sa.text(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'))


def origin(uid: str, manifest: Manifest) -> str:
    """What the comment of a schema says about the restore that made it."""
    return f"{_by(uid)}{hashlib.sha256(manifest.encode()).hexdigest()}"


def settled(url: str, uid: str) -> tuple[str, ...]:
    """What the schemas of a database say, of those that this restore made; empty if none.

    For one that is not at work any more. The server goes on with a COMMIT whose client was killed,
    as long as it waits for a standby, and until it has ended nobody sees what it did: that is
    waited for. What was not published is dropped.

    Raises:
        CommandError: the server has not ended it within the time for a lock.
        StatusError: the database is away.
    """
    if not uid:
        return ()
    engine = open_engine(url, "public", pool_size=1)
    schemas = Schemas(engine, uid, "")
    try:
        with _said(), engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if not _published(connection, uid):
                with _undecided():
                    schemas.drop(connection)
            return _published(connection, uid)
    finally:
        engine.dispose()


def _published(connection: Connection, uid: str) -> tuple[str, ...]:
    found = [connection.execute(_COMMENT, {"name": name}).scalar() for name in _SERVICES]
    return tuple(comment for comment in found if comment and comment.startswith(_by(uid)))


@contextmanager
def _undecided() -> Iterator[None]:
    """Say what it means that a lock on the schemas is not to be had."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_LOCK:
            raise
        raise CommandError(
            "whether the database takes the last step of an earlier restore is not decided yet: it "
            "still commits, or another restore is at work",
            hint="wait until that has ended, and run it again: what was done is kept. A COMMIT "
            "that waits for a standby (SyncRep in pg_stat_activity) ends when the standby is back",
        ) from error


def _by(uid: str) -> str:
    return f"provledger restore {uid} of "


@contextmanager
def filled(path: Path, manifest: Manifest, url: str, uid: str, scratch: Path) -> Iterator[Schemas]:
    """Fill the schemas of a restore; they are dropped at the end, unless they were published.

    scratch: a directory with room for the tables.

    Raises:
        CommandError: the database has such schemas already, or refuses what is in the backup.
        StatusError: it cannot be reached.
    """
    engine = open_engine(url, "public", pool_size=2)
    schemas = Schemas(engine, uid, origin(uid, manifest))
    try:
        check_durable(engine)
        with _said(), engine.connect() as holder:
            holder.execution_options(isolation_level="AUTOCOMMIT")
            holder.execute(_STAY)
            holder.execute(_lock("pg_advisory_lock", uid))
            _clear(holder)
            _refuse(holder)
            try:
                _fill(path, manifest, url, schemas, scratch)
                yield schemas
            except BaseException:
                with suppress(sa.exc.SQLAlchemyError):
                    schemas.drop(holder)
                raise
    finally:
        engine.dispose()


def _fill(path: Path, manifest: Manifest, url: str, schemas: Schemas, scratch: Path) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as directory:

        def place(name: str) -> IO[bytes] | None:
            if not name.endswith(".copy"):
                return None
            return cast(IO[bytes], (Path(directory) / name.replace("/", "+")).open("xb"))

        archive.extract(path, manifest, place)
        for service, name in schemas.names.items():
            engine = open_engine(url, name, pool_size=1)
            try:
                revision = str(manifest.about["revisions"][service])
                migrate(engine, f"{service}_svc.migrations", name, revision=revision)
                with begin_write(engine) as connection:
                    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                    raw: Any = connection.connection.dbapi_connection
                    for file in sorted(Path(directory).glob(f"db+{service}+*.copy")):
                        table = file.name.removesuffix(".copy").rpartition("+")[2]
                        _copy_in(raw, name, table, file)
            finally:
                engine.dispose()


def _copy_in(raw: Any, schema: str, table: str, file: Path) -> None:
    with file.open("rb") as rows, _placed(table), copying.errors(), raw.cursor() as cursor:
        columns = rows.readline().decode().rstrip("\n")
        if _COLUMNS.fullmatch(columns) is None:
            raise broken(f"{table} names no columns")
        # What a migration puts into a new table is in the backup as well.
        place = sql.Identifier(schema, table)
        names = sql.SQL(", ").join(map(sql.Identifier, columns[1:-1].split('", "')))
        cursor.execute(sql.SQL("DELETE FROM {}").format(place))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(place, names)
        with cursor.copy(statement) as copy:
            while piece := rows.read(_PIECE):
                copy.write(piece)


@contextmanager
def _placed(table: str) -> Iterator[None]:
    """Say that the migrations make no such table, or not with such columns."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state not in _NO_PLACE:
            raise
        raise broken(
            f"no service has the table {table!r} that is in it, or not with all of its columns "
            f"(SQLSTATE {state})"
        ) from error


def _clear(holder: Connection) -> None:
    """Drop what restores that were killed have left."""
    found = [match for name in holder.execute(_NAMES).scalars() if (match := _LEFT.fullmatch(name))]
    for uid in sorted({match[1] for match in found}):
        if holder.execute(_lock("pg_try_advisory_lock", uid)).scalar():
            Schemas(holder.engine, uid, "").drop(holder)
            holder.execute(_lock("pg_advisory_unlock", uid))


def _refuse(holder: Connection) -> None:
    there = set(holder.execute(_NAMES).scalars()) & set(_SERVICES)
    if there:
        raise CommandError(
            f"the database has a schema {min(there)!r} already: nothing is restored over it",
            hint="give --database-url of an empty database",
        )


def _lock(function: str, uid: str) -> sa.TextClause:
    digest = hashlib.sha256(f"provledger/restore/{uid}".encode()).digest()
    return sa.text(f"SELECT {function}({int.from_bytes(digest[:8], 'big', signed=True)})")


@contextmanager
def _said(*, taking_names: bool = False) -> Iterator[None]:
    """Say in words what the database refuses, and whose fault it is."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        known = as_storage_error(error)
        if known is not None:
            raise known from error
        state = str(getattr(getattr(error, "orig", None), "sqlstate", ""))
        if taking_names and state in _TAKEN:
            raise CommandError(
                "the database has schemas of these names meanwhile: a service or another restore "
                "was faster",
                hint="one at a time; give --database-url of an empty database",
            ) from error
        if state.startswith(_DATA_ERRORS):
            raise broken(f"the database refuses what is in it (SQLSTATE {state})") from error
        raise CommandError(
            f"the database refuses to be filled: {type(error).__name__}, SQLSTATE {state}",
            hint="its user has to be allowed to create schemas",
        ) from error


def broken(what: str) -> CommandError:
    """A backup whose parts do not fit together."""
    return CommandError(
        f"the backup does not hang together: {what}",
        hint="nothing was restored; take another backup",
        exit_code=DOES_NOT_HOLD,
    )
