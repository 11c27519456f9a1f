"""What is around a body, chunk headers and a trailer: bounded as a head is, if it never ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_http_unread import ended, serving
from tests.support.gateway import running_gateway
from tests.support.notary import TinyLog, running_notary

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "trailer": HEAD + b"0\r\nX: ",
    "trailer after a body": HEAD + b"1\r\nx\r\n0\r\nX: ",
    "chunk extension": HEAD + b"1;a=",
    "chunk size": HEAD + b"0",
}
"""Beginnings that zeros may follow without end."""
PIECES = [b"0" * 4096] * 64
PATIENT: dict[str, Any] = {"header_timeout_s": 60, "request_timeout_s": 60}
"""So that it is no timeout that ends a connection."""


@asynccontextmanager
async def service(name: str, directory: Path) -> AsyncIterator[int]:
    """The port of a gateway or a notary."""
    if name == "gateway":
        async with running_gateway(directory, **PATIENT) as gateway:
            yield gateway.port
    else:
        async with running_notary(directory, [TinyLog()], **PATIENT) as address:
            yield int(address.rpartition(":")[2])


@pytest.mark.parametrize("begun", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("name", ["gateway", "notary"])
async def test_what_never_ends_around_a_body_ends_the_connection(
    tmp_path: Path, name: str, begun: bytes
) -> None:
    async with service(name, tmp_path / "data") as port:

        def attack() -> bool:
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                with contextlib.suppress(ConnectionError):
                    for piece in (begun, *PIECES):
                        client.sendall(piece)
                return ended(client)

        assert await asyncio.to_thread(attack)


async def test_many_small_chunks_are_a_body_like_any() -> None:
    """More around it than a head may have, in all; and a trailer, and the next request."""
    chunks = b"1;a=b\r\nx\r\n" * 100
    told: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        told.append(size)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with serving(application) as port:

        def send() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(HEAD)
                for _ in range(100):
                    client.sendall(chunks[:5])
                    client.sendall(chunks[5:])
                client.sendall(b"0\r\nX: y\r\n\r\n" + HEAD)
                client.sendall(b"2\r\nab\r\n0\r\n\r\n")
                got = b""
                while got.count(b"HTTP/1.1 204") < 2 and (data := client.recv(4096)):
                    got += data
                return got

        assert (await asyncio.to_thread(send)).count(b"HTTP/1.1 204") == 2
    assert told == [10_000, 2]


@pytest.mark.parametrize("body", [b"", b"1\r\nx\r\n"], ids=["no body", "a body"])
async def test_a_trailer_adds_nothing_to_the_headers_of_its_request(body: bytes) -> None:
    """As an application sees them at the beginning and at the end: what a proxy took out of the
    head, a client could put back there."""
    seen: list[list[bytes]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append([name for name, _ in scope["headers"]])
        while (await receive()).get("more_body", False):
            pass
        seen.append([name for name, _ in scope["headers"]])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    trailer = b"0\r\nAuthorization: Bearer x\r\nExpect: 100-continue\r\n\r\n"
    async with serving(application) as port:

        def send() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(HEAD + body + trailer)
                return client.recv(4096)

        assert (await asyncio.to_thread(send)).startswith(b"HTTP/1.1 204")
    assert seen == [[b"host", b"transfer-encoding"]] * 2
