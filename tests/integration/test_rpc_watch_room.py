"""Server streams of idle readers, who must not take the places of calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.settings import ServerSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import EchoServicer, EchoStub, serving
from tests.support.ledgering import eventually

pytestmark = pytest.mark.usefixtures("either_server")

PLACES = 64
SHARE = 12
"""Three quarters of a half of a half: there are few."""
BOUND_S = 60.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@contextlib.asynccontextmanager
async def two_callers(
    tmp_path: Path, tls: bool, listeners: int
) -> AsyncIterator[tuple[EchoStub, EchoStub]]:
    """A server with few places, with or without TLS, and two that call it."""
    ca = CertificateAuthority(tmp_path)
    config = ServerSettings(max_concurrent_rpcs=PLACES, listeners=listeners)
    if tls:
        shown = ca.server()
        config = replace(config, tls_cert=shown.cert, tls_key=shown.key, tls_ca=shown.ca)
    async with asyncio.timeout(BOUND_S), serving(EchoServicer(), config) as server:

        def connect(name: str) -> Any:
            address = f"{'localhost' if tls else '127.0.0.1'}:{server.port}"
            return channel(address, ca.issue(name) if tls else None, options=OWN_CONNECTION)

        async with connect("greedy") as greedy, connect("good") as good:
            yield EchoStub(greedy), EchoStub(good)


async def first_of(watch: Any) -> Any:
    """The first message of a watch, or the error it ends with."""
    try:
        return await watch.read()
    except grpc.RpcError as error:
        return from_rpc_error(error)


async def is_served(caller: EchoStub) -> bool:
    """Whether a call is answered; for a moment, calls that end may still have the places."""
    try:
        return bool(await caller.Echo(b"x", timeout=BOUND_S) == b"x")
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("listeners", [1, 2])
@pytest.mark.parametrize("tls", [True, False])
async def test_idle_watches_leave_room_for_calls_and_for_the_watches_of_others(
    tmp_path: Path, tls: bool, listeners: int
) -> None:
    async with two_callers(tmp_path, tls, listeners) as (greedy, good):
        watches: list[Any] = [greedy.Watch(b"", timeout=BOUND_S) for _ in range(2 * PLACES)]
        heard = await asyncio.gather(*map(first_of, watches))
        open_ones = [watch for watch, said in zip(watches, heard, strict=True) if said == b"first"]
        # gRPC itself refuses, without a reason, what it has no place for at this moment.
        refused = [said for said in heard if getattr(said, "reason", "") == "TOO_MANY_WATCHES"]
        assert len(open_ones) == SHARE
        assert refused
        assert {error.retry_delay_s for error in refused} == {5.0}
        await eventually(lambda: is_served(good))
        await eventually(lambda: is_served(greedy))
        assert await first_of(good.Watch(b"", timeout=BOUND_S)) == b"first"
        # One that ends makes room for another.
        assert (await first_of(greedy.Watch(b""))).reason == "TOO_MANY_WATCHES"
        open_ones[0].cancel()
        while await first_of(greedy.Watch(b"", timeout=BOUND_S)) != b"first":
            pass
