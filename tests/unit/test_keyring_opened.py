"""Each key is opened once and closed once, however many want it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provledger import jcs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import UnavailableError
from provledger.jwk import Algorithm, PublicKey, verify_signature
from provledger.key_events import EventType, KeyEvent
from provledger.kms import Signer
from tests.unit.test_keyring import NOW_NS, PENDING, Bench, Opener

ACTIVE_URI, PENDING_URI = "local:w1.pem", "local:w2.pem"


class Counted:
    """A signer that says when it is closed."""

    def __init__(self, signer: Signer, closed: list[str]) -> None:
        self._signer = signer
        self._closed = closed

    @property
    def uri(self) -> str:
        return self._signer.uri

    @property
    def algorithm(self) -> Algorithm:
        return self._signer.algorithm

    @property
    def public_key(self) -> PublicKey:
        return self._signer.public_key

    async def sign(self, message: bytes) -> bytes:
        return await self._signer.sign(message)

    async def close(self) -> None:
        self._closed.append(self.uri)
        await self._signer.close()


class CountingOpener(Opener):
    """Also counts what it was asked for, and what was closed."""

    def __init__(self, key_dir: Path) -> None:
        super().__init__(key_dir)
        self.asked: list[str] = []
        self.closed: list[str] = []

    async def __call__(self, uri: str) -> Signer:
        self.asked.append(uri)
        return Counted(await super().__call__(uri), self.closed)


class CountingBench(Bench):
    opener: CountingOpener

    def __init__(self, key_dir: Path) -> None:
        super().__init__(key_dir, ["witness"], CountingOpener(key_dir))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CountingBench]:
    bench = CountingBench(tmp_path)
    await bench.ring.start()
    yield bench
    await bench.ring.close()


async def pending_key(bench: CountingBench) -> KeyEvent:
    """Have a key that is open and one that is registered; return the event of the latter."""
    new = bench.key("w2", PENDING)
    event = event_about(new)
    await bench.say(bench.key("w1"), new, events=[event])
    await bench.signing_with("w1")
    return event


def event_about(key: pb.Key) -> KeyEvent:
    return KeyEvent(
        event=EventType.CREATED,
        at_ns=NOW_NS,
        kid=key.kid,
        thumbprint=key.thumbprint,
        purpose="witness",
        genesis=bytes(32),
        uri=key.uri,
        jwk=jcs.parse(key.jwk),
    )


async def test_endorsements_at_once_open_the_key_once(bench: CountingBench) -> None:
    event = await pending_key(bench)
    bench.opener.gate.clear()
    endorsing = [asyncio.create_task(bench.ring.endorse(event, "w2")) for _ in range(3)]
    await bench.until(lambda: PENDING_URI in bench.opener.asked)
    bench.opener.gate.set()
    assert {endorsed.kid for endorsed in await asyncio.gather(*endorsing)} == {"w2"}
    await bench.ring.close()
    assert bench.opener.asked.count(PENDING_URI) == 1
    assert sorted(bench.opener.closed) == sorted(bench.opener.opened), "what is open is closed"


async def test_endorsement_while_the_key_is_being_opened_shares_it(bench: CountingBench) -> None:
    bench.opener.gate.clear()
    key = bench.key("w1")
    await bench.say(key, events=[event_about(key)])
    await bench.until(lambda: bench.opener.asked == [ACTIVE_URI])
    endorsing = asyncio.create_task(bench.ring.endorse(event_about(key), "w1"))
    await asyncio.sleep(0)
    bench.opener.gate.set()
    assert (await endorsing).kid == "w1"
    await bench.signing_with("w1")
    await bench.ring.close()
    assert bench.opener.closed == bench.opener.asked == [ACTIVE_URI]


async def test_who_gives_up_takes_nobody_along(bench: CountingBench) -> None:
    event = await pending_key(bench)
    bench.opener.gate.clear()
    first, second = (asyncio.create_task(bench.ring.endorse(event, "w2")) for _ in range(2))
    await bench.until(lambda: PENDING_URI in bench.opener.asked)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.opener.gate.set()
    assert (await second).kid == "w2"
    assert bench.opener.asked.count(PENDING_URI) == 1


async def test_failure_is_told_to_all_who_wait_and_tried_again_later(bench: CountingBench) -> None:
    event = await pending_key(bench)
    bench.opener.failing.add(PENDING_URI)
    results = await asyncio.gather(
        *(bench.ring.endorse(event, "w2") for _ in range(2)), return_exceptions=True
    )
    assert all(isinstance(result, UnavailableError) for result in results)
    bench.opener.failing.clear()
    assert (await bench.ring.endorse(event, "w2")).kid == "w2"
    assert bench.opener.asked.count(PENDING_URI) == 2


async def test_ring_that_ends_tells_who_waits_and_leaves_nothing_open(bench: CountingBench) -> None:
    event = await pending_key(bench)
    bench.opener.gate.clear()
    endorsing = asyncio.create_task(bench.ring.endorse(event, "w2"))
    await bench.until(lambda: PENDING_URI in bench.opener.asked)
    await bench.ring.close()
    with pytest.raises(UnavailableError) as caught:
        await endorsing
    assert caught.value.reason == "KEY_NOT_USABLE"
    bench.opener.gate.set()
    await asyncio.sleep(0)
    assert bench.opener.closed == bench.opener.opened == [ACTIVE_URI]


async def test_another_key_under_a_kid_is_opened_though_the_one_before_is_open(
    bench: Bench,
) -> None:
    """As in a registry that was put in place of one in which the kid stood for another key."""
    await bench.say(bench.key("w1"))
    before = await bench.signing_with("w1")
    other = bench.key("elsewhere")
    other.kid = "w1"
    await bench.say(other)
    await bench.until(lambda: bench.current_kid() == "w1")
    now = bench.ring.current("witness")
    assert now.thumbprint == other.thumbprint != before.thumbprint
    verify_signature(now.public_key, await now.signer.sign(b"x"), b"x")
    assert bench.opener.opened == ["local:w1.pem", "local:elsewhere.pem"]
    # What was handed out before still signs.
    verify_signature(before.public_key, await before.signer.sign(b"x"), b"x")
