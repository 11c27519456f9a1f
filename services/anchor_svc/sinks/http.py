"""One POST to somebody's server: bounded in time and size, following nothing.

The bounds are for all of it: the handshake, whatever the server sends before its answer, each
header. A socket's own timeout is for one call, and a server that sends a byte now and then never
meets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from anchor_svc.sinks import SinkError
from provledger.rpc.listener import is_loopback
from provledger.settings import ConfigError

MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 10.0
MAX_RECEIVED_BYTES: Final = 4 * MAX_ANSWER_BYTES
"""With all heads, and with what tells the pieces of an answer apart."""
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
            what = str(error) or type(error).__name__
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
        kind = http.client.HTTPConnection if self._context is None else http.client.HTTPSConnection
        connection = kind(self._host, self._port)
        end_s = time.monotonic() + self._timeout_s
        with contextlib.closing(_connect(self._host, connection.port, end_s)) as plain:
            sock = plain
            if self._context is not None:
                # Its handshake has one timeout, that of the socket, for all of it.
                plain.settimeout(_left_s(end_s))
                sock = self._context.wrap_socket(plain, server_hostname=self._host)
            with contextlib.closing(sock):
                connection.sock = _Bounded(sock, end_s)
                headers = {"Content-Type": media_type, "User-Agent": "provledger"}
                connection.request("POST", self._path.rstrip("/") + path or "/", body, headers)
                response = connection.getresponse()
                pieces, size = [], 0
                while piece := response.read1(_PIECE):
                    size += len(piece)
                    pieces.append(piece)
                    if size > MAX_ANSWER_BYTES:
                        raise SinkError(f"the answer of {self._host} is too long")
                received = {name.lower(): value for name, value in response.getheaders()}
                return Answer(response.status, received, b"".join(pieces))


@dataclass(frozen=True, slots=True)
class _Job:
    answer: Future[Answer]
    body: bytes
    media_type: str
    path: str


class _Bounded:
    """A socket for `http.client`, all of whose calls together end at `end_s`. Not closed here."""

    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self._sock = sock
        self._end_s = end_s

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(_left_s(self._end_s))
            rest = rest[self._sock.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """What is received."""
        return io.BufferedReader(_Received(self._sock, self._end_s))

    def close(self) -> None:
        """Nothing: `http.client` says so while it still reads."""


class _Received(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float) -> None:
        super().__init__()
        self._sock = sock
        self._end_s = end_s
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left_s(self._end_s))
        count = self._sock.recv_into(buffer)
        self._bytes += count
        if self._bytes > MAX_RECEIVED_BYTES:
            raise SinkError(f"it sent more than {MAX_RECEIVED_BYTES} bytes")
        return count


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("it took too long")
    return left_s


def _connect(host: str, port: int, end_s: float) -> socket.socket:
    """Connect to the first address of a host that takes it; the time is shared among them."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError = OSError(f"{host} has no address")
    for at, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left_s(end_s) / (len(addresses) - at))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


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
