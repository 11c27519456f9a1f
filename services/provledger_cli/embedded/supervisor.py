"""Keeps the services of a data directory running.

    python -m provledger_cli.embedded.supervisor DIR [-]

`provledger up` starts one, detached, for each data directory. It

* holds `supervisor.lock`, so that there is never a second one;
* waits for the services of a supervisor that was killed to end (`services.lock`), starts its own,
  and starts again, on the same port unless somebody else has taken it, whichever dies, waiting a
  little longer each time;
* starts the ledger service without witness or anchor where these do not come up, so that what is
  recorded can be read, and anew should they come up elsewhere than it was told;
* registers the first keys once the keys service answers (`bootstrap`), where `-` is given with the
  witness key on its stdin (`given_key`), kept until then;
* writes `endpoints.json` whenever something changes, and tries again where that fails;
* on SIGUSR1 (`up` again) starts whatever is down at once;
* on SIGTERM or SIGINT stops the services, callers first, and ends.

A full disk, or too few processes or open files, ends none of this: it is said, and tried again.

Every service inherits the read end of a pipe, its lifeline, and ends when this process is gone,
however that came about. gRPC is not imported here: a process that starts others must not have its
threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final

from provledger_cli.embedded import config as configs
from provledger_cli.embedded import endpoints, launching
from provledger_cli.embedded.datadir import DataDir, lock
from provledger_cli.embedded.endpoints import SERVING, STARTING, STOPPED, Endpoints, ServiceState
from provledger_cli.failures import CommandError

STOP_ORDER: Final = ("gateway", "ledger", "witness", "anchor", "keys")
"""Callers before those they call, so that what is in flight can be finished."""

_CANNOT_START: Final = (OSError, RuntimeError)
"""What starting a process raises: `can't start new thread` is a RuntimeError."""

_BACKOFF_BASE_S: Final = 0.1
_BACKOFF_CAP_S: Final = 5.0
_STEADY_S: Final = 10.0
_NEEDED_S: Final = 5.0
_STOP_S: Final = 20.0
_ORPHANS_S: Final = 30.0
_LOCK_S: Final = 2.0
_POLL_S: Final = 0.03
_AGAIN_S: Final = 0.5
_MAX_LOG_BYTES: Final = 16 * 1024 * 1024
_BAD_SETTINGS: Final = 2


@dataclass(slots=True)
class _Service:
    """What is known of one service; only its own task writes here."""

    name: str
    process: asyncio.subprocess.Process | None = None
    state: str = STOPPED
    restarts: int = 0
    last_exit: int | None = None
    # The ports of the services that it needs, as its process was told them.
    told: dict[str, int] = field(default_factory=dict)
    # Set once it has served for the first time, from when on its port stays if it can.
    served: asyncio.Event = field(default_factory=asyncio.Event)
    # Set to end the wait before the next start.
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """The services of one data directory. `run` returns when they are stopped."""

    def __init__(self, data_dir: DataDir, say: Callable[[str], None], given: str = "") -> None:
        self._dir = data_dir
        # What WITNESS_PRIVATE_KEY gave, until the first keys are registered.
        self._given = given
        self._sayer = say
        config = configs.load(data_dir)
        if config is None:
            raise CommandError(f"{data_dir.path} is not set up", hint="run `provledger up`")
        self._config = config
        self._before = endpoints.read(data_dir.endpoints)
        self._ports: dict[str, int] = {}
        self._services = {name: _Service(name) for name in launching.installed()}
        self._stopping = asyncio.Event()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._services_fd = -1
        # The write that comes because one failed.
        self._again: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Begin to stop."""
        self._stopping.set()

    def hurry(self) -> None:
        """Start what is down at once."""
        for service in self._services.values():
            service.hurry.set()

    async def run(self) -> None:
        """Keep the services running until `stop`.

        Raises:
            CommandError: another supervisor is there, or services of an earlier one do not end.
        """
        supervisor_fd = await self._own_lock()
        self._services_fd = await self._wait_for_orphans()
        try:
            self._ports = launching.earlier_ports(self._before)
            for name in launching.NOT_ALWAYS_NEEDED:
                self._ports[name] = self._ports[name] or launching.free_port()
            self._write()
            keepers = [
                asyncio.create_task(self._keep(service)) for service in self._services.values()
            ]
            registering = asyncio.create_task(self._register_keys())
            await self._stopping.wait()
            registering.cancel()
            await self._stop_all()
            await asyncio.gather(*keepers, registering, return_exceptions=True)
        finally:
            self._write()
            if self._again is not None:
                self._again.cancel()
            os.close(self._services_fd)
            os.close(supervisor_fd)

    # --- locks -----------------------------------------------------------------------------------

    async def _own_lock(self) -> int:
        """Become the supervisor of the directory; the descriptor that holds its lock.

        Our pid is in the file before we hold the lock, so that whoever finds it held finds the pid
        of the holder and never one left behind, which may be another process's by now. The guard
        keeps a second supervisor from writing there meanwhile.
        """
        taken = CommandError(f"a supervisor runs already in {self._dir.path}")
        guard = await _lock_within(self._dir.starting_lock, _LOCK_S, taken)
        try:
            if self._dir.supervisor_pid() is not None:
                raise taken
            self._dir.supervisor_lock.write_text(f"{os.getpid()}\n", "ascii")
            return await _lock_within(self._dir.supervisor_lock, _LOCK_S, taken)
        finally:
            os.close(guard)

    async def _wait_for_orphans(self) -> int:
        remain = CommandError(
            f"services of an earlier supervisor still run in {self._dir.path}",
            hint=f"find them by their open file {self._dir.services_lock} and end them",
        )
        return await _lock_within(self._dir.services_lock, _ORPHANS_S, remain)

    # --- one service -----------------------------------------------------------------------------

    async def _keep(self, service: _Service) -> None:
        """Start a service, and again whenever it ends, until the supervisor stops."""
        await self._wait_for_needed(service)
        failures = 0
        while not self._stopping.is_set():
            service.hurry.clear()
            started_s = time.monotonic()
            try:
                await self._run_once(service)
                what = f"ended with {service.last_exit}"
            except _CANNOT_START as error:
                what = f"cannot be started: {error}"
            if self._stopping.is_set():
                return
            if time.monotonic() - started_s > _STEADY_S:
                failures = 0
            if service.last_exit == _BAD_SETTINGS:
                self._choose_port(service)
            # Full jitter, but never at once: a service that dies at start must not spin.
            ceiling_s = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(failures, 20))
            wait_s = self._rng.uniform(ceiling_s / 2, ceiling_s)
            failures += 1
            service.restarts += 1
            self._say(f"{service.name} {what}; again in {wait_s:.2f} s")
            if await _happens(service.hurry, self._stopping, wait_s):
                failures = 0

    def _choose_port(self, service: _Service) -> None:
        """Choose another port if that may be why a service cannot start.

        Who was told of the one before is started anew once it serves.
        """
        if service.served.is_set():
            if not launching.is_free(self._ports[service.name]):
                self._ports[service.name] = launching.free_port()
        else:
            early = service.name in launching.NOT_ALWAYS_NEEDED
            self._ports[service.name] = launching.free_port() if early else 0

    async def _wait_for_needed(self, service: _Service) -> None:
        for needed in launching.NEEDS[service.name]:
            limit_s = _NEEDED_S if needed in launching.NOT_ALWAYS_NEEDED else None
            served = await _happens(self._services[needed].served, self._stopping, limit_s)
            if not served and not self._stopping.is_set():
                self._say(f"{needed} does not serve yet; {service.name} starts without it")

    async def _run_once(self, service: _Service) -> None:
        """Start a service and wait for its end; raises _CANNOT_START if it cannot be started."""
        ready_file = self._dir.ready_file(service.name)
        ready_file.unlink(missing_ok=True)
        with _lifeline() as lifeline_fd:
            process = await self._start(service, lifeline_fd)
            await self._accompany(service, process, ready_file)

    async def _start(self, service: _Service, lifeline_fd: int) -> asyncio.subprocess.Process:
        service.told = {needed: self._ports[needed] for needed in launching.NEEDS[service.name]}
        try:
            with _open_log(self._dir.log(service.name)) as log:
                return await asyncio.create_subprocess_exec(
                    *launching.command(service.name, lifeline_fd, fips=self._config.fips),
                    env=launching.environment(service.name, self._dir, self._config, self._ports),
                    cwd=self._dir.path,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lifeline_fd, self._services_fd),
                    # Ctrl-C in a terminal is for us: we stop the services in order.
                    start_new_session=True,
                )
        finally:
            os.close(lifeline_fd)

    async def _accompany(
        self, service: _Service, process: asyncio.subprocess.Process, ready_file: Path
    ) -> None:
        service.process, service.state = process, STARTING
        if self._stopping.is_set() or self._was_misled(service):
            # Meanwhile the others were being stopped, or one that it calls came up elsewhere.
            process.terminate()
        self._write()
        watching = asyncio.create_task(self._watch_ready(service, process.pid, ready_file))
        service.last_exit = await process.wait()
        watching.cancel()
        service.process, service.state = None, STOPPED
        self._write()

    async def _watch_ready(self, service: _Service, pid: int, ready_file: Path) -> None:
        # A file is all that another process can tell us by, so there is no event to wait for.
        while (port := _port_if_ready(ready_file, pid)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self._ports[service.name] = port
        service.state = SERVING
        service.served.set()
        for other in self._services.values():
            if other.process is not None and self._was_misled(other):
                with contextlib.suppress(ProcessLookupError):
                    other.process.terminate()
        self._write()
        self._say(f"{service.name} serves on {self._address(service.name)}")

    def _was_misled(self, service: _Service) -> bool:
        """Whether a service that it calls serves elsewhere than its process was told."""
        return any(
            self._services[needed].served.is_set() and self._ports[needed] != port
            for needed, port in service.told.items()
        )

    # --- all of them -----------------------------------------------------------------------------

    async def _register_keys(self) -> None:
        """Make and register the first keys, trying until it works."""
        while True:
            if self._services["keys"].state == SERVING:
                try:
                    if await self._register_once() == 0:
                        self._given = ""
                        return
                except _CANNOT_START as error:
                    self._say(f"keys cannot be registered: {error}")
                await asyncio.sleep(1.0)
            await asyncio.sleep(_POLL_S)

    async def _register_once(self) -> int:
        given = {launching.WITNESS_PRIVATE_KEY: self._given} if self._given else {}
        with _open_log(self._dir.log("supervisor")) as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m"),
                *(["provledger.fips.launch"] if self._config.fips else []),
                "provledger_cli.embedded.bootstrap",
                *(str(self._dir.path), self._address("keys")),
                env={**os.environ, **given},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return await process.wait()

    async def _stop_all(self) -> None:
        for name in STOP_ORDER:
            service = self._services.get(name)
            process = None if service is None else service.process
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                self._say(f"{name} did not stop within {_STOP_S:.0f} s and is killed")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _address(self, service: str) -> str:
        """`host:port`, or "" while it is not known yet."""
        port = self._ports[service]
        return f"{launching.HOST}:{port}" if port else ""

    def _say(self, text: str) -> None:
        # The log may lie on the disk that is full.
        with contextlib.suppress(OSError):
            self._sayer(text)

    def _write(self) -> None:
        """Write `endpoints.json`; where that fails, say so once and go on trying."""
        failed_before = self._again is not None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._endpoints().write(self._dir.endpoints)
        except (OSError, CommandError) as error:
            if not failed_before:
                self._say(f"{self._dir.endpoints} cannot be written, and is tried again: {error}")
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self._write)

    def _endpoints(self) -> Endpoints:
        return Endpoints(
            version=version("provledger"),
            supervisor_pid=os.getpid(),
            database=self._config.database,
            sinks=self._config.sinks,
            services={
                service.name: ServiceState(
                    endpoint=self._address(service.name),
                    pid=service.process.pid if service.process is not None else 0,
                    state=service.state,
                    restarts=service.restarts,
                    last_exit=service.last_exit,
                    log=str(self._dir.log(service.name)),
                )
                for service in self._services.values()
            },
            data_dir=self._config.home,
        )


async def _lock_within(path: Path, timeout_s: float, failure: CommandError) -> int:
    """Lock a file, waiting if need be: commands that look whether it is held hold it briefly."""
    deadline_s = time.monotonic() + timeout_s
    while (descriptor := lock(path)) is None:
        if time.monotonic() > deadline_s:
            raise failure
        await asyncio.sleep(_POLL_S)
    return descriptor


def _port_if_ready(ready_file: Path, pid: int) -> int | None:
    """The port that the process serves on, or None while it does not say so in a whole file."""
    try:
        ready = json.loads(ready_file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    # A process before it may have left its own file.
    if not isinstance(ready, dict) or ready.get("pid") != pid:
        return None
    port = ready.get("port")
    return port if type(port) is int and 0 < port < 65536 else None


async def _happens(event: asyncio.Event, other: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for either event, at most so long if given; whether the first one is set."""
    waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(other.wait())]
    await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for future in waiting:
        future.cancel()
    return event.is_set()


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """The read end of a pipe, for a service to inherit and for the caller to close.

    The write end stays here and is not inherited. It closes when this process ends, and at the end
    of the block: that ends a service too that was started, and of which we do not know, because
    there was no thread or descriptor left to wait for its end with.
    """
    lifeline_fd, lifeline_end = os.pipe()
    try:
        yield lifeline_fd
    finally:
        os.close(lifeline_end)


def _open_log(path: Path) -> BinaryIO:
    """Open a log for appending; one that grew too large is put aside first."""
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


async def supervise(data_dir: DataDir, say: Callable[[str], None], given: str = "") -> None:
    """Run a supervisor in this process until a signal stops it; `given` by WITNESS_PRIVATE_KEY."""
    supervisor = Supervisor(data_dir, say, given)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGUSR1, supervisor.hurry)
    await supervisor.run()


def _watch_children_without_threads() -> None:
    """Have asyncio wait for children by descriptor, as it does itself from Python 3.12 on.

    It starts a thread for each child otherwise, which fails where there are too many already. That
    is when services are killed and must be started again.
    """
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:  # a kernel or a sandbox that has none
            return
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


def main() -> None:
    """Entry point; writes what happens to stderr, which `up` points at the supervisor's log."""

    def say(text: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {text}\n")
        sys.stderr.flush()

    _watch_children_without_threads()
    # A closed terminal is no reason to end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    given = b""
    if sys.argv[2:] == [launching.GIVEN_ON_STDIN]:
        given = sys.stdin.buffer.read()
    try:
        asyncio.run(supervise(DataDir.at(Path(sys.argv[1])), say, os.fsdecode(given)))
    except CommandError as error:
        say(f"{error.message}; {error.hint}")
        sys.exit(2)


if __name__ == "__main__":
    main()
