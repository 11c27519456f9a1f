"""What ledger, anchor and keys service refuse by one check alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc.admission import Admission
from anchor_svc.quorum import Quorum
from anchor_svc.restored import Restored
from anchor_svc.submission import LedgerState
from keys_svc import journal
from keys_svc.rebuilding import rebuild
from keys_svc.registry import EventState, Registry
from keys_svc.revoking import revoke
from ledger_svc.audit import Auditor
from ledger_svc.census import RECOUNT_S, Census
from ledger_svc.chain import EMPTY_HEAD, Head, HeadState, link
from ledger_svc.commit import Commit, Memory
from ledger_svc.tools import StaleSignatureError
from ledger_svc.witnessing import read_response
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from provledger.keyset import KeyPurpose, KeyState
from provledger.witness_batch import parse_body
from tests.support.anchoring import Ledger
from tests.unit.test_anchor_submission import _submission
from tests.unit.test_key_events import GOOD, H1, R1, W1, W2, W3, maker
from tests.unit.test_keys_journal import binding, carry, kept, rotate  # noqa: F401
from tests.unit.test_ledger_witnessing import LEDGER, answer_to, items


@pytest.mark.parametrize("size", [3, 5])
def test_a_body_that_says_another_size_is_refused(size: int) -> None:
    pending = items("r1", "r2")
    response = answer_to(pending)
    response.body = replace(parse_body(response.body), size=size).encode()
    with pytest.raises(InternalError) as caught:
        read_response(LEDGER, pending, response)
    assert caught.value.reason == "WITNESS_ANSWER"


def commit_of(first: int, *request_ids: str) -> Any:
    rows = [SimpleNamespace(seq=first + n, request_id=each) for n, each in enumerate(request_ids)]
    return SimpleNamespace(rows=rows, head=Head(rows[-1].seq, bytes(32), 1))


def passed(*request_ids: str) -> Any:
    return [(n, SimpleNamespace(request_id=each)) for n, each in enumerate(request_ids)]


def test_what_was_committed_here_is_known_unless_it_has_one_of_the_request_ids() -> None:
    memory = Memory()
    memory.remember(commit_of(5, "a", "b"))
    memory.remember(commit_of(7, "c"))
    assert memory.known_seq(4, passed("x")) == 7
    assert memory.known_seq(6, passed("a", "x")) == 7
    for given in (("a",), ("x", "b"), ("x", "c")):
        assert memory.known_seq(4, passed(*given)) == 4


def test_commits_of_others_in_between_are_looked_up() -> None:
    memory = Memory()
    memory.remember(commit_of(5, "a"))
    memory.remember(commit_of(8, "b"))
    assert memory.known_seq(4, passed("x")) == 4
    assert memory.known_seq(3, passed("x")) == 3
    assert memory.known_seq(7, passed("x")) == 8


def test_a_key_that_went_away_while_its_batch_waited_signs_nothing() -> None:
    """As it is asked under the lock of the head, at the last moment."""
    seal: Any = SimpleNamespace(kid="witness-1", epoch=1, signed_at_ns=1000)
    for accepted in (True, False):
        keys = SimpleNamespace(accepts=lambda kid, epoch, said=accepted: said)
        tools: Any = SimpleNamespace(keys=keys)
        commit = Commit(LEDGER, tools, Memory(), [], seal, again=False)
        if accepted:
            commit._check_seal(1000)
            continue
        with pytest.raises(StaleSignatureError, match="neither active nor draining"):
            commit._check_seal(1000)


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_that_waited_for_too_long_is_old_though_the_clock_was_set_back(again: bool) -> None:
    seal: Any = SimpleNamespace(kid="witness-1", epoch=1, signed_at_ns=4000 * 10**9)
    tools: Any = SimpleNamespace(keys=SimpleNamespace(accepts=lambda kid, epoch: True))
    commit = Commit(LEDGER, tools, Memory(), [], seal, again=again)
    hour_earlier_ns = 400 * 10**9
    commit._check_seal(hour_earlier_ns)
    commit._witnessed_at_s -= 61
    with pytest.raises(StaleSignatureError, match="61 s ago"):
        commit._check_seal(hour_earlier_ns)


class Counts:
    """A database and the logs, by how many ledgers each has."""

    def __init__(self, held: int, stored: int, logged: int) -> None:
        self.held, self.counted = held, (stored, logged)
        self.generation = 0
        self.asked = 0
        self.during: Any = lambda: None

    async def count_ledgers(self) -> tuple[int, int]:
        return self.counted

    async def GetLog(self, request: Any, **_: Any) -> anchor_pb2.GetLogResponse:
        self.asked += 1
        self.during()
        return anchor_pb2.GetLogResponse(ledger_count=self.held)


@pytest.mark.parametrize(
    ("held", "stored", "logged", "reason"),
    [
        (2, 2, 2, ""),
        (2, 3, 2, ""),
        (3, 2, 2, "LEDGER_BEHIND_ANCHOR"),
        # One that was logged is missing, and one was made since: the numbers alone are equal.
        (3, 3, 2, "ANCHOR_NOT_ASKED"),
        (3, 4, 2, "ANCHOR_NOT_ASKED"),
    ],
)
async def test_ledgers_are_counted(held: int, stored: int, logged: int, reason: str) -> None:
    counts: Any = Counts(held, stored, logged)
    census = Census(counts, counts, timeout_s=1.0)
    if not reason:
        await census.check()
        await census.check()
        assert counts.asked == 1
        return
    with pytest.raises((FailedPreconditionError, UnavailableError)) as caught:
        await census.check()
    assert caught.value.reason == reason


async def test_a_count_says_nothing_of_a_database_that_came_meanwhile() -> None:
    counts: Any = Counts(2, 2, 2)
    census = Census(counts, counts, timeout_s=1.0)

    def replaced() -> None:
        counts.generation = 1

    counts.during = replaced
    await census.check()
    counts.counted = (1, 1)
    with pytest.raises(FailedPreconditionError):
        await census.check()


class Ages:
    """A clock that goes on when told."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_ledgers_are_counted_again_once_in_a_while() -> None:
    """At a plain start the anchor may hear later what its sinks hold."""
    counts: Any = Counts(2, 2, 2)
    clock = Ages()
    census = Census(counts, counts, timeout_s=1.0, clock=clock)
    await census.check()
    counts.held = 3
    clock.now_s += RECOUNT_S - 0.1
    await census.check()
    assert counts.asked == 1
    clock.now_s += 0.1
    for _ in range(2):
        with pytest.raises(FailedPreconditionError) as caught:
            await census.check()
        assert caught.value.reason == "LEDGER_BEHIND_ANCHOR"


class SlowCounts(Counts):
    """An anchor that answers when `go_on` is set."""

    def __init__(self, held: int, stored: int, logged: int) -> None:
        super().__init__(held, stored, logged)
        self.go_on = asyncio.Event()

    async def GetLog(self, request: Any, **given: Any) -> anchor_pb2.GetLogResponse:
        self.asked += 1
        await self.go_on.wait()
        return anchor_pb2.GetLogResponse(ledger_count=self.held)


async def given_up(census: Census) -> None:
    """A list whose end waits for a moment only, less than the anchor takes."""
    check = asyncio.ensure_future(census.check())
    for _ in range(5):
        await asyncio.sleep(0)
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check


@pytest.mark.parametrize("known", [False, True])
async def test_a_count_that_somebody_gave_up_is_not_made_yet(known: bool) -> None:
    """Whoever comes next waits for it, and denies nothing before."""
    counts: Any = SlowCounts(2, 2, 2)
    clock = Ages()
    census = Census(counts, counts, timeout_s=1.0, clock=clock)
    if known:
        counts.go_on.set()
        await census.check()
        counts.go_on.clear()
        clock.now_s += RECOUNT_S
    counts.held = 3
    await given_up(census)
    others = [asyncio.ensure_future(census.check()) for _ in range(3)]
    await given_up(census)
    assert not any(each.done() for each in others)
    counts.go_on.set()
    ended = await asyncio.gather(*others, return_exceptions=True)
    assert [getattr(each, "reason", "denied") for each in ended] == ["LEDGER_BEHIND_ANCHOR"] * 3
    assert counts.asked == 1 + known, "once for all of them"


async def test_a_count_that_everybody_gave_up_is_made_all_the_same() -> None:
    """An anchor that takes longer than lists wait is not asked without end."""
    counts: Any = SlowCounts(2, 2, 2)
    census = Census(counts, counts, timeout_s=1.0, clock=Ages())
    for _ in range(3):
        await given_up(census)
    counts.go_on.set()
    for _ in range(20):
        await asyncio.sleep(0)
    counts.go_on.clear()
    await census.check()
    assert counts.asked == 1


@pytest.mark.parametrize("reason", ["RESTORED_BEHIND", "BUSY"])
async def test_an_anchor_that_is_away_takes_nothing_back(reason: str) -> None:
    """One that says that it holds a log for its sinks does."""
    counts: Any = Counts(2, 2, 2)
    clock = Ages()
    census = Census(counts, counts, timeout_s=1.0, clock=clock)
    await census.check()

    def refuse() -> None:
        raise FailedPreconditionError(reason, "for a reason")

    counts.during = refuse
    clock.now_s += RECOUNT_S
    if reason == "BUSY":
        for _ in range(3):
            await census.check()
        assert counts.asked == 2
        return
    for _ in range(2):
        with pytest.raises(FailedPreconditionError) as caught:
            await census.check()
        assert caught.value.reason == reason
    counts.during = lambda: None
    clock.now_s += 1.0
    await census.check()


def state(logged_seq: int) -> HeadState:
    return HeadState(Head(5, bytes(32), 9), logged_seq, "")


@pytest.mark.parametrize(
    ("runs", "column"),
    [
        ([(0, 1, 3), (3, 4, 3)], ""),
        ([(0, 1, 3), (3, 9, 3)], ""),
        ([(0, 1, 3), (3, 3, 3)], "log_runs.start_index"),
        ([(0, 7, 3), (3, 1, 3)], "log_runs.start_index"),
        ([(0, 1, 3), (3, 4, 0), (3, 4, 3)], "log_runs.count"),
        ([(0, 1, 3), (4, 5, 2)], "log_runs.start_seq"),
        ([(0, 1, 3), (3, 4, 4)], "log_runs.count"),
        ([(0, 1, 3)], "log_runs.count"),
        ([(1, 1, 5)], "log_runs.start_seq"),
    ],
)
def test_runs_cover_what_is_logged_once_and_go_forward(runs: Any, column: str) -> None:
    auditor = Auditor(LEDGER, state(5), None)
    if not column:
        auditor.check_runs(runs, 0, 5)
        return
    with pytest.raises(DataLossError) as caught:
        auditor.check_runs(runs, 0, 5)
    assert (caught.value.metadata or {})["column"] == column


@pytest.mark.parametrize("logged_seq", [-2, 6])
def test_logged_seq_lies_in_the_chain(logged_seq: int) -> None:
    with pytest.raises(DataLossError, match=r"heads\.logged_seq"):
        Auditor(LEDGER, state(logged_seq), None).check_head(5)


def linked(head: Head, now_ns: int, *request_ids: str) -> Any:
    pending = items(*request_ids)
    witnessed = read_response(LEDGER, pending, answer_to(pending))
    assert witnessed.seal is not None
    return link(LEDGER, head, witnessed.seal, list(witnessed.results), now_ns)  # type: ignore[arg-type]


@pytest.mark.parametrize(("second_ns", "good"), [(103, True), (101, False), (5, False)])
def test_a_chain_that_goes_back_in_time_is_found_though_its_hashes_fit(
    second_ns: int, good: bool
) -> None:
    """As an earlier version, or another hand with the signing services, could have linked it."""
    one = linked(EMPTY_HEAD, 100, "r1", "r2")
    head = Head(one.head.seq, one.head.receipt_hash, 0)
    two = linked(head, second_ns, "r3")
    auditor = Auditor(LEDGER, HeadState(two.head, -1, ""), None)
    batches = {0: one.batch, 2: two.batch}
    if good:
        auditor.check([*one.rows, *two.rows], batches, None)
        return
    with pytest.raises(DataLossError, match="t_ns does not come after"):
        auditor.check([*one.rows, *two.rows], batches, None)


@pytest.mark.parametrize(("start", "repeats"), [(3, True), (4, True), (5, False)])
def test_what_is_in_flight_up_to_its_last_entry_is_waited_for(start: int, repeats: bool) -> None:
    ledger = Ledger()
    ledger.grow(8)
    admission = Admission(bytes(16), None, None)  # type: ignore[arg-type]
    admission.launch([LedgerState(ledger.uid, ledger.suite, 4, ledger.hash_of(4), 5)])
    assert admission.repeats_in_flight([_submission(ledger, start)]) is repeats


def test_where_there_is_no_sink_nothing_is_anchored() -> None:
    assert not Quorum(None, ()).met([])
    assert not Quorum(None, ["file:///a"]).met([])


def test_a_start_that_found_more_is_no_start_like_any_other() -> None:
    """Once a sink remembers more, that new sinks hold nothing does not let the log go on."""
    log: Any = SimpleNamespace(held=None)
    identity: Any = SimpleNamespace(name="logs/x")
    nothing: Any = None
    restored = Restored(
        identity,
        nothing,
        log,
        Path(),
        list,
        consistency=nothing,
        deadline_s=1.0,
        wait=True,
    )
    away = UnavailableError("START_NOT_CONFIRMED", "away", retry_delay_s=1.0)
    for error, waits in (
        (away, True),
        (FailedPreconditionError("RESTORED_BEHIND", "more"), False),
        (away, False),
    ):
        restored._hold(error)
        assert (log.held, restored._waits) == (error, waits)


def test_one_event_at_a_time_is_sealed(kept: Registry) -> None:  # noqa: F811
    registry = kept
    for key in (W2, W3):
        registry = journal.create(registry, binding(key), 400)
    first, second = journal.open_events(registry)
    for each, key in ((first, W2), (second, W3)):
        event = each.signed.event
        registry = journal.endorse(
            registry, event.digest(), [W1.endorse(event), key.endorse(event)]
        )
    assert [(e.state, e.position) for e in journal.open_events(registry)] == [
        (EventState.SEALED, 2),
        (EventState.PROPOSED, 0),
    ]
    registry = journal.record(registry, first.signed.event.digest(), "r", 500, 1000)
    registry = journal.endorse(registry, second.signed.event.digest(), [])
    assert journal.find(registry, second.signed.event.digest()).position == 3


def test_an_endorsement_that_names_another_thumbprint_is_refused(kept: Registry) -> None:  # noqa: F811
    """it verifies, and a verifier refuses it: the event could never be sealed."""
    registry = journal.create(kept, binding(W2), 400)
    (each,) = journal.open_events(registry)
    event = each.signed.event
    wrong = replace(W1.endorse(event), thumbprint=H1.thumbprint)
    with pytest.raises(InvalidArgumentError, match="does not verify"):
        journal.endorse(registry, event.digest(), [wrong])


def test_a_rotation_by_a_clock_that_went_back_can_be_sealed(kept: Registry) -> None:  # noqa: F811
    began_ns = kept.get("witness-1").not_before_ns
    assert began_ns is not None
    registry = carry(rotate(kept, W2, now_ns=began_ns - 5))
    assert registry.get("witness-2").state is KeyState.ACTIVE
    assert registry.get("witness-2").not_before_ns == began_ns + 1


def test_a_draining_key_that_is_rebuilt_does_not_end_before_it_began() -> None:
    pairs = [(each, "r") for each in GOOD[:3]]
    for now_ns, ends_ns in ((10, 50), (900, 900)):
        rebuilt = rebuild(Registry(), pairs, R1.thumbprint, now_ns)
        assert rebuilt.get("witness-1").not_after_ns == ends_ns


def test_a_key_of_another_purpose_takes_no_stolen_keys_place(kept: Registry) -> None:  # noqa: F811
    head_2 = maker("head-2", 22)
    registry = journal.create(kept, binding(head_2, KeyPurpose.HEAD), 400)
    with pytest.raises(FailedPreconditionError) as caught:
        revoke(registry, "witness-1", "stolen", 500, replacement_kid="head-2")
    assert caught.value.reason == "KEY_NOT_PENDING"
