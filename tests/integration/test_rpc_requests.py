"""What a request may cost: before it is parsed, and after it was refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ledger_svc.app import LEDGER_SERVICE
from provledger.errors import InvalidArgumentError
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.interceptors import ServiceInterceptor
from provledger.rpc.settings import ServerSettings
from tests.support import echo
from tests.support.certs import CertificateAuthority
from tests.support.echo import SERVICE, EchoServicer, EchoStub, add_echo, serving
from tests.support.ledgering import eventually, ledger_service, served

pytestmark = pytest.mark.usefixtures("either_server")

CALL_S = 20.0


class Request:
    """Stands in for a message, and can be watched."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Refusing(EchoServicer):
    """Refuses whatever comes, holding it in a frame of its own."""

    async def Echo(self, request: Any, context: Any) -> bytes:
        raise InvalidArgumentError("NO", f"no {len(request.data)} bytes are wanted")


def raw(opened: grpc.aio.Channel, method: str) -> Any:
    """Calls a method with bytes; on the wire, streams of one message are no other."""
    return opened.unary_unary(method)


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


@pytest.mark.parametrize("method", ["Echo", "Split", "Join", "Chat"])
async def test_request_of_a_caller_who_may_not_call_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    parsed: list[bytes] = []

    def decode(data: bytes) -> bytes:
        parsed.append(data)
        return data

    monkeypatch.setattr(echo, "decode", decode)
    ca = CertificateAuthority(tmp_path)
    tls = ca.server()
    config = ServerSettings(
        tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca, allowed_callers={"*": ("good",)}
    )
    async with (
        serving(EchoServicer(), config) as server,
        channel(f"localhost:{server.port}", ca.issue("stranger")) as strange,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await raw(strange, f"/{SERVICE}/{method}")(b"large", timeout=CALL_S)
        assert from_rpc_error(caught.value).code == "PERMISSION_DENIED"
    assert parsed == []


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_health_is_not_asked_for_with_long_names(method: str) -> None:
    async with (
        serving(EchoServicer()) as server,
        channel(f"127.0.0.1:{server.port}") as opened,
    ):
        # The name of a service, field 1.
        request = b"\x0a\x90\x4e" + b"x" * 10_000
        with pytest.raises(grpc.RpcError) as caught:
            await raw(opened, f"/grpc.health.v1.Health/{method}")(request, timeout=CALL_S)
    assert from_rpc_error(caught.value).reason == "MALFORMED_REQUEST"


async def test_batch_of_millions_of_empty_drafts_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url) as service, served(service) as opened:
        request = b"\x0a\x01x" + b"\x12\x00" * 1_000_000
        for method in ("AppendBatch", "Append", "ListReceipts"):
            with pytest.raises(grpc.RpcError) as caught:
                await raw(opened, f"/{LEDGER_SERVICE}/{method}")(
                    request, timeout=CALL_S, compression=grpc.Compression.Gzip
                )
            error = from_rpc_error(caught.value)
            assert error.code == "INVALID_ARGUMENT"
            is_batch = method == "AppendBatch"
            assert error.reason == ("INVALID_BATCH_SIZE" if is_batch else "MALFORMED_REQUEST")
            assert not is_batch or error.metadata == {"limit": "1000"}
        assert service.gate.in_work_bytes == 0
