"""The supervisor keeps its services, whatever the disk does: here they are small programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from provledger_cli.embedded import config, endpoints, launching
from provledger_cli.embedded import supervisor as supervisor_module
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.embedded.endpoints import SERVING, STARTING, ServiceState
from provledger_cli.embedded.supervisor import Supervisor, _port_if_ready

_SERVES = (
    "import json, os, sys; path = os.environ['READY']; "
    "json.dump({'pid': os.getpid(), 'port': 7}, open(path + '.new', 'w')); "
    "os.rename(path + '.new', path); "
    "os.read(int(sys.argv[1]), 1)"
)
"""Says that it serves, and ends with its lifeline."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    """One whose services are such programs, keys and witness."""

    def command(service: str, lifeline_fd: int, **_: object) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", _SERVES, str(lifeline_fd)]

    def environment(service: str, data_dir: DataDir, *_: object) -> dict[str, str]:
        return {**os.environ, "READY": str(data_dir.ready_file(service))}

    monkeypatch.setattr(launching, "installed", lambda: ("keys", "witness", "anchor", "ledger"))
    monkeypatch.setattr(launching, "command", command)
    monkeypatch.setattr(launching, "environment", environment)
    made = DataDir.at(tmp_path / "data")
    made.make()
    config.settle(made, "", [])
    return made


@asynccontextmanager
async def supervised(directory: DataDir, said: list[str]) -> AsyncIterator[Supervisor]:
    def say(text: str) -> None:
        said.append(text)
        if directory.endpoints.is_symlink():
            raise OSError(28, "No space left on device")  # its log is on the same disk

    supervisor = Supervisor(directory, say)

    async def no_keys() -> None:
        """There is nobody to register them with."""

    supervisor._register_keys = no_keys  # type: ignore[method-assign]
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await asyncio.wait_for(running, 30)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what other processes do
            await asyncio.sleep(0.01)


def fill(directory: DataDir) -> None:
    """From now on there is no space for endpoints."""
    link = directory.path / "full"
    link.symlink_to("/dev/full")
    link.replace(directory.endpoints)


def states(directory: DataDir) -> dict[str, ServiceState]:
    known = endpoints.read(directory.endpoints)
    return {} if known is None else known.services


def serves(directory: DataDir, name: str, *, not_pid: int = 0) -> bool:
    found = states(directory).get(name)
    return found is not None and found.state == SERVING and found.pid != not_pid


async def test_a_service_that_ends_while_the_disk_is_full_is_started_again(
    directory: DataDir,
) -> None:
    said: list[str] = []
    async with supervised(directory, said):
        await until(lambda: serves(directory, "ledger"))
        before = states(directory)["witness"].pid
        fill(directory)
        os.kill(before, signal.SIGKILL)
        await until(lambda: any("cannot be written" in text for text in said))
        await until(lambda: any("witness ended with -9" in text for text in said))
        directory.endpoints.unlink()
        await until(lambda: serves(directory, "witness", not_pid=before))
        assert states(directory)["witness"].restarts >= 1
    assert sum("cannot be written" in text for text in said) == 1
    assert {each.state for each in states(directory).values()} == {"stopped"}


async def test_endpoints_tell_which_place_sinks_are_named_by(directory: DataDir) -> None:
    """Earlier versions do not, which tells that one of them ran."""
    async with supervised(directory, []):
        await until(lambda: serves(directory, "ledger"))
        known = endpoints.read(directory.endpoints)
        assert known is not None
        assert known.data_dir == str(directory.path)


async def test_services_that_serve_while_the_disk_is_full_are_told_of_later(
    directory: DataDir,
) -> None:
    said: list[str] = []
    async with supervised(directory, said):
        fill(directory)
        await until(lambda: any("ledger serves" in text for text in said))
        directory.endpoints.unlink()
        await until(lambda: all(serves(directory, name) for name in launching.installed()))


_SERVES_LATE = (
    "import os, select, sys; lifeline = int(sys.argv[1]); "
    "gone = lambda: select.select([lifeline], [], [], 0.02)[0]; "
    "[0 for _ in iter(lambda: os.path.exists('late') or bool(gone()), True)]; "
) + _SERVES
"""Serves once there is a file `late`."""


async def test_the_ledger_is_served_without_a_witness_and_told_anew_where_it_came_up(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it comes up on port 7, which nobody was told before."""
    command = launching.command

    def late(service: str, lifeline_fd: int, **_: object) -> list[str]:
        told = command(service, lifeline_fd)
        return [*told[:-2], _SERVES_LATE, told[-1]] if service == "witness" else told

    monkeypatch.setattr(launching, "command", late)
    monkeypatch.setattr(supervisor_module, "_NEEDED_S", 0.01)
    said: list[str] = []
    async with supervised(directory, said) as supervisor:
        await until(lambda: serves(directory, "ledger"))
        before = states(directory)
        assert before["witness"].state == STARTING
        assert supervisor._services["ledger"].told["witness"] not in (0, 7)
        assert "witness does not serve yet; ledger starts without it" in said
        (directory.path / "late").touch()
        await until(lambda: serves(directory, "ledger", not_pid=before["ledger"].pid))
        assert serves(directory, "witness")
        assert supervisor._services["ledger"].told["witness"] == 7


async def test_a_service_that_cannot_be_started_is_started_again(directory: DataDir) -> None:
    said: list[str] = []
    log = directory.log("witness")
    log.mkdir()
    async with supervised(directory, said):
        await until(lambda: sum("witness cannot be started" in text for text in said) >= 2)
        log.rmdir()
        await until(lambda: serves(directory, "ledger"))


@pytest.mark.parametrize(
    "text",
    [
        *("", '{"pid": 9, "po', "{}", "[]", "7", "null", '{"pid": 9}', '{"port": 7}'),
        *('{"pid": 9, "port": null}', '{"pid": 9, "port": "seven"}', '{"pid": 9, "port": 0}'),
        *('{"pid": 9, "port": true}', '{"pid": 9, "port": 65536}', '{"pid": 8, "port": 7}'),
        *("[" * 100_000, "\udcff"),
    ],
)
def test_ready_file_that_is_not_whole_or_of_another_process_is_none_yet(
    tmp_path: Path, text: str
) -> None:
    """Anything else would end the task that waits for it, and the service would never serve."""
    ready_file = tmp_path / "ready.json"
    ready_file.write_text(text, "utf-8", errors="surrogateescape")
    assert _port_if_ready(ready_file, 9) is None
    ready_file.write_text('{"port": 7, "pid": 9, "more": {}}', "utf-8")
    assert _port_if_ready(ready_file, 9) == 7


NO_THREAD = "can't start new thread"


async def test_a_service_whose_end_cannot_be_waited_for_is_started_again(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child runs, but no thread could be started to wait for it."""
    start = asyncio.create_subprocess_exec
    unknown: list[asyncio.subprocess.Process] = []

    async def start_once_without_a_thread(*args: str, **options: Any) -> Any:
        if not unknown:
            unknown.append(await start(*args, **options))
            raise RuntimeError(NO_THREAD)
        # It heard that it is not wanted.
        assert await asyncio.wait_for(unknown[0].wait(), 20) == 0
        return await start(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_once_without_a_thread)
    said: list[str] = []
    async with supervised(directory, said):
        await until(lambda: all(serves(directory, name) for name in launching.installed()))
    assert sum(f"keys cannot be started: {NO_THREAD}" in text for text in said) == 1


async def test_keys_are_registered_once_a_process_can_be_started(directory: DataDir) -> None:
    said: list[str] = []
    supervisor = Supervisor(directory, said.append)
    supervisor._services["keys"].state = SERVING
    tries: Iterator[Exception | int] = iter([RuntimeError(NO_THREAD), OSError(11, "try again"), 0])

    async def register() -> int:
        outcome = next(tries)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    supervisor._register_once = register  # type: ignore[method-assign]
    await asyncio.wait_for(supervisor._register_keys(), 30)
    assert said[0] == f"keys cannot be registered: {NO_THREAD}"
    assert len(said) == 2


_CHILD_WITHOUT_THREADS = """
import asyncio, sys, threading
from provledger_cli.embedded import supervisor

def no_thread(thread):
    raise RuntimeError("can't start new thread")

async def wait_for_a_child(data_dir, say, given):
    threading.Thread.start = no_thread
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)")
    print(await child.wait())

supervisor.supervise = wait_for_a_child
supervisor.main()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="asyncio needs a thread for each child")
def test_no_thread_is_needed_to_wait_for_a_service(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CHILD_WITHOUT_THREADS, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.returncode) == ("7\n", 0), ran.stderr


async def test_a_given_key_is_handed_to_who_registers_it_and_then_forgotten(
    directory: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers = tmp_path / "python"
    registers.write_text(f'#!/bin/sh\necho "[$WITNESS_PRIVATE_KEY]" >> {tmp_path / "found"}\n')
    registers.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(registers))
    said: list[str] = []
    supervisor = Supervisor(directory, said.append, "a key")
    supervisor._ports["keys"] = 7
    supervisor._services["keys"].state = SERVING
    await supervisor._register_keys()
    assert await supervisor._register_once() == 0
    assert (tmp_path / "found").read_text() == "[a key]\n[]\n"


_SERVES_WHERE_TOLD = (
    "import json, os, sys; path, port = os.environ['READY'], int(os.environ['PORT']); "
    "sys.exit(2) if os.path.exists(f'taken-{port}') else None; "
    "json.dump({'pid': os.getpid(), 'port': port}, open(path + '.new', 'w')); "
    "os.rename(path + '.new', path); "
    "os.read(int(sys.argv[1]), 1)"
)


async def test_a_service_whose_port_was_taken_serves_on_another_and_its_callers_know(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else listens there between its end and its next start."""

    def command(service: str, lifeline_fd: int, **_: object) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", _SERVES_WHERE_TOLD, str(lifeline_fd)]

    def environment(
        service: str, data_dir: DataDir, settled: object, ports: dict[str, int]
    ) -> dict[str, str]:
        port = ports[service] or launching.free_port()
        return {**os.environ, "READY": str(data_dir.ready_file(service)), "PORT": str(port)}

    def is_free(port: int) -> bool:
        return not (directory.path / f"taken-{port}").exists()

    monkeypatch.setattr(launching, "command", command)
    monkeypatch.setattr(launching, "environment", environment)
    monkeypatch.setattr(launching, "is_free", is_free)
    async with supervised(directory, []) as supervisor:
        await until(lambda: all(serves(directory, name) for name in launching.installed()))
        before = states(directory)
        port = supervisor._ports["witness"]
        os.kill(before["witness"].pid, signal.SIGKILL)
        await until(lambda: serves(directory, "witness", not_pid=before["witness"].pid))
        assert supervisor._ports["witness"] == port
        (directory.path / f"taken-{port}").touch()
        again = states(directory)["witness"]
        os.kill(again.pid, signal.SIGKILL)
        await until(lambda: serves(directory, "witness", not_pid=again.pid))
        assert supervisor._ports["witness"] != port
        await until(lambda: serves(directory, "ledger", not_pid=before["ledger"].pid))
        assert supervisor._services["ledger"].told["witness"] == supervisor._ports["witness"]
