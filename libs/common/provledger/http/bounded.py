"""HTTP requests to somebody's server: bounded in time and size, following nothing.

The bounds are for all of a request: connecting, the handshake, whatever the server sends before its
answer, each header, what tells the pieces of an answer apart. A socket's own timeout is for one
call, and a server that sends a byte now and then never meets it. Only the name server's timeout is
not ours.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_PIECE: Final = 64 * 1024
_MAX_HEADS_BYTES: Final = 192 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `headers` by lower-case name. Of a body that is too long, only the beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A connection to one server, made when it is needed and kept if the server keeps it.

    context: for https, None for http. One request at a time.
    """

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext | None) -> None:
        self._host = host
        self._context = context
        self._kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
        self._port = self._kind.default_port if port is None else port
        self._sock: socket.socket | None = None

    def ask(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        max_bytes: int,
        end_s: float,
    ) -> Answer:
        """The answer, whatever its status.

        max_bytes: of its body; of a longer one, somewhat more than that is there. With -1, none of
        it is waited for.
        end_s: when it must be over, on the clock of `time.monotonic`.

        Raises:
            OSError: there is none, it is not whole, or it is too slow (TimeoutError).
            http.client.HTTPException: it is not one of HTTP, or the request cannot be one.
            ValueError: host or target cannot be asked for (UnicodeError is one).
        """
        try:
            if self._sock is None:
                self._sock = _connect(self._host, self._port, end_s, self._context)
            connection = self._kind(self._host, self._port)
            connection.sock = _Bounded(self._sock, end_s, 4 * max_bytes + _MAX_HEADS_BYTES)
            connection.request(method, target, body, dict(headers))
            response = connection.getresponse()
            pieces, size = [], 0
            while size <= max_bytes and (piece := response.read1(_PIECE)):
                size += len(piece)
                pieces.append(piece)
            if size <= max_bytes and response.length:
                raise ConnectionError("the answer was cut off")
            received = {name.lower(): value for name, value in response.getheaders()}
            if size > max_bytes or response.will_close:
                self.close()
            # Read to its end, it is not closed by itself.
            response.close()
            return Answer(response.status, received, b"".join(pieces))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next request makes a new one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class _Bounded:
    """A socket for `http.client`, all of whose calls together end at `end_s`. Not closed here."""

    def __init__(self, sock: socket.socket, end_s: float, max_bytes: int) -> None:
        self._sock = sock
        self._end_s = end_s
        self._max_bytes = max_bytes

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(_left_s(self._end_s))
            rest = rest[self._sock.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """What is received."""
        return io.BufferedReader(_Received(self._sock, self._end_s, self._max_bytes))

    def close(self) -> None:
        """Nothing: `http.client` says so while it still reads."""


class _Received(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float, max_bytes: int) -> None:
        super().__init__()
        self._sock = sock
        self._end_s = end_s
        self._max_bytes = max_bytes
        self._bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left_s(self._end_s))
        count = self._sock.recv_into(buffer)
        self._bytes += count
        if self._bytes > self._max_bytes:
            raise ConnectionError(f"it sent more than {self._max_bytes} bytes")
        return count


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("it took too long")
    return left_s


def _connect(host: str, port: int, end_s: float, context: ssl.SSLContext | None) -> socket.socket:
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
            return sock if context is None else _secured(sock, host, end_s, context)
    raise failed


def _secured(
    sock: socket.socket, host: str, end_s: float, context: ssl.SSLContext
) -> socket.socket:
    try:
        # A handshake has one timeout, that of the socket, for all of it.
        sock.settimeout(_left_s(end_s))
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
