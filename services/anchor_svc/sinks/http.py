"""One POST to somebody's server: bounded in time and size (`provledger.http.bounded`)."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import queue
import ssl
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from anchor_svc.sinks import SinkError
from provledger.http import bounded
from provledger.printable import printable
from provledger.rpc.listener import is_loopback
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
    """POSTs to one URL, one at a time: an attempt that hangs is not overtaken by the next.

    In a thread that keeps no process from ending: it may be waiting for a name server, whose
    timeout is not ours.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self._https = check_url(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context() if self._https else None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def post(self, body: bytes, media_type: str, path: str = "") -> Answer:
        """The answer, whatever its status.

        Raises:
            SinkError: there is none, or it is too long or too slow.
        """
        if self._closed:
            raise SinkError("the sink is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="notary-sink", daemon=True)
            self._thread.start()
        job = _Job(Future(), body, media_type, path)
        self._jobs.put(job)
        try:
            return await asyncio.wrap_future(job.answer)
        except (OSError, http.client.HTTPException) as error:
            # What it sent instead of a status line, too.
            what = printable(str(error).strip()) or type(error).__name__
            raise SinkError(f"{self._host} cannot be asked: {what}") from error

    def close(self) -> None:
        """Let the thread end; what it is doing is not waited for."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job.answer.cancel()
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                job.answer.set_result(self._post(job.body, job.media_type, job.path))
            except BaseException as error:
                job.answer.set_exception(error)

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


@dataclass(frozen=True, slots=True)
class _Job:
    answer: Future[Answer]
    body: bytes
    media_type: str
    path: str


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
