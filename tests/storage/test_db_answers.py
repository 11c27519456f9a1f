"""A database that is there and says nothing does not hold up a service for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from provledger.db import answers, migrate, open_engine
from provledger.db.workers import Readers, Writer
from provledger.errors import UnavailableError
from tests.faults.pgproxy import PostgresProxy
from tests.support.ports import free_ports

pytestmark = pytest.mark.postgres


@pytest.fixture
def proxy(postgres_database_url: str) -> Iterator[PostgresProxy]:
    directory = make_url(postgres_database_url).query.get("host")
    if not isinstance(directory, str):
        pytest.skip("the database is not reached by a unix socket")
    opened = PostgresProxy(free_ports(1)[0], f"{directory}/.s.PGSQL.5432").start()
    yield opened
    opened.close()


@pytest.fixture
def url(postgres_database_url: str, proxy: PostgresProxy) -> str:
    query = {"sslmode": "disable", "gssencmode": "disable"}
    found = make_url(postgres_database_url)
    return found.set(host="127.0.0.1", port=proxy.port, query=query).render_as_string(False)


def _seventeen(connection: sa.Connection) -> int:
    return int(connection.execute(sa.text("SELECT 17")).scalar_one())


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [("SELECT 17", "DATABASE_UNAVAILABLE"), (r"(?<!_)COMMIT\b", "COMMIT_OUTCOME_UNKNOWN")],
)
async def test_answer_that_does_not_come_is_given_up(
    url: str, proxy: PostgresProxy, pattern: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers.ImpatientConnection, "answer_limit_s", 0.3)
    engine = open_engine(url, "answers")
    writer = Writer(engine)
    assert await writer.run(_seventeen) == 17
    proxy.inject(pattern, "stall")
    with pytest.raises(UnavailableError) as caught:
        await writer.run(_seventeen)
    assert caught.value.reason == reason
    # The next one has a connection of its own, while the old one still waits for nothing.
    assert await writer.run(_seventeen) == 17
    await writer.close()
    engine.dispose()


async def test_reader_asks_again(
    url: str, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers.ImpatientConnection, "answer_limit_s", 0.3)
    engine = open_engine(url, "answers")
    readers = Readers(engine, threads=1)
    proxy.inject("SELECT 17", "stall")
    assert await readers.run(_seventeen) == 17
    assert not proxy.pending()
    await readers.close()
    engine.dispose()


def test_a_migration_waits_for_longer_than_anything_else(
    postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of a large table is made by one statement; and several starters take turns."""
    monkeypatch.setattr(answers.ImpatientConnection, "answer_limit_s", 0.2)
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "0001_long.py").write_text(
        "from alembic import op\n"
        "revision, down_revision, branch_labels, depends_on = '0001', None, None, None\n"
        "def upgrade():\n"
        "    op.execute('SELECT pg_sleep(0.5)')\n"
        "    op.execute('CREATE TABLE made (x int)')\n"
    )
    engine = open_engine(postgres_database_url, "answers")
    migrate(engine, tmp_path, "answers")
    with engine.connect() as connection:
        assert sa.inspect(connection).has_table("made")
        # For whoever comes after it, everything is as it was.
        with pytest.raises(sa.exc.OperationalError):
            connection.execute(sa.text("SELECT pg_sleep(2)"))
    engine.dispose()
