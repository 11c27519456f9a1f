"""The proxy in front of PostgreSQL does to statements what it says it does, rows copied in too."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from tests.faults.cluster import eventually
from tests.faults.pgproxy import Fault, PostgresProxy, shape
from tests.support.ports import free_ports
from tests.support.postgres import connection_string, fresh_database

pytestmark = pytest.mark.postgres

ROWS = 10
INSERT = "INSERT INTO entries SELECT generate_series(1, 10)"
COPY = "COPY entries (a) FROM STDIN"
STATEMENTS = pytest.mark.parametrize("statement", [INSERT, COPY])


@dataclass
class Table:
    """A table of a database, reached through the proxy by `client`, and past it by `direct`."""

    proxy: PostgresProxy
    client: psycopg.Connection[Any]
    direct: psycopg.Connection[Any]
    threads: ThreadPoolExecutor

    def fill(self, statement: str) -> Future[None]:
        """Put ten rows into it, in a thread."""
        return self.threads.submit(self._fill, statement)

    def _fill(self, statement: str) -> None:
        with self.client.cursor() as cursor:
            if statement != COPY:
                cursor.execute(statement)
                return
            with cursor.copy(COPY) as copy:
                for number in range(ROWS):
                    copy.write_row((number,))

    @property
    def rows(self) -> int:
        row = self.direct.execute("SELECT count(*) FROM entries").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def table(postgres_url: str) -> Iterator[Table]:
    with fresh_database(postgres_url) as url:
        found = make_url(url)
        directory = found.query.get("host")
        if not isinstance(directory, str):
            pytest.skip("the database is not reached by a unix socket")
        proxy = PostgresProxy(free_ports(1)[0], f"{directory}/.s.PGSQL.5432").start()
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        through = found.set(host="127.0.0.1", port=proxy.port, query=plain)
        with (
            ThreadPoolExecutor(1) as threads,
            psycopg.connect(connection_string(url), autocommit=True) as direct,
            psycopg.connect(connection_string(through), autocommit=True) as client,
        ):
            direct.execute("CREATE TABLE entries (a int)")
            try:
                yield Table(proxy, client, direct, threads)
            finally:
                # First of all, for it cuts what a thread may wait for.
                proxy.close()


@STATEMENTS
def test_without_a_fault_all_passes(table: Table, statement: str) -> None:
    table.fill(statement).result(30.0)
    assert table.rows == ROWS


@STATEMENTS
@pytest.mark.parametrize(("fault", "rows"), [("cut", 0), ("lose", ROWS)])
def test_a_statement_is_not_made_or_made_and_not_answered(
    table: Table, statement: str, fault: Fault, rows: int
) -> None:
    table.proxy.inject("INTO|^COPY", fault)
    filled = table.fill(statement)
    with pytest.raises(psycopg.OperationalError):
        filled.result(30.0)
    assert (table.rows, table.proxy.pending()) == (rows, 0)
    assert table.proxy.injected == {("INTO|^COPY", fault): 1}


@STATEMENTS
@pytest.mark.parametrize(("fault", "rows"), [("cut", 0), ("lose", ROWS)])
def test_a_commit_is_known_by_what_its_transaction_wrote(
    table: Table, statement: str, fault: Fault, rows: int
) -> None:
    pattern = "^COMMIT of .*entries"
    table.proxy.inject(pattern, fault)
    with table.client.transaction(force_rollback=True):
        table.fill(INSERT).result(30.0)
    with table.client.transaction():
        table.client.execute("SELECT count(*) FROM entries")
    assert table.proxy.pending() == 1
    with pytest.raises(psycopg.OperationalError), table.client.transaction():
        table.fill(statement).result(30.0)
    assert (table.rows, table.proxy.pending()) == (rows, 0)
    assert table.proxy.injected == {(pattern, fault): 1}
    assert {each for each in table.proxy.statements if each.startswith("COMMIT")} == {
        "COMMIT", f"COMMIT of {shape(statement.encode())}",
    }  # fmt: skip


@STATEMENTS
@pytest.mark.parametrize(("fault", "rows"), [("stall", ROWS), ("hold", 0)])
def test_a_stall_lasts_until_it_is_ended(
    table: Table, statement: str, fault: Fault, rows: int
) -> None:
    table.proxy.inject("INTO|^COPY", fault)
    filled = table.fill(statement)
    eventually(lambda: not table.proxy.pending(), "it stalls", 30.0)
    eventually(lambda: table.rows == rows, "the rows are there, or not", 30.0)
    assert not filled.done()
    table.proxy.calm()
    with pytest.raises(psycopg.OperationalError):
        filled.result(30.0)
    assert table.rows == rows


def test_a_connection_that_ends_first_has_not_met_its_fault(table: Table) -> None:
    table.proxy.inject("pg_sleep", "lose")
    slept = table.fill("SELECT pg_sleep(100)")
    pid = table.client.info.backend_pid
    working = sql.SQL(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid = {} AND wait_event = 'PgSleep'"
    ).format(pid)
    eventually(lambda: table.direct.execute(working).fetchone() is not None, "it sleeps", 30.0)
    with pytest.raises(psycopg.OperationalError):
        slept.result(30.0)
    eventually(lambda: table.proxy.pending() == 1, "the fault waits for another one", 30.0)
    assert not table.proxy.injected
