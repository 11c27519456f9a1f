"""Clients whose machine goes dark: their connection stays, and nothing comes on it any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from provledger.rpc import listener
from provledger.rpc.channel import channel
from provledger.rpc.settings import ServerSettings
from tests.support.echo import EchoServicer, EchoStub, serving

BOUND_S = 20.0
FASTER = 20
"""So many times faster than in earnest the server finds them: after three seconds."""


class Noting(EchoServicer):
    """Notes which of its calls ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def Wait(self, request: bytes, context: Any) -> bytes:
        try:
            return await super().Wait(request, context)
        finally:
            self.ended.put_nowait("Wait")

    async def Watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await self.gate.wait()
        finally:
            self.ended.put_nowait("Watch")


class Relay:
    """Between a client and a server; both are connected to it still when it is `dark`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.dark = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, before), self._pump(behind, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if not self.dark:
                    writer.write(data)
                    await writer.drain()
        writer.close()


async def test_the_calls_of_a_client_that_went_dark_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_earnest = listener.server_options
    looked_at = ("keepalive_time_ms", "keepalive_timeout_ms", "ping_timeout_ms")

    def faster(config: ServerSettings, *, shared: bool = False) -> list[tuple[str, Any]]:
        return [
            (name, value // FASTER if name.endswith(looked_at) else value)
            for name, value in in_earnest(config, shared=shared)
        ]

    monkeypatch.setattr(listener, "server_options", faster)
    servicer = Noting()
    async with asyncio.timeout(BOUND_S), serving(servicer) as server:
        relay = Relay(server.port)
        async with relay.listening() as port, channel(f"127.0.0.1:{port}") as opened:
            stub = EchoStub(opened)
            watching, waiting = stub.Watch(b""), stub.Wait(b"")
            assert await watching.read() == b"first"
            await servicer.waiting.wait()
            relay.dark = True
            assert {await servicer.ended.get(), await servicer.ended.get()} == {"Watch", "Wait"}
            for call in (watching, waiting):
                call.cancel()


def test_they_are_found_within_a_minute() -> None:
    """The library waits for a ping's answer by two options; the default of one is a minute."""
    options = dict(listener.server_options(ServerSettings()))
    answer_ms = max(options["grpc.keepalive_timeout_ms"], options["grpc.http2.ping_timeout_ms"])
    assert options["grpc.keepalive_time_ms"] + answer_ms < 60_000
