"""On PostgreSQL a commit is on disk when it is answered, whatever the server was told elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

import anchor_svc.app
import anchor_svc.config
import keys_svc.app
import keys_svc.config
from ledger_svc.storage.database import Database
from notary_svc.storage.sql import SQLStorage
from provledger.db import begin_write, check_durable, open_engine
from provledger.settings import ConfigError
from tests.support.postgres import PostgresServer, connection_string, fresh_database

pytestmark = pytest.mark.postgres

DATABASE = "ALTER DATABASE {name} SET {setting}"
ROLE = "ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting}"
TEXTS = {"a": "r-\u00e9\u4e2d", "b": "\U0001f600"}


@pytest.fixture(scope="module")
def unsynced() -> Iterator[PostgresServer]:
    """A server with fsync=off, which says that this is wanted."""
    with PostgresServer() as server:
        yield server


def with_options(url: str, options: str) -> str:
    """The same URL with more for its sessions."""
    return make_url(url).update_query_dict({"options": options}).render_as_string(False)


def set_for(url: str, statement: str, setting: str) -> None:
    """Change what new sessions of a database begin with."""
    name = make_url(url).database
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        connection.execute(statement.format(name=name, setting=setting).encode())


def shown(url: str) -> set[str]:
    """`synchronous_commit` of several of our sessions, behind a commit and behind a rollback."""
    engine = open_engine(url, "public")
    show = sa.text("SHOW synchronous_commit")
    found = set()
    try:
        with engine.connect() as one, begin_write(engine) as two:
            for connection in (one, two):
                found.add(str(connection.execute(show).scalar()))
            one.rollback()
            found.add(str(one.execute(show).scalar()))
        with engine.connect() as again:
            found.add(str(again.execute(show).scalar()))
    finally:
        engine.dispose()
    return found


@pytest.mark.parametrize("statement", [DATABASE, ROLE])
@pytest.mark.parametrize(
    ("asked", "have"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
def test_commits_are_durable_whatever_database_and_role_say(
    postgres_database_url: str, statement: str, asked: str, have: str
) -> None:
    set_for(postgres_database_url, statement, f"synchronous_commit = {asked}")
    with psycopg.connect(connection_string(postgres_database_url)) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == (asked,)
    assert shown(postgres_database_url) == {have}


@pytest.mark.parametrize(("asked", "have"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_commits_are_durable_whatever_the_url_says(
    postgres_database_url: str, asked: str, have: str
) -> None:
    url = with_options(postgres_database_url, f"-c synchronous_commit={asked}")
    assert shown(url) == {have}


def test_a_session_that_something_else_sets_back_is_refused(postgres_database_url: str) -> None:
    """As a pooler does that hands one session to many."""
    set_for(postgres_database_url, DATABASE, "synchronous_commit = off")
    engine = open_engine(postgres_database_url, "public")
    sa.event.listen(
        engine, "checkout", lambda connection, *_: connection.execute("RESET synchronous_commit")
    )
    try:
        with pytest.raises(ConfigError, match="synchronous_commit=off"):
            check_durable(engine)
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "begun", ["SET search_path = '$user', public", "SET statement_timeout = 0"]
)
def test_sessions_that_begin_without_our_options_are_refused(
    postgres_database_url: str, begun: str
) -> None:
    """As behind a pooler that ignores `options`: tables would be made in `public`, without limits
    of time."""
    engine = open_engine(postgres_database_url, "ledger")
    sa.event.listen(engine, "checkout", lambda connection, *_: connection.execute(begun))
    try:
        with pytest.raises(ConfigError, match="ignore_startup_parameters"):
            check_durable(engine)
    finally:
        engine.dispose()


def test_a_role_or_url_with_settings_of_its_own_is_no_pooler(postgres_database_url: str) -> None:
    set_for(postgres_database_url, ROLE, "search_path = elsewhere")
    set_for(postgres_database_url, DATABASE, "statement_timeout = '7ms'")
    options = "-c search_path=elsewhere -c statement_timeout=7"
    for url in (postgres_database_url, with_options(postgres_database_url, options)):
        engine = open_engine(url, "ledger")
        check_durable(engine)
        engine.dispose()


@pytest.mark.parametrize("style", ["iso_8601", "sql_standard", "postgres_verbose"])
def test_how_a_role_or_database_writes_intervals_is_no_matter(
    postgres_database_url: str, style: str
) -> None:
    set_for(postgres_database_url, DATABASE, f"intervalstyle = '{style}'")
    engine = open_engine(postgres_database_url, "ledger")
    check_durable(engine)
    engine.dispose()


def _keys(url: str, _: Path) -> None:
    asyncio.run(keys_svc.app.build(keys_svc.config.Settings(database_url=url)))


def _anchor(url: str, path: Path) -> None:
    settings = anchor_svc.config.Settings(
        database_url=url, data_dir=path, key_dir=path, keys_endpoint="127.0.0.1:1"
    )
    asyncio.run(anchor_svc.app.build(settings))


def _ledger(url: str, _: Path) -> None:
    Database.open(url).migrate()


def _notary(url: str, _: Path) -> None:
    SQLStorage.open(url)


@pytest.mark.parametrize("start", [_keys, _anchor, _ledger, _notary])
def test_no_service_starts_on_a_server_that_does_not_sync(
    unsynced: PostgresServer, tmp_path: Path, start: Callable[[str, Path], None]
) -> None:
    with fresh_database(unsynced.url) as url:
        refused = with_options(url, "-c provledger.allow_fsync_off=off")
        with pytest.raises(ConfigError, match=r"fsync=off.*provledger\.allow_fsync_off=on"):
            start(refused, tmp_path)
        with psycopg.connect(connection_string(url)) as connection:
            made = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'keys'")
            assert made.fetchone() is None


def test_who_wants_such_a_server_can_say_so(
    unsynced: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert _checked(unsynced.url, caplog) == [("WARNING", "database.fsync_off")]
    with fresh_database(unsynced.url) as url:
        set_for(url, DATABASE, "provledger.allow_fsync_off = off")
        with pytest.raises(ConfigError, match="fsync=off"):
            _checked(url, caplog)


def test_a_server_that_may_tear_pages_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with PostgresServer(durable=True) as server:
        assert _checked(server.url, caplog) == []
        with psycopg.connect(connection_string(server.url), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
        server.stop()
        server.start()
        assert _checked(server.url, caplog) == [("ERROR", "database.full_page_writes_off")]


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP"])
def test_a_new_database_of_another_encoding_is_refused(
    postgres_url: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fresh_database(postgres_url, encoding=encoding) as url:
        with pytest.raises(ConfigError, match=rf"{encoding}.*ENCODING 'UTF8'"):
            _checked(url, caplog)


def test_tables_in_another_encoding_are_told_of(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fresh_database(postgres_url, encoding="LATIN1") as url:
        with psycopg.connect(connection_string(url)) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num text)")
        assert ("ERROR", "database.encoding_not_utf8") in _checked(url, caplog)


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
@pytest.mark.parametrize("asked", ["", "latin1", "sql_ascii"])
@pytest.mark.parametrize("by_role", [True, False])
def test_text_is_kept_whatever_encoding_the_session_is_asked_for(
    postgres_url: str, encoding: str, asked: str, by_role: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with fresh_database(postgres_url, encoding=encoding) as url:
        if asked and by_role:
            set_for(url, ROLE, f"client_encoding = {asked}")
        elif asked:
            options = {"client_encoding": asked, "options": f"-c client_encoding={asked}"}
            url = make_url(url).update_query_dict(options).render_as_string(False)
        assert ("ERROR", "database.encoding_not_utf8") not in _checked(url, caplog)
        engine = open_engine(url, "public")
        try:
            with begin_write(engine) as connection:
                connection.execute(sa.text('CREATE TABLE t (a text COLLATE "C")'))
                connection.execute(sa.text("INSERT INTO t VALUES (:a), (:b)"), TEXTS)
            with engine.connect() as connection:
                found = connection.execute(sa.text("SELECT a FROM t ORDER BY a")).scalars().all()
            assert found == [TEXTS["a"], TEXTS["b"]]
        finally:
            engine.dispose()


def test_sqlite_has_nothing_to_be_asked(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "public")
    check_durable(engine)
    engine.dispose()
    assert not (tmp_path / "a.db").exists()


def _checked(url: str, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    caplog.clear()
    engine = open_engine(url, "public")
    try:
        with caplog.at_level(logging.INFO):
            check_durable(engine)
    finally:
        engine.dispose()
    return [(record.levelname, record.getMessage()) for record in caplog.records]
