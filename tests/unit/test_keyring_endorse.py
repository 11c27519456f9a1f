"""Which key events a key ring endorses; what it does with its keys is in test_keyring_opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from provledger import keyring
from provledger._keyring_view import MAX_CLOCK_LAG_NS
from provledger.errors import NotFoundError, UnavailableError
from provledger.key_events import EventType, FirstKey, KeyEvent, KeyRef
from tests.unit.test_keyring import NOW_NS, PENDING, Bench
from tests.unit.test_keyring_opened import event_about


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, ["witness"])
    await bench.ring.start()
    yield bench
    await bench.ring.close()


def rotation(bench: Bench, not_before_ns: int = NOW_NS) -> KeyEvent:
    """From w1 to w2."""
    new, old = bench.key("w2", PENDING), bench.key("w1")
    return replace(
        event_about(new),
        event=EventType.ROTATED,
        uri="",
        jwk={},
        epoch=2,
        not_before_ns=not_before_ns,
        previous=KeyRef("w1", old.thumbprint),
    )


def genesis(bench: Bench, not_before_ns: int) -> KeyEvent:
    """With w1 as its only key."""
    first = event_about(bench.key("w1"))
    named = FirstKey(
        first.kid, first.purpose, first.uri, first.jwk, first.thumbprint, not_before_ns
    )
    recovery = event_about(bench.key("r1"))
    return replace(
        recovery, event=EventType.GENESIS, purpose="", genesis=b"", uri="", first_keys=(named,)
    )


@pytest.mark.parametrize("kid", ["w1", "w2"])
async def test_rotation_that_begins_ahead_of_our_clock_is_not_endorsed(
    bench: Bench, kid: str
) -> None:
    """Nobody could sign until then, and once endorsed it could not be taken back."""
    limit = rotation(bench, NOW_NS + MAX_CLOCK_LAG_NS)
    ahead = rotation(bench, NOW_NS + MAX_CLOCK_LAG_NS + 10**9)
    await bench.say(bench.key("w1"), bench.key("w2", PENDING), events=[limit, ahead])
    with pytest.raises(UnavailableError, match=r"301 s ahead.*keys service.*--cancel") as caught:
        await bench.ring.endorse(ahead, kid)
    assert caught.value.reason == "CLOCK_SKEW"
    assert caught.value.metadata == {"kid": "w2", "aheadSeconds": "301"}
    assert (await bench.ring.endorse(limit, kid)).kid == kid
    bench.now_ns += 10**9
    assert (await bench.ring.endorse(ahead, kid)).kid == kid


async def test_genesis_of_a_key_that_begins_ahead_of_our_clock_is_not_endorsed(
    bench: Bench,
) -> None:
    good, ahead = genesis(bench, NOW_NS), genesis(bench, NOW_NS + 3600 * 10**9)
    await bench.say(bench.key("w1"), events=[good, ahead])
    with pytest.raises(UnavailableError, match="3600 s ahead") as caught:
        await bench.ring.endorse(ahead, "w1")
    assert caught.value.reason == "CLOCK_SKEW"
    assert (await bench.ring.endorse(good, "w1")).kid == "w1"


async def test_event_that_the_keys_service_never_proposed_is_not_endorsed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger service, which asks us, could make up the revocation of an honest key."""
    monkeypatch.setattr(keyring, "_ANNOUNCED_S", 0.05)
    proposed = rotation(bench)
    made_up = replace(
        event_about(bench.key("w1")), event=EventType.REVOKED, uri="", jwk={}, reason="made up"
    )
    keys = (bench.key("w1"), bench.key("w2", PENDING))
    await bench.say(*keys, events=[proposed])
    with pytest.raises(NotFoundError, match="does not announce") as caught:
        await bench.ring.endorse(made_up, "w2")
    assert caught.value.reason == "KEY_EVENT_NOT_FOUND"
    assert caught.value.metadata == {"digest": made_up.digest().hex()}
    assert (await bench.ring.endorse(proposed, "w2")).kid == "w2"
    await bench.say(*keys)
    for kid in ("w1", "w2"):
        with pytest.raises(NotFoundError):
            await bench.ring.endorse(proposed, kid)


async def test_event_that_others_heard_of_first_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "_ANNOUNCED_S", 30.0)
    event, keys = rotation(bench), (bench.key("w1"), bench.key("w2", PENDING))
    await bench.say(*keys)
    endorsing = asyncio.create_task(bench.ring.endorse(event, "w2"))
    await asyncio.sleep(0)
    await bench.say(*keys, changed=False)
    assert not endorsing.done()
    await bench.say(*keys, events=[event])
    assert (await asyncio.wait_for(endorsing, 30)).kid == "w2"
