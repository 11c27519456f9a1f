"""The databases that the other tests are given: empty, real, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support import postgres

REPO = Path(__file__).resolve().parents[2]


def _rows(url: str, *statements: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements[:-1]:
                connection.execute(sa.text(statement))
            return [tuple(row) for row in connection.execute(sa.text(statements[-1]))]
    finally:
        engine.dispose()


@pytest.mark.parametrize("attempt", [1, 2])
def test_database_starts_empty_and_keeps_what_is_committed(database_url: str, attempt: int) -> None:
    """Twice: the second would find the first one's table if they shared a database."""
    _rows(database_url, "CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7) RETURNING n")
    assert _rows(database_url, "SELECT n FROM t") == [(7,)], attempt


def test_postgres_database_is_dropped_even_with_open_connections(postgres_url: str) -> None:
    with postgres.fresh_database(postgres_url) as url:
        engine = sa.create_engine(url)
        open_connection = engine.connect()
        name = open_connection.execute(sa.text("SELECT current_database()")).scalar_one()
    assert (name,) not in _rows(postgres_url, "SELECT datname FROM pg_database")
    open_connection.invalidate()
    engine.dispose()


@pytest.mark.skipif(
    "PROVLEDGER_TEST_DATABASE_URL" in os.environ, reason="the server is not started by the tests"
)
def test_server_ends_with_the_process_that_started_it() -> None:
    """Also when that process is killed and can clean up nothing."""
    script = (
        "import os\n"
        "from tests.support.postgres import running_postgres\n"
        "with running_postgres() as url:\n"
        "    print(url, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE, text=True, check=False
    )
    folder = Path(sa.make_url(done.stdout.strip()).query["host"])  # type: ignore[arg-type]
    deadline = time.monotonic() + 30
    while (folder / "data" / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "PostgreSQL is still running"
        time.sleep(0.05)
    shutil.rmtree(folder)
