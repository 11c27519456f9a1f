"""Clients of key providers that are made anew where their credentials are refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from provledger.kms._renewing import RENEW_S, Renewable

WAIT_S = 30.0


@dataclass
class Bench:
    """Clients are numbers; 0 is the first. `gate` holds up those who connect."""

    now_s: float = 100.0
    connects: int = 0
    failing: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    connecting: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: list[int] = field(default_factory=list)
    drop_seen: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.client = Renewable("test:", 0, self.connect, self.drop, clock=lambda: self.now_s)

    async def connect(self) -> int:
        self.connects += 1
        number = self.connects
        self.connecting.set()
        await self.gate.wait()
        if self.failing:
            raise OSError("no credentials")
        return number

    async def drop(self, client: int) -> None:
        self.dropped.append(client)
        self.drop_seen.set()

    async def until_connecting(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.connecting.wait()

    async def until_dropped(self, client: int) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.drop_seen.wait()
        assert self.dropped == [client]


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    made.now_s += RENEW_S
    return made


async def test_refused_client_is_replaced_and_dropped(bench: Bench) -> None:
    assert await bench.client.renewed(0)
    assert (bench.client.client, bench.connects) == (1, 1)
    await bench.until_dropped(0)


async def test_all_who_were_refused_share_one_new_client(bench: Bench) -> None:
    bench.gate.clear()
    waiting = [asyncio.create_task(bench.client.renewed(0)) for _ in range(8)]
    await bench.until_connecting()
    bench.gate.set()
    assert await asyncio.gather(*waiting) == [True] * 8
    # Whoever was refused by the old one only now hears of the new one, whatever the time.
    assert await bench.client.renewed(0)
    assert bench.connects == 1


async def test_new_client_that_is_refused_too_is_not_replaced_at_once(bench: Bench) -> None:
    assert await bench.client.renewed(0)
    assert not await bench.client.renewed(1)
    bench.now_s += RENEW_S - 0.001
    assert not await bench.client.renewed(1)
    bench.now_s += 0.002
    assert await bench.client.renewed(1)
    assert bench.connects == 2


async def test_first_client_is_not_replaced_at_once_either() -> None:
    bench = Bench()
    assert not await bench.client.renewed(0)
    assert bench.connects == 0


async def test_without_a_new_client_the_old_one_stays(bench: Bench) -> None:
    bench.failing = True
    assert not await bench.client.renewed(0)
    assert not await bench.client.renewed(0)
    assert (bench.client.client, bench.connects, bench.dropped) == (0, 1, [])
    bench.failing = False
    bench.now_s += RENEW_S
    assert await bench.client.renewed(0)


async def test_whoever_gives_up_the_wait_does_not_end_it_for_others(bench: Bench) -> None:
    bench.gate.clear()
    first, second = (asyncio.create_task(bench.client.renewed(0)) for _ in range(2))
    await bench.until_connecting()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bench.gate.set()
    assert await second
    assert bench.connects == 1


async def test_pause_begins_when_connecting_ends(bench: Bench) -> None:
    bench.gate.clear()
    waiting = asyncio.create_task(bench.client.renewed(0))
    await bench.until_connecting()
    bench.now_s += 10
    bench.gate.set()
    assert await waiting
    assert not await bench.client.renewed(1)


async def test_client_that_comes_after_the_close_is_dropped(bench: Bench) -> None:
    bench.gate.clear()
    waiting = asyncio.create_task(bench.client.renewed(0))
    await bench.until_connecting()
    assert bench.client.close() == 0
    bench.gate.set()
    assert not await waiting
    await bench.until_dropped(1)
    bench.now_s += RENEW_S
    assert not await bench.client.renewed(0)
    assert bench.connects == 1
