"""Puts the notary together from its settings and runs it, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn

from notary_svc.config import Settings
from notary_svc.signing import Cosigner
from notary_svc.storage.sql import SQLStorage
from notary_svc.web import Notary
from provledger import logs, process
from provledger.db import lock_data_dir
from provledger.errors import InputError
from provledger.http.server import DeafServer
from provledger.note import VerifierKey
from provledger.policy import MAX_POLICY_BYTES, parse_policy
from provledger.rpc.listener import check_bind
from provledger.settings import ConfigError

log = logs.get(__name__)

GRACE_S: Final = 5
"""How long a drain waits for requests in flight."""


def open_cosigner(settings: Settings) -> Cosigner:
    """The cosigner of these settings, whose keys are made if there are none."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data_dir}: {error.strerror}") from error
    return Cosigner.open(settings.name, settings.data_dir)


def read_logs(path: Path) -> dict[str, list[VerifierKey]]:
    """The trusted keys of each origin, from a policy file; ConfigError if it cannot be used."""
    try:
        with path.open("rb") as file:
            policy = parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"logs {path}: {error.strerror}") from error
    except InputError as error:
        raise ConfigError(f"logs {path}: {error}") from error
    trusted: dict[str, list[VerifierKey]] = {}
    for item in policy.logs:
        trusted.setdefault(item.key.name, []).append(item.key)
    return trusted


async def serve(
    settings: Settings,
    *,
    clock: Callable[[], int] = time.time_ns,
    on_ready: Callable[[int], None] = lambda port: None,
    stop: asyncio.Event,
    hurry: asyncio.Event | None = None,
) -> None:
    """Run the notary until `stop`, then answer what is in flight; `hurry` ends that wait.

    Raises:
        ConfigError: settings it cannot start with. StatusError: the database cannot be used.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("TLS needs tls_cert and tls_key")
    check_bind(settings.host, tls=settings.tls_cert is not None)
    trusted = read_logs(settings.logs)
    cosigner = open_cosigner(settings)
    if {key.public_key for keys in trusted.values() for key in keys} & cosigner.public_keys:
        raise ConfigError("logs: one of our own keys is there; cosigners and logs share no keys")
    url = settings.database_url or f"sqlite:///{settings.data_dir.absolute()}/notary.db"
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock_data_dir(settings.data_dir, "notary"))
        storage = await asyncio.to_thread(SQLStorage.open, url)
        try:
            app = Notary(cosigner, trusted, storage, clock=clock).app()
            for vkey in cosigner.vkeys:
                log.info("notary.vkey", vkey=vkey)
            await _listen(settings, app, on_ready, stop, hurry or asyncio.Event())
        finally:
            await storage.close()


async def _listen(
    settings: Settings,
    app: object,
    on_ready: Callable[[int], None],
    stop: asyncio.Event,
    hurry: asyncio.Event,
) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type] # Starlette is an ASGI application
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=GRACE_S,
    )
    config.load()
    listener = _listener(settings.host, settings.port)
    server = DeafServer(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        # Who connects from now on waits in the backlog for the moment that this takes.
        port = int(listener.getsockname()[1])
        process.write_ready_file(settings.ready_file, port, {})
        log.info("notary.ready", host=settings.host, port=port)
        on_ready(port)
        await _either(serving, stop)
        process.remove_ready_file(settings.ready_file)
        log.info("notary.draining", grace_s=GRACE_S)
        server.should_exit = True
        await _either(serving, hurry)
        server.force_exit = True
        await serving
    finally:
        server.should_exit = True
        listener.close()
        process.remove_ready_file(settings.ready_file)


async def _either(serving: asyncio.Future[None], event: asyncio.Event) -> None:
    told = asyncio.ensure_future(event.wait())
    waiting: set[asyncio.Future[Any]] = {serving, told}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
