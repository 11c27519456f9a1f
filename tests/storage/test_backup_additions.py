"""What operators put into the databases of services: left out of backups, and never restored."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provledger.db import migrate, open_engine
from provledger_cli.backups import archive, backup, own_tables, restore
from provledger_cli.backups.contents import SERVICES
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir, write_json
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
from tests.e2e.commands import Installation
from tests.support.postgres import connection_string, fresh_database

ADDED = """
CREATE TABLE ledger.entries_before_cleanup AS SELECT * FROM ledger.entries;
CREATE TABLE anchor."No""t[e]s" ("X" int);
CREATE VIEW anchor.seen AS SELECT alias FROM anchor.logs;
ALTER TABLE keys.registry ADD COLUMN noted_by text NOT NULL DEFAULT 'me';
ALTER TABLE keys.registry ADD COLUMN twice bigint GENERATED ALWAYS AS (revision * 2) STORED;
UPDATE keys.registry SET revision = 7;
"""
LEFT_OUT = [
    *("keys.registry.noted_by", "keys.registry.twice", 'anchor.No"t[e]s', "anchor.seen"),
    "ledger.entries_before_cleanup",
]


@pytest.fixture
def two_databases(postgres_url: str) -> Iterator[tuple[str, str]]:
    with fresh_database(postgres_url) as first, fresh_database(postgres_url) as second:
        yield first, second


def _made(work: Path, url: str) -> DataDir:
    """The data directory of services that were started once, and have no log yet."""
    data = DataDir.at(work / "data")
    data.make()
    for service in SERVICES:
        own = url or f"sqlite:///{data.databases / service}.sqlite3"
        engine = open_engine(own, service, pool_size=1)
        migrate(engine, f"{service}_svc.migrations", service)
        engine.dispose()
    return data


def _backed_up(data: DataDir, url: str, out: Path) -> list[str]:
    """What was left out of a backup."""
    manifest = backup.write(out, data, Config(url, ()), with_keys=False)
    left_out: list[str] = manifest.about["databaseLeftOut"]
    return left_out


def _restore(path: Path, url: str) -> DataDir:
    data = DataDir.at(path.with_suffix(".restored"))
    restore.restore(path, data, database_url=url, sinks=(), accepted=False)
    return data


def _run(url: str, statements: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(connection_string(url), autocommit=True) as session:
        done = session.execute(statements.encode())
        return done.fetchall() if done.description else []


@pytest.mark.postgres
def test_what_is_not_of_a_service_is_left_out_of_a_backup(
    two_databases: tuple[str, str], tmp_path: Path
) -> None:
    first, second = two_databases
    data = _made(tmp_path, first)
    assert _backed_up(data, first, tmp_path / "plain.tar") == []
    _run(first, ADDED)
    assert _backed_up(data, first, tmp_path / "more.tar") == LEFT_OUT
    names = [
        {each.name for each in archive.verify(tmp_path / name).members}
        for name in ("plain.tar", "more.tar")
    ]
    assert names[0] == names[1]
    _restore(tmp_path / "more.tar", second)
    assert _run(second, "SELECT * FROM keys.registry") == [(1, 7)]


@pytest.mark.postgres
@pytest.mark.parametrize("service", SERVICES)
def test_the_tables_of_a_service_are_called_the_same_in_both_databases(
    postgres_database_url: str, tmp_path: Path, service: str
) -> None:
    """They are made in SQLite to find out which of those in PostgreSQL are ours."""
    for revision in ("0001", "0002"):
        engine = open_engine(postgres_database_url, service, pool_size=1)
        migrate(engine, f"{service}_svc.migrations", service, revision=revision)
        ours = own_tables.made(service, revision, tmp_path)
        with engine.connect() as connection:
            assert own_tables.compare(connection, service, ours) == ([], [])
        engine.dispose()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        ("UPDATE anchor.alembic_version SET version_num = '0099'", "0099", COULD_NOT_TELL),
        ("ALTER TABLE keys.keys DROP COLUMN bounds", "keys.keys.bounds", DOES_NOT_HOLD),
        ("DROP TABLE ledger.log_runs", "ledger.log_runs.count", DOES_NOT_HOLD),
    ],
)
def test_databases_that_are_not_as_this_version_makes_them_are_not_cut_to_fit(
    postgres_database_url: str, tmp_path: Path, change: str, said: str, code: int
) -> None:
    data = _made(tmp_path, postgres_database_url)
    _run(postgres_database_url, change)
    with pytest.raises(CommandError, match=said) as caught:
        _backed_up(data, postgres_database_url, tmp_path / "b.tar")
    assert caught.value.exit_code == code
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("member", "rows"),
    [
        ("db/ledger/entries_before_cleanup.copy", b'"seq"\n1\n'),
        ("db/ledger/entries.copy", b'"seq", "imported_by"\n'),
    ],
)
def test_a_backup_with_such_additions_says_which_table_has_no_place(
    two_databases: tuple[str, str], tmp_path: Path, member: str, rows: bytes
) -> None:
    """They were once in backups; it has nothing to do with the rights of the database user."""
    first, second = two_databases
    _backed_up(_made(tmp_path, first), first, tmp_path / "b.tar")
    _rewritten(tmp_path / "b.tar", tmp_path / "more.tar", member, lambda _: rows)
    table = Path(member).stem
    with pytest.raises(CommandError, match=f"no service has the table '{table}'") as caught:
        _restore(tmp_path / "more.tar", second)
    assert caught.value.exit_code == DOES_NOT_HOLD
    assert "schemas" not in caught.value.hint


def _rewritten(path: Path, out: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    """The same backup with another member, or with one more, under a manifest that agrees."""
    about = archive.verify(path).about
    data: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for info in tar:
            opened = tar.extractfile(info)
            assert opened is not None
            data[info.name] = opened.read()
    data[member] = change(data.get(member, b""))
    with out.open("wb") as file, archive.writing(file, compress=False) as writer:
        for name, each in data.items():
            if name != archive.MANIFEST:
                writer.add_bytes(name, each)
        writer.finish(about)


ENDLESS = (
    "ALTER TABLE batches RENAME TO kept; CREATE VIEW batches AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT ledger_uid, i AS batch_seq, kid FROM kept, n"
)
TRIGGER = "CREATE TRIGGER signs AFTER INSERT ON heads BEGIN DELETE FROM entries; END"
VIRTUAL = "CREATE VIRTUAL TABLE found USING fts5(text)"
FORGED = (
    f"{ENDLESS}; PRAGMA writable_schema = ON; "
    "UPDATE sqlite_master SET type = 'table' WHERE type = 'view'"
)
NO_TEXT = (
    f"{TRIGGER}; PRAGMA writable_schema = ON; "
    "UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT), "
    "sql = replace(sql, 'signs', CAST(x'ff' AS TEXT)) WHERE name = 'signs'"
)


def _ran(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (ENDLESS, "holds a view, 'batches'"),
        (TRIGGER, "holds a trigger, 'signs'"),
        (VIRTUAL, "holds a virtual table, 'found'"),
        (FORGED, "batches"),
        (NO_TEXT, "holds a trigger"),
    ],
    ids=["view", "trigger", "virtual", "forged", "no-text"],
)
def test_what_would_run_when_a_restored_database_is_used_is_refused(
    tmp_path: Path, script: str, said: str
) -> None:
    _backed_up(_made(tmp_path, ""), "", tmp_path / "b.tar")
    path = tmp_path / "changed.sqlite3"

    def change(data: bytes) -> bytes:
        path.write_bytes(data)
        _ran(path, script)
        return path.read_bytes()

    _rewritten(tmp_path / "b.tar", tmp_path / "bad.tar", "db/ledger.sqlite3", change)
    with pytest.raises(CommandError, match=f"ledger.sqlite3 is no whole .*{said}") as caught:
        _restore(tmp_path / "bad.tar", "")
    assert caught.value.exit_code == DOES_NOT_HOLD
    assert not (tmp_path / "bad.restored").exists()


def test_an_operators_views_and_triggers_are_left_out_of_a_backup(tmp_path: Path) -> None:
    data = _made(tmp_path, "")
    assert _backed_up(data, "", tmp_path / "plain.tar") == []
    path = data.databases / "ledger.sqlite3"
    _ran(path, 'CREATE VIEW "a ""b""" AS SELECT * FROM heads; CREATE TABLE more (x); ' + TRIGGER)
    _ran(
        path,
        'CREATE TRIGGER added INSTEAD OF INSERT ON "a ""b""" BEGIN DELETE FROM more; END; '
        f"CREATE VIEW {'v' * 200} AS SELECT 1",
    )
    left_out = _backed_up(data, "", tmp_path / "b.tar")
    assert sorted(left_out) == sorted(
        ['ledger.a "b"', "ledger.signs", "ledger.added", f"ledger.{'v' * 200}"]
    )
    restored = _restore(tmp_path / "b.tar", "").databases / "ledger.sqlite3"
    with closing(sqlite3.connect(restored)) as connection:
        kinds = connection.execute("SELECT DISTINCT type FROM sqlite_master ORDER BY 1").fetchall()
        assert kinds == [("index",), ("table",)]
        assert connection.execute("SELECT count(*) FROM more").fetchone() == (0,)
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')"
        ).fetchone()
    assert count == 4, "taken out of the database in use"


def test_the_command_says_what_it_left_out(tmp_path: Path) -> None:
    data = _made(tmp_path, "")
    write_json(data.config, {"database_url": "", "sinks": [], "fips": False})
    _ran(data.databases / "ledger.sqlite3", "CREATE VIEW [red] AS SELECT 1")
    answer = Installation(tmp_path).run("backup", "--out", "b.tar")
    assert answer.json["databaseLeftOut"] == ["ledger.red"]
    assert "left out: ledger.red" in answer.talk


def test_a_virtual_table_is_in_no_backup(tmp_path: Path) -> None:
    data = _made(tmp_path, "")
    _ran(data.databases / "anchor.sqlite3", VIRTUAL)
    with pytest.raises(CommandError, match="virtual table, 'found'") as caught:
        _backed_up(data, "", tmp_path / "b.tar")
    assert caught.value.exit_code == COULD_NOT_TELL
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_database_of_a_newer_version_is_in_no_backup(tmp_path: Path) -> None:
    data = _made(tmp_path, "")
    _ran(data.databases / "keys.sqlite3", "UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(CommandError, match="0099") as caught:
        _backed_up(data, "", tmp_path / "b.tar")
    assert caught.value.exit_code == COULD_NOT_TELL
