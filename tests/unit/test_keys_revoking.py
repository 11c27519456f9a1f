"""Revocations while rotations are under way: the registry and the key ledger stay of one mind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys_svc import journal
from keys_svc.proposals import propose_rotated
from keys_svc.rebuilding import rebuild
from keys_svc.registry import EventState, Registry
from keys_svc.revoking import revoke
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
)
from provledger.key_events import EventType
from provledger.key_history import check_key_set
from provledger.keyset import MAX_CLOCK_AHEAD_NS, CoveredCheckpoint, KeyPurpose, KeyState
from tests.unit.test_key_events import C1, H1, R1, W1, W2, W3, X1
from tests.unit.test_keys_journal import DRAIN_NS, MAKERS, WITNESS, binding, carry, rotate


def first_keys() -> Registry:
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    return registry


def kept() -> Registry:
    return carry(journal.propose_genesis(first_keys(), binding(R1), 20))


def endorsed_by_both(registry: Registry) -> Registry:
    """All that is open, by the first witness key and the second."""
    for each in journal.open_events(registry):
        event = each.signed.event
        both = [W1.endorse(event), W2.endorse(event)]
        registry = journal.endorse(registry, event.digest(), both)
    return registry


def sealed() -> Registry:
    """A rotation from the first key to the second, endorsed; the ledger is away."""
    registry = rotate(kept(), W2)
    for each in journal.open_events(registry):
        event = each.signed.event
        both = [W1.endorse(event), W2.endorse(event)]
        registry = journal.endorse(registry, event.digest(), both)
        if event.event is EventType.CREATED:
            registry = journal.record(registry, event.digest(), "r", 500, DRAIN_NS)
    return registry


def open_of(registry: Registry) -> list[tuple[EventType, str, EventState]]:
    return [
        (each.event_type, each.signed.event.kid, each.state)
        for each in journal.open_events(registry)
    ]


def carried(registry: Registry, now_ns: int = 9_000) -> Registry:
    """All that is open recorded, where that can be, by all keys and the recovery key's holder."""
    for _ in range(8):
        for each in journal.open_events(registry):
            event = each.signed.event
            registry = journal.endorse(registry, event.digest(), [R1.endorse(event)])
        registry = carry(registry, now_ns=now_ns)
    return registry


def check_of_one_mind(registry: Registry) -> None:
    assert open_of(registry) == []
    check_key_set(journal.history_of(registry), registry.key_set(9_000))


def check_storable(registry: Registry) -> None:
    for key in registry:
        assert (key.epoch > 0) == (key.not_before_ns is not None), key.kid
    for purpose in KeyPurpose:
        mine = [key for key in registry if key.purpose == purpose]
        assert sum(key.state is KeyState.ACTIVE for key in mine) <= 1
        epochs = [key.epoch for key in mine if key.epoch]
        assert len(set(epochs)) == len(epochs)


def test_pending_key_is_not_revoked_while_its_rotation_is_sealed() -> None:
    registry = sealed()
    with pytest.raises(FailedPreconditionError, match="--replace-by") as caught:
        revoke(registry, "witness-2", "leaked", 600)
    assert caught.value.reason == "ROTATION_SEALED"
    done = carried(registry)
    assert done.active(WITNESS) == done.get("witness-2")
    done = rotate(done, W3, 10_000)
    done = revoke(done, "witness-2", "leaked", 11_000, replacement_kid="witness-3")
    check_of_one_mind(carried(done, 12_000))


def test_revoked_pending_key_takes_its_proposals_with_it() -> None:
    waiting = carry(rotate(kept(), W2), kids=["witness-1"])
    revoked = revoke(waiting, "witness-2", "leaked", 600)
    assert open_of(revoked) == []
    assert revoke(revoked, "witness-2", "leaked", 700) is revoked
    done = carried(rotate(revoked, W3, 800))
    assert done.active(WITNESS) == done.get("witness-3")
    check_of_one_mind(done)


def test_revocation_of_a_pending_key_that_the_ledger_knows_is_recorded() -> None:
    created = carry(journal.create(kept(), binding(W2), 300))
    revoked = revoke(rotate(created, W2), "witness-2", "leaked", 600)
    assert [kind for kind, _, _ in open_of(revoked)] == [EventType.REVOKED]
    done = carried(revoked)
    assert journal.history_of(done).keys["witness-2"].state is KeyState.REVOKED
    check_of_one_mind(done)


def test_emergency_overtakes_a_rotation_that_waits_for_the_stolen_key() -> None:
    waiting = carry(rotate(kept(), W2), kids=["witness-2"])
    replaced = revoke(waiting, "witness-1", "stolen", 600, replacement_kid="witness-2")
    assert replaced.active(WITNESS) == replaced.get("witness-2")
    rotations = [kid for kind, kid, _ in open_of(replaced) if kind is EventType.ROTATED]
    assert rotations == ["witness-2"]
    done = carried(replaced)
    check_of_one_mind(done)
    check_of_one_mind(carried(rotate(done, W3, 10_000), 11_000))


def test_replacement_that_waits_for_the_recovery_key_names_the_command_that_finishes_it() -> None:
    """It is active already, so that neither rotating to it nor taking that back helps."""
    registry = journal.create(kept(), binding(W2), 300)
    replaced = revoke(registry, "witness-1", "stolen", 600, replacement_kid="witness-2")
    again = "keys revoke witness-1 --replace-by witness-2"
    with pytest.raises(FailedPreconditionError, match=again) as caught:
        rotate(replaced, W3, 800)
    assert caught.value.reason == "ROTATION_IN_PROGRESS"
    with pytest.raises(FailedPreconditionError, match=again) as caught:
        journal.cancel(replaced, "witness-2")
    assert caught.value.reason == "ROTATION_SEALED"


def test_replacement_of_a_key_that_has_not_begun_begins_at_once_by_the_recovery_key() -> None:
    """It was made while our clock was ahead: nobody signs with it, nor with one behind it."""
    ahead_ns = 600 + MAX_CLOCK_AHEAD_NS + 1
    registry = carry(rotate(kept(), W2, ahead_ns), now_ns=ahead_ns)
    registry = carry(journal.create(registry, binding(W3), 600), now_ns=600)
    stands = (CoveredCheckpoint("log", 3, bytes(32)),)
    replaced = revoke(
        registry, "witness-2", "ahead", 600, after=stands, replacement_kid="witness-3"
    )
    new = replaced.active(WITNESS)
    assert new is not None
    assert (new.kid, new.not_before_ns) == ("witness-3", 600)
    check_storable(replaced)
    # Without the recovery key, nobody would take such a history.
    assert (EventType.ROTATED, "witness-3", EventState.PROPOSED) in open_of(carry(replaced))
    done = carried(replaced)
    check_of_one_mind(done)
    old = done.key_set(9_000).find(purpose=WITNESS, kid="witness-2")
    assert (old.state, old.covered) == (KeyState.REVOKED, stands)
    pairs = [(each.signed, each.receipt) for each in done.events]
    assert rebuild(Registry(), pairs, R1.thumbprint, 9_000).get("witness-3") == new
    check_of_one_mind(carried(rotate(done, X1, 10_000), 11_000))


def test_a_replacement_that_has_not_begun_either_is_replaced_by_one_that_begins_at_once() -> None:
    """As an earlier version made it: nobody endorses it, as it begins far ahead."""
    ahead_ns = 600 + MAX_CLOCK_AHEAD_NS + 1
    registry = carry(rotate(kept(), W2, ahead_ns), now_ns=ahead_ns)
    registry = carry(journal.create(registry, binding(W3), 600), now_ns=600)
    registry = revoke(registry, "witness-2", "ahead", 602, replacement_kid="witness-3")
    assert registry.get("witness-3").not_before_ns == ahead_ns + 1
    registry = journal.create(registry, binding(X1), 600)
    replaced = revoke(registry, "witness-3", "ahead", 600, replacement_kid="receipt-1")
    new = replaced.active(WITNESS)
    assert new is not None
    assert (new.kid, new.not_before_ns) == ("receipt-1", 600)
    check_of_one_mind(carried(replaced))


def test_replacement_of_a_key_that_begins_in_a_moment_begins_behind_it() -> None:
    """So far clocks may differ, and whoever signs takes the start for the time."""
    begins_ns = 600 + MAX_CLOCK_AHEAD_NS
    registry = carry(rotate(kept(), W2, begins_ns), now_ns=begins_ns)
    registry = carry(journal.create(registry, binding(W3), 600), now_ns=600)
    replaced = revoke(registry, "witness-2", "stolen", 600, replacement_kid="witness-3")
    assert replaced.get("witness-3").not_before_ns == begins_ns + 1


@pytest.mark.parametrize("created", [False, True])
def test_replacement_that_nobody_can_open_is_replaced_and_the_key_ledger_goes_on(
    created: bool,
) -> None:
    """Its file is lost before its service has endorsed that it comes in, or that it is active."""
    registry = journal.create(kept(), binding(W2), 100)
    registry = carry(registry, ["witness-1", "witness-2"]) if created else registry
    registry = revoke(registry, "witness-1", "stolen", 600, replacement_kid="witness-2")
    usable = ["recovery-1", "checkpoint-1", "head-1", "witness-3"]
    registry = journal.create(carry_by(registry, usable), binding(W3), 700)
    covered = (CoveredCheckpoint("log.example/1", 7, bytes(32)),)
    with pytest.raises(FailedPreconditionError) as caught:
        revoke(registry, "witness-2", "lost", 800, after=covered, replacement_kid="witness-3")
    assert caught.value.reason == "KEY_NOT_TOLD"
    registry = revoke(registry, "witness-2", "lost", 800, replacement_kid="witness-3")
    check_storable(registry)
    assert revoke(registry, "witness-2", "lost", 900, replacement_kid="witness-3") is registry
    done = carry_by(registry, usable)
    check_of_one_mind(done)
    active, first = done.get("witness-3"), done.get("witness-1")
    assert (active.state, active.epoch, first.state) == (KeyState.ACTIVE, 2, KeyState.REVOKED)
    assert done.get("witness-2").state is KeyState.REVOKED
    known = journal.history_of(done).keys
    assert ("witness-2" in known) == created
    assert not created or known["witness-2"].state is KeyState.REVOKED
    check_of_one_mind(carried(rotate(done, X1, 10_000), 11_000))


def test_what_an_earlier_version_left_behind_a_key_of_no_use_goes_with_it() -> None:
    """The key after it was of use, and named it as the one that it replaces."""
    registry = journal.create(kept(), binding(W2), 100)
    registry = revoke(registry, "witness-1", "stolen", 600, replacement_kid="witness-2")
    # As it was done before: the next one says that it takes the place of a key nobody heard of.
    registry = journal.create(registry, binding(W3), 700)
    registry = propose_rotated(registry, registry.get("witness-3"), 800, ())
    registry = registry.activate("witness-3", 800, drain_ns=0).revoke("witness-2", "lost", 800)
    usable = ["recovery-1", "checkpoint-1", "head-1", "witness-3"]
    stuck = carry_by(registry, usable)
    assert len(open_of(stuck)) > 1
    registry = journal.create(stuck, binding(X1), 900)
    registry = revoke(registry, "witness-3", "stuck", 1_000, replacement_kid=X1.kid)
    check_storable(registry)
    done = carry_by(registry, [*usable, X1.kid])
    check_of_one_mind(done)
    assert done.active(WITNESS) == done.get(X1.kid)
    assert done.get(X1.kid).epoch == 2


def carry_by(registry: Registry, kids: list[str]) -> Registry:
    """As `carried`, by those keys alone that somebody can open."""
    for _ in range(8):
        for each in journal.open_events(registry):
            event = each.signed.event
            by = {kid for kid in kids if kid in ("recovery-1", event.kid)}
            for kid in sorted(by):
                with suppress(InvalidArgumentError, NotFoundError):
                    endorsement = MAKERS[kid].endorse(event)
                    registry = journal.endorse(registry, event.digest(), [endorsement])
        registry = carry(registry, [])
    return registry


def test_emergency_takes_the_key_whose_rotation_is_sealed_and_no_other() -> None:
    registry = journal.create(sealed(), binding(W3), 550)
    with pytest.raises(FailedPreconditionError, match="--replace-by witness-2"):
        revoke(registry, "witness-1", "stolen", 600, replacement_kid="witness-3")
    replaced = revoke(registry, "witness-1", "stolen", 600, replacement_kid="witness-2")
    new = replaced.get("witness-2")
    assert (new.state, new.epoch, new.not_before_ns) == (KeyState.ACTIVE, 2, 400)
    check_of_one_mind(carried(replaced))


def test_revoked_key_is_not_retired_as_well() -> None:
    drained = carried(rotate(kept(), W2))
    retiring = journal.retire(drained, 20_000, ["witness"], {})
    revoked = revoke(retiring, "witness-1", "stolen", 20_001)
    assert [kind for kind, _, _ in open_of(revoked)] == [EventType.REVOKED]
    check_of_one_mind(carried(revoked))


def test_what_an_earlier_version_left_behind_can_be_cancelled_and_is_never_sealed() -> None:
    created = carry(journal.create(kept(), binding(W2), 300))
    waiting = carry(rotate(created, W2), kids=["witness-2"])
    stuck = endorsed_by_both(waiting.revoke("witness-2", "leaked", 600))
    assert open_of(stuck) == [(EventType.ROTATED, "witness-2", EventState.PROPOSED)]
    with pytest.raises(FailedPreconditionError, match="--cancel"):
        rotate(stuck, W3, 800)
    assert open_of(journal.cancel(stuck, "witness-2")) == []


def test_creation_of_a_revoked_key_can_be_cancelled_and_is_never_sealed() -> None:
    """An earlier version proposed it anew; a service may have held the key still."""
    stuck = journal.create(kept(), binding(W2), 300).revoke("witness-2", "leaked", 600)
    stuck = endorsed_by_both(stuck)
    assert open_of(stuck) == [(EventType.CREATED, "witness-2", EventState.PROPOSED)]
    check_of_one_mind(journal.cancel(stuck, "witness-2"))


def test_creation_that_a_revocation_waits_for_is_not_cancelled() -> None:
    registry = journal.create(kept(), binding(W2), 300)
    event = journal.open_events(registry)[0].signed.event
    registry = journal.endorse(registry, event.digest(), [W1.endorse(event), W2.endorse(event)])
    revoked = revoke(registry, "witness-2", "leaked", 600)
    with pytest.raises(FailedPreconditionError):
        journal.cancel(revoked, "witness-2")
    check_of_one_mind(carried(revoked))


def test_revoked_key_that_is_created_again_is_not_proposed_again() -> None:
    """As by whoever repeats a request whose answer was lost."""
    revoked = revoke(journal.create(kept(), binding(W2), 300), "witness-2", "typo", 310)
    again = journal.create(revoked, binding(W2), 320)
    assert again is revoked
    check_of_one_mind(again)


def test_key_ledger_begins_without_a_key_that_was_revoked_before_it_was_active() -> None:
    registry = first_keys().create(binding(W2), 15).revoke("witness-2", "typo", 16)
    begun = journal.propose_genesis(registry, binding(R1), 20)
    assert [kind for kind, _, _ in open_of(begun)] == [EventType.GENESIS]
    check_of_one_mind(carry(begun))


def test_endorsement_by_a_key_that_the_ledger_does_not_know_is_refused() -> None:
    """It would verify, and make the event one that no verifier takes."""
    registry = journal.create(journal.create(kept(), binding(W2), 300), binding(W3), 310)
    event = journal.open_events(registry)[1].signed.event
    with pytest.raises(InvalidArgumentError, match="witness-2"):
        journal.endorse(registry, event.digest(), [W2.endorse(event)])
    check_of_one_mind(carried(registry))


def test_record_of_what_an_earlier_version_sealed_leaves_a_registry_that_can_be_read() -> None:
    registry = sealed().revoke("witness-2", "leaked", 600)
    (event,) = journal.open_events(registry)
    check_storable(journal.record(registry, event.signed.event.digest(), "r", 700, DRAIN_NS))


# --- any order ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What an operator or a service does; `do` may refuse by a StatusError."""

    name: str
    do: Callable[[Registry, int], Registry]

    def __repr__(self) -> str:
        return self.name


WITNESSES = {each.kid: each for each in (W1, W2, W3)}


def _endorsed(registry: Registry, place: int, kids: tuple[str, ...]) -> Registry:
    events = journal.open_events(registry)
    if place >= len(events):
        return registry
    event = events[place].signed.event
    # A service endorses with what it holds; nobody opens a key that is revoked.
    held = [k for k in kids if k in registry.keys and registry.get(k).state is not KeyState.REVOKED]
    for kid in held:
        try:
            registry = journal.endorse(registry, event.digest(), [MAKERS[kid].endorse(event)])
        except InvalidArgumentError:
            continue
    return registry


def _recorded(registry: Registry, now_ns: int) -> Registry:
    for each in journal.open_events(registry):
        if each.state is EventState.SEALED:
            digest = each.signed.event.digest()
            return journal.record(registry, digest, "r", now_ns, DRAIN_NS)
    return registry


def _steps() -> list[Step]:
    steps = [
        Step("record", _recorded),
        Step("retire", lambda r, now: journal.retire(r, now, ["witness"], {})),
    ]
    for kid, key in WITNESSES.items():
        steps += [
            Step(f"create {kid}", lambda r, now, key=key: journal.create(r, binding(key), now)),  # type: ignore[misc]
            Step(f"rotate {kid}", lambda r, now, key=key: rotate(r, key, now)),  # type: ignore[misc]
            Step(f"cancel {kid}", lambda r, now, kid=kid: journal.cancel(r, kid)),  # type: ignore[misc]
            Step(f"revoke {kid}", lambda r, now, kid=kid: revoke(r, kid, "leaked", now)),  # type: ignore[misc]
        ]
        for other in WITNESSES:
            steps.append(
                Step(
                    f"replace {kid} by {other}",
                    lambda r, now, kid=kid, other=other: revoke(  # type: ignore[misc]
                        r, kid, "stolen", now, replacement_kid=other
                    ),
                )
            )
    for place in range(3):
        for kids in (("witness-1",), ("witness-1", "witness-2"), tuple(WITNESSES)):
            steps.append(
                Step(
                    f"endorse {place} by {kids}",
                    lambda r, now, place=place, kids=kids: _endorsed(r, place, kids),  # type: ignore[misc]
                )
            )
    return steps


KEPT = kept()
STEPS: Any = st.lists(st.sampled_from(_steps()), max_size=14)


@given(STEPS)
def test_whatever_comes_in_whatever_order_both_agree_in_the_end(steps: list[Step]) -> None:
    registry = KEPT
    for number, step in enumerate(steps):
        try:
            registry = step.do(registry, 1_000 + 300 * number)
        except StatusError:
            continue
        check_storable(registry)
    check_of_one_mind(carried(registry))


@given(STEPS, st.sampled_from(["witness-2", "witness-3"]))
def test_replacing_the_active_key_frees_the_key_ledger_whatever_came_before(
    steps: list[Step], lost: str
) -> None:
    """By the recovery key, and by services that hold no key which is revoked, nor the lost one."""
    registry = KEPT
    for number, step in enumerate(steps):
        with suppress(StatusError):
            registry = step.do(registry, 1_000 + 300 * number)
    registry = journal.create(carry_by(registry, _held(registry, lost)), binding(X1), 8_000)
    active = registry.active(WITNESS)
    assert active is not None
    registry = revoke(registry, active.kid, "stolen", 8_500, replacement_kid=X1.kid)
    check_storable(registry)
    done = carry_by(registry, _held(registry, lost))
    # A key that is pending may wait to be endorsed by itself, and is in nobody's way.
    assert all(kind is EventType.CREATED for kind, _, _ in open_of(done))
    check_key_set(journal.history_of(done), done.key_set(9_000))


def _held(registry: Registry, lost: str) -> list[str]:
    held = [key.kid for key in registry if key.state is not KeyState.REVOKED]
    return ["recovery-1", *(kid for kid in held if kid != lost)]
