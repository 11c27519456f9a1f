"""The life of a service process, whatever it speaks: settings, loop, signals, lifeline, ready file.

Process contract for whoever supervises it: with `ready_file` set, a JSON object with `port` and
`pid` appears there, in one step, once the service serves, and goes away when it drains. A file
descriptor given by `--lifeline-fd` or PROVLEDGER_LIFELINE_FD is the read end of a pipe whose
write end the parent keeps open: when the parent dies, however it dies, the service drains.
SIGTERM and SIGINT begin the drain as well, a second signal ends the wait.
Exit status: 0 after a drain, 1 after a fault, 2 for settings it cannot start with.

With PROVLEDGER_FIPS=1 the process first replaces itself by one in FIPS mode (`provledger.fips`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from provledger import logs, settings, telemetry
from provledger.fips import launch
from provledger.fips.watch import announce, until_failed
from provledger.settings import ConfigError

log = logs.get(__name__)

LIFELINE_ENV: Final = "PROVLEDGER_LIFELINE_FD"


class ProcessSettings(Protocol):
    """What every service's settings have."""

    @property
    def log_format(self) -> Literal["auto", "human", "json"]:
        """How its log looks."""

    @property
    def log_level(self) -> str:
        """From which level on it logs."""

    @property
    def ready_file(self) -> Path | None:
        """Where it says that it serves."""


S = TypeVar("S", bound=ProcessSettings)
A = TypeVar("A")

Serve = Callable[[A, S, asyncio.Event, asyncio.Event], Awaitable[None]]
"""Runs what was built until the first event is set, then drains; the second cuts that short."""


def main(
    service: str,
    settings_type: type[S],
    check: Callable[[S], None],
    build: Callable[[S], Awaitable[A]],
    serve: Serve[A, S],
    argv: Sequence[str] | None = None,
    *,
    scraped: bool = False,
) -> None:
    """Entry point of a service: load settings, check, build, serve, exit with its status.

    check: raises ConfigError for settings that cannot be served with. scraped: its metrics are
        fetched from it, exporter or not.
    """
    arguments = _arguments(service, argv)
    try:
        launch.enter(f"{service}_svc", argv)
        config = settings.load(settings_type, service, file=arguments.config)
        check(config)
    except ConfigError as error:
        sys.exit(_complain(service, error))
    human = {"auto": None, "human": True, "json": False}[config.log_format]
    logs.configure(service, level=config.log_level, human=human)
    try:
        telemetry.configure(service, scraped=scraped)
        announce()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_supervised(config, build, serve, arguments.lifeline_fd))
    except ConfigError as error:
        sys.exit(_complain(service, error))
    except Exception as error:
        log.error("server.failed", exc_info=error)
        sys.exit(1)
    finally:
        telemetry.shutdown()


def _complain(service: str, error: ConfigError) -> int:
    sys.stderr.write(f"provledger {service}: {error}\n")
    return 2


def _arguments(service: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}_svc",
        description=f"The {service} service. Settings are described in docs/configuration.md.",
    )
    parser.add_argument("--config", type=Path, help="TOML file with a table for this service")
    parser.add_argument(
        "--lifeline-fd",
        type=int,
        default=os.environ.get(LIFELINE_ENV),
        help=f"read end of a pipe; drain when it ends (environment: {LIFELINE_ENV})",
    )
    parser.add_argument(
        launch.FAIL_OPTION,
        metavar="NAME",
        help="in FIPS mode, make this self-test fail, to see what happens (see docs/fips.md)",
    )
    config_env = os.environ.get("PROVLEDGER_CONFIG")
    parser.set_defaults(config=Path(config_env) if config_env else None)
    return parser.parse_args(argv)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _supervised(
    config: S,
    build: Callable[[S], Awaitable[A]],
    serve: Serve[A, S],
    lifeline_fd: int | None,
) -> None:
    """Build and serve, with signals and lifeline heard from the first moment on."""
    stop, hurry = hear_signals()
    if lifeline_fd is not None:
        watch_lifeline(lifeline_fd, stop)
    if config.ready_file is not None:
        try:
            config.ready_file.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"ready_file {config.ready_file}: cannot be replaced: {error.strerror}"
            ) from error
    building = asyncio.ensure_future(_build(build, config))
    stopping = asyncio.ensure_future(stop.wait())
    failing = asyncio.ensure_future(until_failed())
    await asyncio.wait({building, stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
    failed = failing.exception() if failing.done() else None
    stopping.cancel()
    failing.cancel()
    if not building.done():
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)
        if failed is not None:
            raise failed
        return
    await serve(building.result(), config, stop, hurry)


async def _build(build: Callable[[S], Awaitable[A]], config: S) -> A:
    return await build(config)


def hear_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events for the running loop: the first signal to end, and the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop, hurry


def watch_lifeline(fd: int, stop: asyncio.Event) -> None:
    """Set `stop` when the pipe behind `fd` ends, that is when the last writer is gone.

    Raises:
        ConfigError: `fd` is not an open descriptor.
    """
    loop = asyncio.get_running_loop()
    try:
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
    except OSError as error:
        raise ConfigError(f"lifeline descriptor {fd} is not open") from error

    def on_readable() -> None:
        try:
            ended = os.read(fd, 4096) == b""
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            loop.remove_reader(fd)
            os.close(fd)
            log.info("server.lifeline_ended")
            stop.set()

    loop.add_reader(fd, on_readable)


def write_ready_file(path: Path | None, port: int, more: Mapping[str, Any]) -> None:
    """Say that we serve at a port; `more` stands beside it.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is None:
        return
    ready = {"port": port, "pid": os.getpid(), **more}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(ready) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"ready_file {path}: cannot be written: {error.strerror}") from error


def remove_ready_file(path: Path | None) -> None:
    """Say no more that we serve."""
    if path is not None:
        # A successor may have written its own already; that one stays.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(path.read_text("utf-8"))["pid"] == os.getpid():
                path.unlink()
