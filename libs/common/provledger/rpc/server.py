"""Bootstrap of a gRPC service: settings, bind, health, readiness, graceful drain.

A service's `__main__` is `main("ledger", Settings, build)`, where `build` turns settings into an
`App`. From then on: health says NOT_SERVING until everything is up; SIGTERM, SIGINT or the end
of the lifeline starts the drain (health NOT_SERVING, watches ended, calls in flight finished for
`grace_s`, background work stopped, storage closed); a second signal ends the wait.

The process around it is that of `provledger.process`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from provledger import logs, process
from provledger.errors import StatusError
from provledger.fips.watch import until_failed
from provledger.rpc import memory
from provledger.rpc.bounds import Limits
from provledger.rpc.interceptors import Gate
from provledger.rpc.listener import Server, check_bind
from provledger.rpc.settings import ServerSettings

__all__ = ["App", "Registration", "Server", "ServerSettings", "main", "serve"]

log = logs.get(__name__)

S = TypeVar("S", bound=ServerSettings)

Registration = tuple[Callable[[Any, Any], None], object]
"""A generated `add_XServicer_to_server` and the servicer to add."""

_READY_POLL_S: Final = 0.5


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
    limits: of repeated fields in requests (`provledger.rpc.bounds`).
    """

    services: Sequence[Registration]
    background: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    on_drain: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], Awaitable[None]] | None = None
    ready: Callable[[], None] | None = None
    gates: Mapping[str, Gate] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)


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
        server = Server(config, gates=app.gates, limits=app.limits)
        for add_to_server, servicer in app.services:
            server.add(add_to_server, servicer)
        port = await server.start()
        try:
            memory.settle()
            more = {"host": config.host, "tls": config.tls() is not None}
            process.write_ready_file(config.ready_file, port, more)
            log.info("server.ready", host=config.host, port=port, services=server.service_names)
            if on_ready is not None:
                on_ready(port)
            background += [asyncio.ensure_future(_run(work)) for work in app.background]
            background.append(asyncio.ensure_future(until_failed()))
            if app.ready is not None:
                following = asyncio.ensure_future(_follow(server, app.ready))
            failed = await _until_stopped(stop, background)
        finally:
            process.remove_ready_file(config.ready_file)
            log.info("server.draining", grace_s=config.grace_s)
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            server.not_serving()
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
            server.serving(able)
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


def main(
    service: str,
    settings_type: type[S],
    build: Callable[[S], Awaitable[App]],
    argv: Sequence[str] | None = None,
) -> None:
    """Entry point of a service: load settings, build, serve, and exit with its status."""

    async def run(app: App, config: S, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        await serve(app, config, stop=stop, hurry=hurry)

    process.main(service, settings_type, _check, build, run, argv)


def _check(config: ServerSettings) -> None:
    check_bind(config.host, tls=config.tls() is not None)
