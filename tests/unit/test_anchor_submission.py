"""What may join a log: the rules about one ledger's entries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anchor_svc.submission import (
    LedgerForkedError,
    LedgerState,
    Submission,
    admit,
    check_suite,
    parse_submission,
)
from provledger import merkle
from provledger.entry import MAX_ENTRY_BYTES
from provledger.errors import FailedPreconditionError, InvalidArgumentError
from provledger.hashing import sha256
from tests.support.anchoring import Ledger


def _submission(ledger: Ledger, start: int, end: int | None = None) -> Submission:
    return parse_submission(ledger.uid, ledger.suite, start, ledger.entries[start:end], sha256)


def _state(ledger: Ledger, seq: int) -> LedgerState:
    return LedgerState(ledger.uid, ledger.suite, seq, ledger.hash_of(seq), seq + 1)


def _leaf_hashes(ledger: Ledger, start: int, end: int) -> list[bytes]:
    return merkle.leaf_hashes(ledger.entries[start:end])


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.grow(10)
    return made


def test_parsing_takes_a_chain_and_hashes_it(ledger: Ledger) -> None:
    submission = _submission(ledger, 4, 7)
    assert submission.prev == ledger.hash_of(3)
    assert submission.receipt_hashes == [ledger.hash_of(seq) for seq in (4, 5, 6)]
    assert submission.leaf_hashes == _leaf_hashes(ledger, 4, 7)
    assert submission.end_seq == 7


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda e: [], "entries"),
        (lambda e: [e[0]] * 1001, "entries"),
        (lambda e: [e[0], e[2]], "entries[1]"),
        (lambda e: [e[0], e[0]], "entries[1]"),
        (lambda e: [e[0], b"{}"], "entries[1]"),
        (lambda e: [e[0] + b" "], "entries[0]"),
        (lambda e: [e[0], b"x" * (MAX_ENTRY_BYTES + 1)], "entries[1]"),
        (lambda e: e[1:], "entries[0]"),
    ],
    ids="none too-many gap repeat no-entry trailing-space too-long wrong-start".split(),
)
def test_parsing_names_the_entry_that_is_wrong(ledger: Ledger, change, field) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_submission(ledger.uid, "blake3", 0, change(ledger.entries), sha256)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_parsing_refuses_entries_of_another_ledger_or_suite(ledger: Ledger) -> None:
    with pytest.raises(InvalidArgumentError, match="another ledger"):
        parse_submission(bytes(16), "blake3", 0, ledger.entries[:1], sha256)
    with pytest.raises(InvalidArgumentError, match="another suite"):
        parse_submission(ledger.uid, "fips", 0, ledger.entries[:1], sha256)
    with pytest.raises(InvalidArgumentError, match="start_seq"):
        parse_submission(ledger.uid, "blake3", -1, ledger.entries[:1], sha256)


def test_parsing_refuses_a_chain_broken_inside(ledger: Ledger) -> None:
    other = Ledger()
    other.grow(1, salt="x")
    other.grow(1)
    with pytest.raises(InvalidArgumentError, match=r"entries\[1\].*does not follow"):
        parse_submission(ledger.uid, "blake3", 0, [ledger.entries[0], other.entries[1]], sha256)


def test_first_entry_of_a_ledger_is_admitted(ledger: Ledger) -> None:
    assert admit(LedgerState(ledger.uid, "blake3"), _submission(ledger, 0, 3), []) == 0


def test_next_entries_are_admitted(ledger: Ledger) -> None:
    assert admit(_state(ledger, 3), _submission(ledger, 4), []) == 0


def test_repeated_entries_are_recognised(ledger: Ledger) -> None:
    logged = _leaf_hashes(ledger, 2, 6)
    assert admit(_state(ledger, 5), _submission(ledger, 2, 5), logged) == 3
    assert admit(_state(ledger, 5), _submission(ledger, 2, 9), logged) == 4


def test_gap_says_what_is_expected(ledger: Ledger) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        admit(_state(ledger, 3), _submission(ledger, 5), [])
    assert caught.value.reason == "SEQ_GAP"
    assert caught.value.metadata["expectedSeq"] == "4"
    with pytest.raises(FailedPreconditionError) as caught:
        admit(LedgerState(ledger.uid, "blake3"), _submission(ledger, 1), [])
    assert caught.value.metadata["expectedSeq"] == "0"


def test_other_entry_at_a_logged_place_is_a_fork(ledger: Ledger) -> None:
    other = Ledger()
    other.grow(3)
    other.grow(4, salt="x")
    with pytest.raises(LedgerForkedError) as caught:
        admit(_state(ledger, 9), _submission(other, 1), _leaf_hashes(ledger, 1, 10))
    assert caught.value.seq == 3
    assert caught.value.reason == "LEDGER_FORKED"


def test_next_entry_with_another_past_is_refused(ledger: Ledger) -> None:
    """It differs from nothing that is logged, so that it is no evidence of a second history."""
    other = Ledger()
    other.grow(4, salt="x")
    other.grow(2)
    with pytest.raises(FailedPreconditionError) as caught:
        admit(_state(ledger, 3), _submission(other, 4), [])
    assert not isinstance(caught.value, LedgerForkedError)
    assert caught.value.reason == "PREV_MISMATCH"
    assert caught.value.metadata == {"ledgerUid": ledger.uid.hex(), "seq": "4"}


def test_latched_ledger_takes_nothing_more_not_even_repeats(ledger: Ledger) -> None:
    latched = replace(_state(ledger, 3), forked_seq=2)
    for start in (0, 4):
        with pytest.raises(LedgerForkedError) as caught:
            admit(latched, _submission(ledger, start, 5), _leaf_hashes(ledger, start, 4))
        assert caught.value.seq == 2


def test_ledger_cannot_change_its_suite(ledger: Ledger) -> None:
    other = Ledger(suite_name="fips")
    other.grow(1)
    state = LedgerState(other.uid, "blake3")
    submission = parse_submission(other.uid, "fips", 0, other.entries, sha256)
    with pytest.raises(FailedPreconditionError) as caught:
        admit(state, submission, [])
    assert caught.value.reason == "SUITE_MISMATCH"


def test_suites_share_a_log_if_their_trees_are_alike() -> None:
    check_suite("fips", "blake3")
    check_suite("blake3", "fips")
    for pair in (("blake3-all", "blake3"), ("fips", "blake3-all")):
        with pytest.raises(FailedPreconditionError):
            check_suite(*pair)
