"""One connection of a client that may be slow or greedy on purpose.

Uvicorn parses requests with httptools, in C, and bounds neither the size of a request's head nor
how many requests may wait behind one another, nor the time that a head may take, or a body which
nobody reads. Here all of that ends the connection. What a client can still hold is one connection
with one unread answer in the kernel's buffers; how many of those there may be is
`max_connections`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_PIPELINED: Final = 32
"""Requests that may wait for the answer to the one before."""


class HeadTooLongError(Exception):
    """The head of a request is over the bound; the parser turns it into a refusal."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that waits for the next request for `patience_s`, and takes so much of it.

    max_head_bytes: of the request line and all headers.
    """

    patience_s: ClassVar[float] = 10.0
    max_head_bytes: ClassVar[int] = 16 * 1024
    _waiting_task: asyncio.TimerHandle | None = None
    # Bytes of the head that is being read: those parsed, and those that came since it began.
    _parsed = 0
    _arrived = 0
    _begun = 0
    _in_head = False
    _in_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait_if_idle()

    def data_received(self, data: bytes) -> None:
        """Stop waiting if that made a request; what it did not make does not buy time."""
        # The parser keeps a header until it is whole: what arrived bounds one without an end.
        if self._in_head:
            self._arrived += len(data)
        elif not self._in_message:
            self._arrived = len(data)
        begun = self._begun
        if not self._in_head or self._arrived <= self.max_head_bytes:
            super().data_received(data)
        # Of a head that follows other requests, it is not known how much is its own.
        if self._in_head and self._begun <= begun + 1 and self._arrived > self.max_head_bytes:
            self._in_head = False
            self.send_400_response("The head of the request is too long.")
            return
        if not self._is_idle():
            self._stop_waiting()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._parsed = 0
        self._begun += 1
        self._in_head = self._in_message = True

    def on_message_complete(self) -> None:
        """A request ends, with its body."""
        self._in_message = False
        super().on_message_complete()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request may be answered, unless too many wait for that."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            return
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._wait_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self.max_head_bytes:
            raise HeadTooLongError

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_if_idle(self) -> None:
        if self._is_idle() and self._waiting_task is None:
            self._waiting_task = self.loop.call_later(self.patience_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting_task is not None:
            self._waiting_task.cancel()
            self._waiting_task = None


def patient(seconds: float, max_head_bytes: int) -> type[Any]:
    """The protocol with its bounds."""
    bounds = {"patience_s": seconds, "max_head_bytes": max_head_bytes}
    return type("Patient", (PatientProtocol,), bounds)
