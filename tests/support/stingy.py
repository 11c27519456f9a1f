"""A caller that takes no answer: HTTP/2 with a receive window of nothing (RFC 9113 §6.9)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE: Final = 4
_POST_HTTP: Final = b"\x83\x86"
"""`:method: POST` and `:scheme: http`, of HPACK's static table (RFC 7541, appendix A)."""


@asynccontextmanager
async def stingy(port: int) -> AsyncIterator[StingyCaller]:
    """A connection on which the server may send headers, but no byte of a message."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)))
    try:
        yield StingyCaller(reader, writer)
    finally:
        writer.close()


class StingyCaller:
    """Opens calls on that connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1

    async def call(self, method: str, message: bytes = b"") -> None:
        """Send a call with one message, whole."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        body = struct.pack(">BI", 0, len(message)) + message
        self._writer.write(
            _frame(_HEADERS, _END_HEADERS, stream, _headers(method))
            + _frame(_DATA, _END_STREAM, stream, body)
        )
        await self._writer.drain()

    async def seen(self) -> None:
        """Wait until the server has answered something, if only headers."""
        while True:
            head = await self._reader.readexactly(9)
            await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == _HEADERS:
                return


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(method: str) -> bytes:
    named = {
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return _POST_HTTP + b"".join(b"\0" + _text(name) + _text(each) for name, each in named.items())


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127, "longer ones need an integer of several bytes"
    return bytes([len(data)]) + data
