"""The end of a watch of health: the newest status first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from provledger.errors import UnavailableError
from provledger.rpc.health import HealthServicer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Slow:
    """A watcher that takes a message only when it is told to."""

    def __init__(self) -> None:
        self.offered = asyncio.Event()
        self.takes = asyncio.Event()
        self.told: list[Any] = []

    async def write(self, message: Any) -> None:
        self.offered.set()
        await self.takes.wait()
        self.told.append(message.status)


async def ended(watch: asyncio.Task[None]) -> str:
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError) as caught:
            await watch
    return caught.value.reason


@pytest.fixture
def health() -> HealthServicer:
    servicer = HealthServicer()
    servicer.set([""], able=True)
    return servicer


async def test_who_is_still_taking_the_first_status_is_told_the_last(
    health: HealthServicer,
) -> None:
    watcher = Slow()
    watch = asyncio.ensure_future(health.Watch(health_pb2.HealthCheckRequest(), watcher))
    await watcher.offered.wait()
    health.set([""], able=False)
    health.end()
    watcher.takes.set()
    assert await ended(watch) == "SERVER_DRAINING"
    assert watcher.told == [SERVING, NOT_SERVING]


async def test_who_waits_for_a_change_is_told_it_and_ended(health: HealthServicer) -> None:
    watcher = Slow()
    watcher.takes.set()
    watch = asyncio.ensure_future(health.Watch(health_pb2.HealthCheckRequest(), watcher))
    await watcher.offered.wait()
    await asyncio.sleep(0)
    health.set([""], able=False)
    health.end()
    assert await ended(watch) == "SERVER_DRAINING"
    assert watcher.told == [SERVING, NOT_SERVING]


async def test_who_comes_later_is_told_once_and_ended(health: HealthServicer) -> None:
    health.set([""], able=False)
    health.end()
    watcher = Slow()
    watcher.takes.set()
    watch = asyncio.ensure_future(health.Watch(health_pb2.HealthCheckRequest(), watcher))
    assert await ended(watch) == "SERVER_DRAINING"
    assert watcher.told == [NOT_SERVING]
