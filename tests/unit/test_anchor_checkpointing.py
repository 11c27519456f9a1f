"""What one flush adds to a log."""

from __future__ import annotations

import pytest

from anchor_svc.checkpointing import (
    FlushPlan,
    LeafRun,
    Logged,
    clip_runs,
    first_entry,
    make_origin,
)
from anchor_svc.storage import RunStart
from anchor_svc.submission import LedgerForkedError, LedgerState, Submission, parse_submission
from anchor_svc.tree import EMPTY, Edge
from provledger import merkle
from provledger.errors import FailedPreconditionError
from provledger.hashing import sha256
from provledger.settings import ConfigError
from tests.support.anchoring import LOG_UID, Ledger


def _submission(ledger: Ledger, start: int, end: int | None = None) -> Submission:
    return parse_submission(ledger.uid, ledger.suite, start, ledger.entries[start:end], sha256)


def _unknown(ledger: Ledger) -> LedgerState:
    return LedgerState(ledger.uid, ledger.suite)


@pytest.fixture
def edge() -> Edge:
    return EMPTY.extend([merkle.leaf_hash(b"zero")], [b"zero"], sha256)[0]


@pytest.fixture
def ledgers() -> list[Ledger]:
    made = [Ledger("a"), Ledger("b")]
    for ledger in made:
        ledger.grow(20)
    return made


def test_submissions_get_consecutive_places_in_their_order(edge: Edge, ledgers) -> None:
    a, b = ledgers
    plan = FlushPlan(edge, sha256)
    assert plan.admit(_unknown(a), _submission(a, 0, 3), Logged()) == [LeafRun(0, 1, 3)]
    assert plan.admit(_unknown(b), _submission(b, 0, 2), Logged()) == [LeafRun(0, 4, 2)]
    assert plan.admit(_unknown(a), _submission(a, 3, 5), Logged()) == [LeafRun(3, 6, 2)]
    planned = plan.finish(7)
    flush = planned.flush
    entries = [*a.entries[:3], *b.entries[:2], *a.entries[3:5]]
    assert (flush.old_size, flush.size, flush.now_ns) == (1, 8, 7)
    assert flush.root == merkle.root([b"zero", *entries])
    assert [entry for piece in flush.pieces for entry in piece.entries] == entries
    assert flush.runs == (RunStart(a.uid, 0, 1), RunStart(b.uid, 0, 4), RunStart(a.uid, 3, 6))
    states = {state.ledger_uid: state for state in flush.ledgers}
    assert states[a.uid] == LedgerState(a.uid, "blake3", 4, a.hash_of(4), 7, run_start_seq=3)
    assert states[b.uid] == LedgerState(b.uid, "blake3", 1, b.hash_of(1), 5, run_start_seq=0)


def test_run_that_goes_on_at_the_end_of_the_log_is_not_begun_again(edge: Edge, ledgers) -> None:
    a, _ = ledgers
    first = FlushPlan(edge, sha256)
    first.admit(_unknown(a), _submission(a, 0, 3), Logged())
    planned = first.finish(0)
    second = FlushPlan(planned.edge, sha256)
    state = planned.flush.ledgers[0]
    assert second.admit(state, _submission(a, 3, 6), Logged()) == [LeafRun(3, 4, 3)]
    assert second.finish(0).flush.runs == ()
    assert second.states[a.uid].run_start_seq == 0


def test_submission_twice_in_one_flush_is_logged_once(edge: Edge, ledgers) -> None:
    a, b = ledgers
    plan = FlushPlan(edge, sha256)
    first = plan.admit(_unknown(a), _submission(a, 0, 3), Logged())
    plan.admit(_unknown(b), _submission(b, 0, 1), Logged())
    assert plan.admit(_unknown(a), _submission(a, 0, 3), Logged()) == first
    assert plan.admit(_unknown(a), _submission(a, 1, 5), Logged()) == [
        LeafRun(1, 2, 2),
        LeafRun(3, 5, 2),
    ]
    assert plan.leaves == 6


def test_repeat_of_stored_and_planned_entries_in_one_submission(edge: Edge, ledgers) -> None:
    a, _ = ledgers
    first = FlushPlan(edge, sha256)
    first.admit(_unknown(a), _submission(a, 0, 3), Logged())
    stored = first.finish(0)
    base = stored.flush.ledgers[0]
    plan = FlushPlan(stored.edge, sha256)
    plan.admit(base, _submission(a, 3, 6), Logged())
    logged = Logged([RunStart(a.uid, 0, 1)], merkle.leaf_hashes(a.entries[1:3]))
    assert plan.admit(base, _submission(a, 1, 8), logged) == [LeafRun(1, 2, 7)]
    assert plan.leaves == 5


def test_bad_submission_leaves_the_plan_as_it_was(edge: Edge, ledgers) -> None:
    a, b = ledgers
    plan = FlushPlan(edge, sha256)
    with pytest.raises(FailedPreconditionError):
        plan.admit(_unknown(a), _submission(a, 1), Logged())
    assert (plan.leaves, plan.states) == (0, {})
    plan.admit(_unknown(b), _submission(b, 0, 1), Logged())
    assert plan.leaves == 1


def test_latch_is_stored_even_without_entries(edge: Edge, ledgers) -> None:
    a, _ = ledgers
    plan = FlushPlan(edge, sha256)
    base = LedgerState(a.uid, "blake3", 5, a.hash_of(5), 6)
    plan.latch(base, 4)
    plan.latch(base, 2)
    planned = plan.finish(0)
    assert planned.flush.ledgers[0].forked_seq == 4
    assert (planned.flush.old_size, planned.flush.size, planned.flush.pieces) == (1, 1, ())
    with pytest.raises(LedgerForkedError):
        plan.admit(base, _submission(a, 6), Logged())


def test_pieces_never_cross_the_border_of_a_tile(edge: Edge) -> None:
    ledger = Ledger()
    ledger.grow(700)
    plan = FlushPlan(edge, sha256)
    plan.admit(_unknown(ledger), _submission(ledger, 0), Logged())
    pieces = plan.finish(0).flush.pieces
    assert [(piece.start_index, len(piece.entries)) for piece in pieces] == [
        (1, 255),
        (256, 256),
        (512, 189),
    ]


def test_runs_are_clipped_to_the_seqs_asked_for() -> None:
    uid = bytes(16)
    runs = [RunStart(uid, 0, 10), RunStart(uid, 5, 100), RunStart(uid, 7, 200)]
    assert clip_runs(runs, 0, 9) == [LeafRun(0, 10, 5), LeafRun(5, 100, 2), LeafRun(7, 200, 2)]
    assert clip_runs(runs, 3, 6) == [LeafRun(3, 13, 2), LeafRun(5, 100, 1)]
    assert clip_runs(runs, 8, 9) == [LeafRun(8, 201, 1)]
    assert clip_runs([runs[1], runs[1], runs[2]], 5, 8) == [LeafRun(5, 100, 2), LeafRun(7, 200, 1)]
    assert clip_runs([], 0, 5) == []
    assert clip_runs(runs, 4, 4) == []


def test_first_entry_of_a_log_says_what_it_is() -> None:
    entry = first_entry(LOG_UID, "example.test/1", "blake3", [("checkpoint-1", b"\x01" * 32)])
    assert entry == (
        b'{"log":{"keys":[{"jkt":"' + b"01" * 32 + b'","kid":"checkpoint-1"}],'
        b'"origin":"example.test/1","suite":"blake3",'
        b'"uid":"00112233445566778899aabbccddeeff","v":"1"}}'
    )


@pytest.mark.parametrize(
    "prefix", ["example.com/logs", "localhost:8080", "[::1]:8080/x", "example.com/tile/~a.b_c-d"]
)
def test_origin_ends_in_the_uid(prefix: str) -> None:
    assert make_origin(prefix, LOG_UID) == f"{prefix}/{LOG_UID.hex()}"


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "with space",
        "with+plus",
        "new\nline",
        "https://example.com",
        "example.com/",
        "/logs",
        "c2sp.org/tlog",
        "cosignature/v1",
        "x" * 223,
        "tab\there",
        "nbsp\u00a0here",
        "example.com/a%20b",
        "example.com/?logs",
        "example.com/#logs",
        "example.com/a\\b",
        "ex\u00e4mple.com",
        "example.com//logs",
        "example.com/../logs",
        "example.com/./logs",
    ],
)
def test_origin_refuses_what_would_confuse_others(prefix: str) -> None:
    with pytest.raises(ConfigError, match="origin_prefix"):
        make_origin(prefix, LOG_UID)
