"""Good requests to the gateway and the notary, damaged in one place, over a socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from notary_svc.cosigning import RefusedError, Request, origin_id, parse_request
from provledger import note
from tests.support.gateway import filled_log, gateway_at, running_gateway
from tests.support.notary import ORIGIN, TinyLog, call, running_notary

LOG = TinyLog()
SIZE = 300
PATHS = (
    "checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000",
)  # fmt: skip
OWN = ("/", "/healthz", "/readyz", "/.well-known/jwks.json")
METHODS = (b"get", b"POST", b"DELETE", b"OPTIONS", b"TRACE", b"X" * 200, b"G\xc3\xa9T", b"")
HEADERS = (
    b"if-none-match: *", b"if-none-match: \xff\xfe", b"if-none-match: " + b'"x",' * 1000,
    b"accept-encoding: gzip;q=nan, *;q=-1, ;;,,", b"accept: \x80text/html", b"range: bytes=5-1",
    b"range: bytes=0-0,1-1,2-2", b"content-length: 10", b"transfer-encoding: chunked",
    b"transfer-encoding: x", b"content-length: -1", b"expect: 100-continue", b"host: a, b",
    b"connection: upgrade\r\nupgrade: websocket", b"x-forwarded-for: \x00", b": empty", b"no colon",
    b"x-http-method-override: PUT",
)  # fmt: skip


def around(path: str) -> Iterator[bytes]:
    """Paths near a good one."""
    data = path.encode()
    yield from (data[:-1], data + b"0", data + b"/", data.upper(), b"/" + data, data + b"\x7f")
    yield from (data.replace(b"/", b"//"), data.replace(b"0", b"%30"), data + b"/../checkpoint")
    yield from (data + b"?x=" + b"y" * 3000, data + b"?%ff%00=", data + b"#part", data + b";v=1")
    at = len(data) // 2
    for middle in (
        b"%0a",
        b"%00",
        b"%ff",
        b"%",
        b"\xc3\xa9",
        b"\xff",
        b"..",
        b"\\",
        b"+",
        b"a" * 2000,
    ):
        yield data[:at] + middle + data[at:]


async def send(port: int, head: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of what answers these bytes, until the connection is closed."""

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(head)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    answer = await asyncio.to_thread(talk)
    before, _, body = answer.partition(b"\r\n\r\n")
    return int(before.split(b" ", 2)[1]), before.lower(), body


def whole(method: bytes, path: bytes, *headers: bytes) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"host: x", b"connection: close", *headers]
    return b"\r\n".join([*lines, b"", b""])


async def test_what_is_damaged_gets_a_problem_and_nothing_else(tmp_path: Path) -> None:
    async with filled_log(tmp_path, SIZE) as log, gateway_at("directory", log, None) as gateway:
        prefix = f"/{log.identity.uid.hex()}/"
        files = contents(log.store.root)
        good = [prefix + path for path in PATHS]
        for path in good:
            status, head, body = await send(gateway.port, whole(b"GET", path.encode()))
            assert (status, bool(body)) == (200, True), (path, head)
        requests = [whole(b"GET", path) for each in (*good, *OWN) for path in around(each)]
        requests += [whole(method, good[1].encode()) for method in METHODS]
        requests += [whole(b"GET", path.encode(), each) for path in good[:2] for each in HEADERS]
        statuses: Counter[int] = Counter()
        for request in requests:
            status, head, body = await send(gateway.port, request)
            statuses[status] += 1
            assert status in (200, 204, 304) or 400 <= status < 500, request
            if status >= 400 and b"application/problem+json" in head:
                assert json.loads(body)["status"] == status
            elif status >= 400:
                # What is no HTTP is refused by the server, before any code of ours.
                assert (status, body) == (400, b"Invalid HTTP request received."), request
        assert statuses[400] > 50
        assert statuses[404] > 20
        assert statuses[405] > 2
        assert contents(log.store.root) == files
        for path in good:
            assert (await gateway.call(path)).status == 200


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_who_wants_another_protocol_is_told_that_nothing_more_is_answered(
    tmp_path: Path, protocol: bytes
) -> None:
    """The parser stops there: what follows in the same packet would wait for good."""
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    wishes = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    (tmp_path / "data").mkdir()
    # So that it is no timeout that ends the connection.
    async with running_gateway(tmp_path / "data", header_timeout_s=60) as gateway:
        status, head, body = await send(gateway.port, asked + wishes + asked + b"\r\n")
    assert (status, body) == (200, b"ok\n")
    assert b"connection: close" in head


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def damaged_bodies(good: bytes) -> Iterator[bytes]:
    """A body in which one line is another, and some that end early or not at all."""
    lines = good.split(b"\n")
    for place, line in enumerate(lines):
        others = [
            line[:-1],
            line + b"x",
            b" " + line,
            line + b"\r",
            line.upper(),
            b"",
            b"\xff",
            b"-1",
        ]
        others += [line[:-1] + b"0", b"\x00" + line, b"9" * 400, b"=" * 40, line + line]
        if line:
            others.append(bytes([line[0] ^ 0x80]) + line[1:])
        for other in others:
            yield b"\n".join([*lines[:place], other, *lines[place + 1 :]])
        yield b"\n".join([*lines[:place], *lines[place + 1 :]])
        yield b"\n".join([*lines[:place], line, *lines[place:]])
    yield from (good[: len(good) // 2], good * 2, good + b"\n", b"", b"\n\n", good[:-1])


def says_the_same(body: bytes, good: bytes) -> bool:
    """Whether it differs in nothing but further lines of signatures, of which any may be there."""
    try:
        return same_but_signatures(parse_request(body)) == same_but_signatures(parse_request(good))
    except RefusedError:
        return False


def same_but_signatures(request: Request) -> Request:
    opened = note.parse(request.signed)
    ours = {line for line in opened.signatures if line.name == ORIGIN}
    return replace(request, signed=repr((opened.text, ours)).encode())


async def test_a_damaged_request_is_not_cosigned(tmp_path: Path) -> None:
    latest = f"/{origin_id(ORIGIN)}/checkpoint"
    good = LOG.request(5, 9)
    async with running_notary(tmp_path, [LOG]) as address:
        assert (await call(address, "POST", "/add-checkpoint", LOG.request(0, 5)))[0] == 200
        before = await call(address, "GET", latest)
        statuses: Counter[int] = Counter()
        for body in damaged_bodies(good):
            if says_the_same(body, good):
                continue
            status, media_type, answer = await call(address, "POST", "/add-checkpoint", body)
            statuses[status] += 1
            assert status in (400, 403, 404, 409, 422), (status, body)
            assert media_type.startswith("text/"), body
            assert answer.endswith(b"\n"), body
            assert await call(address, "GET", latest) == before, body
        assert all(statuses[status] for status in (400, 403, 404, 409)), statuses
        assert (await call(address, "POST", "/add-checkpoint", good))[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_paths_of_the_notary_are_few(tmp_path: Path, method: str) -> None:
    """What is there is read, what is not is not, and no path changes anything but the one."""
    good = f"/{origin_id(ORIGIN)}/checkpoint"
    async with running_notary(tmp_path, [LOG]) as address:
        assert (await call(address, "POST", "/add-checkpoint", LOG.request(0, 5)))[0] == 200
        before = await call(address, "GET", good)
        port = int(address.rpartition(":")[2])
        for path in (*around(good), *around("/add-checkpoint"), b"/", b"//", b"*"):
            status, _, _ = await send(port, whole(method.encode(), path))
            # A query or a fragment is not part of a path, and an escaped letter is that letter.
            own = unquote_to_bytes(path.split(b"?")[0].split(b"#")[0])
            assert status < 500, path
            assert own in (good.encode(), b"/add-checkpoint") or status in (400, 404, 405), path
        assert await call(address, "GET", good) == before
