"""Connections that are not made yet: how many there may be, for how long, what is said of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from provledger.http import door, server
from provledger.http.door import Door, make_room, most_for
from tests.support.certs import CertificateAuthority
from tests.support.gateway import running_gateway

SILENT = 3


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    files = CertificateAuthority(tmp_path / "ca").issue("localhost")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files.cert, files.key)
    return made


@asynccontextmanager
async def opened(
    listener: socket.socket, make: Callable[[], asyncio.Protocol], **given: Any
) -> AsyncIterator[int]:
    """The port of a door that lets two in."""
    settings: dict[str, Any] = {"most": 2, "tls": None, "handshake_s": 60.0} | given
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    port = int(listener.getsockname()[1])
    opened = Door(listener, make, [], **settings)
    opened.open()
    try:
        yield port
    finally:
        opened.close()
        opened.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - elsewhere
            await asyncio.sleep(0.01)


def told(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(event in record.getMessage() for record in caplog.records)


async def test_who_never_shakes_hands_is_ended_in_time(tmp_path: Path) -> None:
    files = CertificateAuthority(tmp_path / "ca").issue("localhost")
    (tmp_path / "data").mkdir()
    given = {"tls_cert": files.cert, "tls_key": files.key, "header_timeout_s": 0.2}
    async with running_gateway(tmp_path / "data", **given) as gateway:

        def attack() -> list[bytes]:
            with ExitStack() as held:
                clients = [
                    held.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 20))
                    for _ in range(SILENT)
                ]
                return [client.recv(1) for client in clients]

        assert await asyncio.to_thread(attack) == [b""] * SILENT


async def test_no_more_are_accepted_than_may_be(
    context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Handshakes count, and who comes too late for one has his turn."""
    accepted: list[asyncio.Protocol] = []

    def make() -> asyncio.Protocol:
        accepted.append(asyncio.Protocol())
        return accepted[-1]

    async with opened(socket.socket(), make, tls=lambda: context) as port:
        with ExitStack() as held:
            clients = [
                held.enter_context(socket.create_connection(("127.0.0.1", port), 20))
                for _ in range(4)
            ]
            await until(lambda: told(caplog, "server.full") > 0)
            await until(lambda: len(accepted) == 2)
            clients[0].close()
            await until(lambda: len(accepted) == 3)
    # Said once, however often it was looked.
    assert told(caplog, "server.full") == 1


class Exhausted(socket.socket):
    """A listener of a process that has no descriptors, the first few times."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        if self.tries <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_process_without_descriptors_tries_again_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FAILED_PAUSE_S", 0.01)
    accepted = asyncio.Event()

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set()
            transport.close()

    async with opened(listener := Exhausted(), Taken) as port:
        with socket.create_connection(("127.0.0.1", port), 20):
            async with asyncio.timeout(20):
                await accepted.wait()
    assert listener.tries > 3
    assert told(caplog, "server.accept_failed") == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


@pytest.mark.parametrize(
    ("soft", "hard", "room", "warned"),
    [
        (256, 4096, most_for(256) * 2 + 128, 0),
        (256, resource.RLIM_INFINITY, most_for(256) * 2 + 128, 0),
        (256, 512, 512, 1),
        (9999, 9999, None, 0),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 0),
    ],
)
def test_the_limit_of_descriptors_is_raised_or_told(
    soft: int,
    hard: int,
    room: int | None,
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: given.append(limits))
    make_room(most_for(256))
    assert given == ([] if room is None else [(room, hard)])
    assert told(caplog, "server.few_descriptors") == warned


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_is_also_every_one_of_ipv4() -> None:
    """Such as a probe's, in a cluster of both families."""
    with server._listener("::", 0) as listener:
        port = int(listener.getsockname()[1])
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        socket.create_connection(("::1", port), timeout=10).close()
