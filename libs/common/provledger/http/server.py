"""Bootstrap of a service over HTTP: bind, readiness, graceful drain; as `provledger.rpc.server`.

The process around it is that of `provledger.process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import uvicorn

from provledger import logs, process
from provledger.fips.watch import until_failed
from provledger.http.connection import patient
from provledger.http.door import Door, make_room, most_for
from provledger.http.settings import HTTPSettings
from provledger.renewal import Renewed
from provledger.rpc.listener import check_bind
from provledger.rpc.tls import end_of, show_end
from provledger.settings import ConfigError

log = logs.get(__name__)

S = TypeVar("S", bound=HTTPSettings)

KEEP_ALIVE_S: Final = 5
MAX_HEAD_BYTES: Final = 16 * 1024
BACKLOG: Final = 512
ANSWER_SLACK_S: Final = 1.0
"""How much later than the application the connection gives up: time to say so."""


@dataclass(frozen=True, slots=True)
class WebApp:
    """What a service consists of, made by its `build`.

    asgi: the application. on_drain: called as the drain begins, while requests are still answered.
    close: awaited last.
    """

    asgi: Any
    on_drain: Callable[[], None] | None = None
    close: Callable[[], Awaitable[None]] | None = None


class DeafServer(uvicorn.Server):
    """Uvicorn's server, which leaves signals to us.

    Its own way is to drain, and then to let the signal end the process after all.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: WebApp,
    config: HTTPSettings,
    *,
    stop: asyncio.Event,
    hurry: asyncio.Event | None = None,
    on_ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Run `app` until `stop`, then drain; `hurry` cuts the drain short. `close` comes last.

    Raises:
        ConfigError: the address or the certificate cannot be used.
        FIPSSelfTestError: FIPS mode is in its error state.
    """
    failed: BaseException | None = None
    try:
        check_tls(config)
        listener = _listener(config.host, config.port)
        door: Door | None = None
        try:
            server = DeafServer(_uvicorn_config(app, config))
            door = _door(listener, server, config)
            # It listens nowhere by itself.
            serving = asyncio.ensure_future(server.serve(sockets=[]))
            door.open()
            stopping = asyncio.ensure_future(stop.wait())
            failing = asyncio.ensure_future(until_failed())
            # Who connects from now on waits in the backlog for the moment that this takes.
            port = int(listener.getsockname()[1])
            process.write_ready_file(config.ready_file, port, {})
            log.info("server.ready", host=config.host, port=port)
            on_ready(port)
            waiting: set[asyncio.Future[Any]] = {serving, stopping, failing}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            failed = failing.exception() if failing.done() else None
            stopping.cancel()
            failing.cancel()
            if not serving.done():
                await _drain(app, config, server, serving, door, hurry)
            await serving
        finally:
            if door is not None:
                door.close()
            listener.close()
            process.remove_ready_file(config.ready_file)
    finally:
        if app.close is not None:
            await app.close()
    if failed is not None:
        raise failed


async def _drain(
    app: WebApp,
    config: HTTPSettings,
    server: uvicorn.Server,
    serving: asyncio.Future[None],
    door: Door,
    hurry: asyncio.Event | None,
) -> None:
    process.remove_ready_file(config.ready_file)
    log.info("server.draining", delay_s=config.drain_delay_s, grace_s=config.grace_s)
    if app.on_drain is not None:
        app.on_drain()
    hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
    either: set[asyncio.Future[Any]] = {hurried, serving}
    await asyncio.wait(either, timeout=config.drain_delay_s, return_when=asyncio.FIRST_COMPLETED)
    door.close()
    server.should_exit = True
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = True
    hurried.cancel()


def check_tls(config: HTTPSettings) -> None:
    """Refuse half a certificate, and a reachable address without one. Raises ConfigError."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("TLS needs tls_cert and tls_key")
    if config.tls_cert is None:
        try:
            check_bind(config.host, tls=False)
        except ConfigError:
            raise ConfigError(
                f"refusing to listen on {config.host!r} without TLS: set tls_cert and tls_key, "
                "or bind to loopback (host = 127.0.0.1) behind a proxy that speaks TLS"
            ) from None


def _uvicorn_config(app: WebApp, config: HTTPSettings) -> uvicorn.Config:
    made = uvicorn.Config(
        app.asgi,
        host=config.host,
        port=config.port,
        # Ours, with the bounds that no parser has by itself (ADR 0026).
        http=patient(
            config.header_timeout_s,
            MAX_HEAD_BYTES,
            answer_s=config.request_timeout_s + ANSWER_SLACK_S,
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        # Its warnings are of what strangers send, one each; those of them that matter, the protocol
        # tells once in a while.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=config.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=config.grace_s,
    )
    made.load()
    return made


def _contexts(config: HTTPSettings) -> Callable[[], ssl.SSLContext] | None:
    """What gives the context of a handshake: made again where the files were replaced.

    Never the same one with other files in it: where key and certificate do not belong together
    yet, that would be left with half of each.

    Raises:
        ConfigError: the certificate cannot be used.
    """
    cert, key = config.tls_cert, config.tls_key
    if cert is None or key is None:
        return None

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            # The message of the library is not repeated: it is about key material.
            raise ConfigError(
                f"tls_cert and tls_key cannot be used: {type(error).__name__}"
            ) from None
        # What OpenSSL takes and this does not read is served all the same.
        with contextlib.suppress(ConfigError):
            show_end("http", end_of(cert))
        return context

    return Renewed((cert, key), make).look


def _no_password() -> str:
    """Instead of the terminal, which OpenSSL would ask."""
    raise ValueError("the key is encrypted")


def _door(listener: socket.socket, server: uvicorn.Server, config: HTTPSettings) -> Door:
    """Where connections to the server come in."""
    given = server.config
    most = most_for(config.max_connections)
    make_room(most)

    def make() -> asyncio.Protocol:
        return given.http_protocol_class(  # type: ignore[call-arg]
            config=given, server_state=server.server_state, app_state={}
        )

    return Door(
        listener,
        make,
        server.server_state.connections,
        most=most,
        tls=_contexts(config),
        handshake_s=config.header_timeout_s,
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # As gRPC does: :: is every address, also those of IPv4.
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def main(
    service: str,
    settings_type: type[S],
    build: Callable[[S], Awaitable[WebApp]],
    argv: Sequence[str] | None = None,
) -> None:
    """Entry point of a service: load settings, build, serve, and exit with its status."""

    async def run(app: WebApp, config: S, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        await serve(app, config, stop=stop, hurry=hurry)

    process.main(service, settings_type, check_tls, build, run, argv, scraped=True)
