"""The services of one installation as processes that a test can wrap, kill, stop and start again.

As `provledger up` starts them (`provledger_cli.embedded.launching`), but without its supervisor, so
that a fault lasts until the test ends it. Every port is fixed from the beginning, and every call
between services may be led through a proxy: `route` says where a caller finds the service it needs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from provledger_cli.embedded import bootstrap, launching
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import GATEWAY, PIN_FILE, SERVICES, DataDir
from tests.support.ports import free_ports

REPO = Path(__file__).resolve().parents[2]
OTHER_SINK = "other-anchors"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class NotServingError(Exception):
    """A service that was started does not come to serve in time."""


class DiedError(NotServingError):
    """It ended before it served."""


@dataclass
class Service:
    """One process. `pid` is the service's own, which a wrapper's differs from; 0 before it served.

    `module` is what runs (`python -m`), `port` where it listens.
    """

    name: str
    kind: str
    module: str
    port: int
    log: Path
    ready_file: Path
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    wrapped: bool = False

    @property
    def running(self) -> bool:
        """Whether the process is there, be it halted."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End the process with SIGKILL; returns when it is gone. It must not have ended itself."""
        status = self.end()
        assert status is None, self._ended(status)

    def end(self) -> int | None:
        """End the process with SIGKILL, if it has not ended by itself, as it may have.

        The status with which it had, -9 for SIGKILL; None if it had not.
        """
        process = self.process
        if process is None:
            return None
        status = process.poll()
        if status is None:
            # What a wrapper runs: the wrapper ends with it, but strace that is killed lets go.
            for pid in _children(process.pid) if self.wrapped else [process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait(STOP_TIMEOUT_S)
        self.process, self.pid = None, 0
        return status

    def check_not_ended(self) -> None:
        """Fails if the process has ended, and neither `kill` nor `end` knows of it."""
        status = None if self.process is None else self.process.poll()
        assert status is None, self._ended(status)

    def halt(self) -> None:
        """Stop the process where it is (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a halted process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def tail(self) -> str:
        """The end of its log file."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _ended(self, status: int | None) -> str:
        return f"{self.name} ended by itself, with status {status}:\n{self.tail()}"


class Cluster:
    """All services of one data directory. `start` and `close` belong together."""

    def __init__(
        self,
        path: Path,
        *,
        database_urls: Mapping[str, str] | None = None,
        ledger_replicas: int = 1,
        gateways: int = 0,
        sinks: int = 1,
        modules: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """`database_urls` by service (SQLite files otherwise); `modules` replaces what runs;
        `options` are environment variables of all services. Of several gateways, the first reads
        the anchor's directory, and the others ask the anchor. Sinks are directories, the second
        one `OTHER_SINK` beside that of an installation."""
        self.data = DataDir.at(path)
        self.data.make()
        directories = (self.data.anchors, self.data.path / OTHER_SINK)[:sinks]
        self.config = Config("", tuple(path.as_uri() for path in directories))
        self._urls = dict(database_urls or {})
        self._options = dict(options or {})
        # More of it for single services, by name.
        self.environments: Mapping[str, Mapping[str, str]] = {}
        # Who finds whom elsewhere: (caller's kind, callee) -> port.
        self._routes: dict[tuple[str, str], int] = {}
        replicas = [f"ledger{n}" for n in range(2, ledger_replicas + 1)]
        readers = [GATEWAY, *(f"{GATEWAY}{n}" for n in range(2, gateways + 1))][:gateways]
        names = [*SERVICES, *replicas, *readers]
        ports = free_ports(len(names))
        self.services = {
            name: Service(
                name=name,
                kind=name.rstrip("23456789"),
                module=(modules or {}).get(name, f"{name.rstrip('23456789')}_svc"),
                port=port,
                log=self.data.log(name),
                ready_file=self.data.ready_file(name),
            )
            for name, port in zip(names, ports, strict=True)
        }
        # As the supervisor does: a service ends when the write end of this pipe is gone.
        self._lifeline_fd, self._lifeline_end = os.pipe()

    def __getitem__(self, name: str) -> Service:
        """A service by its name."""
        return self.services[name]

    @property
    def sinks(self) -> dict[str, Path]:
        """The directories that are sinks, by their URIs."""
        return {uri: Path(unquote(urlsplit(uri).path)) for uri in self.config.sinks}

    def endpoint(self, name: str) -> str:
        """Where a service itself listens."""
        return f"{launching.HOST}:{self.services[name].port}"

    def database_files(self, name: str) -> tuple[Path, ...]:
        """The files that SQLite makes for a service."""
        file = self.data.databases / f"{name}.sqlite3"
        return tuple(file.with_name(file.name + end) for end in ("", "-journal", "-wal", "-shm"))

    def route(self, caller: str, callee: str, port: int) -> None:
        """Lead the calls of one kind of service to another through a port; from its next start."""
        self._routes[caller, callee] = port

    def start(self, names: Iterable[str] = ()) -> None:
        """Start those services that do not run, make the first keys, wait until all serve."""
        wanted = list(names) or list(self.services)
        for name in wanted:
            if not self.services[name].running:
                self.spawn(name)
        for name in wanted:
            self.wait_ready(name)
            # The others wait for the keys, and `keys` comes first.
            if name == "keys" and not (self.data.path / PIN_FILE).exists():
                asyncio.run(bootstrap.register_first_keys(self.data, self.endpoint("keys")))

    def spawn(
        self,
        name: str,
        *,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start one process, without waiting; `wrapper` is a command that runs another one."""
        service = self.services[name]
        assert not service.running, f"{name} runs already"
        service.check_not_ended()
        service.ready_file.unlink(missing_ok=True)
        service.pid, service.wrapped = 0, bool(wrapper)
        command = [sys.executable, "-m", service.module, "--lifeline-fd", str(self._lifeline_fd)]
        with service.log.open("ab") as log:
            service.process = subprocess.Popen(
                [*wrapper, *command],
                env={**self._environment(service), **(environment or {})},
                cwd=REPO,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lifeline_fd,),
                start_new_session=True,
            )

    def wait_ready(self, name: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a service that was started serves.

        Raises DiedError if it ends before, NotServingError if it takes longer.
        """
        service = self.services[name]
        deadline_s = time.monotonic() + timeout_s
        while not service.pid:
            if not service.running:
                raise DiedError(f"{name} ended before it served:\n{service.tail()}")
            if time.monotonic() > deadline_s:
                raise NotServingError(
                    f"{name} does not serve after {timeout_s} s:\n{service.tail()}"
                )
            try:
                service.pid = int(json.loads(service.ready_file.read_text())["pid"])
            except (OSError, ValueError):
                time.sleep(0.02)

    def restart(self, *names: str) -> None:
        """Start services that were killed, plainly; wait until all serve: they need each other."""
        for name in names:
            if not self.services[name].running:
                self.spawn(name)
        for name in names:
            self.wait_ready(name)

    def wait_dead(self, name: str, timeout_s: float) -> bool:
        """Whether a service ends by itself in that time."""
        process = self.services[name].process
        assert process is not None
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def check_none_ended(self) -> None:
        """Fails if a service has ended that the test did not kill."""
        for service in self.services.values():
            service.check_not_ended()

    def close(self) -> None:
        """End all services, callers before those they call."""
        for name in reversed(self.services):
            self.services[name].end()
        os.close(self._lifeline_fd)
        os.close(self._lifeline_end)

    def _environment(self, service: Service) -> dict[str, str]:
        ports = {name: self.services[name].port for name in SERVICES}
        ports |= {
            callee: port for (caller, callee), port in self._routes.items()
            if caller == service.kind
        }  # fmt: skip
        own = f"PROVLEDGER_{service.kind}_".upper()
        ports[service.kind] = service.port
        environment = launching.environment(service.kind, self.data, self.config, ports)
        environment = {
            name: value
            for name, value in environment.items()
            if not name.startswith("PROVLEDGER_") or name.startswith((own, "PROVLEDGER_FIPS"))
        }
        environment |= {
            f"{own}PORT": str(service.port),
            f"{own}READY_FILE": str(service.ready_file),
        }
        if service.kind == GATEWAY and service.name != GATEWAY:
            del environment[f"{own}DATA_DIR"]
            environment[f"{own}ANCHOR_ENDPOINT"] = f"{launching.HOST}:{ports['anchor']}"
        if service.kind in self._urls:
            environment[f"{own}DATABASE_URL"] = self._urls[service.kind]
        return {**environment, **self._options, **self.environments.get(service.name, {})}


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait until a condition holds; fails with `what` if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
