"""Starting and stopping a data directory's services, from outside their supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import grpc

from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.rpc.channel import channel
from provledger_cli import output
from provledger_cli.embedded import config as configs
from provledger_cli.embedded import endpoints, health, moved
from provledger_cli.embedded.datadir import PIN_FILE, DataDir, is_locked
from provledger_cli.embedded.endpoints import SERVING, Endpoints
from provledger_cli.embedded.launching import GIVEN_ON_STDIN
from provledger_cli.failures import CommandError

STOP_TIMEOUT_S = 100.0
_POLL_S = 0.05
_ASK_S = 2.0
_LOG_TAIL_LINES = 15
# A service's exit status for settings it cannot start with, and how often it must end while it is
# waited for: the first time it may have been its port, which is then chosen anew.
_BAD_SETTINGS = 2
_CERTAIN = 2


def spawn_supervisor(data_dir: DataDir, given: str = "") -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process; if one is there already, it ends again.

    given: what `given_key.pop` gave. It goes through a pipe, for others can read an environment.
    """
    log = os.open(data_dir.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "provledger_cli.embedded.supervisor", str(data_dir.path)),
                *([GIVEN_ON_STDIN] if given else []),
            ],
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data_dir.path,
            start_new_session=True,
        )
    finally:
        os.close(log)
    if process.stdin is not None:
        # Of one that has ended at once is told where it is waited for.
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(os.fsencode(given))
    return process


def resolve_config() -> None:
    """Make the path in PROVLEDGER_CONFIG absolute: services read it from the data directory."""
    config = os.environ.get("PROVLEDGER_CONFIG")
    if config:
        os.environ["PROVLEDGER_CONFIG"] = os.path.abspath(config)


@dataclass(slots=True)
class Supervising:
    """The supervisor that `up` relies on: `process`, started here, or one that was there.

    Of two that are started at once, one ends again: `process` may be that one. `given` is for one
    that has to be started later.
    """

    data_dir: DataDir
    process: subprocess.Popen[bytes] | None = None
    given: str = field(default="", repr=False)

    def go_on(self) -> bool:
        """Be told that none runs; whether one does again, as only one that was there had ended."""
        if self.process is not None:
            return self.process.poll() is None
        self.process = spawn_supervisor(self.data_dir, self.given)
        return True

    def is_ours(self, pid: int) -> bool:
        """Whether the supervisor of that pid was started here."""
        return self.process is not None and self.process.pid == pid

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop what was started here, with its services, and nothing else.

        Raises:
            CommandError: if it is still there when the time is up.
        """
        if self.process is None:
            return
        # Nothing is sent to one that has ended: its pid may be another's by now.
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise _not_stopped(self.data_dir, timeout_s) from None


def ensure_supervisor(data_dir: DataDir, given: str = "") -> Supervising:
    """Make sure that a supervisor runs; one that was there is to start at once whatever is down."""
    pid = data_dir.supervisor_pid()
    if pid is None:
        return Supervising(data_dir, spawn_supervisor(data_dir, given))
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return Supervising(data_dir, spawn_supervisor(data_dir, given))
    return Supervising(data_dir, given=given)


class PartlyServingError(CommandError):
    """Not all is well, but services serve by which it can be mended: they are left running."""


class RegistryLostError(PartlyServingError):
    """The key registry is empty, in an installation that has a key ledger."""


async def wait_until_serving(
    data_dir: DataDir,
    supervising: Supervising | None,
    progress: Callable[[int], None],
    *,
    timeout_s: float,
) -> Endpoints:
    """Wait until all services answer; `progress` is told how many do.

    supervising: None if the supervisor is in this process. One that was there and ends meanwhile,
        as where `down` was at work, is followed by another.

    Raises:
        CommandError: with the end of a log, if that takes too long, the supervisor gave up, or a
            service cannot start with its settings.
        PartlyServingError: that takes too long, in an installation that was there before and whose
            keys service serves.
        RegistryLostError: they run, and sign nothing until the key registry is rebuilt.
    """
    was_there = (data_dir.path / PIN_FILE).exists()
    has_keys = not was_there
    deadline_s = time.monotonic() + timeout_s
    restarts: dict[tuple[int, str], int] = {}  # as first seen, by supervisor and service
    while True:
        pid = data_dir.supervisor_pid()
        known = endpoints.read(data_dir.endpoints)
        # What an earlier supervisor wrote is about processes that are gone.
        if known is not None and known.supervisor_pid != pid:
            known = None
        if known is not None:
            down = [name for name, each in known.services.items() if each.state != SERVING]
            progress(len(known.services) - len(down))
            if not down and await _all_answer(known):
                return known
            if not has_keys and "keys" not in down:
                holds = await _holds_keys(known.services["keys"].endpoint)
                has_keys = holds is True
                if holds is False:
                    raise RegistryLostError(
                        "the key registry is empty, but this installation has a key ledger: "
                        "nothing is signed until it is rebuilt",
                        hint="the services run: with the newest export, keys rebuild EXPORT "
                        f"--pin {data_dir.path / PIN_FILE}",
                    )
            for name in down:
                service = known.services[name]
                before = restarts.setdefault((known.supervisor_pid, name), service.restarts)
                again = service.restarts - before
                if service.last_exit == _BAD_SETTINGS and again >= _CERTAIN:
                    raise _failure(data_dir, f"{name} cannot start with its settings", name)
        if pid is None and supervising is not None and not supervising.go_on():
            raise _failure(data_dir, "the supervisor ended", "supervisor")
        if time.monotonic() > deadline_s:
            down = [] if known is None else down
            what = f": {', '.join(down)}" if down else ""
            message = f"not everything serves after {timeout_s:.0f} s{what}"
            log = down[0] if down else "supervisor"
            if known is not None and was_there and down and "keys" not in down:
                raise _failure(
                    data_dir,
                    message,
                    log,
                    hint="the log above says why. The others serve and are left running, and this "
                    "is tried again: `provledger status` shows it, `provledger down` ends it",
                    kind=PartlyServingError,
                )
            raise _failure(data_dir, message, log)
        await asyncio.sleep(_POLL_S)


async def _holds_keys(address: str) -> bool | None:
    """Whether the registry holds a key; None if it cannot be asked now."""
    async with channel(address) as opened:
        stub = keys_pb2_grpc.KeysServiceStub(opened)
        try:
            answer = await stub.ListKeys(keys_pb2.ListKeysRequest(page_size=1), timeout=_ASK_S)
        except grpc.RpcError:
            return None
    return bool(answer.keys)


async def _all_answer(known: Endpoints) -> bool:
    addresses = {name: service.endpoint for name, service in known.services.items()}
    words = await health.check_all(addresses)
    return all(word == health.SERVING for word in words.values())


def _failure(
    data_dir: DataDir,
    message: str,
    log: str,
    *,
    hint: str = "the log above says why; then run `provledger up` again (a --sink that was given "
    "counts until others are)",
    kind: type[CommandError] = CommandError,
) -> CommandError:
    path = data_dir.log(log)
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    return kind(
        message,
        hint=hint,
        details="\n".join([f"{path}:", *lines[-_LOG_TAIL_LINES:]]),
    )


def stop(data_dir: DataDir, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop the supervisor and wait until its services are gone too; False if nothing ran.

    Raises:
        CommandError: if they are still there when the time is up.
    """
    pid = data_dir.supervisor_pid()
    ran = pid is not None or is_locked(data_dir.services_lock)
    if pid is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    deadline_s = time.monotonic() + timeout_s
    # Held by every service too, so also those of a supervisor that was killed are waited for.
    while (now := data_dir.supervisor_pid()) is not None or is_locked(data_dir.services_lock):
        if pid is not None and now not in (None, pid):
            # An `up` waited for this: what runs now is its own.
            return ran
        if time.monotonic() > deadline_s:
            raise _not_stopped(data_dir, timeout_s)
        time.sleep(_POLL_S)
    return ran


def _not_stopped(data_dir: DataDir, timeout_s: float) -> CommandError:
    return CommandError(
        f"services in {data_dir.path} did not stop within {timeout_s:.0f} s",
        hint=f"see {data_dir.log('supervisor')}",
    )


def set_up(
    data_dir: DataDir, database_url: str, sinks: list[str], fips: bool = False
) -> configs.Config:
    """Make the data directory and keep its configuration; raises CommandError."""
    # Kept, one that is none would fail every later start that does not name others.
    configs.check_sinks(sinks)
    data_dir.make()
    running = data_dir.supervisor_pid() is not None
    before = configs.load(data_dir)
    if before is not None and not sinks:
        _say_of_sinks(data_dir, before)
    config = configs.join(data_dir, database_url, sinks, fips)
    if running and before is not None and config.database_url != before.database_url:
        # Not kept: nobody has connected with it, and the other one may be written nowhere else.
        raise CommandError(
            "the services run with another URL of the database, until their next start",
            hint="run `provledger down`, then `provledger up` with this URL again",
        )
    configs.keep(data_dir, config)
    if running and before is not None and config.sinks != before.sinks:
        raise CommandError(
            "the services run with other sinks; the new ones are kept for the next start",
            hint="run `provledger down`, then `provledger up`",
        )
    return config


def _say_of_sinks(data_dir: DataDir, config: configs.Config) -> None:
    """Say where the sinks of a directory that was moved or copied are now.

    Raises:
        CommandError: they may be another installation's, and it is written nowhere that they are
            meant.
    """
    written = configs.read(data_dir.config)
    if written is None or written.home == config.home:
        return
    sinks = output.literal(", ".join(config.sinks))
    if written.sinks != config.sinks:
        output.say(
            f"{output.literal(data_dir.path)} was moved or copied here: sinks inside it go with "
            f"it, and anchors go to {sinks}. Of a directory and its copy, only one may ever "
            "record anything: two are a split view"
        )
    if written.home and not moved.is_outdated(data_dir, written.home, written.sinks):
        return
    other = moved.anchors_of_another(data_dir, config.sinks)
    if other is None:
        return
    own = data_dir.anchors.as_uri()
    if DataDir(other).config.exists():
        raise CommandError(
            f"anchors would go to those of another data directory, {other}, though there are some "
            f"in {data_dir.anchors}: was this directory copied?",
            hint=f"if so, give --sink {own}; if they are meant, --sink {config.sinks[0]}",
        )
    output.say(
        f"anchors go to {sinks}, though {output.literal(data_dir.anchors)} holds some as well: if "
        f"this directory was moved, run `provledger down`, then `provledger up --sink "
        f"{output.literal(own)}`"
    )


@contextlib.contextmanager
def putting_back_url(data_dir: DataDir) -> Iterator[None]:
    """Put back the URL of the database that was kept if `up` fails with another one.

    It may be the only place where that is written down. Only where something was recorded: else
    another URL may be one of another database, in which there is something now.
    """
    before = configs.load(data_dir) if configs.was_used(data_dir) else None
    try:
        yield
    except PartlyServingError:
        raise
    except Exception as error:
        if before is not None and _put_back(data_dir, before) and isinstance(error, CommandError):
            again = "the URL of before is kept: give --database-url again"
            error.hint = "; ".join(filter(None, (error.hint, again)))
        raise


def _put_back(data_dir: DataDir, before: configs.Config) -> bool:
    now = configs.load(data_dir)
    if now is None or now.database_url == before.database_url:
        return False
    if data_dir.supervisor_pid() is not None:
        return False  # Another `up` started it, with the new one.
    configs.keep(data_dir, replace(now, database_url=before.database_url))
    return True
