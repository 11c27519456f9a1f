"""How answers are written: conditional requests, what caches may do, and headers that protect.

Everything public is read by anybody from anywhere, so that other sites' pages may read it too
(CORS), but nothing here is a page that may be framed or run scripts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from provledger.errors import StatusError
from provledger.http.problems import problem

Send = Any
Scope = Any

IMMUTABLE: Final = "public, max-age=31536000, immutable"

PROTECTION: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"etag"),
)
STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")


def not_modified(scope: Scope, etag: str) -> bool:
    """Whether the client has this already (RFC 9110 §13.1.2; weak comparison)."""
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            tags = [tag.strip().removeprefix("W/") for tag in value.decode("latin-1").split(",")]
            return "*" in tags or etag in tags
    return False


async def send_bytes(
    scope: Scope, send: Send, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Send an answer whose body is at hand; to HEAD, its headers alone."""
    etag = headers.get("etag")
    if status == 200 and etag is not None and not_modified(scope, etag):
        await _start(send, 304, _kept(headers))
        await send({"type": "http.response.body"})
        return
    await _start(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def send_stream(
    scope: Scope,
    send: Send,
    headers: Mapping[str, str],
    length: int,
    chunks: AsyncIterator[bytes],
) -> None:
    """Send an answer piece by piece, if it is wanted at all."""
    if not_modified(scope, headers["etag"]):
        await _start(send, 304, _kept(headers))
        await send({"type": "http.response.body"})
        return
    await _start(send, 200, {**headers, "content-length": str(length)})
    if scope["method"] != "HEAD":
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


async def send_redirect(scope: Scope, send: Send, url: str, max_age_s: int) -> None:
    """Send the client to where it finds this for some time."""
    headers = {"location": url, "cache-control": f"public, max-age={max_age_s}"}
    await send_bytes(scope, send, 307, headers, b"")


async def send_preflight(send: Send) -> None:
    """Say what a browser may send for another site's page: a conditional request is asked about
    before, as any is whose headers are not among the few that always may (the Fetch standard)."""
    headers = {
        "allow": "GET, HEAD, OPTIONS",
        "access-control-allow-methods": "GET, HEAD",
        "access-control-allow-headers": "if-none-match",
        "access-control-max-age": "86400",
    }
    await _start(send, 204, headers)
    await send({"type": "http.response.body"})


async def send_problem(
    scope: Scope, send: Send, error: StatusError, status: int | None = None, **headers: str
) -> None:
    """Send what went wrong."""
    code, own, body = problem(error, status)
    await send_bytes(scope, send, code, {**own, **headers}, body)


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """SPEC: RFC 9110 §15.4.5, what a 304 repeats of the answer it stands for."""
    names = ("etag", "cache-control", "vary")
    return {name: headers[name] for name in names if name in headers}
