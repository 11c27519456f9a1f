"""When calls go over to a channel of a renewed certificate, and what becomes of the one before."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from provledger.rpc import renewing
from provledger.rpc.renewing import RenewingChannel
from provledger.rpc.tls import Loaded

READY, CONNECTING = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.CONNECTING
ENDS_S = 5_000.0


def loaded(name: str, ends_s: float = ENDS_S) -> Loaded:
    return Loaded(name.encode(), b"", b"", ends_s)


class Files:
    """What the files hold: set `now`."""

    def __init__(self) -> None:
        self.now = loaded("first")

    def look(self) -> Loaded:
        return self.now


class Call:
    """One that goes on until it is told to end."""

    def __init__(self, by: str, request: bytes) -> None:
        self.by, self.request = by, request
        self.ended = False

    def done(self) -> bool:
        return self.ended


class Inner:
    """A channel that begins calls, and as one of gRPC does nothing when it is closed again."""

    def __init__(self, of: Loaded) -> None:
        self.name = of.cert.decode()
        self.state = CONNECTING
        self.closed_after: list[float | None] = []

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        assert try_to_connect, "nobody else connects it"
        return self.state

    def unary_unary(self, method: str, **_: Any) -> Any:
        assert method == "/Echo"
        return lambda request: Call(self.name, request)

    async def close(self, grace: float | None = None) -> None:
        self.closed_after.append(grace)


class World:
    def __init__(self) -> None:
        self.files = Files()
        self.opened: list[Inner] = []
        self.now_s = 1_000.0
        files: Any = self.files
        self.channel = RenewingChannel(self.open, files, lambda: self.now_s)
        self.method = self.channel.unary_unary("/Echo")

    def open(self, of: Loaded) -> Any:
        self.opened.append(Inner(of))
        return self.opened[-1]

    def renew(self, name: str, ends_s: float = ENDS_S) -> None:
        self.files.now = loaded(name, ends_s)

    def begin(self) -> Call:
        call: Call = self.method(b"x")
        assert call.request == b"x"
        return call

    def answered_by(self) -> str:
        call = self.begin()
        call.ended = True
        return call.by


@pytest.fixture
async def world() -> World:
    return World()


async def test_calls_go_over_once_the_new_channel_is_connected(world: World) -> None:
    world.renew("second")
    assert [world.answered_by() for _ in range(3)] == ["first"] * 3
    first, second = world.opened
    second.state = READY
    assert world.answered_by() == "second"
    await asyncio.sleep(0)
    assert first.closed_after == [None]
    assert second.closed_after == []


async def test_a_channel_is_left_when_its_last_call_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "_LOOK_S", 0.001)
    under_way, dropped = world.begin(), world.begin()
    world.renew("second")
    world.answered_by()
    first, second = world.opened
    second.state = READY
    assert world.answered_by() == "second"
    await asyncio.sleep(0.01)
    assert (under_way.by, first.closed_after) == ("first", [])
    under_way.ended = True
    # One that nobody holds any more is no reason to stay.
    del dropped
    async with asyncio.timeout(20):
        while not first.closed_after:  # noqa: ASYNC110 - it is to come by itself
            await asyncio.sleep(0.001)


async def test_a_call_keeps_its_channel_no_longer_than_its_certificate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "_LOOK_S", 0.001)
    monkeypatch.setattr(renewing, "_GOES_ON_S", 0.002)
    under_way = world.begin()
    world.renew("second", 2 * ENDS_S)
    world.now_s = ENDS_S + 1.0
    assert world.answered_by() == "second"
    async with asyncio.timeout(20):
        while not world.opened[0].closed_after:  # noqa: ASYNC110 - it is to come by itself
            await asyncio.sleep(0.001)
    assert not under_way.done()


async def test_calls_go_over_at_the_end_of_the_certificate_whatever_comes(world: World) -> None:
    world.renew("second", 2 * ENDS_S)
    world.now_s = ENDS_S
    assert world.answered_by() == "first"
    world.now_s += 1.0
    assert world.answered_by() == "second"


async def test_a_second_renewal_takes_the_place_of_the_first(world: World) -> None:
    world.renew("second")
    assert world.answered_by() == "first"
    world.renew("third")
    assert world.answered_by() == "first"
    _, second, third = world.opened
    second.state = third.state = READY
    assert world.answered_by() == "third"
    await asyncio.sleep(0)
    assert second.closed_after == [None]


async def test_closing_closes_every_channel_once_and_waits_for_none_that_is_leaving(
    world: World,
) -> None:
    under_way = world.begin()
    world.renew("second")
    world.answered_by()
    world.opened[1].state = READY
    assert world.answered_by() == "second"
    world.renew("third")
    world.answered_by()
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await world.channel.close()
    assert not under_way.done()
    assert [each.closed_after for each in world.opened] == [[None]] * 3
    # Nothing is opened any more, for nobody would close it.
    world.renew("fourth")
    world.answered_by()
    assert len(world.opened) == 3
