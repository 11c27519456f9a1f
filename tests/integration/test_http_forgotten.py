"""Connections that ended: nothing of them is left, even if nobody collects circles."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from provledger.http import connection
from tests.integration.test_http_door import until
from tests.integration.test_http_unread import serving
from tests.support.certs import CertificateAuthority

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLIENTS = 5
OK: Any = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


class Left:
    """What is left of connections, as far as it can be pointed at weakly."""

    def __init__(self) -> None:
        self.seen = 0
        self.objects: weakref.WeakSet[Any] = weakref.WeakSet()

    def see(self, protocol: connection.PatientProtocol) -> None:
        self.seen += 1
        self.objects.add(protocol)
        tls = protocol.transport.get_extra_info("ssl_object")
        if tls is not None:
            self.objects.add(tls)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Left]:
    found = Left()
    made = connection.PatientProtocol.connection_made

    def see(self: connection.PatientProtocol, transport: Any) -> None:
        made(self, transport)
        found.see(self)

    monkeypatch.setattr(connection.PatientProtocol, "connection_made", see)
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send(OK)
    await send({"type": "http.response.body", "body": b"ok"})


async def waits(scope: Any, receive: Any, send: Any) -> None:
    """Until its client is gone, to whom it answers all the same."""
    while (await receive())["type"] != "http.disconnect":
        pass
    await answers(scope, receive, send)


def polite(client: socket.socket) -> None:
    client.sendall(REQUEST)
    while not client.recv(4096).endswith(b"ok"):
        pass
    if isinstance(client, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            client.unwrap()


def abrupt(client: socket.socket) -> None:
    """Reset, with an answer that was read and one that was not."""
    client.sendall(REQUEST)
    while not client.recv(4096).endswith(b"ok"):
        pass
    client.sendall(REQUEST)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, connection._AT_ONCE)


def silent(client: socket.socket) -> None:
    """Gone without a request."""


def hasty(client: socket.socket) -> None:
    """Gone before the first answer, with more requests behind it."""
    client.sendall(REQUEST * 3)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    ("asgi", "client"),
    [(answers, polite), (answers, abrupt), (answers, silent), (answers, hasty), (waits, hasty)],
)
def test_nothing_is_left_of_a_connection_that_ended(
    tmp_path: Path,
    left: Left,
    asgi: Any,
    client: Callable[[socket.socket], None],
    tls: bool,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    given: dict[str, Any] = {}
    context: ssl.SSLContext | None = None
    if tls:
        files = CertificateAuthority(tmp_path / "ca").issue("localhost")
        given = {"tls_cert": files.cert, "tls_key": files.key}
        context = ssl.create_default_context(cafile=str(files.ca))

    def visit(port: int) -> None:
        for _ in range(CLIENTS):
            with contextlib.ExitStack() as held:
                opened = held.enter_context(socket.create_connection(("127.0.0.1", port), 20))
                if context is not None:
                    opened = context.wrap_socket(opened, server_hostname="localhost")
                    held.enter_context(opened)
                client(opened)

    async def run() -> None:
        async with serving(asgi, **given) as port:
            await asyncio.to_thread(visit, port)
            await until(lambda: left.seen == CLIENTS and not left.objects)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
