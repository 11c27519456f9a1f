"""Watches of a server's health, which whoever has a certificate may open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.errors import UnavailableError
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import App, ServerSettings, serve
from tests.support.certs import CertificateAuthority
from tests.support.echo import EchoServicer, EchoStub, add_echo, serving
from tests.support.stingy import stingy

pytestmark = pytest.mark.usefixtures("either_server")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
BOUND_S = 20.0


def watch(opened: grpc.aio.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(opened)
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=BOUND_S)


async def end_of(watching: Any) -> Any:
    """The error that a watch ends with."""
    try:
        while await watching.read() is not grpc.aio.EOF:
            pass
    except grpc.RpcError as error:
        return from_rpc_error(error)
    raise AssertionError("it ended without an error")


@pytest.mark.parametrize("listeners", [1, 2])
async def test_watches_of_strangers_leave_room_for_calls(tmp_path: Path, listeners: int) -> None:
    ca = CertificateAuthority(tmp_path)
    server_tls = ca.server()
    allowed: Mapping[str, tuple[str, ...]] = {"*": ("good",)}
    config = ServerSettings(
        tls_cert=server_tls.cert,
        tls_key=server_tls.key,
        tls_ca=server_tls.ca,
        allowed_callers=allowed,
        max_concurrent_rpcs=16,
        max_concurrent_streams=16,
        listeners=listeners,
    )
    async with (
        serving(EchoServicer(), config) as server,
        channel(f"localhost:{server.port}", ca.issue("stranger")) as strange,
        channel(f"localhost:{server.port}", ca.issue("good")) as good,
    ):
        watches = [watch(strange) for _ in range(2)]
        for each in watches:
            assert (await each.read()).status == SERVING
        late = [await end_of(watch(strange)) for _ in range(20)]
        assert {error.reason for error in late} == {"TOO_MANY_WATCHES"}
        assert late[0].retry_delay_s is not None
        assert await call(EchoStub(good).Echo, b"x", timeout_s=BOUND_S) == b"x"
        # Those that are there are told of changes, and one that ends makes room for another.
        server.serving(False)
        assert (await watches[0].read()).status == NOT_SERVING
        watches[0].cancel()
        async with asyncio.timeout(BOUND_S):
            while True:
                another = watch(strange)
                with contextlib.suppress(grpc.RpcError):
                    assert (await another.read()).status == NOT_SERVING
                    break


async def test_a_drain_ends_watches_of_health_at_once() -> None:
    async with (
        serving(EchoServicer()) as server,
        channel(f"127.0.0.1:{server.port}") as opened,
    ):
        watching = watch(opened)
        assert (await watching.read()).status == SERVING
        async with asyncio.timeout(BOUND_S):
            await server.drain(600.0)
            error = await end_of(watching)
    assert (error.code, error.reason) == ("UNAVAILABLE", "SERVER_DRAINING")


async def test_who_watches_health_is_told_before_his_watch_is_ended() -> None:
    """As soon as he has heard the first status, however far the server is with sending it."""
    for _ in range(30):
        async with (
            serving(EchoServicer()) as server,
            channel(f"127.0.0.1:{server.port}") as opened,
        ):
            watching = watch(opened)
            assert (await watching.read()).status == SERVING
            async with asyncio.timeout(BOUND_S):
                draining = asyncio.ensure_future(server.drain(600.0))
                assert (await watching.read()).status == NOT_SERVING
                assert (await end_of(watching)).reason == "SERVER_DRAINING"
                await draining


async def test_a_watcher_that_takes_nothing_keeps_no_service_from_ending() -> None:
    """Nor from saying that it is unable: nothing of ours waits until a watcher has taken it."""
    able = True
    closed = asyncio.Event()

    def ready() -> None:
        if not able:
            raise UnavailableError("NOT_ABLE", "it cannot")

    async def close() -> None:
        closed.set()

    app = App(services=[(add_echo, EchoServicer())], ready=ready, close=close)
    stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()
    service = asyncio.create_task(
        serve(app, ServerSettings(grace_s=0.2), stop=stop, on_ready=bound.set_result)
    )
    port = await bound
    async with asyncio.timeout(BOUND_S), stingy(port) as stranger:
        await stranger.call("/grpc.health.v1.Health/Watch")
        await stranger.seen()
        async with channel(f"127.0.0.1:{port}") as opened:
            stub: Any = health_pb2_grpc.HealthStub(opened)
            able = False
            while (await stub.Check(health_pb2.HealthCheckRequest())).status != NOT_SERVING:
                pass
        stop.set()
        await service
    assert closed.is_set()


async def test_a_watcher_that_hangs_up_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would fill the log with errors, and set off alarms on them."""
    async with serving(EchoServicer()) as server, channel(f"127.0.0.1:{server.port}") as opened:
        for _ in range(3):
            async with asyncio.timeout(BOUND_S), stingy(server.port) as stranger:
                await stranger.call("/grpc.health.v1.Health/Watch")
                await stranger.seen()
        stub: Any = health_pb2_grpc.HealthStub(opened)
        for _ in range(50):
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=BOUND_S)
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_service_that_is_not_there_is_unknown() -> None:
    wanted = health_pb2.HealthCheckRequest(service="provledger.Nothing")
    async with serving(EchoServicer()) as server, channel(f"127.0.0.1:{server.port}") as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        with pytest.raises(grpc.RpcError) as refused:
            await stub.Check(wanted, timeout=BOUND_S)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        told = await stub.Watch(wanted, timeout=BOUND_S).read()
        assert told.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
