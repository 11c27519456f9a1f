"""A place or keys service that does not answer: readers hear so together, and wait once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway_svc import web
from gateway_svc.jwks import Jwks
from gateway_svc.remote import RemoteSource
from gateway_svc.web import Gateway
from provledger.errors import DeadlineExceededError, StatusError, UnavailableError
from tests.support.places import MemoryPlace
from tests.support.tiled import signed_checkpoint


class HangingPlace(MemoryPlace):
    """Checkpoints come in no time, or not at all while `hang` is clear."""

    def __init__(self) -> None:
        super().__init__(a={"checkpoint": signed_checkpoint("log.test/x", [b"x"])})
        self.hang = asyncio.Event()
        self.hang.set()

    async def checkpoint(self, name: str) -> bytes | None:
        self.asked.append("checkpoint")
        if not self.hang.is_set():
            await self.hang.wait()
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "no time was left for the call")
        return self.logs[name]["checkpoint"]


class Clock:
    """Seconds, which go on by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def outcomes(
    ask: Callable[[], Coroutine[Any, Any, object]], clock: Clock, gate: asyncio.Event
) -> set[tuple[str, str]]:
    """What readers are told who come one second after another, and wait for five in all."""
    asking = []
    for _ in range(5):
        asking.append(asyncio.create_task(ask()))
        for _ in range(5):
            await asyncio.sleep(0)
        clock.now_s += 1.0
    gate.set()
    async with asyncio.timeout(20):
        told = await asyncio.gather(*asking, return_exceptions=True)
    return {(each.code, each.reason) for each in told if isinstance(each, StatusError)}


async def test_readers_of_a_checkpoint_are_told_together_that_the_place_hangs() -> None:
    place, clock = HangingPlace(), Clock()
    source = RemoteSource(place, max_age_s=0.2, cache_bytes=0, monotonic=clock)
    found = await source.find("x")
    assert found is not None
    clock.now_s += 1.0
    place.asked.clear()
    place.hang.clear()
    # It was asked once for all of them, and its deadline is none of theirs.
    assert await outcomes(found.published, clock, place.hang) == {
        ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
    }
    assert place.asked == ["checkpoint"]
    # A moment later it is asked no more either, and then again.
    with pytest.raises(UnavailableError):
        await found.published()
    assert place.asked == ["checkpoint"]
    clock.now_s += 0.2
    assert (await found.published()).size == 1


async def test_readers_of_the_keys_are_told_together_that_their_service_hangs() -> None:
    clock, gate, calls = Clock(), asyncio.Event(), 0

    async def fetch() -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            await gate.wait()
            raise DeadlineExceededError("DEADLINE_EXCEEDED", "no time was left for the call")
        return b'{"keys":[]}'

    jwks = Jwks(fetch, max_age_s=5, monotonic=clock)
    assert await outcomes(jwks.get, clock, gate) == {("UNAVAILABLE", "UNAVAILABLE")}
    with pytest.raises(UnavailableError):
        await jwks.get()
    assert calls == 1
    clock.now_s += 1.0
    assert (await jwks.get()).data == b'{"keys":[]}'


async def test_the_index_does_not_wait_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "KEYS_WAIT_S", 0.01)
    begun, never = asyncio.Event(), asyncio.Event()

    async def fetch() -> bytes:
        begun.set()
        await never.wait()
        return b'{"keys":[]}'

    source = RemoteSource(HangingPlace(), max_age_s=10, cache_bytes=0)
    jwks = Jwks(fetch, max_age_s=5)
    gateway = Gateway(source, jwks, checkpoint_max_age_s=1, jwks_max_age_s=1)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": []}
    async with asyncio.timeout(20):
        await gateway.app(request_timeout_s=20, tls=False)(scope, None, send)
    gateway.close()
    assert (begun.is_set(), sent[0]["status"]) == (True, 200)
    (shown,) = json.loads(sent[1]["body"])["logs"]
    assert (shown["origin"], shown["vkeys"]) == ("log.test/x", [])
    # Who gave up has not taken the answer from others.
    never.set()
    assert (await jwks.get()).data == b'{"keys":[]}'
