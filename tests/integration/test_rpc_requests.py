"""What a request may cost: before it is parsed, and after it was refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from provledger.errors import InvalidArgumentError
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.interceptors import ServiceInterceptor
from tests.support import echo
from tests.support.echo import EchoServicer, EchoStub, add_echo
from tests.support.ledgering import eventually

CALL_S = 20.0


class Request:
    """Stands in for a message, and can be watched."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Refusing(EchoServicer):
    """Refuses whatever comes, holding it in a frame of its own."""

    async def Echo(self, request: Any, context: Any) -> bytes:
        raise InvalidArgumentError("NO", f"no {len(request.data)} bytes are wanted")


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def span(method: str, context: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize("trace", [None, span])
async def test_request_that_was_refused_is_gone_without_the_collector(
    monkeypatch: pytest.MonkeyPatch, trace: Any
) -> None:
    alive: weakref.WeakSet[Request] = weakref.WeakSet()

    def decode(data: bytes) -> Request:
        request = Request(data)
        alive.add(request)
        return request

    monkeypatch.setattr(echo, "decode", decode)
    server = grpc.aio.server(interceptors=[ServiceInterceptor(trace=trace)])
    add_echo(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with no_collector():
            async with channel(f"127.0.0.1:{port}") as opened:
                for _ in range(5):
                    with pytest.raises(grpc.RpcError) as caught:
                        await EchoStub(opened).Echo(b"large", timeout=CALL_S)
                    assert from_rpc_error(caught.value).reason == "NO"
                await eventually(lambda: not alive)
    finally:
        await server.stop(None)
