"""Places of calls, and callers who would keep them without anything to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.errors import DeadlineExceededError, NotFoundError
from provledger.rpc import interceptors
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.listener import Server
from provledger.rpc.places import Places
from provledger.rpc.settings import ServerSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import SERVICE, EchoServicer, EchoStub, serving
from tests.support.ledgering import eventually

pytestmark = pytest.mark.usefixtures("either_server")

PLACES = 16
BOUND_S = 60.0
# Their own connection, whose windows do not grow.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]


@contextlib.asynccontextmanager
async def crowded(tmp_path: Path, listeners: int = 1) -> AsyncIterator[tuple[Server, Any]]:
    """A server with few places; a channel to it as a caller of some name, who may call if it is
    called good or greedy."""
    ca = CertificateAuthority(tmp_path)
    tls = ca.server()
    config = ServerSettings(
        tls_cert=tls.cert,
        tls_key=tls.key,
        tls_ca=tls.ca,
        allowed_callers={"*": ("good", "greedy")},
        max_concurrent_rpcs=PLACES,
        max_concurrent_streams=100,
        listeners=listeners,
    )
    async with asyncio.timeout(BOUND_S), serving(EchoServicer(), config) as server:

        def connect(name: str) -> Any:
            return channel(f"localhost:{server.port}", ca.issue(name), options=OPTIONS)

        yield server, connect


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


def silent(opened: grpc.aio.Channel, count: int) -> list[Any]:
    """Calls of a unary method on which nothing is sent."""
    start: Any = opened.stream_unary(f"/{SERVICE}/Echo")
    return [start(never(), timeout=BOUND_S) for _ in range(count)]


def unread(opened: grpc.aio.Channel, count: int) -> list[Any]:
    """Calls of a unary method whose answers, larger than any window, are not taken."""
    start: Any = opened.unary_stream(f"/{SERVICE}/Echo")
    return [start(bytes(256 * 1024), timeout=BOUND_S) for _ in range(count)]


async def refusals(calls: list[Any]) -> set[str]:
    """The reasons, or codes, of those that have ended."""
    found = set()
    for call in calls:
        if call.done():
            error = from_rpc_error(
                grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    await call.details(),
                )
            )
            found.add(error.reason)
    return found


async def refused(calls: list[Any], reason: str) -> bool:
    """Whether one of them was, for that reason; others before, for want of any place."""
    return reason in await refusals(calls)


async def is_served(opened: grpc.aio.Channel) -> bool:
    """Whether a call is answered; for a moment, calls that end may still have the places."""
    try:
        return bool(await EchoStub(opened).Echo(b"x", timeout=BOUND_S) == b"x")
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("listeners", [1, 2])
async def test_silent_calls_of_strangers_leave_room(tmp_path: Path, listeners: int) -> None:
    async with (
        crowded(tmp_path, listeners) as (_, connect),
        connect("stranger") as strange,
        connect("good") as good,
    ):
        calls = silent(strange, 2 * PLACES)
        # All but a quarter of the places are given back, as soon as it is seen who calls.
        await eventually(lambda: sum(call.done() for call in calls) >= 2 * PLACES - 5)
        assert "CALLER_NOT_ALLOWED" in await refusals(calls)
        await eventually(lambda: is_served(good))


async def test_silent_calls_of_those_who_may_call_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "_MESSAGE_S", 0.1)
    async with (
        crowded(tmp_path) as (_, connect),
        connect("greedy") as greedy,
        connect("good") as good,
    ):
        calls = silent(greedy, 2 * PLACES)
        await eventually(lambda: sum(call.done() for call in calls) >= 2 * PLACES - 5)
        assert {"DEADLINE_EXCEEDED", "TOO_MANY_IDLE_CALLS"} <= await refusals(calls)
        await eventually(lambda: is_served(good))


async def test_answers_that_are_not_taken_leave_room(tmp_path: Path) -> None:
    async with (
        crowded(tmp_path) as (_, connect),
        connect("greedy") as greedy,
        connect("good") as good,
    ):
        calls = unread(greedy, 2 * PLACES)
        await eventually(lambda: sum(call.done() for call in calls) >= PLACES)
        await eventually(lambda: refused(calls, "TOO_MANY_IDLE_CALLS"))
        await eventually(lambda: is_served(good))
        for call in calls:
            call.cancel()
        await eventually(lambda: is_served(greedy))


async def test_calls_that_are_served_carefully_are_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Places, "are_scarce", True)
    servicer = EchoServicer()
    async with (
        serving(servicer, ServerSettings(deadline_s=0.5)) as server,
        channel(f"127.0.0.1:{server.port}") as opened,
    ):
        stub = EchoStub(opened)
        assert await stub.Echo(b"x", timeout=BOUND_S) == b"x"
        assert await stub.WhoAmI(b"", timeout=BOUND_S) == b"anonymous"
        assert [part async for part in stub.Split(b"ab", timeout=BOUND_S)] == [b"a", b"b"]
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Echo(b"malformed", timeout=BOUND_S)
        assert from_rpc_error(caught.value).reason == "MALFORMED_REQUEST"
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Missing(b"", timeout=BOUND_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Wait(b"", timeout=BOUND_S)
        assert isinstance(from_rpc_error(caught.value), DeadlineExceededError)
        health: Any = health_pb2_grpc.HealthStub(opened)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await health.Check(request, timeout=BOUND_S)).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=BOUND_S)
        assert isinstance(from_rpc_error(caught.value), NotFoundError)
        # A call without a message, which gRPC would leave without an answer.
        empty: Any = opened.stream_unary(f"/{SERVICE}/Echo")
        with pytest.raises(grpc.RpcError) as caught:
            await empty(iter(()), timeout=BOUND_S)
        assert from_rpc_error(caught.value).reason == "MALFORMED_REQUEST"
