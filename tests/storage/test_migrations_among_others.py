"""Migrations of a database that others use meanwhile, and where their sorting has its room."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from provledger.db import engine as db_engine
from provledger.db import migrate, open_engine
from provledger.errors import UnavailableError
from tests.support.postgres import connection_string

MIGRATIONS = "keys_svc.migrations"
KIDS = sa.text("SELECT kid FROM keys")
CHANGES_A_TABLE = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted "
    "AND mode = 'AccessExclusiveLock' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)

module: Any = importlib.import_module("provledger.db.migrate")


@pytest.fixture
def older(postgres_database_url: str) -> Iterator[Engine]:
    """A database of the version before, whose next migration changes a table."""
    engine = open_engine(postgres_database_url, "keys")
    migrate(engine, MIGRATIONS, "keys", revision="0001")
    yield engine
    engine.dispose()


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """A session that has read a table, and goes on in the same transaction, as a backup does."""
    with psycopg.connect(connection_string(url), application_name="long reader") as session:
        session.execute("SELECT kid FROM keys.keys")
        yield


@pytest.mark.postgres
def test_who_uses_a_table_is_not_kept_waiting_by_a_migration_that_waits(
    older: Engine, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In which the reader below would wait for as long as the migration does.
    monkeypatch.setattr(db_engine, "LOCK_TIMEOUT_S", 25.0)
    replica = open_engine(postgres_database_url, "keys")
    url = connection_string(postgres_database_url)
    with ThreadPoolExecutor(1) as threads, psycopg.connect(url, autocommit=True) as watching:
        with _reading(postgres_database_url):
            migrating = threads.submit(migrate, older, MIGRATIONS, "keys")
            deadline_s = time.monotonic() + 60.0
            while watching.execute(CHANGES_A_TABLE).fetchone() != (1,):
                assert not migrating.done()
                assert time.monotonic() < deadline_s, "it never asked for the table"
            with replica.connect() as connection:
                assert connection.execute(KIDS).all() == []
            assert not migrating.done()
        migrating.result(timeout=100)
    assert "bounds" in {column["name"] for column in sa.inspect(older).get_columns("keys")}
    replica.dispose()


@pytest.mark.postgres
def test_a_migration_that_never_gets_its_table_says_who_has_it(
    older: Engine, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", (0.0, 0.0))
    monkeypatch.setattr(module, "_TABLE_WAIT_MS", 1)
    monkeypatch.setattr(module, "_TABLES_S", 0.05)
    with (
        _reading(postgres_database_url),
        pytest.raises(UnavailableError, match=r"'keys' .*\d+ of the server, 'long reader'") as said,
    ):
        migrate(older, MIGRATIONS, "keys")
    assert said.value.reason == "DATABASE_TIMEOUT"
    tables = sa.inspect(older).get_table_names()
    assert "key_events" not in tables, "a part of it was left"
    migrate(older, MIGRATIONS, "keys")


def test_time_that_a_migration_works_is_not_time_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works for longer than it may wait, and asks for another table then."""
    now_s = itertools.count(0.0, 1000.0)
    clock = SimpleNamespace(monotonic=lambda: next(now_s), sleep=lambda _s: None)
    monkeypatch.setattr(module, "time", clock)
    used = iter([True, True, False])

    class NotAvailableError(Exception):
        sqlstate = "55P03"

    def upgrade() -> None:
        if next(used):
            raise sa.exc.DBAPIError("ALTER TABLE", {}, NotAvailableError())

    engine = open_engine(f"sqlite:///{tmp_path / 'keys.db'}", "keys", pool_size=1)
    with engine.connect() as connection:
        module._between_others(connection, "keys", upgrade)
    assert list(used) == []
    engine.dispose()


def test_what_is_sorted_for_an_index_goes_into_files(tmp_path: Path) -> None:
    """In memory it would be as large as the index."""
    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}", "ledger", pool_size=1)
    migrate(engine, "ledger_svc.migrations", "ledger", revision="0001")
    seen: dict[str, int] = {}

    def look(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("CREATE INDEX"):
            other = cursor.connection.execute("PRAGMA temp_store")
            seen[statement.split()[2]] = other.fetchone()[0]

    sa.event.listen(engine, "before_cursor_execute", look)
    migrate(engine, "ledger_svc.migrations", "ledger")
    assert seen == {"entries_resource_span": 1, "entries_actor_span": 1}
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 2, "not put back"
    engine.dispose()
