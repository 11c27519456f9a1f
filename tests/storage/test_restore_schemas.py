"""Two that want the same schemas of one database: who comes second is told so."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection

from provledger.db import engine as db_engine
from provledger.db import open_engine
from provledger_cli.backups import restore_postgres
from provledger_cli.backups.manifests import Manifest
from provledger_cli.backups.restore_postgres import Schemas, filled
from provledger_cli.failures import COULD_NOT_TELL, CommandError
from tests.support.postgres import connection_string

pytestmark = pytest.mark.postgres

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND wait_event_type = 'Lock'"
)


@pytest.mark.parametrize("at_once", [False, True])
def test_schemas_that_appeared_meanwhile_are_named(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr(db_engine, "LOCK_TIMEOUT_S", 60.0)
    engine = open_engine(postgres_database_url, "public", pool_size=1)
    schemas = Schemas(engine, "0123456789ab", "provledger restore 0123456789ab of x")
    url = connection_string(postgres_database_url)
    try:
        with (
            psycopg.connect(url, autocommit=True) as watching,
            psycopg.connect(url) as other,
            ThreadPoolExecutor(1) as threads,
        ):
            for name in schemas.names.values():
                watching.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            other.execute("CREATE SCHEMA keys")
            if not at_once:
                other.commit()
            publishing = threads.submit(schemas.publish)
            if at_once:
                deadline_s = time.monotonic() + 60.0
                while watching.execute(WAITING).fetchone() != (1,):
                    assert time.monotonic() < deadline_s, "nobody waits"
                other.commit()
            with pytest.raises(CommandError, match="meanwhile") as caught:
                publishing.result(timeout=60)
            assert caught.value.exit_code == COULD_NOT_TELL
            assert not schemas.committing
    finally:
        engine.dispose()


def test_a_server_that_ends_idle_sessions_leaves_the_one_that_has_the_lock(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is idle while the schemas are filled; without it, the next restore drops them."""
    with psycopg.connect(connection_string(postgres_database_url), autocommit=True) as session:
        name = sql.Identifier(session.info.dbname)
        session.execute(sql.SQL("ALTER DATABASE {} SET idle_session_timeout = '1h'").format(name))
    seen: list[object] = []

    def look(holder: Connection) -> None:
        seen.append(holder.execute(sa.text("SHOW idle_session_timeout")).scalar())

    monkeypatch.setattr(restore_postgres, "_clear", look)
    monkeypatch.setattr(restore_postgres, "_fill", lambda *_: None)
    manifest = Manifest({}, (), 0, "")
    with filled(tmp_path, manifest, postgres_database_url, "0123456789ab", tmp_path):
        assert seen == ["0"]
