"""Bounds for what boto3 asks a service: each request has a time, and each answer a size.

botocore has a timeout for each call of a socket, which a service that sends a byte now and then
never meets, and it reads listings and errors to their end, however long they are. So its
connections count here: the bounds are for the handshake of a proxy, for all that comes before the
answer, its headers and its body. Connecting has botocore's own timeout, for each address of the
host; only the name server's is not ours. Where credentials come from somebody (an agent of
containers, STS, the metadata service), they are asked for in sessions of their own, unbounded.

How it is done: botocore keeps the pool classes of its connections by scheme and gives nobody a way
to choose them, so that one of its private dictionaries is changed. Where that is gone, no client is
made, with an AttributeError.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, ClassVar, Final

_room: Final = ContextVar("_room", default=0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one request, and of its answer.

    deadline_s: for all of it, plus a second for each `bytes_per_s` that went either way: a large
    object over a slow line is no fault.
    max_bytes: of the answer, with its headers; an object may have more, see `room_for`. A page of a
    listing has 1000 keys of 1 KiB.
    """

    deadline_s: float
    max_bytes: int = 4 * 1024 * 1024
    bytes_per_s: int = 512 * 1024


@contextmanager
def room_for(max_bytes: int) -> Iterator[None]:
    """Requests from in here may be answered by an object of so many bytes; an error is none."""
    token = _room.set(max_bytes)
    try:
        yield
    finally:
        _room.reset(token)


def bind(client: Any, bounds: Bounds) -> Any:
    """Hold the requests of a client of boto3, which has made none yet, to `bounds`: that client."""
    # Shared with the managers of connections, of those through proxies too.
    pools = client._endpoint.http_session._pool_classes_by_scheme
    for scheme, pool in pools.items():
        bases = (_Connection, pool.ConnectionCls)
        connection = type(f"Bounded{pool.ConnectionCls.__name__}", bases, {"bounds": bounds})
        pools[scheme] = type(f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection})
    return client


class _Exchange:
    """What is left to a request and its answer, one after the other on a connection."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.begin()

    def begin(self) -> None:
        """The next one."""
        self.is_answered = False
        self._end_s = time.monotonic() + self._bounds.deadline_s
        self._left_bytes = self._bounds.max_bytes + _room.get()
        self._room_bytes = _room.get()

    def answered(self, status: int) -> None:
        """Its headers are there."""
        self.is_answered = True
        if status >= 300:
            self._left_bytes -= self._room_bytes

    def left_s(self) -> float:
        """For the next call of the socket; raises TimeoutError if it is over."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the service took too long")
        return left_s

    def moved(self, count: int) -> None:
        """So many bytes went either way."""
        self._end_s += count / self._bounds.bytes_per_s

    def received(self, count: int) -> None:
        """So many bytes came; raises ConnectionError for too many."""
        self.moved(count)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise ConnectionError("the service's answer is too long")


class _Connection(HTTPConnection):
    """Laid over botocore's connections, for whatever sockets they get: TCP, and TLS over it."""

    bounds: ClassVar[Bounds]

    def __init__(self, *args: Any, **given: Any) -> None:
        self._exchange = _Exchange(self.bounds)
        self._bounded: _Socket | None = None
        super().__init__(*args, **given)

    @property
    def sock(self) -> Any:
        """The socket; None without a connection."""
        return self._bounded

    @sock.setter
    def sock(self, sock: Any) -> None:
        if sock is not None and self._bounded is None:
            self._exchange.begin()
        if sock is not None and not isinstance(sock, _Socket):
            sock = _Socket(sock, self._exchange)
        self._bounded = sock

    def _connect_tls_proxy(self, *args: Any, **given: Any) -> Any:
        # Through this TLS urllib3 may speak another one, which receives as often as it likes.
        inner: Any = super()
        return _Socket(inner._connect_tls_proxy(*args, **given), self._exchange)

    def request(self, *args: Any, **given: Any) -> None:
        """Send a request."""
        if self._exchange.is_answered:
            self._exchange.begin()
        super().request(*args, **given)

    def getresponse(self) -> Any:
        """Read the headers of its answer."""
        response = super().getresponse()
        self._exchange.answered(response.status)
        return response


class _Socket:
    """A socket, or what urllib3 has in its place, whose calls end together."""

    def __init__(self, sock: socket.socket, exchange: _Exchange) -> None:
        self._sock = sock
        self._exchange = exchange
        self._timeout_s = sock.gettimeout()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    @property
    def _io_refs(self) -> int:
        """Files of it that are open; urllib3 counts its own."""
        refs: int = self._sock._io_refs  # type: ignore[attr-defined]
        return refs

    @_io_refs.setter
    def _io_refs(self, refs: int) -> None:
        self._sock._io_refs = refs  # type: ignore[attr-defined]

    def settimeout(self, timeout_s: float | None) -> None:
        """For one call, as ever."""
        self._timeout_s = timeout_s

    def sendall(self, data: Any) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            self.hurry()
            count = self._sock.send(rest)
            self._exchange.moved(count)
            rest = rest[count:]

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive some, which urllib3 does itself where TLS is in the TLS of a proxy.

        It is counted when it comes out of the inner TLS, or else it would be twice.
        """
        self.hurry()
        return self._sock.recv(size, flags)

    def makefile(self, mode: str = "rb", buffering: int = -1) -> io.RawIOBase | io.BufferedReader:
        """What is received."""
        received = _Received(self, self._sock.makefile("rb", buffering=0), self._exchange)
        return received if buffering == 0 else io.BufferedReader(received)

    def hurry(self) -> None:
        """Give the next call no more time than there is; raises TimeoutError if there is none."""
        left_s = self._exchange.left_s()
        self._sock.settimeout(left_s if self._timeout_s is None else min(left_s, self._timeout_s))


class _Received(io.RawIOBase):
    """raw: the socket's own file, which keeps it open until it is read."""

    def __init__(self, sock: _Socket, raw: socket.SocketIO, exchange: _Exchange) -> None:
        super().__init__()
        self._sock = sock
        self._raw = raw
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.hurry()
        count = self._raw.readinto(buffer)
        self._exchange.received(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
