"""Bootstrap of a gRPC service: settings, bind, health, readiness, graceful drain.

A service's `__main__` is `main("ledger", Settings, build)`, where `build` turns settings into an
`App`. From then on: health says NOT_SERVING until everything is up; SIGTERM, SIGINT or the end
of the lifeline starts the drain (health NOT_SERVING, watches ended, calls in flight finished for
`grace_s`, background work stopped, storage closed); a second signal ends the wait.

Process contract for whoever supervises it: with `ready_file` set, a JSON object with `port` and
`pid` appears there, in one step, once the service serves, and goes away when it drains. A file
descriptor given by `--lifeline-fd` or PROVLEDGER_LIFELINE_FD is the read end of a pipe whose
write end the parent keeps open: when the parent dies, however it dies, the service drains.
Exit status: 0 after a drain, 1 after a fault, 2 for settings it cannot start with.

With PROVLEDGER_FIPS=1 the process first replaces itself by one in FIPS mode (`provledger.fips`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from provledger import logs, settings, telemetry
from provledger.errors import StatusError
from provledger.fips import launch
from provledger.fips.watch import announce, until_failed
from provledger.rpc.interceptors import Gate
from provledger.rpc.listener import Server, check_bind
from provledger.rpc.settings import ServerSettings
from provledger.settings import ConfigError

__all__ = ["App", "Registration", "Server", "ServerSettings", "main", "serve", "watch_lifeline"]

log = logs.get(__name__)

S = TypeVar("S", bound=ServerSettings)

Registration = tuple[Callable[[Any, Any], None], object]
"""A generated `add_XServicer_to_server` and the servicer to add."""

LIFELINE_ENV: Final = "PROVLEDGER_LIFELINE_FD"

_READY_POLL_S: Final = 0.5
_COLLECT_AFTER: Final = (20_000, 20, 50)
"""Objects, and collections of each younger generation, until the next one is collected."""


@dataclass(frozen=True, slots=True)
class App:
    """What a service consists of, made by its `build`.

    services: generated add functions with their servicers.
    background: run for the life of the service; one that raises ends it with exit status 1.
    on_drain: awaited as the drain begins, before calls in flight are waited for.
    close: awaited last; flush and close storage here.
    ready: raises StatusError while the service is up but cannot do its work; asked about once a
        second, and health says NOT_SERVING for as long.
    gates: by unary RPC, what lets its calls in or not (`provledger.rpc.interceptors`).
    """

    services: Sequence[Registration]
    background: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    on_drain: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    ready: Callable[[], None] | None = None
    gates: Mapping[str, Gate] = field(default_factory=dict)


async def serve(
    app: App,
    config: ServerSettings,
    *,
    stop: asyncio.Event,
    hurry: asyncio.Event | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run `app` until `stop` is set or a background task fails, then drain.

    `hurry` cuts the grace period short. `on_ready` is given the port. The app's `close` is
    awaited whatever happens.

    Raises:
        whatever a background task raised, after the drain.
    """
    background: list[asyncio.Task[None]] = []
    following: asyncio.Task[None] | None = None
    failed: BaseException | None = None
    try:
        server = Server(config, gates=app.gates)
        for add_to_server, servicer in app.services:
            server.add(add_to_server, servicer)
        port = await server.start()
        try:
            _spare_the_collector()
            _write_ready_file(config, port)
            log.info("server.ready", host=config.host, port=port, services=server.service_names)
            if on_ready is not None:
                on_ready(port)
            background += [asyncio.ensure_future(_run(work)) for work in app.background]
            background.append(asyncio.ensure_future(until_failed()))
            if app.ready is not None:
                following = asyncio.ensure_future(_follow(server, app.ready))
            failed = await _until_stopped(stop, background)
        finally:
            _remove_ready_file(config)
            log.info("server.draining", grace_s=config.grace_s)
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            await server.not_serving()
            if app.on_drain is not None:
                await app.on_drain()
            await _drain(server, config.grace_s, hurry)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if app.close is not None:
            await app.close()
    if failed is not None:
        raise failed


async def _follow(server: Server, ready: Callable[[], None]) -> None:
    """Have health say whether the service is ready, for ever."""
    able = True
    while True:
        try:
            ready()
        except StatusError as error:
            if able:
                log.warning("server.not_ready", reason=error.reason)
            now = False
        else:
            now = True
        if now != able:
            able = now
            await server.serving(able)
        await asyncio.sleep(_READY_POLL_S)


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _until_stopped(
    stop: asyncio.Event, background: Sequence[asyncio.Task[None]]
) -> BaseException | None:
    """Wait for `stop`; the exception of a background task that failed before, else None."""
    stopping = asyncio.ensure_future(stop.wait())
    waiting: set[asyncio.Future[Any]] = {stopping, *background}
    try:
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                error = None if task.cancelled() else task.exception()
                if error is not None:
                    log.error("server.background_failed", exc_info=error)
                    return error
    finally:
        stopping.cancel()
    return None


async def _drain(server: Server, grace_s: float, hurry: asyncio.Event | None) -> None:
    draining = asyncio.ensure_future(server.drain(grace_s))
    if hurry is not None:
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            # A later stop with a shorter grace period overrides the earlier one.
            await server.drain(0.0)
    await draining


def _spare_the_collector() -> None:
    """Have Python look for cycles rarely, and never among what lives as long as the service.

    A batch of a thousand drafts makes and drops some ten thousand objects, all freed by their
    reference counts; a look at each seven hundred of them finds nothing and stops the event loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _write_ready_file(config: ServerSettings, port: int) -> None:
    path = config.ready_file
    if path is None:
        return
    ready = {"port": port, "pid": os.getpid(), "host": config.host, "tls": config.tls() is not None}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(ready) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"ready_file {path}: cannot be written: {error.strerror}") from error


def _remove_ready_file(config: ServerSettings) -> None:
    path = config.ready_file
    if path is not None:
        # A successor may have written its own already; that one stays.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(path.read_text("utf-8"))["pid"] == os.getpid():
                path.unlink()


def main(
    service: str,
    settings_type: type[S],
    build: Callable[[S], Awaitable[App]],
    argv: Sequence[str] | None = None,
) -> None:
    """Entry point of a service: load settings, build, serve, and exit with its status."""
    arguments = _arguments(service, argv)
    try:
        launch.enter(f"{service}_svc", argv)
        config = settings.load(settings_type, service, file=arguments.config)
        check_bind(config.host, tls=config.tls() is not None)
    except ConfigError as error:
        sys.exit(_complain(service, error))
    human = {"auto": None, "human": True, "json": False}[config.log_format]
    logs.configure(service, level=config.log_level, human=human)
    telemetry.configure(service)
    try:
        announce()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_supervised(config, build, arguments.lifeline_fd))
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
    config: S, build: Callable[[S], Awaitable[App]], lifeline_fd: int | None
) -> None:
    """Build and serve, with signals and lifeline heard from the first moment on."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if lifeline_fd is not None:
        watch_lifeline(lifeline_fd, stop)
    if config.ready_file is not None:
        config.ready_file.unlink(missing_ok=True)
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
    await serve(building.result(), config, stop=stop, hurry=hurry)


async def _build(build: Callable[[S], Awaitable[App]], config: S) -> App:
    return await build(config)


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
