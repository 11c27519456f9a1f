"""What a supervisor is started with, and which one is stopped."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from provledger_cli import running
from provledger_cli.datadir import DataDir, lock
from provledger_cli.failures import CommandError
from provledger_cli.main import application
from provledger_cli.running import Supervising


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
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.update(options))
    running.spawn_supervisor(directory)
    assert started["cwd"] == directory.path
    assert "env" not in started


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

    def spawn(data_dir: DataDir) -> subprocess.Popen[bytes]:
        process = a_process("")
        ended(process)
        started.append(process)
        return process

    monkeypatch.setattr(running, "spawn_supervisor", spawn)
    waiting = running.wait_until_serving(
        directory, Supervising(directory), lambda count: None, timeout_s=1000.0
    )
    with pytest.raises(CommandError, match="the supervisor ended"):
        asyncio.run(waiting)
    assert len(started) == 1


def test_who_lost_the_race_stops_his_own_and_not_the_supervisor_of_another(
    directory: DataDir,
) -> None:
    winner = a_process(
        "import os; from pathlib import Path; from provledger_cli.datadir import lock\n"
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
