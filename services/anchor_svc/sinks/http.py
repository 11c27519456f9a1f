"""One POST to somebody's server: bounded in time and size (`provledger.http.bounded`)."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from anchor_svc.sinks import SinkError
from anchor_svc.sinks.thread import SinkThread
from provledger.http import bounded
from provledger.printable import printable
from provledger.rpc.endpoint import is_near
from provledger.settings import ConfigError

MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 10.0
_MAX_RETRY_AFTER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Answer(bounded.Answer):
    """An answer; `headers` by lower-case name."""

    def busy(self) -> SinkError:
        """The error for an answer that says no for now, with how long to wait if it says so."""
        after = self.headers.get("retry-after", "")
        wait_s = (
            min(float(after), _MAX_RETRY_AFTER_S) if after.isascii() and after.isdigit() else None
        )
        return SinkError(f"answered with status {self.status}", retry_after_s=wait_s)


class Poster:
    """POSTs to one URL, one at a time, in a thread: a name server's timeout is not ours."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._https = check_url(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context() if self._https else None
        self._thread = SinkThread("notary-sink")

    async def post(self, body: bytes, media_type: str, path: str = "") -> Answer:
        """The answer, whatever its status.

        Raises:
            SinkError: there is none, or it is too long or too slow.
        """
        try:
            return await self._thread.run(lambda: self._post(body, media_type, path))
        except (OSError, http.client.HTTPException) as error:
            # What it sent instead of a status line, too.
            what = printable(str(error).strip()) or type(error).__name__
            raise SinkError(f"{self._host} cannot be asked: {what}") from error

    def close(self) -> None:
        """Let the thread end; what it is doing is not waited for."""
        self._thread.close()

    def _post(self, body: bytes, media_type: str, path: str) -> Answer:
        connection = bounded.Connection(self._host, self._port, self._context)
        with contextlib.closing(connection):
            found = connection.ask(
                "POST",
                self._path.rstrip("/") + path or "/",
                headers={"Content-Type": media_type, "User-Agent": "provledger"},
                body=body,
                max_bytes=MAX_ANSWER_BYTES,
                end_s=time.monotonic() + self._timeout_s,
            )
        if len(found.body) > MAX_ANSWER_BYTES:
            raise SinkError(f"the answer of {self._host} is too long")
        return Answer(found.status, found.headers, found.body)


def check_url(url: str) -> bool:
    """Whether a URL is https; http is for loopback only. Raises ConfigError.

    No name is looked up: the event loop would wait for the name server, and the answer would be
    another one later.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("sinks: not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ConfigError("sinks: a notary is named by https://host/prefix?protocol=...")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("sinks: credentials do not belong into a sink's URI")
    if parts.scheme == "http" and not is_near(parts.hostname):
        raise ConfigError(
            "sinks: http:// is for a loopback address or localhost only; use https://"
        )
    return parts.scheme == "https"
