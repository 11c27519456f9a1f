"""What strangers make a service write: not one line for each request."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_http_unread import serving
from tests.support.notary import TinyLog, call, running_notary

MANY = 5
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> Counter[str]:
    """How often each event, of that level and worse."""
    return Counter(each.getMessage() for each in caplog.records if each.levelno >= level)


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def statuses(port: int, request: bytes) -> set[bytes]:
    """Of the answers to many."""
    found = set()
    for _ in range(MANY):
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(request)
            found.add(b"".join(iter(lambda: client.recv(4096), b""))[9:12])
    return found


@pytest.mark.parametrize(
    ("request_", "status", "lines"),
    [
        (b"X\r\n\r\n", b"400", {"server.bad_request": 1}),
        (b"GET /" + b"a" * 20_000, b"400", {"server.bad_request": 1}),
        (UPGRADE, b"204", {}),
        (REQUEST, b"204", {}),
    ],
    ids=["no HTTP", "long head", "other protocol", "good"],
)
async def test_what_is_no_request_is_told_once(
    request_: bytes, status: bytes, lines: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(answers) as port:
        assert await asyncio.to_thread(statuses, port, request_) == {status}
    assert told(caplog) == lines


async def test_too_many_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(answers, max_connections=2) as port:

        def ask() -> set[bytes]:
            with ExitStack() as held:
                for _ in range(2):
                    held.enter_context(socket.create_connection(("127.0.0.1", port), 20))
                return statuses(port, REQUEST)

        assert await asyncio.to_thread(ask) == {b"503"}
    assert told(caplog) == {"server.busy": 1}


async def test_the_notary_tells_of_each_kind_of_refusal_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that no stranger hides what happens to a log."""
    caplog.set_level(logging.INFO)
    log = TinyLog()
    async with running_notary(tmp_path, [log]) as address:
        for body in [b"hello"] * MANY + [log.request(3, 5)] * MANY:
            assert (await call(address, "POST", "/add-checkpoint", body))[0] in (400, 409)
    assert told(caplog, logging.INFO)["notary.refused"] == 2
