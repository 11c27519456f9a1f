"""Clients that ask and do not read: what an answer may hold of us, and for how long."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from provledger.http.server import WebApp, serve
from provledger.http.settings import HTTPSettings
from tests.support.anchoring import LOG_UID
from tests.support.certs import CertificateAuthority
from tests.support.gateway import filled_log, running_gateway

GREEDY = 3
LARGE_BYTES = 24 * 1024 * 1024
"""More than the buffers of a connection hold, in the kernel and here."""


def ask(port: int, path: str, context: ssl.SSLContext | None = None) -> socket.socket:
    """A client with little room that has asked, and reads nothing."""
    client = socket.socket()
    client.settimeout(20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    if context is not None:
        client = context.wrap_socket(client, server_hostname="localhost")
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def ended(client: socket.socket) -> bool:
    """Whether the server ends the connection in time, without anything of it being read."""
    poll = select.poll()
    poll.register(client, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(15_000))


@asynccontextmanager
async def serving(asgi: Any, **settings: Any) -> AsyncIterator[int]:
    """The port of an application that has no deadline of its own."""
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    config = HTTPSettings(**settings)
    task = asyncio.create_task(serve(WebApp(asgi), config, stop=stop, on_ready=ready.set_result))
    try:
        yield await ready
    finally:
        stop.set()
        await task


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_readers_who_do_not_read_shut_nobody_out(
    tmp_path: Path, tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As many as there may be connections: each is ended after its time, and said to be once."""
    given: dict[str, Any] = {"request_timeout_s": 0.5, "max_connections": GREEDY + 1}
    context = None
    if tls:
        files = CertificateAuthority(tmp_path / "ca").issue("localhost")
        given |= {"tls_cert": files.cert, "tls_key": files.key}
        context = ssl.create_default_context(cafile=str(files.ca))
    async with filled_log(tmp_path, 601) as log:
        os.truncate(log.store.root / "tile/entries/000", LARGE_BYTES)
        path = f"/{LOG_UID.hex()}/tile/entries/000"
        async with running_gateway(tmp_path / "data", **given) as gateway:

            def attack() -> list[bool]:
                with ExitStack() as held:
                    asked = [
                        held.enter_context(ask(gateway.port, path, context)) for _ in range(GREEDY)
                    ]
                    return [ended(client) for client in asked]

            assert await asyncio.to_thread(attack) == [True] * GREEDY
            if not tls:
                assert (await gateway.call("/healthz")).status == 200
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("how", ["never answers", "sends all at once", "sends in pieces"])
async def test_no_application_keeps_a_connection_for_longer(how: str) -> None:
    told: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if how == "never answers":
            told.append((await receive())["type"])
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = b"x" * (LARGE_BYTES if how == "sends all at once" else 65536)
        for _ in range(LARGE_BYTES // len(piece)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(application, request_timeout_s=0.1, header_timeout_s=0.1) as port:

        def attack() -> bool:
            with ask(port, "/") as client:
                return ended(client)

        assert await asyncio.to_thread(attack)
    # Who answers is told: what it does for nobody can end.
    assert how != "never answers" or told == ["http.disconnect"]


async def test_a_request_behind_one_that_is_answered_takes_nothing_from_it() -> None:
    """Both are given up together: the application hears of the first that its client is gone."""
    told: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        told.append((await receive())["type"])

    async with serving(application, request_timeout_s=0.1, header_timeout_s=0.1) as port:

        def attack() -> bool:
            with ask(port, "/") as client:
                client.sendall(b"GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return ended(client)

        assert await asyncio.to_thread(attack)
    assert told == ["http.disconnect"]
