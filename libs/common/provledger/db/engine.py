"""Engines for the two databases we support, set up so that a commit means durable.

SQLite: `sqlite:///relative/file` or `sqlite:////absolute/file`, one file for each service, made
with mode 0600, WAL with `synchronous=FULL`; write transactions begin IMMEDIATE, so that a writer
waits for its turn at BEGIN and never fails halfway with a stale snapshot
(https://www.sqlite.org/lang_transaction.html).

PostgreSQL: `postgresql+psycopg://`, also spelt `postgresql://` or `postgres://`. Each service has
a schema, found through `search_path`; tables are declared without one. READ COMMITTED. Whatever
server, database, role or URL say, a commit waits until it is on disk (`synchronous_commit`), and on
that of a synchronous standby if there is one; what cannot be set is in `durability`. Text goes to
the server as UTF-8, whatever URL, role or environment say.

Statements in errors and logs come without their parameters, which hold payloads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from provledger.settings import ConfigError

WRITE_OPTION: Final = "provledger_write"
SCHEMA_OPTION: Final = "provledger_schema"
"""Of an engine on PostgreSQL: the schema that its sessions begin with."""
BUSY_TIMEOUT_S: Final = 5.0
SQLITE_PAGE_BYTES: Final = 8192
SQLITE_CHECKPOINT_PAGES: Final = 4000
"""A commit copies the WAL back that makes it longer than so many pages, 32 MiB: more than there are
where that is done beside the commits (`wal`)."""
WAL_LIMIT_BYTES: Final = 64 << 20
"""What the WAL may grow to, and is cut off to, while reads do not let it begin anew (`wal`)."""
STATEMENT_TIMEOUT_S: Final = 30.0
LOCK_TIMEOUT_S: Final = 5.0

# `off` answers before the commit is on disk; `local` and `remote_write` before it is on the disk of
# a standby that the server was told to wait for, and that may become the server. Only
# `remote_apply` is more than `on` (PostgreSQL 18, 19.5.1).
#
# `transaction_timeout` of a role or database would end each backup that takes longer; before
# PostgreSQL 17 there is none, and nothing is set. `pg_settings` is not asked: a role may not be
# allowed to read it.
_SET_UP: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') <> 'remote_apply' "
    "UNION ALL SELECT set_config('transaction_timeout', '0', false) "
    "WHERE current_setting('transaction_timeout', true) IS NOT NULL"
)

_BESIDE: Final = 5
"""Connections to SQLite beside those of `pool_size`, for what is done rarely."""

_SQLITE: Final = frozenset({"sqlite", "sqlite+pysqlite"})
_POSTGRES: Final = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_SCHEMA: Final = re.compile(r"^[a-z_][a-z0-9_]{0,62}$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# What is the driver's own among the arguments of `psycopg.connect`; the rest is libpq's.
_DRIVERS: Final = frozenset(
    {"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"}
)
# Of libpq's parameters, those that name a file or directory.
_FILES: Final = (
    *("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "sslkeylogfile"),
    *("passfile", "servicefile"),
)


def open_engine(url: str, schema: str, *, pool_size: int = 5) -> Engine:
    """An engine for `url`; nothing is connected yet.

    schema: PostgreSQL schema of the service, also shown as application name; SQLite, with a file
    for each service, needs none. pool_size: connections kept, as many again when busy.

    Raises:
        ConfigError: a URL or schema we cannot use. The URL, which may hold a password, is not
            repeated.
    """
    if not _SCHEMA.match(schema):
        raise ConfigError(f"database schema {schema!r} must match {_SCHEMA.pattern}")
    parsed = read_url(url)
    if parsed.drivername in _SQLITE:
        return _open_sqlite(parsed, pool_size)
    return _open_postgres(parsed, schema, pool_size)


def read_url(url: str) -> URL:
    """A URL of a database that we support; of PostgreSQL, its driver is spelt out.

    Raises:
        ConfigError: as `open_engine`, of what is seen in the URL alone.
    """
    if _CONTROL.search(url):
        raise ConfigError("the database URL holds a line break or another control character")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("the database URL cannot be read") from None
    if parsed.drivername in _POSTGRES:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in _SQLITE:
        return parsed
    raise ConfigError(f"database {parsed.drivername!r} is not supported: use sqlite or postgresql")


def is_sqlite(engine: Engine) -> bool:
    """Whether `engine` is SQLite (else PostgreSQL)."""
    return engine.dialect.name == "sqlite"


@contextmanager
def begin_write(engine: Engine) -> Iterator[Connection]:
    """A write transaction on a connection of the pool; commits unless the block raises."""
    options = {WRITE_OPTION: True}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


def _open_sqlite(url: URL, pool_size: int) -> Engine:
    if not url.database or url.database == ":memory:" or "mode=memory" in url.database:
        raise ConfigError("the SQLite URL must name a file, as in sqlite:////var/lib/x/ledger.db")
    if url.database.startswith("file:"):
        # Mode 0600, the place of the WAL and which file it is are found by its path.
        raise ConfigError(
            "the SQLite URL must name a file by its path, as in sqlite:////var/lib/x/ledger.db, "
            "not as file:"
        )
    engine = sa.create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=pool_size + _BESIDE,
    )
    event.listen(engine, "do_connect", _make_private)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(_dialect: object, _record: object, arguments: Any, _options: object) -> None:
    """Make a new file that nobody else can read; SQLite gives WAL and index the same mode."""
    # A file that is there must not be opened: closing it would give up this process's locks on it
    # (fcntl, POSIX.1), and whoever opened the database next would remove the WAL under us. What is
    # wrong with the path is SQLite's to say.
    with suppress(OSError):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(arguments[0], flags, 0o600))


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver's own idea of when to begin (before some statements, but not before SELECT or
    # DDL) is switched off; `_begin_sqlite` says BEGIN instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        # Only a file that is still to be made takes it. A receipt of the usual two kilobytes has
        # most of a 4 KiB page to itself; of 8 KiB, three share one.
        cursor.execute(f"PRAGMA page_size = {SQLITE_PAGE_BYTES}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the WAL at each commit; NORMAL may lose the last commits at a power cut.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA trusted_schema = OFF")
        cursor.execute("PRAGMA temp_store = MEMORY")
        cursor.execute("PRAGMA cache_size = -16384")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {SQLITE_CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _open_postgres(url: URL, schema: str, pool_size: int) -> Engine:
    query = dict(url.query)
    # Ours alone: the driver reads and writes by what the server says that it is.
    query.pop("client_encoding", None)
    own_options = query.pop("options", "")
    own = " ".join(own_options) if isinstance(own_options, tuple) else own_options
    session = {
        "search_path": schema,
        "statement_timeout": int(STATEMENT_TIMEOUT_S * 1000),
        "lock_timeout": int(LOCK_TIMEOUT_S * 1000),
        "idle_in_transaction_session_timeout": 60_000,
        # psycopg sends an array of nothing but None as text, in which `off` makes NULL a word.
        "array_nulls": "on",
    }
    # Ours last: a URL may add to the session, but not point it at another schema.
    options = " ".join([own, *(f"-c {key}={value}" for key, value in session.items())]).strip()
    connect: dict[str, Any] = {
        "options": options,
        "client_encoding": "utf8",
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    connect = {key: value for key, value in connect.items() if key not in query}
    if "application_name" not in query:
        connect["application_name"] = f"provledger-{schema}"
    engine = sa.create_engine(
        url.set(query=query),
        connect_args=connect,
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        hide_parameters=True,
        execution_options={SCHEMA_OPTION: schema},
    )
    _check_parameters(engine)
    event.listen(engine, "do_connect", _connect_postgres)
    return engine


def _check_parameters(engine: Engine) -> None:
    """Check what only the first connection would complain of.

    Raises:
        ConfigError: the URL has a port or a parameter that there cannot be, or names a file by a
            relative path. None of them is repeated: of a password with a sign of its own in it,
            they are a part.
    """
    import psycopg
    from psycopg.conninfo import make_conninfo

    if engine.url.port is not None and not 0 < engine.url.port < 65536:
        raise ConfigError("the database URL has a port that is none")
    _, arguments = engine.dialect.create_connect_args(engine.url)
    try:
        make_conninfo(**{key: value for key, value in arguments.items() if key not in _DRIVERS})
    except psycopg.ProgrammingError:
        raise ConfigError(
            "the database URL has a parameter that PostgreSQL does not know"
        ) from None
    for name in _FILES:
        # A service starts in another directory than whoever wrote the URL.
        value = str(arguments.get(name, ""))
        # `system`, or a key in an engine of OpenSSL, is no file.
        is_file = not (value == "system" or (name == "sslkey" and ":" in value))
        if value and is_file and not os.path.isabs(value):
            raise ConfigError(f"the database URL names a file by {name}: it must be absolute")


def _connect_postgres(_dialect: object, _record: object, arguments: Any, options: Any) -> Any:
    # Imported here: what runs on SQLite does without psycopg.
    from provledger.db.answers import ImpatientConnection

    connection = ImpatientConnection.connect(*arguments, **options)
    try:
        # By itself: rolled back, it would be undone. Not among the session's options, which would
        # hide what the role asks for.
        connection.autocommit = True
        connection.execute(_SET_UP)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection
