"""The gateway over HTTP: public, read-only, without state.

    GET /                            the logs, as JSON or as a page
    GET /<prefix>/checkpoint         the published checkpoint of a log
    GET /<prefix>/tile/...           its tiles and entry bundles (c2sp.org/tlog-tiles)
    GET /.well-known/jwks.json       the public keys
    GET /healthz, /readyz, /metrics  for whoever runs it

`<prefix>` is the origin of a log without its host. Paths are taken as they were sent: an escaped
one, or one written in any other way than its own, names nothing. HEAD works everywhere, and OPTIONS
says what browsers may ask for other sites.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from starlette.routing import Route, Router

from gateway_svc import convert
from gateway_svc.answers import (
    IMMUTABLE,
    Scope,
    Send,
    not_modified,
    send_bytes,
    send_preflight,
    send_problem,
    send_redirect,
    send_stream,
)
from gateway_svc.compressing import Compressor, accepts_gzip
from gateway_svc.guard import Guard
from gateway_svc.jwks import Jwks, KeyDocument
from gateway_svc.published import Published, check_visible
from gateway_svc.source import Content, Log, Redirect, Source
from provledger import logs, telemetry
from provledger.errors import InvalidArgumentError, NotFoundError, StatusError, TileError
from provledger.rpc.errors import as_status_error
from provledger.tiles import TilePath, parse_path

log = logs.get(__name__)

MAX_PATH_BYTES: Final = 1024
KEYS_WAIT_S: Final = 1.0
"""How long the index waits for verifier keys, and is then shown without them."""
_published_size = telemetry.gauge("gateway.published_size", doc="Published tree size, by log")


class Gateway:
    """The paths. Belongs to one event loop."""

    def __init__(
        self,
        source: Source,
        jwks: Jwks,
        *,
        checkpoint_max_age_s: int,
        jwks_max_age_s: int,
        gzip_cache_bytes: int = 0,
    ) -> None:
        self._source = source
        self._jwks = jwks
        self._checkpoint_caching = f"public, max-age={checkpoint_max_age_s}"
        self._jwks_caching = f"public, max-age={jwks_max_age_s}"
        self._compressor = Compressor(gzip_cache_bytes)
        self.draining = False

    def close(self) -> None:
        """Let the thread that compresses end."""
        self._compressor.close()

    def app(self, *, request_timeout_s: float, tls: bool) -> Any:
        """The ASGI application."""
        routes = [
            Route("/", _endpoint(self._index)),
            Route("/.well-known/jwks.json", _endpoint(self._keys)),
            Route("/healthz", _endpoint(self._healthz)),
            Route("/readyz", _endpoint(self._readyz)),
            Route("/metrics", _endpoint(self._metrics)),
            Route("/{path:path}", _endpoint(self._log)),
        ]
        # The bare router: its application would answer errors itself, before the guard sees them.
        # A path that no route takes, such as one with a line feed in it, is an error of ours too.
        router = Router(routes=routes, redirect_slashes=False, default=_endpoint(self._log))
        return Guard(router, request_timeout_s=request_timeout_s, tls=tls)

    # --- logs ------------------------------------------------------------------------------------

    async def _log(self, scope: Scope, send: Send) -> None:
        path = scope["provledger.path"]
        found, rest = await self._find(path)
        if rest == "checkpoint":
            await self._checkpoint(scope, send, await found.published())
            return
        try:
            tile = parse_path(rest)
        except TileError as error:
            raise InvalidArgumentError("INVALID_TILE", str(error)) from error
        scope["provledger.route"] = "entries" if tile.level is None else "tile"
        check_visible(tile, await found.published(tile.end))
        # A URL is signed for one method, GET: the store would refuse it to who asks with HEAD.
        content = await found.tile(tile, elsewhere=scope["method"] != "HEAD")
        if isinstance(content, Redirect):
            await send_redirect(scope, send, content.url, content.max_age_s)
            return
        try:
            headers = {
                "content-type": "application/octet-stream",
                "cache-control": IMMUTABLE,
                "etag": content.etag,
            }
            if tile.level is None and self._compressor.takes(content):
                headers["vary"] = "accept-encoding"
                if accepts_gzip(scope):
                    await self._send_gzipped(scope, send, headers, path, tile, content)
                    return
            await send_stream(scope, send, headers, content.length, content.chunks())
        finally:
            content.close()

    async def _checkpoint(self, scope: Scope, send: Send, published: Published) -> None:
        scope["provledger.route"] = "checkpoint"
        _published_size.set(published.size, {"origin": published.origin})
        headers = {
            "content-type": "text/plain; charset=utf-8",
            "cache-control": self._checkpoint_caching,
            "etag": published.etag,
        }
        await send_bytes(scope, send, 200, headers, published.note)

    async def _send_gzipped(
        self,
        scope: Scope,
        send: Send,
        headers: dict[str, str],
        path: str,
        tile: TilePath,
        content: Content,
    ) -> None:
        # Other bytes, so another strong tag.
        headers |= {"content-encoding": "gzip", "etag": f'{content.etag[:-1]}-gzip"'}
        unchanged = not_modified(scope, headers["etag"])
        body = b"" if unchanged else await self._compressor.gzipped(path, tile, content)
        await send_bytes(scope, send, 200, headers, body)

    async def _find(self, path: str) -> tuple[Log, str]:
        """The log that a path leads into, and what is left of the path."""
        failed: StatusError | None = None
        for prefix, rest in _splits(path):
            try:
                found = await self._source.find(prefix)
            except StatusError as error:
                # A longer prefix may be that of a log which is known.
                failed = error
                continue
            if found is not None:
                return found, rest
        raise failed or NotFoundError("NOT_FOUND", "there is nothing here; GET / lists the logs")

    async def _index(self, scope: Scope, send: Send) -> None:
        scope["provledger.route"] = "index"
        published = await self._source.logs()
        keys: KeyDocument | None = None
        try:
            async with asyncio.timeout(KEYS_WAIT_S):
                keys = await self._jwks.get()
        except (StatusError, TimeoutError) as error:
            log.info("gateway.index_without_keys", reason=as_status_error(error).reason)
        headers = {"cache-control": self._checkpoint_caching, "vary": "accept"}
        if _wants_html(scope):
            headers["content-type"] = "text/html; charset=utf-8"
            make = convert.index_to_html
        else:
            headers["content-type"] = "application/json"
            make = convert.index_to_json
        # Of thousands of logs it takes tenths of a second, for which nobody else should wait.
        body = await asyncio.to_thread(make, published, keys)
        await send_bytes(scope, send, 200, headers, body)

    async def _keys(self, scope: Scope, send: Send) -> None:
        scope["provledger.route"] = "jwks"
        document = await self._jwks.get()
        headers = {
            "content-type": "application/jwk-set+json",
            "cache-control": self._jwks_caching,
            "etag": document.etag,
        }
        await send_bytes(scope, send, 200, headers, document.data)

    # --- for whoever runs it ---------------------------------------------------------------------

    async def _healthz(self, scope: Scope, send: Send) -> None:
        scope["provledger.route"] = "healthz"
        headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
        await send_bytes(scope, send, 200, headers, b"ok\n")

    async def _readyz(self, scope: Scope, send: Send) -> None:
        """Ready is who can read the logs and does not drain. Logs may be none yet.

        One of several that cannot be read is told, and takes the others from nobody.
        """
        scope["provledger.route"] = "readyz"
        state: dict[str, object] = {"ready": not self.draining, "draining": self.draining}
        try:
            census = await self._source.census()
            state["logs"] = census.logs
            if census.because is not None:
                state |= {"unreadable": census.unreadable, "reason": census.because.reason}
                state["ready"] = state["ready"] and census.unreadable < census.logs
        except StatusError as error:
            state |= {"ready": False, "reason": error.reason}
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        status = 200 if state["ready"] else 503
        await send_bytes(scope, send, status, headers, json.dumps(state).encode() + b"\n")

    async def _metrics(self, scope: Scope, send: Send) -> None:
        scope["provledger.route"] = "metrics"
        scraped = telemetry.scrape()
        if scraped is None:
            raise NotFoundError("NOT_FOUND", "metrics are switched off (OTEL_SDK_DISABLED)")
        body, media_type = scraped
        headers = {"content-type": media_type, "cache-control": "no-store"}
        await send_bytes(scope, send, 200, headers, body)


def path_of(scope: Scope) -> str:
    """The path as it was sent, without its first slash. Raises InvalidArgumentError."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(raw) > MAX_PATH_BYTES or b"%" in raw or not raw.isascii() or not raw.startswith(b"/"):
        raise InvalidArgumentError("INVALID_PATH", "paths here are plain, short and unescaped")
    return raw[1:].decode("ascii")


def _splits(path: str) -> list[tuple[str, str]]:
    """Ways to read a path as that of a log and something in it: at most a few."""
    if path == "checkpoint":
        return [("", path)]
    found: list[tuple[str, str]] = []
    if path.endswith("/checkpoint"):
        found.append((path.removesuffix("/checkpoint"), "checkpoint"))
    else:
        at = -1
        while (at := path.find("/tile/", at + 1)) >= 0 and len(found) < 4:
            found.append((path[:at], path[at + 1 :]))
    if path.startswith("tile/"):
        # Last: a tile of a log without a prefix is none of another one.
        found.append(("", path))
    return found


def _wants_html(scope: Scope) -> bool:
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return b"text/html" in accept


def _endpoint(handler: Any) -> Any:
    """A handler as the ASGI application that a route leads to, which is given every method."""

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
            if scope["method"] == "OPTIONS":
                await send_preflight(send)
                return
            if scope["method"] not in ("GET", "HEAD"):
                error = InvalidArgumentError(
                    "METHOD_NOT_ALLOWED", "everything here is read with GET or HEAD"
                )
                await send_problem(scope, send, error, 405, allow="GET, HEAD")
                return
            # The router has matched the decoded path: whoever is in front of us, and hides some of
            # them, has seen the one that was sent.
            scope["provledger.path"] = path_of(scope)
            await handler(scope, send)

    return Endpoint()
