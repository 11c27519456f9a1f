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

from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import ServerSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import EchoServicer, EchoStub, serving

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
        await server.serving(False)
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
