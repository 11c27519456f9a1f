"""The life of keys in the registry, told step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from keys_svc import paging
from keys_svc.registry import KeyBinding, KeyRecord, Registry
from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
)
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    jwk_from_public_key,
    thumbprint,
)

WITNESS, HEAD = KeyPurpose.WITNESS, KeyPurpose.HEAD
DRAIN_NS = 120
Step = Callable[[Registry], Registry]
COVERED = CoveredCheckpoint("log.example/1", 7, bytes(32))


@cache
def jwk(number: int) -> dict[str, str]:
    private = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return jwk_from_public_key(private.public_key())


def key(number: int, purpose: KeyPurpose = WITNESS) -> KeyBinding:
    """Key `number`, by default under a kid and URI of the same number."""
    members = jwk(number)
    return KeyBinding(f"k{number}", purpose, f"local:k{number}.pem", members, thumbprint(members))


def create(number: int, at: int, purpose: KeyPurpose = WITNESS) -> Step:
    return lambda registry: registry.create(key(number, purpose), at)


def rotate(number: int, at: int, *, new: bool = True, hold: bool = False) -> Step:
    return lambda registry: registry.rotate(
        f"k{number}",
        WITNESS,
        at,
        drain_ns=DRAIN_NS,
        binding=key(number) if new else None,
        hold_pending=hold,
    )


def commit(number: int, at: int) -> Step:
    return lambda registry: registry.commit(f"k{number}", at, drain_ns=DRAIN_NS)


def revoke(number: int, at: int, reason: str = "lost") -> Step:
    return lambda registry: registry.revoke(f"k{number}", reason, at)


def after(*steps: Step) -> Registry:
    registry = Registry()
    for step in steps:
        registry = step(registry)
    return registry


def told(record: KeyRecord, at: int) -> str:
    """One key in words: state, epoch, validity."""
    return (
        f"{record.state_at(at).value} {record.epoch} "
        f"{record.not_before_ns or ''}..{record.not_after_ns or ''}"
    )


@pytest.mark.parametrize(
    ("steps", "at", "expected"),
    [
        pytest.param(
            [create(1, 10)], 10, {"k1": "active 1 10.."}, id="first key is active at once"
        ),
        pytest.param(
            [create(1, 10), create(2, 20)],
            20,
            {"k1": "active 1 10..", "k2": "pending 0 .."},
            id="second key waits",
        ),
        pytest.param(
            [create(1, 10), create(2, 20, HEAD)],
            20,
            {"k1": "active 1 10..", "k2": "active 1 20.."},
            id="each purpose has its own first key",
        ),
        pytest.param(
            [create(1, 10), create(2, 20), rotate(2, 30, new=False)],
            30,
            {"k1": "draining 1 10..150", "k2": "active 2 30.."},
            id="rotation to a pending key",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30)],
            30,
            {"k1": "draining 1 10..150", "k2": "active 2 30.."},
            id="rotation registers a new key",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30)],
            150,
            {"k1": "draining 1 10..150", "k2": "active 2 30.."},
            id="the last moment of the drain window counts",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30)],
            151,
            {"k1": "retired 1 10..150", "k2": "active 2 30.."},
            id="retired once the drain window is over",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30), rotate(3, 40)],
            40,
            {"k1": "draining 1 10..150", "k2": "draining 2 30..160", "k3": "active 3 40.."},
            id="two rotations within one drain window",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30, hold=True)],
            30,
            {"k1": "active 1 10..", "k2": "pending 0 .."},
            id="a held rotation changes nothing yet",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30, hold=True), commit(2, 40)],
            40,
            {"k1": "draining 1 10..160", "k2": "active 2 40.."},
            id="a held rotation ends with commit",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30, hold=True), rotate(2, 40)],
            40,
            {"k1": "draining 1 10..160", "k2": "active 2 40.."},
            id="or with a rotation that does not hold",
        ),
        pytest.param(
            [rotate(1, 10, hold=True)],
            10,
            {"k1": "pending 0 .."},
            id="even a first key can be held",
        ),
        pytest.param(
            [rotate(1, 10)], 10, {"k1": "active 1 10.."}, id="rotation where there was no key"
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30), revoke(1, 60)],
            60,
            {"k1": "revoked 1 10..60", "k2": "active 2 30.."},
            id="a draining key revoked ends at once",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30), revoke(1, 500)],
            500,
            {"k1": "revoked 1 10..150", "k2": "active 2 30.."},
            id="a retired key revoked keeps its end",
        ),
        pytest.param(
            [create(1, 10), create(2, 20), revoke(2, 30)],
            30,
            {"k1": "active 1 10..", "k2": "revoked 0 .."},
            id="a pending key revoked never had validity",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 5)],
            11,
            {"k1": "draining 1 10..131", "k2": "active 2 11.."},
            id="a clock that went back does not end a key before it began",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30), revoke(1, 5)],
            30,
            {"k1": "revoked 1 10..10", "k2": "active 2 30.."},
            id="nor does it on revocation",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 30), revoke(1, 40), rotate(3, 50)],
            50,
            {"k1": "revoked 1 10..40", "k2": "draining 2 30..170", "k3": "active 3 50.."},
            id="epochs count on past a revoked key",
        ),
    ],
)
def test_life_of_keys(steps: list[Step], at: int, expected: dict[str, str]) -> None:
    registry = after(*steps)
    assert {record.kid: told(record, at) for record in registry} == expected


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        pytest.param([], create(1, 10), id="create"),
        pytest.param([create(1, 10), rotate(2, 20)], create(1, 30), id="create of a drained key"),
        pytest.param([create(1, 10)], rotate(2, 20), id="rotate"),
        pytest.param([create(1, 10)], rotate(2, 20, hold=True), id="held rotate"),
        pytest.param([create(1, 10), rotate(2, 20, hold=True)], commit(2, 30), id="commit"),
        pytest.param([create(1, 10), rotate(2, 20)], revoke(1, 30), id="revoke"),
    ],
)
def test_repeating_a_step_changes_nothing(steps: list[Step], last: Step) -> None:
    """A caller whose answer was lost asks again; storage relies on it too."""
    once = after(*steps, last)
    assert last(once) is once


def test_held_rotation_repeated_after_its_commit_stays_committed() -> None:
    registry = after(create(1, 10), rotate(2, 20, hold=True), commit(2, 30))
    assert rotate(2, 40, hold=True)(registry) is registry


def test_revision_grows_with_every_change() -> None:
    registry = Registry()
    for step in (create(1, 10), create(2, 20), rotate(2, 30, new=False), revoke(1, 40)):
        changed = step(registry)
        assert changed.revision > registry.revision
        registry = changed


@pytest.mark.parametrize(
    ("steps", "last", "error", "reason"),
    [
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(replace(key(2), kid="k1"), 20),
            AlreadyExistsError,
            "KEY_ID_REUSED",
            id="kid for another key",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(replace(key(1), uri="local:moved.pem"), 20),
            AlreadyExistsError,
            "KEY_ID_REUSED",
            id="kid with another URI",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(key(1, HEAD), 20),
            AlreadyExistsError,
            "KEY_ID_REUSED",
            id="kid with another purpose",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 20), revoke(1, 30)],
            lambda r: r.create(replace(key(3), kid="k1"), 40),
            AlreadyExistsError,
            "KEY_ID_REUSED",
            id="kid of a revoked key",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(replace(key(1), kid="other", uri="local:other.pem"), 20),
            AlreadyExistsError,
            "KEY_REUSED",
            id="key under a second kid",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(replace(key(1, HEAD), kid="other"), 20),
            AlreadyExistsError,
            "KEY_REUSED",
            id="key for a second purpose",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.create(replace(key(2), uri="local:k1.pem"), 20),
            AlreadyExistsError,
            "KEY_URI_REUSED",
            id="URI for another key",
        ),
        pytest.param(
            [create(1, 10)],
            lambda r: r.rotate("k1", HEAD, 20, drain_ns=1),
            FailedPreconditionError,
            "KEY_PURPOSE_MISMATCH",
            id="rotation of another purpose",
        ),
        pytest.param(
            [create(1, 10)],
            rotate(9, 20, new=False),
            NotFoundError,
            "KEY_NOT_FOUND",
            id="rotation to nothing",
        ),
        pytest.param([], commit(9, 20), NotFoundError, "KEY_NOT_FOUND", id="commit of nothing"),
        pytest.param([], revoke(9, 20), NotFoundError, "KEY_NOT_FOUND", id="revocation of nothing"),
        pytest.param(
            [create(1, 10), rotate(2, 20)],
            rotate(1, 30, new=False),
            FailedPreconditionError,
            "KEY_NOT_PENDING",
            id="rotation back to a draining key",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 20), revoke(1, 30)],
            commit(1, 40),
            FailedPreconditionError,
            "KEY_NOT_PENDING",
            id="commit of a revoked key",
        ),
        pytest.param(
            [create(1, 10)],
            revoke(1, 20),
            FailedPreconditionError,
            "KEY_ACTIVE",
            id="revocation of the active key",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 20), revoke(1, 30)],
            revoke(1, 40, "another reason"),
            FailedPreconditionError,
            "KEY_ALREADY_REVOKED",
            id="revocation with a second reason",
        ),
        pytest.param(
            [create(1, 10), rotate(2, 20), revoke(1, 30)],
            lambda registry: registry.revoke("k1", "lost", 40, (COVERED,)),
            FailedPreconditionError,
            "KEY_ALREADY_REVOKED",
            id="revocation again that lets more stand",
        ),
        pytest.param(
            [
                create(1, 10),
                rotate(2, 20),
                lambda registry: registry.revoke("k1", "lost", 30, (COVERED,)),
            ],
            revoke(1, 40),
            FailedPreconditionError,
            "KEY_ALREADY_REVOKED",
            id="revocation again that lets less stand",
        ),
    ],
)
def test_step_that_is_refused(
    steps: list[Step], last: Step, error: type[StatusError], reason: str
) -> None:
    registry = after(*steps)
    with pytest.raises(error) as caught:
        last(registry)
    assert caught.value.reason == reason


def test_refusal_to_revoke_the_active_key_says_what_to_do() -> None:
    with pytest.raises(FailedPreconditionError, match="keys rotate --kid NEW --purpose witness"):
        after(create(1, 10), revoke(1, 20))


def test_two_services_may_name_their_files_alike() -> None:
    shared = replace(key(2, HEAD), uri="local:k1.pem")
    registry = after(create(1, 10), lambda r: r.create(shared, 20))
    assert len(registry.keys) == 2


def test_predecessor_is_what_was_or_would_be_replaced() -> None:
    registry = after(create(1, 10), rotate(2, 20), rotate(3, 30), create(4, 40))
    named = {record.kid: getattr(registry.predecessor(record), "kid", None) for record in registry}
    assert named == {"k1": None, "k2": "k1", "k3": "k2", "k4": "k3"}


def test_signers_get_pending_active_and_draining_keys() -> None:
    registry = after(create(1, 10), rotate(2, 20), rotate(3, 500), create(4, 501))
    assert [record.kid for record in registry.signing_keys(510)] == ["k2", "k3", "k4"]


def test_verifiers_get_every_key_that_was_ever_active() -> None:
    registry = after(
        create(1, 10), rotate(2, 20), rotate(3, 500), create(4, 501), revoke(2, 510), create(5, 511)
    )
    registry = revoke(5, 512)(registry)
    keys = registry.key_set(1000)
    assert {k.kid: k.state for k in keys} == {
        "k1": KeyState.RETIRED,
        "k2": KeyState.REVOKED,
        "k3": KeyState.ACTIVE,
    }
    assert KeySet.parse(keys.encode()) == keys


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "rotate", "hold", "commit", "revoke"]),
            st.integers(1, 5),
            st.integers(1, 1000),
        ),
        max_size=25,
    )
)
def test_no_history_breaks_the_rules(history: list[tuple[str, int, int]]) -> None:
    registry = Registry()
    for verb, number, at in history:
        step = {
            "create": create(number, at),
            "rotate": rotate(number, at),
            "hold": rotate(number, at, hold=True),
            "commit": commit(number, at),
            "revoke": revoke(number, at),
        }[verb]
        before = registry
        try:
            registry = step(registry)
        except StatusError:
            continue
        assert registry.keys.keys() >= before.keys.keys(), "no key is ever dropped"
        for kid, record in before.keys.items():
            assert registry.keys[kid].binding == record.binding, "a kid keeps its key"
        active = [record for record in registry if record.state is KeyState.ACTIVE]
        assert len(active) <= 1
        epochs = sorted(record.epoch for record in registry if record.epoch)
        assert epochs == list(range(1, len(epochs) + 1))
        for record in registry:
            assert (record.epoch > 0) == (record.not_before_ns is not None)
            if record.not_after_ns is not None:
                assert record.not_before_ns is not None
                assert record.not_before_ns <= record.not_after_ns


class TestPageTokens:
    @given(st.integers(1, 2**62), st.text())
    def test_round_trip(self, number: int, query: str) -> None:
        try:
            query.encode()
        except UnicodeEncodeError:
            return
        assert paging.read_page_token(paging.page_token(number, query), query) == number

    def test_token_of_another_query_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="other parameters") as caught:
            paging.read_page_token(paging.page_token(5, "a"), "b")
        assert caught.value.violations[0].field == "page_token"

    @given(st.text(max_size=80))
    def test_any_text_gives_a_number_or_our_error(self, token: str) -> None:
        try:
            paging.read_page_token(token, "query")
        except InvalidArgumentError:
            pass
