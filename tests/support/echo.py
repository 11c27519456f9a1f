"""A tiny gRPC service for tests of the plumbing, of messages that are bare bytes.

`python -m tests.support.echo` runs it as a process, as our services run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from provledger.rpc.auth import current_principal
from provledger.rpc.listener import Server
from provledger.rpc.server import App, ServerSettings, main
from provledger.settings import ConfigError

SERVICE = "test.v1.EchoService"


@dataclass
class EchoServicer:
    """`fail` is called with every message and may raise; `gate` holds Wait back; `peers` are the
    connections on which Echo was called, `echoed` that one of its calls is over."""

    fail: Callable[[bytes], None] = field(default=lambda message: None)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    stream_closed: asyncio.Event = field(default_factory=asyncio.Event)
    peers: set[str] = field(default_factory=set)
    echoed: asyncio.Event = field(default_factory=asyncio.Event)

    async def Echo(self, request: bytes, context: Any) -> bytes:
        self.peers.add(context.peer())
        context.add_done_callback(lambda _: self.echoed.set())
        self.fail(request)
        return request

    async def WhoAmI(self, request: bytes, context: Any) -> bytes:
        return current_principal().encode()

    async def Wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        await self.gate.wait()
        return b"done"

    async def Split(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """One message for each byte; `fail` may stop it midway."""
        try:
            for byte in request:
                self.fail(bytes([byte]))
                yield bytes([byte])
        finally:
            self.stream_closed.set()

    async def Watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self.gate.wait()

    async def Join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        parts = []
        async for request in requests:
            self.fail(request)
            parts.append(request)
        return b"".join(parts)

    async def Chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            self.fail(request)
            yield request

    async def WriterChat(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """The same, written with `context.write`."""
        async for request in requests:
            self.fail(request)
            await context.write(request)


def decode(data: bytes) -> bytes:
    """Deserializer that refuses one message, as protobuf refuses a cut one."""
    if data == b"malformed":
        raise ValueError("secret detail")
    return data


def add_echo(servicer: EchoServicer, server: Any) -> None:
    """What grpcio-tools would generate."""
    handlers: dict[str, Any] = {
        name: make(getattr(servicer, name), decode)
        for name, make in {
            "Echo": grpc.unary_unary_rpc_method_handler,
            "WhoAmI": grpc.unary_unary_rpc_method_handler,
            "Wait": grpc.unary_unary_rpc_method_handler,
            "Split": grpc.unary_stream_rpc_method_handler,
            "Watch": grpc.unary_stream_rpc_method_handler,
            "Join": grpc.stream_unary_rpc_method_handler,
            "Chat": grpc.stream_stream_rpc_method_handler,
            "WriterChat": grpc.stream_stream_rpc_method_handler,
        }.items()
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    """What grpcio-tools would generate."""

    def __init__(self, channel: Any) -> None:
        self.Echo = channel.unary_unary(f"/{SERVICE}/Echo")
        self.WhoAmI = channel.unary_unary(f"/{SERVICE}/WhoAmI")
        self.Wait = channel.unary_unary(f"/{SERVICE}/Wait")
        self.Missing = channel.unary_unary(f"/{SERVICE}/Missing")
        self.Split = channel.unary_stream(f"/{SERVICE}/Split")
        self.Watch = channel.unary_stream(f"/{SERVICE}/Watch")
        self.Join = channel.stream_unary(f"/{SERVICE}/Join")
        self.Chat = channel.stream_stream(f"/{SERVICE}/Chat")
        self.WriterChat = channel.stream_stream(f"/{SERVICE}/WriterChat")


@asynccontextmanager
async def serving(
    servicer: EchoServicer, config: ServerSettings | None = None
) -> AsyncIterator[Server]:
    """A server with `servicer`, drained at the end."""
    server = Server(config or ServerSettings())
    server.add(add_echo, servicer)
    await server.start()
    try:
        yield server
    finally:
        await server.drain(0.0)


async def build(config: ServerSettings) -> App:
    """The service of `python -m tests.support.echo`; odd grace periods ask for odd behaviour."""
    servicer = EchoServicer()
    if config.grace_s == 3.25:
        raise ConfigError("the settings say so")

    async def background() -> None:
        if config.grace_s == 2.25:
            raise RuntimeError("hidden detail")
        await asyncio.Event().wait()

    async def close() -> None:
        print("closed", flush=True)

    return App(services=[(add_echo, servicer)], background=[background], close=close)


if __name__ == "__main__":
    main("echo", ServerSettings, build)
