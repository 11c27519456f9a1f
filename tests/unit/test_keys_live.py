"""What a watcher of the registry is told, when reads and changes overtake each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from keys_svc.live import LiveRegistry
from keys_svc.registry import Registry
from keys_svc.storage import Decision

NEVER_S = 3600.0


class SlowReads:
    """A database whose reads can be held up after they have seen what is stored."""

    def __init__(self) -> None:
        self.now = Registry(revision=4)
        self.reads = 0
        self.seen = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def load(self) -> Registry:
        self.reads += 1
        seen = self.now
        self.seen.set()
        await self.may_end.wait()
        return seen

    async def update(self, decide: Decision) -> Registry:
        self.now = decide(self.now)
        return self.now

    async def close(self) -> None:
        pass


@pytest.fixture
def storage() -> SlowReads:
    return SlowReads()


@pytest.fixture
def live(storage: SlowReads) -> LiveRegistry:
    return LiveRegistry(storage, poll_interval_s=NEVER_S)


@pytest.fixture
async def watching(live: LiveRegistry) -> AsyncIterator[AsyncIterator[Registry]]:
    """A watcher without heartbeats: what it is not told of, it never hears."""
    snapshots = live.snapshots(NEVER_S)
    assert isinstance(snapshots, AsyncGenerator)
    async with aclosing(snapshots):
        yield snapshots


def next_revision(registry: Registry) -> Registry:
    return replace(registry, revision=registry.revision + 1)


async def heard(watching: AsyncIterator[Registry]) -> int:
    return (await asyncio.wait_for(anext(watching), 5)).revision


async def test_change_during_a_watchers_read_is_not_missed(
    live: LiveRegistry, storage: SlowReads, watching: AsyncIterator[Registry]
) -> None:
    await live.load()
    storage.seen.clear()
    storage.may_end.clear()
    first = asyncio.create_task(heard(watching))
    await storage.seen.wait()
    await live.update(next_revision)
    storage.may_end.set()
    assert await first == 4, "what it had read before"
    assert await heard(watching) == 5, "and then the change, at once"


async def test_read_that_ends_late_does_not_undo_an_announcement(
    live: LiveRegistry, storage: SlowReads, watching: AsyncIterator[Registry]
) -> None:
    storage.may_end.clear()
    late = asyncio.create_task(live.load())
    await storage.seen.wait()
    await live.update(next_revision)
    storage.may_end.set()
    assert (await late).revision == 4
    assert live._announced_revision == 5


async def test_watcher_is_told_of_a_change_while_it_waits_and_while_it_is_busy(
    live: LiveRegistry, watching: AsyncIterator[Registry]
) -> None:
    assert await heard(watching) == 4
    await live.update(next_revision)
    assert await heard(watching) == 5, "made while the receiver was busy"
    waiting = asyncio.create_task(heard(watching))
    await asyncio.sleep(0)
    await live.update(next_revision)
    assert await waiting == 6


async def test_database_that_went_back_is_not_read_without_a_pause(
    live: LiveRegistry, storage: SlowReads, watching: AsyncIterator[Registry]
) -> None:
    await live.load()
    storage.now = Registry(revision=2)
    assert await heard(watching) == 2
    waiting = asyncio.create_task(heard(watching))
    reads = storage.reads
    for _ in range(20):
        await asyncio.sleep(0)
    assert storage.reads == reads, "it waits for a change or a heartbeat"
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
