"""Schema migrations with Alembic, run by each service at start-up.

Adding a migration to a service: put a file `NNNN_what_it_does.py` into the service's
`migrations/versions/`, with the module attributes and functions Alembic expects::

    revision = "0002"
    down_revision = "0001"
    branch_labels = None
    depends_on = None

    def upgrade() -> None:
        op.add_column("receipts", sa.Column("erased_at_ns", sa.BigInteger))

    def downgrade() -> None:
        op.drop_column("receipts", "erased_at_ns")

Name no schema: tables live in the service's one (`search_path`). All pending migrations run in
one transaction, on both databases; it fails as a whole. Older code may still be running while a
newer one migrates, so a migration only adds: columns are dropped a release after their last use.

On PostgreSQL a change of a table waits for all who use it, as a backup does, and whoever asks for
it later waits behind the change. So it waits for a moment only, lets them go on, and tries again.

`env.py` is shared (`provledger/db/migrations/env.py`); a service has none of its own.

Alembic is imported when there is something to migrate: it is a fifth of what a service takes to
start, and most starts find the newest version, which the files' names tell.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from provledger.db.engine import WRITE_OPTION, is_sqlite
from provledger.db.errors import RETRY_DELAY_S, as_storage_error
from provledger.errors import AbortedError, StatusError, UnavailableError
from provledger.retry import RetryPolicy
from provledger.settings import ConfigError

if TYPE_CHECKING:
    from alembic.config import Config

_ENV = Path(__file__).with_name("migrations")
_VERSION_FILE: Final = re.compile(r"(\d{4})_\w+\.py")
_VERSION: Final = sa.text("SELECT version_num FROM alembic_version")
# Insufficient privilege; and no schema to create in, which is what a role is told that may not use
# the one of its search path (PostgreSQL, appendix A).
_NO_RIGHTS: Final = frozenset({"42501", "3F000"})
_NO_LOCK: Final = "55P03"
"""A lock was not to be had within `lock_timeout`."""

_TURN_WAIT_MS = 120_000
"""How long to wait for other starters, of which one at a time migrates."""
_TABLE_WAIT_MS = 1000
"""How long to wait for a table that others use: what they ask of it meanwhile waits behind us."""
_PAUSE_S = (2.0, 4.0)
"""Between two such waits, so that most of the time is theirs."""
_TABLES_S = 100.0
"""How long all of these waits may take; less than others wait for their turn."""
_MIGRATION_S: Final = 3600.0
"""How long a statement of a migration may take: an index of a billion receipts is made by one."""
_TURN = RetryPolicy(attempts=20, base_s=0.05, cap_s=1.0, budget_s=30.0)

_HOLDER: Final = sa.text(
    "SELECT a.pid, a.application_name, "
    "CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS bigint) AS age_s "
    "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE l.granted AND n.nspname = :schema AND a.datname = current_database() "
    "AND a.pid <> pg_backend_pid() ORDER BY a.xact_start LIMIT 1"
)
"""Who has used a table of a schema for longest. Of other roles the age is not shown."""


def migrate(
    engine: Engine, script_location: str | Path, schema: str, *, revision: str = "head"
) -> None:
    """Bring the service's tables to the newest version; concurrent starters wait for each other.

    script_location: package (`ledger_svc.migrations`) or directory that holds `versions/`.
    schema: PostgreSQL schema, made if missing; not used on SQLite.
    revision: an earlier version to stop at, for restoring what was backed up there.

    Raises:
        ConfigError: no such migrations, the database was migrated by a newer build, or its role
            lacks rights.
        StatusError: the database cannot be reached, or others use a table for too long.
    """
    versions = _versions(script_location)
    # SQLite does not wait its turn while another starter switches the file to WAL: it answers
    # "locked" at once, whatever the busy timeout.
    delays = _TURN.delays(random.Random())  # noqa: S311 - jitter, not a secret
    while True:
        try:
            if revision != "head" or not _is_newest(engine, versions, schema):
                _upgrade(engine, alembic_config(script_location), schema, revision)
            return
        except AbortedError:
            delay_s = next(delays, None)
            if delay_s is None:
                raise
            time.sleep(delay_s)


def revisions(script_location: str | Path) -> frozenset[str]:
    """The versions that this build knows; raises ConfigError if there are no migrations there."""
    return frozenset(_revisions(_versions(script_location)))


def _revisions(versions: Path) -> list[str]:
    return [
        match[1] for path in versions.iterdir() if (match := _VERSION_FILE.fullmatch(path.name))
    ]


def _is_newest(engine: Engine, versions: Path, schema: str) -> bool:
    """Whether the database is at the newest version; False as well if that cannot be told.

    Raises:
        ConfigError: it is at a later one; or its role lacks rights.
        StatusError: it cannot be reached.
    """
    found = _revisions(versions)
    try:
        with engine.connect() as connection:
            if not found or not sa.inspect(connection).has_table("alembic_version"):
                return False
            stored = list(connection.execute(_VERSION).scalars())
    except sa.exc.SQLAlchemyError as error:
        typed = _typed(error, schema)
        if typed is None:
            raise
        raise typed from error
    if stored and max(stored) > max(found):
        raise ConfigError(
            f"the database of {schema!r} was made by a newer version; start it with that one, or a "
            "later one"
        )
    return stored == [max(found)]


def _upgrade(engine: Engine, config: Config, schema: str, revision: str) -> None:
    from alembic import command
    from alembic.util import CommandError

    try:
        with _migrating(engine) as connection:
            config.attributes["connection"] = connection
            if is_sqlite(engine):
                command.upgrade(config, revision)
            else:
                _prepare_postgres(connection, schema)
                _between_others(connection, schema, lambda: command.upgrade(config, revision))
    except CommandError as error:
        raise ConfigError(
            f"the database of {schema!r} cannot be migrated by this build: {error}"
        ) from error
    except sa.exc.SQLAlchemyError as error:
        typed = _typed(error, schema)
        if typed is None:
            raise
        raise typed from error


def _typed(error: sa.exc.SQLAlchemyError, schema: str) -> ConfigError | StatusError | None:
    """What an error while looking or migrating means; None where it is a fault of ours."""
    if getattr(getattr(error, "orig", None), "sqlstate", None) in _NO_RIGHTS:
        return ConfigError(
            f"the database role may not make or use the schema {schema!r} and its tables: let it "
            "own the schema and what is in it, or create schemas in the database"
        )
    return as_storage_error(error)


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """A write transaction that may wait for its turn, and has the time and room that it takes."""
    prepared = _sorting_in_files if is_sqlite(engine) else _patient
    with (
        engine.connect().execution_options(**{WRITE_OPTION: True}) as connection,
        prepared(connection.connection.driver_connection),
        connection.begin(),
    ):
        yield connection


@contextmanager
def _sorting_in_files(raw: Any) -> Iterator[None]:
    """Have SQLite put what it sorts for an index into files: it is as large as the index."""
    (usual,) = raw.execute("PRAGMA temp_store").fetchone()
    raw.execute("PRAGMA temp_store = FILE")  # not inside of a transaction
    try:
        yield
    finally:
        raw.execute(f"PRAGMA temp_store = {usual}")


@contextmanager
def _patient(raw: Any) -> Iterator[None]:
    usual_s, raw.answer_limit_s = raw.answer_limit_s, _MIGRATION_S
    try:
        yield
    finally:
        raw.answer_limit_s = usual_s


def alembic_config(script_location: str | Path) -> Config:
    """Alembic's configuration: our shared environment, the service's versions.

    Raises:
        ConfigError: no directory with migrations there.
    """
    from alembic.config import Config

    versions = _versions(script_location)
    config = Config()
    # Percent signs would be interpolated.
    config.set_main_option("script_location", str(_ENV).replace("%", "%%"))
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


def _versions(script_location: str | Path) -> Path:
    versions = _directory(script_location) / "versions"
    if not versions.is_dir():
        raise ConfigError(f"{script_location}: has no directory 'versions' with migrations")
    return versions


def _directory(script_location: str | Path) -> Path:
    if isinstance(script_location, Path):
        return script_location
    try:
        spec = importlib.util.find_spec(script_location)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{script_location}: no such package with migrations")
    return Path(next(iter(spec.submodule_search_locations)))


def _prepare_postgres(connection: Connection, schema: str) -> None:
    """Wait for our turn (until the transaction ends), then make the schema if it is missing."""
    connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {_TURN_WAIT_MS}"))
    digest = hashlib.sha256(f"provledger/migrate/{schema}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {_TABLE_WAIT_MS}"))
    # Looked up first: CREATE SCHEMA IF NOT EXISTS needs a privilege even when there is nothing
    # to make, and an operator may have made it for an account without that privilege.
    exists = sa.text("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :name")
    if connection.execute(exists, {"name": schema}).first() is None:
        connection.execute(sa.schema.CreateSchema(schema))


def _between_others(connection: Connection, schema: str, upgrade: Callable[[], None]) -> None:
    """Run `upgrade` once the tables that it changes are to be had.

    What a try has done is rolled back before the next one, and its locks are given up. Our turn is
    not: of many starters, one at a time is in the others' way.

    Raises:
        UnavailableError: DATABASE_TIMEOUT, somebody uses one of them for longer than that.
    """
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    # Not what a migration does between its waits, which may be long, and is done anew by each try.
    left_s = _TABLES_S
    while True:
        try:
            with connection.begin_nested():
                upgrade()
            return
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_LOCK:
                raise
            pause_s = rng.uniform(*_PAUSE_S)
            left_s -= _TABLE_WAIT_MS / 1000 + pause_s
            if left_s < 0:
                raise UnavailableError(
                    "DATABASE_TIMEOUT",
                    f"the migration of {schema!r} needs a table that others use"
                    f"{_holder(connection, schema)}; start it again when they have ended",
                    retry_delay_s=RETRY_DELAY_S,
                ) from error
        time.sleep(pause_s)


def _holder(connection: Connection, schema: str) -> str:
    """Who that is, as far as it can be told."""
    row = connection.execute(_HOLDER, {"schema": schema}).first()
    if row is None:
        return ""
    since = "" if row.age_s is None else f", for {row.age_s} s"
    return f" (process {row.pid} of the server, {row.application_name!r}{since})"
