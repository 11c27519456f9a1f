"""A direct server with a method or two, and clients of grpc.aio's at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from provledger.rpc.channel import channel
from provledger.rpc.direct.server import DirectServer
from provledger.rpc.refusals import Refusal

FULL = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("why-bin", b"\x00full"),))
METHOD = "/a.B/C"
OTHER = "/a.B/E"

Handler = Callable[[Any, Any], Awaitable[Any]]


class Calls:
    """A server with a method, and a second one like it, and a channel to it."""

    def __init__(self, server: DirectServer, open_channel: Any, port: int) -> None:
        self.server = server
        self.port = port
        self.unary = open_channel.unary_unary(METHOD)
        self.stream = open_channel.stream_stream(METHOD)
        self.joined = open_channel.stream_unary(METHOD)
        self.missing = open_channel.unary_unary("/a.B/D")


@asynccontextmanager
async def serving(
    handler: Handler,
    kind: Any = grpc.unary_unary_rpc_method_handler,
    most: int = 100,
    enter: Any = None,
) -> AsyncIterator[Calls]:
    server = DirectServer(
        options=[("grpc.max_receive_message_length", -1)],
        choose=lambda method, registered, call: (registered, enter),
        gone=lambda call: None,
        most=most,
        full=FULL,
    )
    server.add_registered_method_handlers("a.B", {"C": kind(handler), "E": kind(handler)})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel(f"127.0.0.1:{port}") as open_channel:
            yield Calls(server, open_channel, port)
    finally:
        await server.stop(0.0)


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


STREAM = grpc.stream_stream_rpc_method_handler


async def echo(request: bytes, context: Any) -> bytes:
    return request
