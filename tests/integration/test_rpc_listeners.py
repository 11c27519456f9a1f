"""Several sockets on one port: who waits behind whom, and who may not join."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from provledger.rpc.channel import channel
from provledger.rpc.listener import Server, calls_of_listener, claimed
from provledger.rpc.server import ServerSettings
from tests.support.echo import EchoServicer, EchoStub, serving

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT as Linux has it"),
    pytest.mark.usefixtures("either_server"),
]

FLOOD = 400
QUIET = 12
LISTENING = "0A"


def listening(port: int) -> int:
    """How many sockets listen on a port (proc(5), /proc/net/tcp)."""
    text = "".join(Path("/proc/self/net", name).read_text() for name in ("tcp", "tcp6"))
    rows = [line.split()[:4] for line in text.splitlines()]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == LISTENING for row in rows)


async def connections(server: Server, stack: AsyncExitStack, count: int) -> list[EchoStub]:
    """Stubs with a connection each, which stands."""
    stubs = []
    for _ in range(count):
        options = [("grpc.use_local_subchannel_pool", 1)]
        opened = channel(f"127.0.0.1:{server.port}", options=options)
        await stack.enter_async_context(opened)
        stubs.append(EchoStub(opened))
        await stubs[-1].Echo(b"hello", timeout=30)
    return stubs


def connected(port: int, stack: AsyncExitStack, count: int) -> list[EchoStub]:
    """The same, for threads."""
    stubs = []
    for _ in range(count):
        options = [("grpc.use_local_subchannel_pool", 1)]
        opened = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))
        stubs.append(EchoStub(opened))
        stubs[-1].Echo(b"hello", timeout=30)
    return stubs


async def test_every_connection_is_served_whichever_socket_has_it() -> None:
    config = ServerSettings(listeners=4)
    async with serving(EchoServicer(), config) as server, AsyncExitStack() as stack:
        assert listening(server.port) == 4
        stubs = await connections(server, stack, 24)
        answers = await asyncio.gather(*(stub.Echo(b"%d" % n) for n, stub in enumerate(stubs)))
        assert answers == [b"%d" % n for n in range(24)]


@pytest.mark.parametrize("listeners", [1, 8])
async def test_flood_stands_before_callers_of_its_own_socket_only(listeners: int) -> None:
    """Of a dozen quiet callers, those at other sockets are served while the flood waits. With one
    socket, to see that this is what does it, none of them is."""
    order: list[bytes] = []
    servicer = EchoServicer(fail=order.append)
    config = ServerSettings(listeners=listeners)
    async with serving(servicer, config) as server, AsyncExitStack() as stack:
        flood, *quiet = await asyncio.to_thread(connected, server.port, stack, 1 + QUIET)
        order.clear()
        # Calls of channels that need no event loop: ours sees nothing of them until all are sent.
        calls = [flood.Echo.future(b"flood", timeout=60) for _ in range(FLOOD)]
        calls += [stub.Echo.future(b"quiet", timeout=60) for stub in quiet]
        for call in calls:
            assert await asyncio.to_thread(call.result, 60)
    assert len(order) == FLOOD + QUIET
    first = order.index(b"quiet")
    if listeners == 1:
        assert first > FLOOD / 2
    else:
        assert first < FLOOD / 2


async def test_drain_ends_calls_at_every_socket() -> None:
    servicer = EchoServicer()
    config = ServerSettings(listeners=4)
    async with serving(servicer, config) as server, AsyncExitStack() as stack:
        stubs = await connections(server, stack, 12)
        calls = [asyncio.ensure_future(stub.Wait(b"", timeout=60)) for stub in stubs]
        await servicer.waiting.wait()
        async with asyncio.timeout(30):
            await server.drain(0.01)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes)
        assert not listening(server.port)


def test_listener_has_its_part_of_the_calls_and_room_for_four_connections() -> None:
    config = ServerSettings(max_concurrent_rpcs=8192, max_concurrent_streams=256)
    assert [calls_of_listener(config, count) for count in (1, 2, 8, 64)] == [8192, 4096, 1024, 1024]
    assert calls_of_listener(ServerSettings(max_concurrent_rpcs=100), 8) == 100


async def test_two_that_start_at_the_same_moment_do_not_share_a_port() -> None:
    """Between the look whether somebody listens, and listening."""
    async with serving(EchoServicer()) as server:
        port = server.port
    with claimed("127.0.0.1", port), pytest.raises(OSError, match="in use"):
        claimed("127.0.0.1", port).__enter__()
    with claimed("127.0.0.1", port):
        pass
