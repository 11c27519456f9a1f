"""Backups of services at work, restored as the runbooks say, and refused where they must be."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Engine

from provledger.client import CallPolicy, Client, Mutation
from provledger.errors import StatusError
from provledger.retry import RetryPolicy
from provledger_cli import scratch
from provledger_cli.backups import archive, backup, moment
from provledger_cli.backups.contents import SERVICES
from provledger_cli.backups.manifests import Manifest
from provledger_cli.backups.restore import Restored, restore
from provledger_cli.embedded import config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.tlog import stored
from tests.e2e.commands import Installation, shipped_mutations
from tests.support.postgres import connection_string, fresh_database
from tests.support.runbooks import commands, run_all
from tests.support.tiled import flip

MUTATION = {
    "action": "CREATE",
    "resource_type": "Account",
    "resource_id": "42",
    "actor_id": "alice",
    "new_state": {"plan": "free"},
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    lines = shipped_mutations()
    (tmp_path / "m1.ndjson").write_bytes(b"".join(lines[:150]))
    (tmp_path / "m2.ndjson").write_bytes(b"".join(lines[150:300]))
    (tmp_path / "mutation.json").write_text(json.dumps(MUTATION))
    return tmp_path


@pytest.fixture
def two_databases(postgres_url: str) -> Iterator[tuple[str, str]]:
    with fresh_database(postgres_url) as first, fresh_database(postgres_url) as second:
        yield first, second


class Other(Installation):
    """An installation whose data directory has another name."""

    def __init__(self, work: Path, name: str) -> None:
        super().__init__(work)
        self.data = DataDir.at(work / name)
        self.name = name

    def _command(self, arguments: tuple[str, ...], module: str, data_dir: bool) -> list[str]:
        command = super()._command(arguments, module, data_dir)
        return [self.name if part == "data" else part for part in command]


def backed_up(installation: Installation, out: Path) -> Manifest:
    """What `backup` does, in this process."""
    settled = config.load(installation.data)
    assert settled is not None
    return backup.write(out, installation.data, settled, with_keys=False)


@pytest.mark.timeout(600)
def test_the_runbooks_of_restoring_do_what_they_say(work: Path) -> None:
    old = Other(work, "ledger")
    try:
        old.run("up")
        old.run("import", "m1.ndjson", "--tenant", "demo", "--batch", "10")
        old.run("status", "--wait", "60")
        # Appends go on while backups are taken; each is of one moment all the same.
        importing = old.start("import", "m2.ndjson", "--tenant", "demo", "--batch", "2")
        taken = 0
        while not taken or (importing.poll() is None and taken < 3):
            taken += 1
            manifest = backed_up(old, work / f"{taken}.tar")
            answer = restore(
                work / f"{taken}.tar",
                DataDir.at(work / f"restored{taken}"),
                database_url="",
                sinks=(),
                accepted=False,
            )
            assert answer.checked[0].size == manifest.about["logs"][0]["size"]
            assert answer.missing_keys
            for runbook in ("restore", "stale-restore"):
                assert _copied(runbook) == set(answer.missing_keys)
        assert importing.wait(timeout=120) == 0
        (work / "1.tar").rename(work / "old.tar.gz")
        old.run("status", "--wait", "60")
        assert "anchor.confirmed" in "".join(run_all("restore", work, {}))
        # The record of a loss is a mutation like any other.
        (work / "loss.json").write_bytes((work / "mutation.json").read_bytes())
        assert "RESTORED_BEHIND" in "".join(run_all("stale-restore", work, {}))
    finally:
        for name in ("ledger", "restored", "stale", "next"):
            if (work / name).exists():
                Other(work, name).run("down", check=False)


def _copied(runbook: str) -> set[str]:
    """The key files that a runbook has somebody bring."""
    (command,) = [each for each, _ in commands(runbook) if each.startswith("cp ")]
    return {Path(path).name for path in command.split()[1:-1]}


def test_a_rotation_while_the_snapshots_are_opened_is_in_all_of_them_or_in_none(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is read first: without a second look, it would lack the key of a receipt."""
    old = Other(work, "ledger")
    opened: list[str] = []

    def rotate(_: object) -> None:
        if len(opened) > len(SERVICES):
            return
        old.run("keys", "rotate", "--kid", "witness-2", "--no-probe")
        old.run("append", "--tenant", "demo", stdin=json.dumps(MUTATION).encode())

    def open_database(data_dir: DataDir, settled: config.Config, name: str) -> Engine:
        engine = stored.open_database(data_dir, settled, name)
        opened.append(name)
        if name == "anchor":
            # Its transaction begins when that of the registry has.
            sa.event.listen(engine, "begin", rotate, once=True)
        return engine

    try:
        old.run("up")
        old.run("append", "--tenant", "demo", stdin=json.dumps(MUTATION).encode())
        monkeypatch.setattr(moment, "open_database", open_database)
        settled = config.load(old.data)
        assert settled is not None
        backup.write(work / "b.tar", old.data, settled, with_keys=True)
        restored = _restored(work, "b.tar", "two", "")
        new = Other(work, "two").data
        with sqlite3.connect(new.databases / "ledger.sqlite3") as ledger:
            signed = {kid for (kid,) in ledger.execute("SELECT DISTINCT kid FROM batches")}
        assert "witness-2" in signed
        assert restored.unknown_kids == ()
        assert restored.missing_keys == ()
        assert opened == [*SERVICES, *SERVICES]
        # Backups that are not so were made once: whoever restores one is told.
        old.run("down")
        with sqlite3.connect(old.data.databases / "keys.sqlite3") as keys:
            keys.execute("UPDATE keys SET kid = 'other' WHERE kid = 'witness-2'")
        backup.write(work / "lacks.tar", old.data, settled, with_keys=True)
        assert _restored(work, "lacks.tar", "three", "").unknown_kids == ("witness-2",)
    finally:
        old.run("down", check=False)


@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_postgresql_is_backed_up_and_restored_without_other_tools(
    work: Path, two_databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_databases
    old, new = Other(work, "one"), Other(work, "two")
    try:
        old.run("up", "--database-url", first)
        importing = old.start("import", "m1.ndjson", "--tenant", "demo", "--batch", "5")
        taken = 0
        while not taken or (importing.poll() is None and taken < 2):
            taken += 1
            backed_up(old, work / f"{taken}.tar")
        assert importing.wait(timeout=120) == 0
        old.run("down")
        # Of services that stand still as well.
        backed_up(old, work / "b.tar.gz")
        assert first.encode() not in (work / "b.tar.gz").read_bytes()
        with pytest.raises(CommandError, match="already"):
            _restored(work, "b.tar.gz", "two", first)
        for name in [f"{number}.tar" for number in range(1, taken + 1)]:
            with _emptied(second):
                assert _restored(work, name, "two", second).missing_keys
                assert (work / "two").exists()
            shutil.rmtree(work / "two")
        # One bit of a tile, under a manifest that agrees: nothing is left of it in the database.
        _tampered(work / "b.tar.gz", work / "bad.tar")
        with pytest.raises(CommandError, match="does not hang together") as caught:
            _restored(work, "bad.tar", "two", second)
        assert caught.value.exit_code == DOES_NOT_HOLD
        assert not (work / "two").exists()
        _all_but_finished(work, second, monkeypatch)
        _restored(work, "b.tar.gz", "two", second)
        for path in (work / "one" / "keys").glob("*.pem"):
            shutil.copy2(path, work / "two" / "keys")
        sinks = work / "one" / "anchors"
        sinks.rename(work / "away")
        new.run("up")
        _assert_held(new, second)
        (work / "away").rename(sinks)
        new.run("append", "--tenant", "demo", stdin=json.dumps(MUTATION).encode())
        assert "anchor.confirmed" in new.data.log("anchor").read_text()
        assert new.run("log", "fsck").json["holds"] is True
    finally:
        for each in (old, new):
            each.run("down", check=False)


def _all_but_finished(work: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore ends right before it says so: only its own arguments finish it."""

    def fail(directory: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(scratch, "finish", fail)
        with pytest.raises(CommandError, match="Input/output"):
            _restored(work, "b.tar.gz", "two", url)
    before = _rows(url)
    with pytest.raises(CommandError, match="another backup"):
        _restored(work, "1.tar", "two", url)
    with pytest.raises(CommandError, match="other sinks"):
        _restored(work, "b.tar.gz", "two", url, sinks=("file:///nowhere",))
    with pytest.raises(CommandError, match="wait for sinks"):
        _restored(work, "b.tar.gz", "two", url, accepted=True)
    assert list((work / "two").glob("tiles/logs/*/restored.json"))
    assert _rows(url) == before


def _assert_held(installation: Installation, url: str) -> None:
    """Before any sink has confirmed it: nothing is appended, no head and no key event is signed."""
    before = _rows(url)
    assert min(before.values()) > 0
    endpoint = json.loads(installation.data.endpoints.read_text())["services"]["ledger"]["endpoint"]
    policy = CallPolicy(timeout_s=30.0, retry=RetryPolicy(attempts=1))
    with Client(endpoint, policy=policy) as client:
        # Its end is not said while a log is held.
        listed = (each.name for each in client.list_ledgers())
        name = next(name for name in listed if name.startswith("tenants/demo/"))
        with pytest.raises(StatusError) as caught:
            client.append(name, Mutation(**MUTATION))  # type: ignore[arg-type]
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.reason in ("ANCHOR_NOT_ASKED", "RESTORE_NOT_CONFIRMED")
    said = installation.run("anchor", "status", check=False)
    assert "RESTORE_NOT_CONFIRMED" in installation.data.log("anchor").read_text(), said
    assert _rows(url) == before


def _rows(url: str) -> dict[str, int]:
    """How much was ever appended, logged and signed."""
    tables = ("ledger.entries", "anchor.entries", "anchor.checkpoints", "keys.keys")
    with psycopg.connect(connection_string(url)) as connection:
        found = {}
        for table in tables:
            name = sql.Identifier(*table.split("."))
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
            assert row is not None
            found[table] = row[0]
    return found


def _tampered(path: Path, out: Path) -> None:
    """The same backup with another bit in one tile, and digests that say so."""
    about = archive.verify(path).about
    with tarfile.open(path) as tar, out.open("wb") as file:
        with archive.writing(file, compress=False) as writer:
            for info in tar:
                opened = tar.extractfile(info)
                assert opened is not None
                data = opened.read()
                if "/tile/0/" in info.name:
                    data = flip(data, 40)
                if info.name != archive.MANIFEST:
                    writer.add_bytes(info.name, data)
            writer.finish(about)


def _restored(
    work: Path,
    file: str,
    name: str,
    database_url: str,
    sinks: tuple[str, ...] = (),
    accepted: bool = False,
) -> Restored:
    return restore(
        work / file,
        DataDir.at(work / name),
        database_url=database_url,
        sinks=sinks,
        accepted=accepted,
    )


@contextmanager
def _emptied(url: str) -> Iterator[None]:
    """Whatever schemas of ours the block makes in a database are gone behind it."""
    yield
    with psycopg.connect(connection_string(url), autocommit=True) as connection:
        for schema in ("keys", "anchor", "ledger"):
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
