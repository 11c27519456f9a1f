"""Backup and restore die, or are failed by their disks, at any call; then they are run again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import Connection, Engine, make_url

from provledger.client import CallPolicy, Client, Mutation
from provledger.db import engine as db_engine
from provledger.db import open_engine
from provledger.errors import StatusError, UnavailableError
from provledger.retry import RetryPolicy
from provledger_cli import scratch
from provledger_cli.backups import archive, backup, restore_postgres
from provledger_cli.backups.restore import MARKER, restore
from provledger_cli.backups.restore_postgres import Schemas
from provledger_cli.embedded import config
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import PIN_FILE, DataDir
from provledger_cli.failures import COULD_NOT_TELL, CommandError
from tests.faults import commands, strace
from tests.faults.cluster import Cluster, eventually
from tests.faults.commands import Call
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.pgproxy import Fault, PostgresProxy
from tests.faults.strace import Point
from tests.faults.test_disk import small_disk
from tests.faults.workload import LEDGERS, Load
from tests.support.ports import free_ports
from tests.support.postgres import connection_string, fresh_database

LOAD = Load(writers=2, batch=4, pause_s=0.0)
KILLED = -signal.SIGKILL
SERVICES = ("keys", "anchor", "ledger")
LAST = 16
"""So many calls at the end are where all is decided: half of the sample is of them."""


@dataclass
class Source:
    """Services with a backup of them; `url` and `other` are "" for SQLite.

    other: a database to restore into. calls: what a restore and a backup do, once they were asked.
    """

    attack: Attack
    url: str
    other: str
    backup: Path
    calls: dict[str, list[Call]] = field(default_factory=dict)

    @property
    def data(self) -> DataDir:
        return self.attack.cluster.data

    def restore(self, target: Path) -> None:
        """Restore, in this process."""
        url = self.other
        restore(self.backup, DataDir.at(target), database_url=url, sinks=(), accepted=False)

    def arguments(self, target: Path) -> list[str]:
        """The same as a command."""
        database = ["--database-url", self.other] if self.other else []
        return ["restore", str(self.backup), "--data-dir", str(target), *database]

    def backing_up(self, out: Path) -> list[str]:
        """The command for another backup."""
        return ["backup", "--out", str(out), "--data-dir", str(self.data.path)]

    def made(self, command: str, work: Path) -> list[Call]:
        """What a whole run of a command does, in its order."""
        if command not in self.calls:
            place = work / "whole"
            arguments = (self.arguments if command == "restore" else self.backing_up)(place)
            self.calls[command] = commands.trace(*arguments, log=work / "log")
            (self.forget if command == "restore" else Path.unlink)(place)
            (work / "log").unlink()
        return [each for each in self.calls[command] if each.matters]

    def forget(self, target: Path) -> None:
        """Away with a directory and the schemas of ours."""
        shutil.rmtree(target, ignore_errors=True)
        with self.session() as session:
            for name in self.schemas() if session else ():
                statement = sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name))
                session.execute(statement)  # type: ignore[union-attr]

    def schemas(self) -> set[str]:
        """Those of the other database that are ours."""
        with self.session() as session:
            if session is None:
                return set()
            found = session.execute("SELECT nspname FROM pg_namespace").fetchall()
        return {name for (name,) in found if name in SERVICES or name.startswith("provledger")}

    @contextlib.contextmanager
    def session(self) -> Iterator[psycopg.Connection | None]:
        """A session in the other database, None for SQLite."""
        if not self.other:
            yield None
            return
        with psycopg.connect(connection_string(self.other), autocommit=True) as connection:
            yield connection


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture(scope="module", params=["sqlite", POSTGRES])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Source]:
    strace.require()
    path = tmp_path_factory.mktemp("source")
    with contextlib.ExitStack() as opened:
        url = other = ""
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_url")
            url = opened.enter_context(fresh_database(server))
            other = opened.enter_context(fresh_database(server))
        urls = dict.fromkeys(SERVICES, url) if url else {}
        cluster = Cluster(path / "data", database_urls=urls, options=QUICK)
        seed = request.config.getoption("fault_seed")
        attack = Attack(cluster, path / "record", seed)
        opened.callback(attack.close)
        cluster.start()
        attack.make_ledgers()
        with attack.workload(LOAD) as work:
            work.wait_for(300)
        attack.wait_anchored()
        settled = config.settle(cluster.data, url, [cluster.data.anchors.as_uri()])
        backup.write(path / "b.tar", cluster.data, settled, with_keys=False)
        yield Source(attack, url, other, path / "b.tar")
        print(attack.check())


def _chosen(calls: list[Call], rng: random.Random) -> list[Call]:
    return calls if FULL else [rng.choice(calls[:-LAST]), rng.choice(calls[-LAST:])]


ON_SQLITE = pytest.mark.parametrize("source", ["sqlite"], indirect=True)
"""What is the same on both."""
ON_POSTGRES = pytest.mark.parametrize("source", [POSTGRES], indirect=True)


# --- what is synced, and when --------------------------------------------------------------------


@ON_SQLITE
def test_a_backup_is_synced_before_it_has_its_name(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    arguments = source.backing_up(out)
    calls = commands.trace(*arguments, log=tmp_path / "log")
    synced, named, kept = (
        _index(calls, "fsync", r"/archive>"),
        _index(calls, "link", f'"{out}"'),
        _index(calls, "fsync", f"<{tmp_path}>"),
    )
    assert synced < named < kept
    assert all("/archive>" not in each.arguments for each in calls[synced + 1 :])
    source.calls["backup"] = calls
    # Another one does not take its place, nor does one that began before it was there.
    before = out.read_bytes()
    assert commands.run(*arguments).returncode == COULD_NOT_TELL
    (tmp_path / "late").write_bytes(b"")
    with pytest.raises(CommandError, match="there already"):
        scratch.give_name(tmp_path / "late", out)
    assert out.read_bytes() == before


def test_a_restore_is_synced_before_it_has_its_name(source: Source, tmp_path: Path) -> None:
    target = tmp_path / "new"
    calls = commands.trace(*source.arguments(target), log=tmp_path / "log")
    named = _index(calls, "rename", f'"{target}"')
    staged = calls[named].arguments.split('"')[1]
    synced = {
        each.arguments.split("<")[1].rstrip(">").replace(staged, str(target))
        for each in calls[:named]
        if each.name == "fsync"
    }
    files = {str(path) for path in target.rglob("*") if path.is_file() or path.is_dir()}
    assert files | {str(target)} <= synced
    assert _index(calls, "fsync", f"<{tmp_path}>") > named
    marked = _index(calls, "rename", MARKER)
    written = [n for n, each in enumerate(calls) if each.name in ("sendto", "pwrite64")]
    assert marked < min(written)
    finished = _index(calls, "unlink", f'"{target / scratch.UNFINISHED}"')
    assert finished > named
    if source.other:
        assert named < _index(calls, "sendto", "COMMIT") < finished
    source.calls["restore"] = calls
    source.forget(target)


def _index(calls: list[Call], name: str, text: str) -> int:
    """Where the last call of that kind is."""
    return max(n for n, each in enumerate(calls) if each.name == name and text in each.arguments)


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["sqlite", POSTGRES] if FULL else ["sqlite"], indirect=True)
def test_killed_backup_leaves_no_half_one(
    source: Source, tmp_path: Path, rng: random.Random
) -> None:
    old, out = tmp_path / "old.tar", tmp_path / "out.tar"
    shutil.copy2(source.backup, old)
    before = old.read_bytes()
    arguments = source.backing_up(out)
    whole = len(archive.verify(old).members)
    died = 0
    for call in _chosen(source.made("backup", tmp_path), rng):
        status, _ = commands.struck(call.point, *arguments)
        print(f"SIGKILL at {call.name} {call.nth}: {status}, {'named' if out.exists() else ''}")
        died += status == KILLED
        assert status == KILLED or out.exists()
        assert old.read_bytes() == before
        if out.exists():
            assert len(archive.verify(out).members) == whole
            out.unlink()
    assert died
    assert commands.run(*arguments).returncode == 0
    assert len(archive.verify(out).members) == whole
    # The last one has removed what the others left, which held payloads.
    assert {path.name for path in tmp_path.iterdir()} == {"old.tar", "out.tar"}


@ON_SQLITE
def test_what_a_backup_left_that_was_killed_with_its_name_goes_with_the_next(
    source: Source, tmp_path: Path
) -> None:
    """Which changes nothing else: a second name of the same payloads would outlive the first."""
    out = tmp_path / "out.tar"
    arguments = source.backing_up(out)
    status, _ = commands.struck(Point("fsync", 1), *arguments, path=tmp_path)
    assert (status, out.exists(), len(list(tmp_path.iterdir()))) == (KILLED, True, 2)
    done = commands.run(*arguments)
    assert (done.returncode, "there already" in done.stderr) == (COULD_NOT_TELL, True)
    assert list(tmp_path.iterdir()) == [out]
    archive.verify(out)


def test_killed_restore_is_not_used_and_can_be_run_again(
    source: Source, tmp_path: Path, rng: random.Random
) -> None:
    target, died = tmp_path / "new", 0
    for call in _chosen(source.made("restore", tmp_path), rng):
        status, _ = commands.struck(call.point, *source.arguments(target))
        left = source.schemas() & set(SERVICES)
        print(f"SIGKILL at {call.name} {call.nth}: {status}, {target.exists()}, {sorted(left)}")
        died += status == KILLED
        if status == 0:
            source.forget(target)
            continue
        assert status == KILLED
        # All or none, and never without the directory that is marked.
        assert left in (set(), set(SERVICES))
        assert target.exists() or not left
        for directory in tmp_path.glob("*new*"):
            _assert_not_used(directory)
        if target.exists():
            assert list(target.glob(f"tiles/logs/*/{MARKER}"))
        # It begins anew, or finishes what was done, or says what was done but for saying so.
        source.restore(target)
        assert config.load(DataDir.at(target)) is not None
        assert list(target.glob(f"tiles/logs/*/{MARKER}"))
        assert source.schemas() == (set(SERVICES) if source.other else set())
        assert not list(tmp_path.glob(".*"))
        source.forget(target)
    assert died


@ON_SQLITE
def test_what_was_restored_but_for_saying_so_is_said_by_the_same_command(
    source: Source, tmp_path: Path
) -> None:
    target = tmp_path / "new"
    source.restore(target)
    arguments = source.arguments(target)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    again = commands.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "entries recomputed" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}

    def refused(*more: str) -> str:
        done = commands.run(*arguments, *more)
        assert done.returncode == COULD_NOT_TELL
        return done.stderr

    assert "other arguments" in refused("--accept-unconfirmed")
    assert "other arguments" in refused("--sink", (tmp_path / "another").as_uri())
    # Of another backup; used by `up`; or by services elsewhere, whose sinks have confirmed a log.
    marks = list(target.glob(f"tiles/logs/*/{MARKER}"))
    kept = marks[0].read_text()
    value = json.loads(kept)
    marks[0].write_text(json.dumps(value | {"backup": "0" * 64}))
    assert "nothing is restored over" in refused()
    marks[0].write_text(kept)
    (target / "endpoints.json").write_text("{}")
    assert "nothing is restored over" in refused()
    (target / "endpoints.json").unlink()
    marks[0].unlink()
    assert "nothing is restored over" in refused()


def _assert_not_used(directory: Path) -> None:
    """No command takes it for a data directory, unless everything is there and marked."""
    found = DataDir.at(directory)
    try:
        if config.load(found) is None:
            return
    except CommandError:
        return
    assert list(directory.glob(f"tiles/logs/*/{MARKER}"))
    assert not scratch.is_unfinished(directory)


@pytest.mark.parametrize("source", ["sqlite", POSTGRES] if FULL else [POSTGRES], indirect=True)
def test_restored_services_wait_for_sinks_even_if_the_restore_was_killed(
    source: Source, tmp_path: Path
) -> None:
    """At its last call, where everything that services use is there; and then as it should be."""
    target = tmp_path / "new"
    unfinished = target / scratch.UNFINISHED
    status, _ = commands.struck(Point("unlink", 1), *source.arguments(target), path=unfinished)
    assert status == KILLED
    assert unfinished.exists()
    assert source.schemas() == (set(SERVICES) if source.other else set())
    up = commands.run("up", "--data-dir", str(target))
    assert (up.returncode, "has not ended" in up.stderr) == (COULD_NOT_TELL, True)

    away = source.data.path / "away"
    source.data.anchors.rename(away)
    try:
        with _services(source, target) as cluster:  # which ask no `unfinished.lock`
            _assert_refused(cluster)
        source.restore(target)
        assert not unfinished.exists()
        with _services(source, target) as cluster:
            _assert_refused(cluster)
            away.rename(source.data.anchors)
            _append(cluster, attempts=20)
            eventually(lambda: "anchor.confirmed" in cluster["anchor"].tail(), "it says so")
    finally:
        if away.exists():
            away.rename(source.data.anchors)
    source.forget(target)


@contextlib.contextmanager
def _services(source: Source, target: Path) -> Iterator[Cluster]:
    """Services on a restored directory and database, with the sinks of before."""
    urls = dict.fromkeys(SERVICES, source.other) if source.other else {}
    for path in source.data.keys.glob("*.pem"):
        shutil.copy2(path, target / "keys")
    cluster = Cluster(target, database_urls=urls, options=QUICK)
    cluster.config = Config("", (source.data.anchors.as_uri(),))
    try:
        assert (target / PIN_FILE).exists()
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def _append(cluster: Cluster, attempts: int = 1) -> None:
    policy = CallPolicy(timeout_s=60.0, retry=RetryPolicy(attempts=attempts))
    with Client(cluster.endpoint("ledger"), policy=policy) as client:
        client.append(
            LEDGERS[0],
            Mutation(
                action="CREATE", resource_type="Item", resource_id="x", actor_id="a", new_state={}
            ),
        )


def _assert_refused(cluster: Cluster) -> None:
    """Nothing is appended, nothing signed, nothing published."""
    before = _signed(cluster)
    with pytest.raises(StatusError) as caught:
        _append(cluster)
    assert caught.value.code == "UNAVAILABLE"
    assert caught.value.reason in ("ANCHOR_NOT_ASKED", "RESTORE_NOT_CONFIRMED")
    eventually(lambda: "RESTORE_NOT_CONFIRMED" in cluster["anchor"].tail(), "the anchor says it")
    assert _signed(cluster) == before


def _signed(cluster: Cluster) -> list[tuple[str, bytes]]:
    return sorted(
        (path.parent.name, path.read_bytes())
        for path in cluster.data.tiles.glob("logs/*/checkpoint")
    )


@ON_POSTGRES
@pytest.mark.parametrize("fault", ["cut", "lose"])
def test_restore_whose_last_commit_is_in_doubt_is_finished_by_the_next(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    target = DataDir.at(tmp_path / "new")
    found = make_url(source.other)
    directory = found.query.get("host")
    if not isinstance(directory, str):
        pytest.skip("the database is not reached by a unix socket")
    proxy = PostgresProxy(free_ports(1)[0], f"{directory}/.s.PGSQL.5432").start()
    plain = {"sslmode": "disable", "gssencmode": "disable"}
    url = found.set(host="127.0.0.1", port=proxy.port, query=plain).render_as_string(False)
    publish = Schemas.publish

    def last_step(schemas: Schemas) -> None:
        proxy.inject(r"(?<!_)COMMIT\b", fault)
        publish(schemas)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(Schemas, "publish", last_step)
            with pytest.raises(CommandError, match="not known") as caught:
                restore(source.backup, target, database_url=url, sinks=(), accepted=False)
        assert "same command again" in caught.value.hint
        assert proxy.pending() == 0
        assert source.schemas() == (set(SERVICES) if fault == "lose" else set())
        with pytest.raises(CommandError, match="has not ended"):
            config.load(target)
        restore(source.backup, target, database_url=url, sinks=(), accepted=False)
        assert config.load(target) is not None
        assert source.schemas() == set(SERVICES)
    finally:
        proxy.close()
        source.forget(target.path)


@ON_POSTGRES
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_restore_whose_last_commit_outlives_it_is_waited_for_by_the_next(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """As where a synchronous standby is away: the server ends it in its own time."""
    target = DataDir.at(tmp_path / "new")
    publish = Schemas.publish
    engine = open_engine(source.other, "public", pool_size=1)
    monkeypatch.setattr(db_engine, "LOCK_TIMEOUT_S", 0.5)

    def killed(schemas: Schemas) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(restore_postgres, "begin_write", unanswered)
            publish(schemas)

    @contextlib.contextmanager
    def unanswered(_: Engine) -> Iterator[Connection]:
        yield at_server
        raise UnavailableError("DATABASE_UNAVAILABLE", "its client was killed")

    try:
        with engine.connect() as at_server:
            with monkeypatch.context() as patched:
                patched.setattr(Schemas, "publish", killed)
                with pytest.raises(CommandError, match="not known"):
                    source.restore(target.path)
            with pytest.raises(CommandError, match="not decided yet") as caught:
                source.restore(target.path)
            assert "what was done is kept" in caught.value.hint
            assert scratch.is_unfinished(target.path)
            uid = scratch.uid(target.path)
            getattr(at_server, ending)()
        source.restore(target.path)
        assert config.load(target) is not None
        assert list(target.path.glob(f"tiles/logs/*/{MARKER}"))
        assert source.schemas() == set(SERVICES)
        assert bool(restore_postgres.settled(source.other, uid)) == (ending == "commit")
    finally:
        engine.dispose()
        source.forget(target.path)


# --- disks that fail -----------------------------------------------------------------------------

ERRORS = {
    "backup": ("mkdir", "fsync", "link", "pwrite64"),
    "restore": ("mkdir", "fsync", "rename", "unlink", "pwrite64"),
}


@ON_SQLITE
@pytest.mark.parametrize("command", list(ERRORS))
def test_calls_that_fail_leave_nothing_half_done(
    source: Source, tmp_path: Path, rng: random.Random, command: str
) -> None:
    target, out = tmp_path / "new", tmp_path / "out.tar"
    arguments = source.arguments(target) if command == "restore" else source.backing_up(out)
    there = [each for each in source.made(command, tmp_path) if each.name in ERRORS[command]]
    targets = [(each, error) for each in there for error in ("ENOSPC", "EIO")]
    failed, trace = 0, tmp_path / "trace"
    for call, error in (chosen := targets if FULL else rng.sample(targets, 2)):
        point = Point(call.name, call.nth, f"error={error}")
        status, said = commands.struck(point, *arguments, trace=trace)
        failed += (happened := strace.injected(trace) > 0)
        print(f"{error} at {call.name} {call.nth}: {happened}, {status} {said.strip()}")
        # What only tidies up may fail unnoticed.
        assert status in (0, COULD_NOT_TELL), said
        if command == "backup":
            assert out.exists() == (status == 0)
            if status == 0:
                archive.verify(out)
                out.unlink()
            continue
        if status == 0:
            assert config.load(DataDir.at(target)) is not None
        else:
            assert not target.exists() or scratch.is_unfinished(target)
            source.restore(target)
        assert list(target.glob(f"tiles/logs/*/{MARKER}"))
        source.forget(target)
    assert failed >= len(chosen) / 2
    if command == "backup":
        assert commands.run(*arguments).returncode == 0


@ON_SQLITE
def test_full_disk(source: Source, tmp_path: Path) -> None:
    """Nothing is there afterwards, the old one is whole, and with room it goes on."""
    with small_disk(tmp_path / "small", size_mb=1):
        filler, out = tmp_path / "small" / "filler", tmp_path / "small" / "out.tar"
        filler.write_bytes(os.urandom(900_000))
        done = commands.run("backup", "--out", str(out), "--data-dir", str(source.data.path))
        assert (done.returncode, "room" in done.stderr) == (COULD_NOT_TELL, True), done.stderr
        assert [path.name for path in out.parent.iterdir()] == ["filler"]
        done = commands.run(*source.arguments(tmp_path / "small" / "new"))
        assert (done.returncode, "room" in done.stderr) == (COULD_NOT_TELL, True), done.stderr
        assert [path.name for path in out.parent.iterdir()] == ["filler"]
        assert source.schemas() == set()
    source.restore(tmp_path / "new")
    source.forget(tmp_path / "new")
