"""What a supervisor is started with, and which one is stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from provledger_cli.embedded import config, endpoints, running
from provledger_cli.embedded.datadir import DataDir, lock
from provledger_cli.embedded.endpoints import Endpoints, ServiceState
from provledger_cli.embedded.running import Supervising
from provledger_cli.failures import CommandError
from provledger_cli.main import application


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir.at(tmp_path / "data")
    made.make()
    return made


@pytest.mark.parametrize("given", ["prov.toml", "../prov.toml", "/etc/prov.toml"])
@pytest.mark.parametrize("options", [[], ["--foreground"]])
def test_a_configuration_file_is_found_from_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, options: list[str]
) -> None:
    """Services run there, and the path was written from here."""
    found: list[str] = []

    def start(*_: object) -> None:
        found.append(os.environ["PROVLEDGER_CONFIG"])
        raise CommandError("that is enough")

    monkeypatch.setattr(running, "ensure_supervisor", start)
    monkeypatch.setattr("provledger_cli.verbs.up._in_foreground", start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROVLEDGER_CONFIG", given)
    CliRunner().invoke(application(), ["up", "--data-dir", str(tmp_path / "data"), *options])
    assert found == [str((tmp_path / given).resolve())]


def test_a_supervisor_has_our_environment(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, object] = {}

    def spawn(command: list[str], **options: object) -> SimpleNamespace:
        started.update(options)
        return SimpleNamespace(stdin=None)

    monkeypatch.setattr(subprocess, "Popen", spawn)
    running.spawn_supervisor(directory)
    assert started["cwd"] == directory.path
    assert "env" not in started


@pytest.mark.parametrize("given", ["", "/srv/k.pem", "-----BEGIN" + "\n0123" * 20_000 + "\udcff"])
def test_a_given_key_reaches_the_supervisor_by_a_pipe(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """More than a pipe holds is read as well, for anything may stand behind the key."""
    found = directory.path / "found"
    spawned = subprocess.Popen

    def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        program = (
            "import sys; from pathlib import Path; from provledger_cli.embedded import supervisor\n"
            "async def supervise(path, say, given):\n"
            f"    Path({str(found)!r}).write_text(ascii(given))\n"
            "supervisor.supervise = supervise; supervisor.main()"
        )
        assert all(given not in word for word in command) or not given
        return spawned([sys.executable, "-c", program, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", spawn)
    assert running.spawn_supervisor(directory, given).wait(60) == 0
    assert found.read_text() == ascii(given)


def test_a_supervisor_that_ends_before_it_reads_a_given_key_is_no_error_here(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it says what became of it."""
    spawned = subprocess.Popen

    def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = spawned([sys.executable, "-c", ""], **options)
        process.wait(60)
        return process

    monkeypatch.setattr(subprocess, "Popen", spawn)
    assert running.spawn_supervisor(directory, "-----BEGIN").returncode == 0


def test_what_is_no_sink_is_not_kept(directory: DataDir) -> None:
    running.set_up(directory, "", ["file:///mnt/elsewhere"])
    with pytest.raises(CommandError, match="'nonsense' is no sink"):
        running.set_up(directory, "", ["file:///mnt/elsewhere", "nonsense"])
    kept = config.load(directory)
    assert kept is not None
    assert kept.sinks == ("file:///mnt/elsewhere",)


def test_a_comma_in_a_sink_is_named(directory: DataDir) -> None:
    """Services would take what is behind it for another sink, of no scheme."""
    with pytest.raises(CommandError, match=r"'file:///mnt/a,b' has a comma") as refused:
        running.set_up(directory, "", ["file:///mnt/a,b"])
    assert "%2C" in refused.value.hint


@pytest.mark.parametrize(
    ("then", "serves"),
    [([(6, "starting"), (6, "serving")], True), ([(6, "stopped"), (7, "stopped")], False)],
)
def test_a_service_that_ended_before_it_was_waited_for_may_still_come(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch, then: list[tuple[int, str]], serves: bool
) -> None:
    """Its port was taken, and another one is chosen: running it again would change nothing."""
    looks = iter([(5, "stopped"), *then])

    def read(path: Path) -> Endpoints:
        restarts, state = next(looks)
        service = ServiceState("127.0.0.1:1", 1, state, restarts, 2, "l")
        return Endpoints("0", 1, "sqlite", (), {"witness": service})

    async def all_answer(known: Endpoints) -> bool:
        return True

    monkeypatch.setattr(DataDir, "supervisor_pid", lambda self: 1)
    monkeypatch.setattr(endpoints, "read", read)
    monkeypatch.setattr(running, "_all_answer", all_answer)
    waiting = running.wait_until_serving(directory, None, lambda count: None, timeout_s=1000.0)
    if serves:
        assert asyncio.run(waiting).services["witness"].state == "serving"
    else:
        with pytest.raises(CommandError, match="witness cannot start with its settings"):
            asyncio.run(waiting)


def a_process(code: str) -> subprocess.Popen[bytes]:
    """A process in a supervisor's place, that has got as far as that code prints a line."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True); import sys; sys.stdin.read()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def ended(process: subprocess.Popen[bytes]) -> int:
    process.communicate()
    return process.returncode


def test_a_supervisor_that_was_stopping_is_followed_by_another(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def spawn(data_dir: DataDir, given: str) -> subprocess.Popen[bytes]:
        assert given == "/srv/k.pem"
        process = a_process("")
        ended(process)
        started.append(process)
        return process

    monkeypatch.setattr(running, "spawn_supervisor", spawn)
    waiting = running.wait_until_serving(
        directory, Supervising(directory, given="/srv/k.pem"), lambda count: None, timeout_s=1000.0
    )
    with pytest.raises(CommandError, match="the supervisor ended"):
        asyncio.run(waiting)
    assert len(started) == 1


def test_who_lost_the_race_stops_his_own_and_not_the_supervisor_of_another(
    directory: DataDir,
) -> None:
    winner = a_process(
        "import os; from pathlib import Path; from provledger_cli.embedded.datadir import lock\n"
        f"fd = lock(Path({str(directory.supervisor_lock)!r}))\n"
        "os.pwrite(fd, b'%d' % os.getpid(), 0)"
    )
    loser = a_process("")
    assert directory.supervisor_pid() == winner.pid
    supervising = Supervising(directory, loser)
    assert not supervising.is_ours(winner.pid)
    supervising.stop()
    assert loser.returncode != 0
    supervising.stop()
    Supervising(directory).stop()
    assert winner.poll() is None
    assert ended(winner) == 0


def test_down_is_done_once_an_up_that_waited_for_it_runs_another(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = lock(directory.services_lock)
    assert services is not None
    pids = iter([ended_pid := 2**30, ended_pid, os.getpid()])
    monkeypatch.setattr(DataDir, "supervisor_pid", lambda self: next(pids))
    try:
        assert running.stop(directory, timeout_s=1000.0) is True
    finally:
        os.close(services)
