"""Connections end after a while, and with them what their callers may no longer do."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.listener import Server
from provledger.rpc.settings import ServerSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import SERVICE, EchoServicer, EchoStub, serving

BOUND_S = 60.0
AGED = ServerSettings(connection_age_s=1.0, deadline_s=1.0)


async def calls_until(done: Callable[[], bool], server: Server, callers: int = 8) -> None:
    """Call without a pause, as all callers of ours do; every call must be answered.

    One that begins in the very moment in which its connection ends is torn off ("Stream removed"),
    now and then also where gRPC itself may retry what the server has not seen. So callers call
    again: `call`.
    """
    async with asyncio.timeout(BOUND_S), channel(f"127.0.0.1:{server.port}") as opened:
        stub = EchoStub(opened)

        async def call_on() -> None:
            while not done():
                assert await call(stub.Echo, b"x", timeout_s=BOUND_S) == b"x"

        await asyncio.gather(*(call_on() for _ in range(callers)))


async def test_no_call_is_lost_when_connections_end() -> None:
    servicer = EchoServicer()
    async with serving(servicer, AGED) as server:
        await calls_until(lambda: len(servicer.peers) > 2, server)


async def test_a_stream_ends_some_time_after_its_connection_became_too_old() -> None:
    async with (
        asyncio.timeout(BOUND_S),
        serving(EchoServicer(), AGED) as server,
        channel(f"127.0.0.1:{server.port}") as opened,
    ):
        watching = EchoStub(opened).Watch(b"")
        assert await watching.read() == b"first"
        with pytest.raises(grpc.RpcError) as caught:
            await watching.read()
        assert from_rpc_error(caught.value).code == "UNAVAILABLE"


async def test_answers_that_nobody_takes_are_held_no_longer_than_their_connection() -> None:
    """A caller would keep their places for ever (see `places`)."""
    servicer = EchoServicer()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with (
        asyncio.timeout(BOUND_S),
        serving(servicer, AGED) as server,
        channel(f"127.0.0.1:{server.port}", options=options) as opened,
    ):
        start: Any = opened.unary_stream(f"/{SERVICE}/Echo")
        echoing = start(bytes(256 * 1024), timeout=10 * BOUND_S)
        await servicer.echoed.wait()
        echoing.cancel()


async def test_a_certificate_that_has_ended_counts_for_no_further_call(tmp_path: Path) -> None:
    ca = CertificateAuthority(tmp_path)
    tls = ca.server()
    config = ServerSettings(tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca)
    short = ca.issue("short", lasts=dt.timedelta(seconds=5))
    async with (
        asyncio.timeout(BOUND_S),
        serving(EchoServicer(), config) as server,
        channel(f"localhost:{server.port}", short) as opened,
    ):
        stub = EchoStub(opened)
        assert await stub.WhoAmI(b"", timeout=BOUND_S) == b"short"

        async def call_for_ever() -> None:
            while True:
                await stub.Echo(b"x", timeout=BOUND_S)

        with pytest.raises(grpc.RpcError) as caught:
            await call_for_ever()
        assert from_rpc_error(caught.value).reason == "CLIENT_CERTIFICATE_ENDED"


async def test_streams_end_with_the_certificate_of_their_caller(tmp_path: Path) -> None:
    ca = CertificateAuthority(tmp_path)
    tls = ca.server()
    config = ServerSettings(tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca)
    short = ca.issue("short", lasts=dt.timedelta(seconds=5))
    lasting = ca.issue("lasting")
    async with (
        asyncio.timeout(BOUND_S / 2),
        serving(EchoServicer(), config) as server,
        channel(f"localhost:{server.port}", short) as opened,
        channel(f"localhost:{server.port}", lasting) as other,
    ):
        watching, staying = EchoStub(opened).Watch(b""), EchoStub(other).Chat()
        chatting, joining = EchoStub(opened).Chat(), EchoStub(opened).Join()
        assert await watching.read() == b"first"
        for talking in (chatting, staying):
            await talking.write(b"x")
            assert await talking.read() == b"x"
        await joining.write(b"x")
        for ended in (watching.read(), chatting.read(), joining):
            with pytest.raises(grpc.RpcError) as caught:
                await ended
            assert from_rpc_error(caught.value).reason == "CLIENT_CERTIFICATE_ENDED"
        await staying.write(b"y")
        assert await staying.read() == b"y"
