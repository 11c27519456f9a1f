"""Rules of the key ledger and of its events, each with the history that only it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provledger.errors import KeyFormatError, VerificationError
from provledger.key_events import (
    EventType,
    FirstKey,
    KeyEvent,
    KeyRef,
    SignedEvent,
    parse_event,
    parse_signed,
)
from provledger.key_history import check_key_set, replay
from provledger.keyset import CoveredCheckpoint, KeySet, KeyState, SizeRange
from tests.unit.test_key_events import (
    C1,
    CREATED,
    GENESIS,
    GOOD,
    H1,
    ORIGIN,
    R1,
    RETIRED,
    REVOKED,
    ROTATED,
    START,
    W1,
    W2,
    W3,
    about,
    maker,
    signed,
)

MORE = [
    (
        "revoked twice",  # the second could cover what the thief signed meanwhile
        lambda: [
            *GOOD[:3],
            signed(REVOKED, W2),
            signed(replace(REVOKED, after=(CoveredCheckpoint(ORIGIN, 99, bytes(32)),)), W2),
        ],
        "is revoked",
    ),
    (
        "made active as of another purpose",
        lambda: [
            *GOOD[:2],
            signed(
                replace(ROTATED, purpose="head", previous=KeyRef(H1.kid, H1.thumbprint)), H1, W2
            ),
        ],
        "stands for another key",
    ),
    (
        "revoked by a key of another purpose",
        lambda: [*GOOD[:3], signed(replace(REVOKED, purpose="head"), H1)],
        "stands for another key",
    ),
    (
        "retired by a key of another purpose",
        lambda: [*GOOD[:3], signed(replace(RETIRED, purpose="head"), H1)],
        "stands for another key",
    ),
    (
        "a key created again under another name",
        lambda: [
            *GOOD[:2],
            signed(replace(CREATED, kid="witness-9"), W1, replace(W2, kid="witness-9")),
        ],
        "came in before",
    ),
    (
        "the recovery key created under another name",
        lambda: [
            START,
            signed(
                about(EventType.CREATED, replace(R1, kid="witness-9"), uri="x:", jwk=R1.jwk),
                W1,
            ),
        ],
        "came in before",
    ),
    (
        "retired before it began",
        lambda: [*GOOD[:3], signed(replace(RETIRED, not_after_ns=49), W2)],
        "ends before it begins",
    ),
    (
        "endorsed twice by one key",
        lambda: [START, SignedEvent(CREATED, (W1.endorse(CREATED), *(W2.endorse(CREATED),) * 2))],
        "unknown or twice",
    ),
    (
        "a genesis with one key for two purposes",
        lambda: [
            signed(
                replace(
                    GENESIS,
                    first_keys=(
                        *GENESIS.first_keys[:2],
                        FirstKey("head-1", "head", "x:", W1.jwk, W1.thumbprint, 50),
                    ),
                ),
                W1,
                C1,
                R1,
            )
        ],
        "twice",
    ),
]


@pytest.mark.parametrize(("events", "why"), [b[1:] for b in MORE], ids=[b[0] for b in MORE])
def test_a_broken_rule_is_an_error(events, why) -> None:
    with pytest.raises(VerificationError, match=why):
        replay(events(), None)


COVERED = (CoveredCheckpoint(ORIGIN, 7, bytes(32)),)


@pytest.mark.parametrize(
    ("kid", "change", "why"),
    [
        ("witness-2", {"state": KeyState.RETIRED, "not_after_ns": 999}, "state"),
        ("witness-2", {"state": KeyState.DRAINING}, "state"),
        ("checkpoint-1", {"sizes": (SizeRange(ORIGIN, 0, 5),)}, "sizes"),
        ("witness-1", {"revocation_reason": "lost"}, "revocation_reason"),
        ("witness-1", {"covered": (CoveredCheckpoint(ORIGIN, 8, bytes(32)),)}, "covered"),
        ("witness-1", {"covered": ()}, "covered"),
    ],
)
def test_each_fact_that_disagrees_is_an_error(kid, change, why) -> None:
    history = replay([*GOOD[:3], signed(REVOKED, W2)], None)
    keys = history.key_set()
    check_key_set(history, keys)
    other = [replace(key, **change) if key.kid == kid else key for key in keys]
    with pytest.raises(VerificationError, match=why):
        check_key_set(history, KeySet(other))


@pytest.mark.parametrize(
    "event", [GENESIS, CREATED, ROTATED, RETIRED, REVOKED], ids=lambda e: e.event
)
def test_an_event_by_itself_has_one_spelling(event) -> None:
    """The registry's answers are read member by member, without their bytes."""
    value = event.to_json()
    assert parse_event(value) == event
    with pytest.raises(KeyFormatError, match="other members"):
        parse_event({**value, "more": "1"})
    with pytest.raises(KeyFormatError):
        parse_event({**value, "jwk" if event.event is not EventType.CREATED else "sizes": []})


def test_a_jwk_that_is_not_the_one_its_thumbprint_names_is_refused() -> None:
    forged = replace(W3, kid="recovery-1")
    fake = replace(GENESIS, jwk=forged.jwk)  # its jkt is still that of R1, the pinned one
    assert fake.thumbprint == R1.thumbprint
    for value in (
        fake.to_json(),
        replace(CREATED, jwk=W3.jwk).to_json(),
        replace(
            GENESIS,
            first_keys=(replace(GENESIS.first_keys[0], jwk=W3.jwk), *GENESIS.first_keys[1:]),
        ).to_json(),
    ):
        with pytest.raises(KeyFormatError, match="not the one its thumbprint names"):
            parse_event(value)


def test_a_forged_genesis_under_the_pinned_thumbprint_is_refused() -> None:
    """The same from the outside: its bytes, endorsed by the forger's keys alone, with the pin."""
    others = [maker(kid, number) for kid, number in (("w", 71), ("c", 72), ("h", 73), ("r", 74))]
    recovery = others[3]
    fake = KeyEvent(
        event=EventType.GENESIS,
        at_ns=100,
        kid=recovery.kid,
        thumbprint=R1.thumbprint,
        jwk=recovery.jwk,
        first_keys=tuple(
            FirstKey(key.kid, purpose, "x:", key.jwk, key.thumbprint, 50)
            for key, purpose in zip(others, ("witness", "checkpoint", "head"), strict=False)
        ),
    )
    by_recovery = replace(recovery.endorse(fake), thumbprint=R1.thumbprint)
    data = SignedEvent(fake, (*(key.endorse(fake) for key in others[:3]), by_recovery)).encode()
    with pytest.raises((KeyFormatError, VerificationError)):
        replay([parse_signed(data)], R1.thumbprint)


def test_a_rotation_from_epoch_2_on_names_the_previous_key() -> None:
    for event in (replace(ROTATED, previous=None), replace(ROTATED, epoch=1)):
        with pytest.raises(KeyFormatError, match="names the previous key"):
            parse_event(event.to_json())


def test_a_key_may_begin_before_the_one_it_replaces_where_the_recovery_key_says_so() -> None:
    """That one began by a clock that was ahead. Without the recovery key it is "begins before"."""
    history = replay([*GOOD[:2], signed(replace(ROTATED, not_before_ns=50), R1, W2)], None)
    assert history.keys["witness-2"].not_before_ns == 50
    assert history.keys["witness-1"].state is KeyState.DRAINING
