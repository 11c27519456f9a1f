"""Appends wait for the first comparison of the key registry with the key ledger, and no longer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ledger_svc.key_registry import KeyRegistry
from ledger_svc.progress import Progress, Sinks
from ledger_svc.relay import Relay, RelayLimits, _LedgerRelay
from ledger_svc.witness_keys import RingPolicy
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    StatusError,
    UnavailableError,
)

UID = bytes(16)


class Ring:
    """What the keys service says of itself; it lets every key sign."""

    def __init__(self, revision: int) -> None:
        self.view = SimpleNamespace(revision=revision)
        self._news = asyncio.Event()

    def say(self, revision: int) -> None:
        self.view = SimpleNamespace(revision=revision)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def changed(self, timeout_s: float) -> None:
        await self._news.wait()

    def accepts(self, purpose: str, kid: str, epoch: int) -> bool:
        return True


class Keys:
    """A registry with so many events, two to a page, or one that does not answer."""

    def __init__(self, events: int | None) -> None:
        self.events = events
        self.recorded = 0

    async def ListKeyEvents(self, request: Any, **_: Any) -> pb.ListKeyEventsResponse:
        if self.events is None:
            raise UnavailableError("AWAY", "nobody there")
        assert request.page_size > 0, "all in one message could be too large"
        events = [
            pb.JournaledKeyEvent(
                payload=b"%d" % n,
                state=pb.KEY_EVENT_STATE_RECORDED
                if n <= self.recorded
                else pb.KEY_EVENT_STATE_SEALED,
            )
            for n in range(1, self.events + 1)
        ]
        end = int(request.page_token or 0) + 2
        token = str(end) if end < len(events) else ""
        return pb.ListKeyEventsResponse(events=events[end - 2 : end], next_page_token=token)


class Stored:
    """A database with a key ledger of three events."""

    exists = True
    last_seq = 3

    async def get_ledger(self, tenant: str, ledger: str) -> Any:
        if not self.exists:
            return None
        return SimpleNamespace(uid=UID, name=f"tenants/{tenant}/ledgers/{ledger}")

    async def get_head(self, uid: bytes) -> Any:
        return SimpleNamespace(head=SimpleNamespace(seq=self.last_seq))

    async def get_rows(self, uid: bytes, seqs: list[int], *, full: bool) -> Any:
        return [SimpleNamespace(row=SimpleNamespace(payload=b"%d" % seq)) for seq in seqs]

    async def entries_for_log(self, *_: Any) -> Any:
        state = SimpleNamespace(head=SimpleNamespace(seq=0))
        return SimpleNamespace(entries=[b"entry"], state=state)


class Anchor:
    """A log that takes what it is given."""

    submitted = 0

    async def SubmitLeaves(self, request: Any, **_: Any) -> anchor_pb2.SubmitLeavesResponse:
        self.submitted += 1
        run = anchor_pb2.LeafRun(start_seq=request.start_seq, start_index=7, count=1)
        return anchor_pb2.SubmitLeavesResponse(runs=[run], tree_size=8)


class Bench:
    """A ledger service as far as it goes: what it hears, asks and has."""

    def __init__(self, revision: int, events: int | None) -> None:
        self.ring, self.keys = Ring(revision), Keys(events)
        self.stored: Any = Stored()
        self.registry = KeyRegistry(self.ring, self.keys, self.stored)  # type: ignore[arg-type]
        self.policy = RingPolicy(self.ring, self.registry)  # type: ignore[arg-type]
        self.running = asyncio.create_task(self.registry.run())

    async def refused(self) -> str:
        try:
            await self.policy.wait_accepts("witness-1", 1)
        except FailedPreconditionError as error:
            return error.reason
        return ""

    async def submitted(self) -> str:
        """What keeps the relay from bringing an entry to the log; "" if it did."""
        anchor = Anchor()
        relay = Relay(
            self.stored,
            anchor,
            Progress(self.stored, Sinks(anchor, timeout_s=1.0)),
            RelayLimits(),
            registry=self.registry,
        )
        ledger: Any = SimpleNamespace(uid=UID, name="l", log_name="logs/l", suite="blake3")
        one = _LedgerRelay(relay, ledger)
        recorder: Any = SimpleNamespace(add=lambda runs: None)
        try:
            assert await one._step(recorder) == 1
        except StatusError as error:
            assert not anchor.submitted
            return error.reason
        assert anchor.submitted
        return ""


@pytest.mark.parametrize(
    ("events", "reason"), [(2, "KEY_REGISTRY_BEHIND"), (3, ""), (4, ""), (None, "")]
)
async def test_first_append_waits_for_the_comparison(events: int | None, reason: str) -> None:
    """That nobody answers is no reason to refuse; an event not yet in the key ledger neither."""
    bench = Bench(revision=5, events=events)
    assert await bench.refused() == reason
    bench.running.cancel()


@pytest.mark.parametrize(
    ("events", "reason"),
    [(2, "KEY_REGISTRY_BEHIND"), (3, ""), (4, ""), (None, "KEY_REGISTRY_NOT_COMPARED")],
)
async def test_nothing_is_logged_before_the_comparison(events: int | None, reason: str) -> None:
    """The anchor may have heard of the keys, and would sign what it is brought."""
    bench = Bench(revision=5, events=events)
    assert await bench.submitted() == reason
    bench.running.cancel()


async def test_log_goes_on_without_a_keys_service_once_compared() -> None:
    bench = Bench(revision=5, events=3)
    assert await bench.submitted() == ""
    bench.keys.events = None
    bench.ring.say(6)
    assert await bench.submitted() == ""
    # Put back under us, it is found before anything else goes to the log.
    bench.keys.events = 2
    bench.ring.say(4)
    assert await bench.submitted() == "KEY_REGISTRY_BEHIND"
    bench.keys.events = 3
    await bench.registry.compare()
    assert await bench.submitted() == ""
    bench.running.cancel()


async def test_registry_without_a_key_ledger_keeps_nothing_from_the_log() -> None:
    """Its first event has to be logged, too."""
    bench = Bench(revision=5, events=3)
    bench.stored.exists = False
    assert await bench.submitted() == ""
    bench.running.cancel()


async def test_registry_that_went_back_is_compared_before_the_next_append() -> None:
    bench = Bench(revision=9, events=3)
    assert await bench.refused() == ""
    bench.keys.events = 2
    bench.ring.say(4)
    assert await bench.refused() == "KEY_REGISTRY_BEHIND"
    assert bench.registry.stale_reason == "KEY_REGISTRY_BEHIND"
    # What was found out stays so while nobody answers, and ends when the right one is back.
    bench.keys.events = None
    with pytest.raises(UnavailableError):
        await bench.registry.compare()
    assert await bench.refused() == "KEY_REGISTRY_BEHIND"
    bench.keys.events = 3
    await bench.registry.compare()
    assert await bench.refused() == ""
    bench.running.cancel()


@pytest.mark.parametrize("payload", [b"2", b"3", b"4"])
async def test_event_that_is_next_or_there_already_is_taken(payload: bytes) -> None:
    bench = Bench(revision=5, events=5)
    await bench.registry.check_next(payload)
    bench.running.cancel()


@pytest.mark.parametrize(("events", "payload"), [(3, b"4"), (4, b"another"), (5, b"5")])
async def test_event_of_a_registry_that_was_put_away_is_not_taken(
    events: int, payload: bytes
) -> None:
    """It was heard of before, and the registry that is there now would be behind for ever."""
    bench = Bench(revision=5, events=events)
    with pytest.raises(NotFoundError) as caught:
        await bench.registry.check_next(payload)
    assert caught.value.reason == "KEY_EVENT_NOT_FOUND"
    assert await bench.refused() == ""
    bench.running.cancel()


async def test_no_event_is_taken_while_the_registry_is_behind() -> None:
    bench = Bench(revision=5, events=2)
    with pytest.raises(FailedPreconditionError):
        await bench.registry.check_next(b"2")
    bench.running.cancel()


async def test_an_older_copy_that_went_on_is_noticed_before_anything_goes_to_the_log() -> None:
    """Its revision is larger than the one that was compared last."""
    bench = Bench(revision=5, events=3)
    assert await bench.submitted() == ""
    bench.keys.events = 2
    bench.ring.say(6)
    assert await bench.submitted() == "KEY_REGISTRY_BEHIND"
    bench.running.cancel()


@pytest.mark.parametrize(
    ("events", "recorded", "missing"),
    [(3, 3, None), (4, 3, None), (4, 4, b"4"), (6, 5, b"4"), (3, 2, None)],
)
async def test_what_is_recorded_and_not_in_the_key_ledger_is_missing(
    events: int, recorded: int, missing: bytes | None
) -> None:
    """Not what is sealed only, which is on its way."""
    bench = Bench(revision=5, events=events)
    bench.keys.recorded = recorded
    await bench.registry.compare()
    assert bench.registry.missing == missing
    # That a key ledger is not there at all is another matter: it may be in another database.
    bench.stored.exists = False
    await bench.registry.compare()
    assert bench.registry.missing is None
    bench.running.cancel()


async def test_what_is_recorded_while_it_is_looked_at_is_not_missing() -> None:
    """Another replica appended it, and said so, behind the first look at the key ledger."""
    bench = Bench(revision=5, events=4)
    bench.keys.recorded = 4
    listing = bench.keys.ListKeyEvents

    async def later(*args: Any, **given: Any) -> pb.ListKeyEventsResponse:
        bench.stored.last_seq = 4
        return await listing(*args, **given)

    bench.keys.ListKeyEvents = later  # type: ignore[method-assign]
    await bench.registry.compare()
    assert bench.registry.missing is None
    bench.running.cancel()


async def test_nothing_is_missing_from_a_key_ledger_that_has_more() -> None:
    bench = Bench(revision=5, events=4)
    bench.keys.recorded = 4
    await bench.registry.compare()
    bench.keys.events = bench.keys.recorded = 2
    with pytest.raises(FailedPreconditionError):
        await bench.registry.compare()
    assert bench.registry.missing is None
    bench.running.cancel()


async def test_a_refused_event_shows_what_is_missing_in_front_of_it() -> None:
    """Lost since the registry changed last, by a database that went back."""
    bench = Bench(revision=5, events=5)
    bench.keys.recorded = 4
    with pytest.raises(NotFoundError):
        await bench.registry.check_next(b"5")
    assert bench.registry.missing == b"4"
    bench.running.cancel()
