"""One connection of a client that may be slow or greedy on purpose.

Uvicorn parses requests with httptools, in C, and bounds neither the size of a request's head or of
what is around its body, nor how many requests may wait behind one another, nor the time that a head
may take, or a body which nobody reads, or an answer that its client does not read. Here all of that
ends the connection: one timer runs for as long as there is one, and whatever it waits for, a
request or an answer, it ends in time. It aborts, since a transport that is only closed waits until
what was written is read. What a client can still hold, and for so long, is one connection with one
unread answer in the buffers; how many of those there may be is `max_connections`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from provledger import logs
from provledger.seldom import Seldom

log = logs.get(__name__)

MAX_PIPELINED: Final = 32
"""Requests that may wait for the answer to the one before."""
CUT_OFF: Final = "provledger.cut_off"
"""Name in a request's scope: a function that ends its connection, whatever was not read of it."""

_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""socket(7), SO_LINGER for no time: closing drops what was not sent, and resets."""


class HeadTooLongError(Exception):
    """The head of a request is over the bound; the parser turns it into a refusal."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that waits for the next request for `patience_s`, and takes so much of it.

    answer_s: from the head of a request until the application has handed over all of the answer,
    of which the last piece may then be unread for `patience_s`. max_head_bytes: of the request line
    and all headers, and of what may come in a row after them that is no body: what a client says
    of its chunks, and a trailer.
    """

    patience_s: ClassVar[float] = 10.0
    answer_s: ClassVar[float] = 30.0
    max_head_bytes: ClassVar[int] = 16 * 1024
    # Of all connections of a server: what it says of requests that it refuses by itself.
    _seldom: ClassVar[Seldom] = Seldom()
    _lost = False
    _timer: asyncio.TimerHandle | None = None
    # The request that is being answered; `cycle` is the one that came last.
    _answering: RequestResponseCycle | None = None
    # Bytes of the head that is being read: those parsed, and those that came since it began.
    _parsed = 0
    _arrived = 0
    _begun = 0
    # Bytes of a body that came since it last grew: of chunk headers, or of a trailer, which the
    # parser keeps until it is whole. Not those that came with the last of it: one read at most.
    _around = 0
    _in_head = False
    _in_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._end_after(self.patience_s)

    def data_received(self, data: bytes) -> None:
        """Parse; what does not make a request does not buy time."""
        # The parser keeps a header until it is whole: what arrived bounds one without an end.
        if self._in_head:
            self._arrived += len(data)
        elif not self._in_message:
            self._arrived = len(data)
        else:
            self._around += len(data)
        begun = self._begun
        if not self._in_head or self._arrived <= self.max_head_bytes:
            super().data_received(data)
        # Of a head that follows other requests, it is not known how much is its own.
        if self._in_head and self._begun <= begun + 1 and self._arrived > self.max_head_bytes:
            self._in_head = False
            self.send_400_response("The head of the request is too long.")
        # There may be half an answer already, into which a refusal would be written.
        if self._around > self.max_head_bytes:
            self._cut_off()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self.scope[CUT_OFF] = self._cut_off  # type: ignore[typeddict-unknown-key]
        self._parsed = 0
        self._begun += 1
        self._in_head = self._in_message = True

    def on_body(self, body: bytes) -> None:
        """Part of the body, which nobody counts here."""
        self._around = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request ends, with its body."""
        self._in_message = False
        self._around = 0
        super().on_message_complete()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; of a trailer, only its size counts.

        SPEC: RFC 9110 §6.5.1: a field of a trailer is not merged into the header section unless its
        definition allows that. A proxy in front takes `Authorization` out of a head, not of these.
        """
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request may be answered, unless too many wait for that."""
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            return
        super().on_headers_complete()
        # SPEC: RFC 9110 §7.8: a server may ignore Upgrade. But the parser reads no further: of what
        # came with this request, nobody would answer the next one.
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        if times := self._seldom.times("server.bad_request"):
            log.warning("server.bad_request", why=msg, times=times)
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it is here already."""
        self._answering = None
        self._end_after(self.patience_s)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer, and hold nothing any more."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._let_go()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._hold_nothing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if app is service_unavailable and (times := self._seldom.times("server.busy")):
            log.warning("server.busy", connections=self.limit_concurrency, times=times)
        self._answering = cycle
        self._end_after(self.answer_s)
        super()._start_asgi_task(cycle, app)

    def _end_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        if self._lost:
            return
        # A transport over TLS that was closed twice knows its connection no more (CPython); its
        # own timeout for saying goodbye ends that one.
        with contextlib.suppress(AttributeError):
            # With a reset where an answer is unread: the kernel would keep what it has of it, and
            # go on offering it. Who is only slow, and has to read just that, may still do so.
            if self._answering is not None or self.transport.get_write_buffer_size():
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()
        self._let_go()

    def _let_go(self) -> None:
        """Tell who answers that nobody is there any more; Uvicorn tells the last request alone."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _hold_nothing(self) -> None:
        """Leave no circle behind: over TLS it holds the buffers of OpenSSL until it is collected.

        Who still answers has what he needs of the connection, and does not come back here: he was
        told that nobody is there.
        """
        self._answering = None
        self.pipeline.clear()
        self.cycle = self.scope = None  # type: ignore[assignment]

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self.max_head_bytes:
            raise HeadTooLongError


def patient(
    seconds: float, max_head_bytes: int, *, answer_s: float = PatientProtocol.answer_s
) -> type[Any]:
    """The protocol with its bounds."""
    bounds = {
        "patience_s": seconds,
        "max_head_bytes": max_head_bytes,
        "answer_s": answer_s,
        "_seldom": Seldom(),
    }
    return type("Patient", (PatientProtocol,), bounds)
