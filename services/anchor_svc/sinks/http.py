"""One POST to somebody's server: bounded in time and size, following nothing."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from anchor_svc.sinks import SinkError
from provledger.rpc.listener import is_loopback
from provledger.settings import ConfigError

MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 10.0
_PIECE: Final = 16 * 1024
_MAX_RETRY_AFTER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def busy(self) -> SinkError:
        """The error for an answer that says no for now, with how long to wait if it says so."""
        after = self.headers.get("retry-after", "")
        wait_s = (
            min(float(after), _MAX_RETRY_AFTER_S) if after.isascii() and after.isdigit() else None
        )
        return SinkError(f"answered with status {self.status}", retry_after_s=wait_s)


class Poster:
    """POSTs to one URL, one at a time: an attempt that hangs is not overtaken by the next."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._https = check_url(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context() if self._https else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="notary-sink")

    async def post(self, body: bytes, media_type: str, path: str = "") -> Answer:
        """The answer, whatever its status.

        Raises:
            SinkError: there is none, or it is too long or too slow.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._post, body, media_type, path)
        except (OSError, http.client.HTTPException) as error:
            what = str(error) or type(error).__name__
            raise SinkError(f"{self._host} cannot be asked: {what}") from error

    def close(self) -> None:
        """Let the thread end; what it is doing is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _post(self, body: bytes, media_type: str, path: str) -> Answer:
        end_s = time.monotonic() + self._timeout_s
        connection: http.client.HTTPConnection
        if self._context is not None:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            headers = {"Content-Type": media_type, "User-Agent": "provledger"}
            connection.request("POST", self._path.rstrip("/") + path or "/", body, headers)
            response = connection.getresponse()
            pieces, size = [], 0
            while piece := response.read1(_PIECE):
                size += len(piece)
                pieces.append(piece)
                if size > MAX_ANSWER_BYTES or time.monotonic() > end_s:
                    raise SinkError(f"the answer of {self._host} is too long or too slow")
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, b"".join(pieces))
        finally:
            connection.close()


def check_url(url: str) -> bool:
    """Whether a URL is https; http is for loopback only. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError("sinks: not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ConfigError("sinks: a notary is named by https://host/prefix?protocol=...")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("sinks: credentials do not belong into a sink's URI")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError("sinks: http:// is for loopback only; use https://")
    return parts.scheme == "https"
