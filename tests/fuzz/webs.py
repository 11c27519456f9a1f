"""What strangers send over HTTP, to the gateway's and the notary's own code; see `targets`.

A request to the gateway is written as its method and path on the first line, and a header on each
of the others. Answers are never an internal error.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, Final

from gateway_svc.jwks import Jwks
from gateway_svc.published import Published, prefix_of, read_published
from gateway_svc.source import Census
from gateway_svc.web import Gateway
from notary_svc import cosigning
from provledger import merkle, note
from provledger.tiles import TilePath
from tests.fuzz import trusted
from tests.fuzz.registering import target

PUBLISHED_SIZE: Final = 70_000
OLD_SIZE: Final = 3

_LINE: Final = note.signature_line("notary.test/one", bytes(4), bytes(72))
_TRUSTED: Final = {trusted.ORIGIN: (note.parse_vkey(trusted.VKEY),)}
_LEAVES: Final = merkle.leaf_hashes(trusted.CHAIN.leaves)
PROOF: Final = merkle.consistency_proof(_LEAVES, OLD_SIZE)


class _Content:
    """A tile or bundle of a few bytes."""

    length = 5
    etag = '"content"'

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"bytes"

    def share(self) -> _Content:
        return self

    def close(self) -> None:
        return None


class _Log:
    _published = read_published(trusted.CHAIN.checkpoint())

    async def published(self, covering: int | None = None) -> Published:
        found = self._published
        return Published(found.origin, PUBLISHED_SIZE, found.note, found.etag, found.root)

    async def tile(self, tile: TilePath, *, elsewhere: bool = True) -> _Content:
        return _Content()


class _Source:
    async def find(self, prefix: str) -> _Log | None:
        return _Log() if prefix == prefix_of(trusted.ORIGIN) else None

    async def logs(self) -> list[Published]:
        return [await _Log().published()]

    async def census(self) -> Census:
        return Census(1)

    async def close(self) -> None:
        return None


async def _jwks() -> bytes:
    return trusted.KEYS.encode()


@functools.cache
def _gateway() -> tuple[asyncio.AbstractEventLoop, Any]:
    # No cache of compressed bundles: a thread of it would outlive the test.
    gateway = Gateway(
        _Source(), Jwks(_jwks, max_age_s=1e9), checkpoint_max_age_s=1, jwks_max_age_s=1
    )
    return asyncio.new_event_loop(), gateway.app(request_timeout_s=60, tls=False)


@target
def gateway_request(data: bytes) -> None:
    first, *lines = data.split(b"\n")
    method, _, raw_path = first.partition(b" ")
    path, _, query = raw_path.partition(b"?")
    headers = [tuple(line.split(b": ", 1)) for line in lines if b": " in line]
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": path.decode("utf-8", "replace") or "/",
        "raw_path": path or b"/",
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in headers],
        "root_path": "",
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    loop, app = _gateway()
    loop.run_until_complete(app(scope, receive, send))
    status = sent[0]["status"]
    assert sent[-1]["type"] == "http.response.body"
    assert status in (200, 304) or 400 <= status < 500, status
    body = b"".join(each.get("body", b"") for each in sent[1:])
    assert method != b"HEAD" or not body
    if method not in (b"GET", b"HEAD"):
        assert status == 405, status


@target
def cosign_request(data: bytes) -> None:
    """Whatever is cosigned is signed by the log, and extends what was cosigned before."""
    request = cosigning.parse_request(data)
    submission = cosigning.authenticate(request, _TRUSTED)
    last = None
    if request.old_size:
        before = merkle.root_of_hashes(_LEAVES[:OLD_SIZE])
        last = cosigning.Cosigned(OLD_SIZE, before, trusted.CHAIN.checkpoint(OLD_SIZE))
    made = cosigning.extend(submission, last, lambda text: [_LINE])
    assert made.root == trusted.CHAIN.root_hash(made.size)
    assert note.open(made.note, [trusted.VKEY]).text == submission.text
    assert cosigning.own_lines(made.note, {("notary.test/one", bytes(4))}) == _LINE
