"""Engines, transactions and migrations, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url

from provledger.db import begin_write, is_sqlite, lock_data_dir, migrate, open_engine
from provledger.errors import UnavailableError
from provledger.settings import ConfigError
from tests.support.postgres import connection_string

FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
def upgrade():
    op.create_table("t", sa.Column("n", sa.Integer, primary_key=True))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
def upgrade():
    op.add_column("t", sa.Column("m", sa.Integer))
    {last}
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url, "ledger")
    yield engine
    engine.dispose()


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "100% odd dir" / "migrations"
    (directory / "versions").mkdir(parents=True)
    (directory / "versions" / "0001_first.py").write_text(FIRST)
    return directory


def add_second(migrations: Path, last: str = "") -> None:
    (migrations / "versions" / "0002_second.py").write_text(SECOND.format(last=last))


def test_migrate_makes_tables_and_repeating_it_changes_nothing(
    engine: Engine, migrations: Path
) -> None:
    for _ in range(2):
        migrate(engine, migrations, "ledger")
    with begin_write(engine) as connection:
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT n FROM t")).all() == [(1,)]
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        assert version.scalar_one() == "0001"
        if not is_sqlite(engine):
            schema = sa.text("SELECT schemaname FROM pg_tables WHERE tablename = :t")
            for table in ("t", "alembic_version"):
                assert connection.execute(schema, {"t": table}).all() == [("ledger",)]


def test_starting_with_the_newest_tables_needs_no_alembic(
    engine: Engine, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a good part of a second to import; whatever is missing still brings it in."""
    migrate(engine, migrations, "ledger")
    monkeypatch.setitem(sys.modules, "alembic.config", None)
    migrate(engine, migrations, "ledger")
    add_second(migrations)
    with pytest.raises(ImportError):
        migrate(engine, migrations, "ledger")


def test_failed_migration_leaves_nothing_behind(engine: Engine, migrations: Path) -> None:
    migrate(engine, migrations, "ledger")
    add_second(migrations, "raise RuntimeError('broken')")
    with pytest.raises(RuntimeError):
        migrate(engine, migrations, "ledger")
    columns = {column["name"] for column in sa.inspect(engine).get_columns("t")}
    assert columns == {"n"}
    add_second(migrations)
    migrate(engine, migrations, "ledger")
    columns = {column["name"] for column in sa.inspect(engine).get_columns("t")}
    assert columns == {"n", "m"}


def test_concurrent_starters_migrate_once(database_url: str, migrations: Path) -> None:
    barrier = threading.Barrier(4)

    def start() -> None:
        engine = open_engine(database_url, "ledger")
        barrier.wait()
        migrate(engine, migrations, "ledger")
        engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            started.result()


def test_database_of_a_newer_build_is_refused(engine: Engine, migrations: Path) -> None:
    add_second(migrations)
    migrate(engine, migrations, "ledger")
    (migrations / "versions" / "0002_second.py").unlink()
    with pytest.raises(ConfigError, match=r"'ledger' was made by a newer version; start it with"):
        migrate(engine, migrations, "ledger")


@pytest.mark.parametrize(
    "made", ["", "CREATE SCHEMA ledger", "CREATE SCHEMA ledger; GRANT USAGE ON SCHEMA ledger TO {}"]
)
def test_a_role_without_rights_is_told_what_it_needs(
    postgres_database_url: str, migrations: Path, made: str
) -> None:
    role = f"app_{secrets.token_hex(6)}"
    rights = [f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'", *made.format(role).split(";")]
    url = make_url(postgres_database_url).set(username=role, password="s3cret")
    engine = open_engine(url.render_as_string(False), "ledger")
    try:
        with psycopg.connect(connection_string(postgres_database_url)) as connection:
            for statement in filter(None, rights):
                connection.execute(statement.encode())
        with pytest.raises(ConfigError, match=r"role may not .* 'ledger' .*own") as caught:
            migrate(engine, migrations, "ledger")
        assert "s3cret" not in str(caught.value)
        with psycopg.connect(connection_string(postgres_database_url)) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS ledger")
            connection.execute(f"ALTER SCHEMA ledger OWNER TO {role}".encode())
        migrate(engine, migrations, "ledger")
    finally:
        engine.dispose()
        with psycopg.connect(connection_string(postgres_database_url)) as connection:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("part", ["role", "database"])
def test_a_server_that_refuses_is_not_called_out_of_reach(
    postgres_database_url: str, migrations: Path, part: str
) -> None:
    right = make_url(postgres_database_url)
    url = right.set(username="s3cret") if part == "role" else right.set(database="s3cret")
    engine = open_engine(url.render_as_string(False), "ledger")
    with pytest.raises(UnavailableError, match="server refuses this role") as caught:
        migrate(engine, migrations, "ledger")
    engine.dispose()
    assert "s3cret" not in str(caught.value)


REFUSAL = 'SВАЖНО\0VFATAL\0C28P01\0Mпользователь "s3cret" не прошёл проверку\0\0'.encode()
"""Severity, its name in English, SQLSTATE and message (PostgreSQL 18, 54.8)."""


def test_a_server_that_refuses_in_another_language_is_not_called_out_of_reach(
    migrations: Path,
) -> None:
    """libpq hands on what is shown to people, and neither SQLSTATE nor the English word."""

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            if len(connection.recv(4096)) == 8:  # TLS? GSS?
                connection.sendall(b"N")
                connection.recv(4096)
            connection.sendall(b"E" + (len(REFUSAL) + 4).to_bytes(4, "big") + REFUSAL)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = threading.Thread(target=refuse)
        server.start()
        url = f"postgresql://s3cret:x@127.0.0.1:{listener.getsockname()[1]}/d?gssencmode=disable"
        engine = open_engine(url, "ledger")
        with pytest.raises(UnavailableError, match="answers, but begins no session") as caught:
            migrate(engine, migrations, "ledger")
        engine.dispose()
        server.join(30)
    assert "s3cret" not in str(caught.value)


def test_missing_migrations_are_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such package"):
        migrate(engine, "no_such_package.migrations", "ledger")
    with pytest.raises(ConfigError, match="versions"):
        migrate(engine, tmp_path / "nothing", "ledger")


def test_begin_write_commits_or_rolls_back_all(engine: Engine, migrations: Path) -> None:
    migrate(engine, migrations, "ledger")

    def fail() -> None:
        with begin_write(engine) as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0


def test_parameters_stay_out_of_error_messages(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as caught:
        connection.execute(sa.text("SELECT * FROM nowhere WHERE a = :a"), {"a": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_two_services_share_a_postgres_database(
    postgres_database_url: str, migrations: Path
) -> None:
    for schema in ("ledger", "anchor"):
        engine = open_engine(postgres_database_url, schema)
        migrate(engine, migrations, schema)
        with begin_write(engine) as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        engine.dispose()


def test_postgres_session_is_set_up_under_every_spelling(postgres_database_url: str) -> None:
    rest = postgres_database_url.partition("://")[2]
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        engine = open_engine(f"{scheme}://{rest}", "ledger")
        with engine.connect() as connection:
            show = {
                name: connection.execute(sa.text(f"SHOW {name}")).scalar_one()
                for name in (
                    "search_path",
                    "transaction_isolation",
                    "statement_timeout",
                    "application_name",
                )
            }
        engine.dispose()
        assert show == {
            "search_path": "ledger",
            "transaction_isolation": "read committed",
            "statement_timeout": "30s",
            "application_name": "provledger-ledger",
        }


def test_no_transaction_timeout_of_a_role_or_database_ends_ours(
    postgres_database_url: str,
) -> None:
    """It would end each backup that takes longer; the limit is of statements, and of waiting."""
    name = make_url(postgres_database_url).database
    with psycopg.connect(connection_string(postgres_database_url)) as connection:
        connection.execute(f"ALTER DATABASE {name} SET transaction_timeout = '100ms'".encode())
    engine = open_engine(postgres_database_url, "ledger")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SHOW transaction_timeout")).scalar() == "0"
    engine.dispose()


def test_a_role_need_not_be_able_to_read_pg_settings(postgres_database_url: str) -> None:
    """As where whoever hardens a server takes that away from all but its owner."""
    role = f"reader_{secrets.token_hex(4)}"
    with psycopg.connect(connection_string(postgres_database_url)) as connection:
        connection.execute("REVOKE SELECT ON pg_settings FROM PUBLIC")
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    url = make_url(postgres_database_url).set(username=role).render_as_string(False)
    engine = open_engine(url, "public")
    try:
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT current_user")).scalar() == role
    finally:
        engine.dispose()
        with psycopg.connect(connection_string(postgres_database_url)) as connection:
            connection.execute(f"DROP ROLE {role}".encode())


def test_sqlite_commits_are_durable_and_checked(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "ledger")
    with engine.connect() as connection:
        pragmas = {
            name: connection.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_a_new_sqlite_database_is_closed_to_others(tmp_path: Path) -> None:
    """Payloads and secrets are in there: whatever the umask, nobody else reads them."""
    before = os.umask(0o000)
    try:
        engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "ledger")
        with begin_write(engine) as connection:
            connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    engine.dispose()
    assert modes.keys() >= {"a.db", "a.db-wal"}
    assert set(modes.values()) == {0o600}


def test_sqlite_ddl_is_rolled_back_with_its_transaction(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "ledger")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER)"))
        connection.rollback()
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_sqlite_writer_waits_at_begin_and_readers_do_not(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "ledger")
    with begin_write(engine) as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER)"))
    order: list[str] = []

    def second() -> None:
        with begin_write(engine) as connection:
            order.append("second")
            connection.execute(sa.text("INSERT INTO t VALUES (2)"))

    with ThreadPoolExecutor(1) as pool:
        with begin_write(engine) as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (1)"))
            waiting = pool.submit(second)
            with engine.connect() as reader:
                assert reader.execute(sa.text("SELECT count(*) FROM t")).scalar_one() == 0
            order.append("first")
        waiting.result()
    assert order == ["first", "second"]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "schema", "message"),
    [
        ("sqlite://", "ledger", "must name a file"),
        ("sqlite:///:memory:", "ledger", "must name a file"),
        ("sqlite:///file:/var/lib/x.db?uri=true", "ledger", "by its path"),
        ("sqlite:///file:x.db", "ledger", "by its path"),
        ("mysql://u:s3cret@h/d", "ledger", "not supported"),
        ("s3cret", "ledger", "cannot be read"),
        ("postgresql+psycopg://u:s3cret@h:abc/d", "ledger", "cannot be read"),
        ("postgresql+psycopg://u:s3cret@h:99999999/d", "ledger", "a port that is none"),
        ("postgresql+psycopg://u:x@h/d?nosuch=s3cret", "ledger", "a parameter that PostgreSQL"),
        ("postgres://u:s3cret@h/d?sslmode=require\n", "ledger", "a line break"),
        ("sqlite:////var/lib/x.db\n", "ledger", "a line break"),
        ("sqlite:///x", "led-ger; drop", "must match"),
    ],
)
def test_unusable_databases_are_refused_without_the_password(
    url: str, schema: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_engine(url, schema)
    assert "s3cret" not in str(caught.value)


def test_data_directory_is_locked_for_one_holder(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with lock_data_dir(directory, "ledger"):
        with pytest.raises(ConfigError, match=r"in use.*pid \d+"):
            lock_data_dir(directory, "ledger")
        lock_data_dir(directory, "anchor").release()
    lock_data_dir(directory, "ledger").release()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_unusable_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        lock_data_dir(tmp_path / "file")


def test_another_process_that_looks_does_not_take_the_wal_away(tmp_path: Path) -> None:
    """Each connection of a pool must keep the locks of the others, or the last commits are lost."""
    path = tmp_path / "x.sqlite3"
    engine = open_engine(f"sqlite:///{path}", "x")
    with begin_write(engine) as one, engine.connect() as two:
        one.execute(sa.text("CREATE TABLE t (a INTEGER)"))
        two.execute(sa.text("SELECT 1"))
    wal = path.with_name("x.sqlite3-wal")
    with engine.connect(), engine.connect():
        looked = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        looked += "print(c.execute('SELECT count(*) FROM t').fetchall()); c.close()"
        subprocess.run([sys.executable, "-c", looked, str(path)], check=True)
        assert wal.exists()
    engine.dispose()


@pytest.mark.parametrize(
    "more",
    ["", "?sslmode=verify-full&sslrootcert=/x", "?host=a:1,b:2&target_session_attrs=read-write",
     "?prepare_threshold=0", "?application_name=me&options=-c%20geqo%3Doff&connect_timeout=3"],
)  # fmt: skip
def test_parameters_of_libpq_and_of_its_driver_are_taken(more: str) -> None:
    open_engine(f"postgresql+psycopg://u:p@h/d{more}", "ledger").dispose()
