"""The rules of the key ledger: what `replay` takes, and every way of breaking one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger import dsse, jcs
from provledger.api.keys.v1 import keys_pb2
from provledger.errors import InvalidArgumentError, KeyFormatError, VerificationError
from provledger.jwk import jwk_from_public_key, thumbprint_of
from provledger.key_events import (
    PAYLOAD_TYPE,
    Endorsement,
    EventType,
    FirstKey,
    KeyEvent,
    KeyRef,
    LogSize,
    SignedEvent,
    parse_signed,
)
from provledger.key_history import History, KeyFacts, check_key_set, replay
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    SizeRange,
    VerificationKey,
)
from provledger.rpc.key_events import event_from_pb
from tests.support import key_history

ORIGIN = "log.example/1"


@dataclass(frozen=True)
class Maker:
    """A key pair and its name."""

    kid: str
    private: Ed25519PrivateKey

    @property
    def thumbprint(self) -> bytes:
        return thumbprint_of(self.private.public_key())

    @property
    def jwk(self) -> dict[str, str]:
        return jwk_from_public_key(self.private.public_key())

    def endorse(self, event: KeyEvent) -> Endorsement:
        sig = self.private.sign(dsse.pae(PAYLOAD_TYPE, event.encode()))
        return Endorsement(self.kid, self.thumbprint, sig)


def maker(kid: str, number: int) -> Maker:
    return Maker(kid, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


W1, W2, W3 = (maker(f"witness-{n}", n) for n in (1, 2, 3))
C1, H1, R1 = maker("checkpoint-1", 11), maker("head-1", 21), maker("recovery-1", 31)

GENESIS = KeyEvent(
    event=EventType.GENESIS,
    at_ns=100,
    kid=R1.kid,
    thumbprint=R1.thumbprint,
    jwk=R1.jwk,
    first_keys=tuple(
        FirstKey(key.kid, purpose, f"local:{key.kid}.pem", key.jwk, key.thumbprint, 50)
        for key, purpose in ((W1, "witness"), (C1, "checkpoint"), (H1, "head"))
    ),
)


def about(kind: EventType, key: Maker, purpose: str = "witness", **more: Any) -> KeyEvent:
    return KeyEvent(
        event=kind,
        at_ns=200,
        kid=key.kid,
        thumbprint=key.thumbprint,
        purpose=purpose,
        genesis=GENESIS.digest(),
        **more,
    )


CREATED = about(EventType.CREATED, W2, uri="local:witness-2.pem", jwk=W2.jwk)
ROTATED = about(
    EventType.ROTATED, W2, epoch=2, not_before_ns=300, previous=KeyRef(W1.kid, W1.thumbprint)
)
RETIRED = about(EventType.RETIRED, W1, not_after_ns=900)
REVOKED = about(
    EventType.REVOKED,
    W1,
    reason="stolen",
    after=(CoveredCheckpoint(ORIGIN, 7, bytes(32)),),
)


def signed(event: KeyEvent, *by: Maker) -> SignedEvent:
    return SignedEvent(event, tuple(key.endorse(event) for key in by))


START = signed(GENESIS, W1, C1, H1, R1)
GOOD = [START, signed(CREATED, W1, W2), signed(ROTATED, W1, W2), signed(RETIRED, W2)]


def test_a_good_history_gives_the_keys_as_they_are() -> None:
    history = replay(GOOD, R1.thumbprint)
    keys = {key.kid: key for key in history.key_set()}
    assert keys.keys() == {"witness-1", "witness-2", "checkpoint-1", "head-1"}
    assert (keys["witness-1"].state, keys["witness-1"].not_after_ns) == (KeyState.RETIRED, 900)
    assert (keys["witness-2"].state, keys["witness-2"].epoch) == (KeyState.ACTIVE, 2)
    assert keys["witness-2"].not_before_ns == 300


def test_a_revocation_names_what_stands() -> None:
    history = replay([*GOOD[:3], signed(REVOKED, W2)], W1.thumbprint)
    key = history.keys["witness-1"]
    assert (key.state, key.reason) == (KeyState.REVOKED, "stolen")
    assert key.after == (CoveredCheckpoint(ORIGIN, 7, bytes(32)),)
    assert history.key_set().find(purpose="witness", kid="witness-1").covered == key.after


def test_the_recovery_key_endorses_when_no_other_can() -> None:
    events = [START, signed(CREATED, R1, W2), signed(ROTATED, R1, W2), signed(REVOKED, R1)]
    assert replay(events, R1.thumbprint).keys["witness-2"].state is KeyState.ACTIVE


def test_checkpoint_keys_are_bounded_by_tree_sizes() -> None:
    new = maker("checkpoint-2", 12)
    created = about(EventType.CREATED, new, "checkpoint", uri="local:c2.pem", jwk=new.jwk)
    rotated = about(
        EventType.ROTATED,
        new,
        "checkpoint",
        epoch=2,
        not_before_ns=300,
        previous=KeyRef(C1.kid, C1.thumbprint),
        sizes=(LogSize(ORIGIN, 40),),
    )
    retired = about(
        EventType.RETIRED, C1, "checkpoint", not_after_ns=900, sizes=(LogSize(ORIGIN, 60),)
    )
    events = [START, signed(created, C1, new), signed(rotated, C1, new), signed(retired, new)]
    keys = replay(events, R1.thumbprint).keys
    assert keys["checkpoint-1"].sizes == (SizeRange(ORIGIN, 0, 60),)
    assert keys["checkpoint-2"].sizes == (SizeRange(ORIGIN, 40),)


class NeverGoneThrough(dict[str, KeyFacts]):
    """Keys that may be looked up by their kid and copied, and nothing else."""

    def values(self) -> NoReturn:
        raise AssertionError("all keys were gone through")


@pytest.mark.parametrize("last", [signed(RETIRED, W2), signed(REVOKED, W2), signed(REVOKED, R1)])
def test_an_event_does_not_go_through_all_keys_there_ever_were(last: SignedEvent) -> None:
    """A key ledger of thousands of keys takes a time that grows with it, not with its square."""
    history = replay([START], R1.thumbprint)
    for event in [signed(CREATED, W1, W2), signed(ROTATED, W1, W2), last]:
        assert history.may_endorse(event.event)
        history = replace(history.apply(event), keys=NeverGoneThrough(history.apply(event).keys))
        active = history.active("witness")
        assert active is not None
        assert active.kid == ("witness-1" if event.event == CREATED else "witness-2")


@pytest.mark.parametrize("last", [signed(RETIRED, W2), signed(REVOKED, W2), signed(REVOKED, R1)])
def test_what_is_kept_of_all_keys_is_what_they_say(last: SignedEvent) -> None:
    history = History()
    for event in [*GOOD[:3], last]:
        history = history.apply(event, pin=R1.thumbprint)
        keys = history.keys.values()
        live = {key.kid for key in keys if key.state in (KeyState.ACTIVE, KeyState.DRAINING)}
        assert history.index.kids == {key.thumbprint: key.kid for key in keys}
        assert (set(history.index.live), len(history.index.live)) == (live, len(live))
        epochs = dict.fromkeys({key.purpose for key in keys}, 0)
        for key in keys:
            epochs[key.purpose] = max(epochs[key.purpose], key.epoch)
        assert history.index.epochs == epochs


# The first key of a purpose that the genesis does not name.
X1 = maker("receipt-1", 41)
FIRST_CREATED = about(EventType.CREATED, X1, "receipt", uri="local:receipt-1.pem", jwk=X1.jwk)
FIRST_ACTIVE = about(EventType.ROTATED, X1, "receipt", epoch=1, not_before_ns=300)


def test_the_recovery_key_lets_in_the_first_key_of_a_new_purpose() -> None:
    events = [START, signed(FIRST_CREATED, R1, X1), signed(FIRST_ACTIVE, R1, X1)]
    keys = replay(events, R1.thumbprint).keys
    assert (keys["receipt-1"].state, keys["receipt-1"].epoch) == (KeyState.ACTIVE, 1)
    assert all(keys[each.kid].state is KeyState.ACTIVE for each in (W1, C1, H1))
    assert parse_signed(events[2].encode()) == events[2]
    # From then on they rotate like all others.
    second = maker("receipt-2", 42)
    created = about(EventType.CREATED, second, "receipt", uri="x:", jwk=second.jwk)
    rotated = about(
        EventType.ROTATED,
        second,
        "receipt",
        epoch=2,
        not_before_ns=400,
        previous=KeyRef(X1.kid, X1.thumbprint),
    )
    events += [signed(created, X1, second), signed(rotated, X1, second)]
    assert replay(events, R1.thumbprint).keys["receipt-1"].state is KeyState.DRAINING


BROKEN: list[tuple[str, Callable[[], list[SignedEvent]], str]] = [
    ("no genesis", list, "no genesis"),
    ("a later event first", lambda: GOOD[1:], "begins with its genesis"),
    ("two geneses", lambda: [START, START], "only one"),
    ("genesis not by all", lambda: [signed(GENESIS, W1, C1, H1)], "not every key"),
    ("created without possession", lambda: [START, signed(CREATED, W1)], "endorse it as well"),
    ("created by itself", lambda: [START, signed(CREATED, W2)], "valid before"),
    ("created by another purpose", lambda: [START, signed(CREATED, H1, W2)], "valid before"),
    ("created twice", lambda: [*GOOD[:2], GOOD[1]], "came in before"),
    ("rotated before created", lambda: [START, GOOD[2]], "no such key"),
    ("rotated twice", lambda: [*GOOD[:3], GOOD[2]], "not pending"),
    (
        "rotated without possession",
        lambda: [*GOOD[:2], signed(ROTATED, W1)],
        "endorse it as well",
    ),
    (
        "an epoch left out",
        lambda: [*GOOD[:2], signed(replace(ROTATED, epoch=3), W1, W2)],
        "not the next",
    ),
    (
        "another previous key",
        lambda: [
            *GOOD[:2],
            signed(replace(ROTATED, previous=KeyRef(H1.kid, H1.thumbprint)), W1, W2),
        ],
        "not the active one",
    ),
    (
        "begins before the old one",
        lambda: [*GOOD[:2], signed(replace(ROTATED, not_before_ns=50), W1, W2)],
        "begins before",
    ),
    (
        "a new purpose without the recovery key",
        lambda: [START, signed(FIRST_CREATED, W1, X1)],
        "valid before",
    ),
    (
        "a new purpose's key made active without the recovery key",
        lambda: [START, signed(FIRST_CREATED, R1, X1), signed(FIRST_ACTIVE, X1)],
        "valid before",
    ),
    (
        "a second first key of a purpose, past the active one",
        lambda: [
            *GOOD[:2],
            signed(about(EventType.ROTATED, W2, epoch=1, not_before_ns=300), R1, W2),
        ],
        "not the active one",
    ),
    ("retired by itself", lambda: [*GOOD[:3], signed(RETIRED, W1)], "valid before"),
    ("revoked by itself", lambda: [*GOOD[:3], signed(REVOKED, W1)], "valid before"),
    ("active key revoked", lambda: [START, signed(REVOKED, R1)], "is active"),
    (
        "endorsed by a retired key",
        lambda: [*GOOD, signed(about(EventType.CREATED, W3, uri="x:", jwk=W3.jwk), W1, W3)],
        "valid before",
    ),
    (
        "of another installation",
        lambda: [START, signed(replace(CREATED, genesis=bytes(32)), W1, W2)],
        "another genesis",
    ),
    (
        "endorsement over other bytes",
        lambda: [
            START,
            SignedEvent(CREATED, (W1.endorse(ROTATED), W2.endorse(CREATED))),
        ],
        "does not verify",
    ),
    (
        "endorsed under a wrong name",
        lambda: [
            START,
            SignedEvent(CREATED, (replace(W1.endorse(CREATED), kid="head-1"), W2.endorse(CREATED))),
        ],
        "it is not",
    ),
]


@pytest.mark.parametrize(("events", "why"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_rule_is_an_error(events: Callable[[], list[SignedEvent]], why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        replay(events(), None)


def test_another_pin_is_an_error() -> None:
    with pytest.raises(VerificationError, match="pinned"):
        replay(GOOD, W2.thumbprint)


@pytest.mark.parametrize("event", [*GOOD, signed(REVOKED, W2)], ids=lambda e: e.event.event)
def test_events_are_read_back_from_their_bytes_and_in_no_other_spelling(
    event: SignedEvent,
) -> None:
    data = event.encode()
    assert parse_signed(data) == event
    assert parse_signed(data).event.digest() == event.event.digest()
    for damaged in (
        data.replace(b'"v":"1"', b'"v":"2"'),
        data.replace(b'"atNs":"', b'"atNs":"0'),
        data.replace(b'{"', b'{ "', 1),
        data.replace(b'"event":{', b'"event":{"a":"b",'),
        data[:-1],
        b"[]",
    ):
        with pytest.raises(KeyFormatError):
            parse_signed(damaged)


def test_a_key_set_that_disagrees_is_an_error() -> None:
    history = replay(GOOD, None)
    keys = history.key_set()
    check_key_set(history, KeySet.parse(keys.encode()))
    for change, why in (
        ({"epoch": 3}, "epoch"),
        ({"not_before_ns": 1}, "not_before_ns"),
        ({"state": KeyState.REVOKED}, "state"),
    ):
        other = [replace(k, **change) if k.kid == "witness-2" else k for k in keys]
        with pytest.raises(VerificationError, match=why):
            check_key_set(history, KeySet(other))
    with pytest.raises(VerificationError, match="leaves out witness-1"):
        check_key_set(history, KeySet(k for k in keys if k.kid != "witness-1"))
    extra = VerificationKey.from_public_key(
        W3.private.public_key(), kid="witness-3", purpose=KeyPurpose.WITNESS, epoch=3
    )
    with pytest.raises(VerificationError, match="not in the key ledger"):
        check_key_set(history, KeySet([*keys, extra]))


@pytest.mark.parametrize("text", [b"5", b'"text"', b"[]", b'[["a","b"]]', b"null"])
def test_jwk_of_a_message_that_is_no_object_is_refused(text: bytes) -> None:
    """It was an internal error once: whoever asked for a signature could have caused it."""
    message = keys_pb2.KeyEvent(
        type=keys_pb2.KEY_EVENT_TYPE_CREATED,
        kid="a",
        thumbprint=bytes(32),
        genesis=bytes(32),
        purpose=keys_pb2.KEY_PURPOSE_WITNESS,
        jwk=text,
    )
    with pytest.raises(InvalidArgumentError, match="not a key event"):
        event_from_pb(message)


@pytest.mark.parametrize("member", ["uri", "reason"])
@pytest.mark.parametrize("value", [5, [], {}, False])
def test_member_that_is_no_text_is_refused(member: str, value: Any) -> None:
    """Falsy ones passed for text that is not there."""
    kind = {"uri": EventType.CREATED, "reason": EventType.REVOKED}[member]
    made = key_history.endorsed(
        KeyEvent(
            event=kind,
            at_ns=1,
            kid="a",
            thumbprint=key_history.thumbprint("a"),
            genesis=bytes(32),
            purpose="witness",
            jwk=key_history.jwk("a") if kind is EventType.CREATED else {},
        ),
        "a",
    )
    read = jcs.parse(made.encode())
    read["event"][member] = value
    with pytest.raises(KeyFormatError, match="not of its form"):
        parse_signed(jcs.encode(read))
