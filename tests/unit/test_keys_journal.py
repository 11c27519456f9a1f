"""The journal of the key ledger: proposed, sealed, recorded; back only before the seal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys_svc import journal
from keys_svc.rebuilding import rebuild
from keys_svc.registry import EventState, KeyBinding, Registry
from keys_svc.revoking import revoke
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
)
from provledger.key_events import EventType, KeyEvent, KeyRef, SignedEvent
from provledger.key_history import check_key_set
from provledger.keyset import CoveredCheckpoint, KeyPurpose, KeySet, KeyState
from tests.unit.test_key_events import C1, H1, R1, W1, W2, W3, X1, Maker

WITNESS = KeyPurpose.WITNESS
DRAIN_NS = 1000
MAKERS = {each.kid: each for each in (W1, W2, W3, C1, H1, R1, X1)}


def binding(key: Maker, purpose: KeyPurpose = WITNESS) -> KeyBinding:
    return KeyBinding(key.kid, purpose, f"local:{key.kid}.pem", key.jwk, key.thumbprint)


def carry(registry: Registry, kids: Iterable[str] = MAKERS, now_ns: int = 500) -> Registry:
    """Do what the ledger service does: endorse with all that may, then record what is sealed."""
    for _ in range(8):
        for each in journal.open_events(registry):
            event = each.signed.event
            wanted = {*journal.endorsers(registry, each), event.kid} & set(kids)
            digest = event.digest()
            endorsements = [MAKERS[kid].endorse(event) for kid in sorted(wanted)]
            registry = journal.endorse(registry, digest, endorsements)
            if journal.find(registry, digest).state is EventState.SEALED:
                registry = journal.record(registry, digest, "r", now_ns, DRAIN_NS)
    return registry


@pytest.fixture
def kept() -> Registry:
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    return carry(journal.propose_genesis(registry, binding(R1), 20))


def rotate(registry: Registry, key: Maker, now_ns: int = 400) -> Registry:
    return journal.rotate(
        registry, key.kid, WITNESS, now_ns, drain_ns=DRAIN_NS, binding=binding(key)
    )


def test_genesis_is_recorded_once(kept: Registry) -> None:
    assert [e.state for e in kept.events] == [EventState.RECORDED]
    assert journal.propose_genesis(kept, binding(R1), 30) is kept
    with pytest.raises(StatusError, match="recovery-1"):
        journal.propose_genesis(kept, binding(W3), 30)


def test_a_rotation_takes_effect_when_it_is_recorded(kept: Registry) -> None:
    proposed = rotate(kept, W2)
    assert proposed.get("witness-2").state is KeyState.PENDING
    assert proposed.get("witness-1").state is KeyState.ACTIVE
    done = carry(proposed)
    new, old = done.get("witness-2"), done.get("witness-1")
    assert (new.state, new.epoch, new.not_before_ns) == (KeyState.ACTIVE, 2, 400)
    assert (old.state, old.not_after_ns) == (KeyState.DRAINING, 500 + DRAIN_NS)
    assert carry(rotate(done, W2)) == done
    assert journal.history_of(done).keys["witness-2"].state is KeyState.ACTIVE


def test_what_was_not_in_the_key_ledger_gets_the_receipt_that_it_has_now(kept: Registry) -> None:
    """Its effect stays as it was."""
    done = carry(rotate(kept, W2))
    digest = done.events[-1].signed.event.digest()
    again = journal.record(done, digest, "another", 10**9, DRAIN_NS)
    assert (again.events[-1].receipt, again.keys) == ("another", done.keys)
    assert again.revision == done.revision + 1
    assert journal.record(again, digest, "another", 10**9, DRAIN_NS) is again


def test_a_rotation_that_is_held_waits_to_be_asked_for_again(kept: Registry) -> None:
    held = carry(
        journal.rotate(
            kept,
            "witness-2",
            WITNESS,
            400,
            drain_ns=DRAIN_NS,
            binding=binding(W2),
            hold_pending=True,
        )
    )
    assert held.get("witness-2").state is KeyState.PENDING
    assert held.active(WITNESS) == kept.get("witness-1")
    assert [e.event_type for e in held.events[1:]] == [EventType.CREATED]
    assert carry(rotate(held, W2)).active(WITNESS).kid == "witness-2"  # type: ignore[union-attr]


def test_without_endorsements_it_stays_pending_and_can_be_taken_back(kept: Registry) -> None:
    waiting = carry(rotate(kept, W2), kids=["witness-1"])
    assert waiting.get("witness-2").state is KeyState.PENDING
    with pytest.raises(FailedPreconditionError, match="witness-2"):
        rotate(waiting, W3)
    back = journal.cancel(waiting, "witness-2")
    assert not journal.open_events(back)
    done = carry(rotate(back, W3))
    assert done.active(WITNESS) == done.get("witness-3")
    again = carry(rotate(done, W2, 600), now_ns=700)
    assert again.get("witness-2").epoch == 3


def test_after_the_seal_it_goes_forward_only(kept: Registry) -> None:
    registry = rotate(kept, W2)
    for each in journal.open_events(registry):
        event = each.signed.event
        both = [W1.endorse(event), W2.endorse(event)]
        registry = journal.endorse(registry, event.digest(), both)
        if event.event is EventType.CREATED:
            registry = journal.record(registry, event.digest(), "r", 500, DRAIN_NS)
    with pytest.raises(FailedPreconditionError, match="forward"):
        journal.cancel(registry, "witness-2")
    (sealed,) = journal.open_events(registry)
    before = sealed.signed
    # Endorsing again changes nothing: the bytes in the ledger are fixed.
    again = journal.endorse(registry, before.event.digest(), [R1.endorse(before.event)])
    assert again is registry


def test_bad_endorsements_are_refused(kept: Registry) -> None:
    registry = rotate(kept, W2)
    event = journal.open_events(registry)[0].signed.event
    other = journal.open_events(registry)[1].signed.event
    with pytest.raises(InvalidArgumentError, match="does not verify"):
        journal.endorse(registry, event.digest(), [W1.endorse(other)])
    with pytest.raises(FailedPreconditionError):
        journal.record(registry, event.digest(), "r", 1, 1)
    with pytest.raises(NotFoundError):
        journal.endorse(registry, bytes(32), [])


def test_a_revocation_acts_at_once_and_is_recorded_later(kept: Registry) -> None:
    covered = (CoveredCheckpoint("log.example/1", 5, bytes(32)),)
    rotated = carry(rotate(kept, W2))
    revoked = revoke(rotated, "witness-1", "stolen", 600, after=covered)
    assert revoked.get("witness-1").state is KeyState.REVOKED
    assert revoked.get("witness-1").covered == covered
    assert len(journal.open_events(revoked)) == 1
    done = carry(revoked)
    assert journal.history_of(done).keys["witness-1"].after == covered
    assert revoke(done, "witness-1", "stolen", 700, after=covered) is done


def test_a_stolen_active_key_is_replaced_by_the_recovery_key_alone(kept: Registry) -> None:
    pending = journal.create(kept, binding(W2), 300)
    revoked = revoke(pending, "witness-1", "stolen", 400, replacement_kid="witness-2")
    assert revoked.get("witness-1").state is KeyState.REVOKED
    assert revoked.active(WITNESS) == revoked.get("witness-2")
    stuck = carry(revoked, kids=["witness-2"])
    assert len(journal.open_events(stuck)) == 3
    done = carry(stuck, kids=["witness-2", "recovery-1"])
    # The carrier asks only keys; the recovery key's holder endorses what is open.
    for _ in range(3):
        for each in journal.open_events(done):
            event = each.signed.event
            done = journal.endorse(done, event.digest(), [R1.endorse(event)])
        done = carry(done, kids=["witness-2"])
    assert not journal.open_events(done)
    keys = journal.history_of(done).keys
    assert keys["witness-1"].state is KeyState.REVOKED
    assert keys["witness-2"].state is KeyState.ACTIVE


def test_the_first_key_of_a_new_purpose_waits_for_the_recovery_key(kept: Registry) -> None:
    """A key ledger that is older than the keys of COSE receipts."""
    first = binding(X1, KeyPurpose.RECEIPT)
    # Registering it is not enough: a key set with it would disagree with the key ledger.
    created = journal.create(kept, first, 300)
    assert created.get("receipt-1").state is KeyState.PENDING
    assert created.active(KeyPurpose.RECEIPT) is None
    proposed = journal.rotate(
        created, "receipt-1", KeyPurpose.RECEIPT, 400, drain_ns=DRAIN_NS, binding=first
    )
    stuck = carry(proposed)
    assert stuck.get("receipt-1").state is KeyState.PENDING
    for each in journal.open_events(stuck):
        event = each.signed.event
        stuck = journal.endorse(stuck, event.digest(), [R1.endorse(event)])
    done = carry(stuck)
    assert not journal.open_events(done)
    assert (done.get("receipt-1").state, done.get("receipt-1").epoch) == (KeyState.ACTIVE, 1)
    check_key_set(journal.history_of(done), done.key_set(600))
    events = [(e.signed, e.receipt) for e in done.events]
    again = rebuild(Registry(), events, R1.thumbprint, 700)
    assert again.get("receipt-1").state is KeyState.ACTIVE


def test_a_drained_key_is_retired_once_all_signers_moved_on(kept: Registry) -> None:
    rotated = carry(rotate(kept, W2))
    assert journal.retire(rotated, 600, ["witness"], {}) is rotated
    over = 501 + DRAIN_NS
    assert journal.retire(rotated, over, [], {}) is rotated
    retiring = journal.retire(rotated, over, ["witness"], {})
    done = carry(retiring)
    assert journal.history_of(done).keys["witness-1"].not_after_ns == 500 + DRAIN_NS
    assert journal.retire(done, over, ["witness"], {}) is done


def test_a_registry_is_rebuilt_from_the_ledger(kept: Registry) -> None:
    original = carry(revoke(carry(rotate(kept, W2)), "witness-1", "stolen", 600))
    events = [(e.signed, e.receipt) for e in original.events]
    rebuilt = rebuild(Registry(), events, R1.thumbprint, 900)
    assert journal.history_of(rebuilt) == journal.history_of(original)
    assert rebuilt.keys.keys() == original.keys.keys()
    for kid, key in rebuilt.keys.items():
        assert (key.binding, key.state, key.epoch) == (
            original.keys[kid].binding,
            original.keys[kid].state,
            original.keys[kid].epoch,
        )
    with pytest.raises(InvalidArgumentError, match="pinned"):
        rebuild(Registry(), events, W3.thumbprint, 900)
    assert rebuild(rebuilt, events, R1.thumbprint, 901) is rebuilt  # the first answer was lost
    with pytest.raises(InvalidArgumentError, match="pinned"):
        rebuild(rebuilt, events, W3.thumbprint, 901)
    with pytest.raises(FailedPreconditionError, match="empty"):
        rebuild(rebuilt, events[:-1], R1.thumbprint, 900)
    with pytest.raises(FailedPreconditionError, match="empty"):
        rebuild(kept, events, R1.thumbprint, 900)


def test_a_history_of_many_years_is_replayed_at_once(kept: Registry) -> None:
    """Deeper than Python's stack: a rotation a day for years, and the service starts anew."""
    events = [each.signed for each in kept.events]
    old, genesis = W1, events[0].event.digest()
    made = [Maker(f"w-{n}", Ed25519PrivateKey.generate()) for n in range(350)]
    for number, new in enumerate(made, 2):
        about: dict[str, Any] = {
            "kid": new.kid,
            "thumbprint": new.thumbprint,
            "purpose": "witness",
        }
        created = KeyEvent(
            event=EventType.CREATED, at_ns=1, genesis=genesis, uri=f"local:{new.kid}.pem",
            jwk=new.jwk, **about,
        )  # fmt: skip
        rotated = KeyEvent(
            event=EventType.ROTATED, at_ns=1, genesis=genesis, epoch=number,
            not_before_ns=1000 + number, previous=KeyRef(old.kid, old.thumbprint), **about,
        )  # fmt: skip
        retired = KeyEvent(
            event=EventType.RETIRED, at_ns=1, genesis=genesis, not_after_ns=10**9,
            kid=old.kid, thumbprint=old.thumbprint, purpose="witness",
        )  # fmt: skip
        for event, by in ((created, (old, new)), (rotated, (old, new)), (retired, (new,))):
            events.append(SignedEvent(event, tuple(key.endorse(event) for key in by)))
        old = new
    rebuilt = rebuild(Registry(), [(each, "r") for each in events], R1.thumbprint, 10**10)
    assert len(rebuilt.events) == len(events) == 1051
    active = journal.history_of(rebuilt).active("witness")
    assert active is not None
    assert (active.kid, active.epoch) == ("w-349", 351)
    assert rebuilt.active(WITNESS) == rebuilt.get("w-349")
    # All that a verifier needs for years back, in one set.
    published = KeySet.parse(rebuilt.key_set(10**10).encode())
    assert {key.kid for key in published} == {"checkpoint-1", "head-1", "witness-1"} | {
        each.kid for each in made
    }
