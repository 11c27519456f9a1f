"""The log answers wrongly, once; or is put back to an older copy, which must not look like that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc import relay
from ledger_svc.app import Service
from ledger_svc.storage import LogRun
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import begin_write
from provledger.errors import FailedPreconditionError
from provledger.retry import RetryPolicy
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    draft,
    eventually,
    ledger_service,
    recorded,
    verify_all,
)
from tests.support.runbooks import RUNBOOKS

NONE = bytes(32)
OTHER = "tenants/acme/ledgers/other"
RUNBOOK = RUNBOOKS / "stale-restore.md"


class WrongAnchor(InMemoryAnchor):
    """Answers submissions as `wrong` says, as long as there is one."""

    wrong: Callable[[anchor_pb2.SubmitLeavesResponse], None] | None = None
    swallows = False

    async def SubmitLeaves(
        self, request: anchor_pb2.SubmitLeavesRequest, *args: Any, **options: Any
    ) -> anchor_pb2.SubmitLeavesResponse:
        if self.swallows:
            size, count = len(self.leaves), len(request.entries)
            run = anchor_pb2.LeafRun(start_seq=request.start_seq, start_index=size, count=count)
            return anchor_pb2.SubmitLeavesResponse(runs=[run], tree_size=size + count)
        answer = await super().SubmitLeaves(request, *args, **options)
        if self.wrong is not None:
            self.wrong(answer)
        return answer


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of every such event."""
    return [
        vars(each)["provledger_fields"] for each in caplog.records if each.getMessage() == event
    ]


def reasons(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {fields["reason"] for fields in told(caplog, "relay.failed")}


async def runs_of(service: Service, seq: int) -> list[tuple[int, int, int]]:
    """What is stored of the first ledger up to `seq`, once all of that is."""
    runs = await service.storage.log_runs(await recorded(service, seq), 0, seq)
    return [(run.start_seq, run.start_index, run.count) for run in runs]


def places_of(anchor: InMemoryAnchor, uid: bytes) -> list[int]:
    return [logged.index for logged in anchor.ledgers[uid]]


def move(by: int) -> Callable[[anchor_pb2.SubmitLeavesResponse], None]:
    """Places that lie further on, in a tree that is as much larger."""

    def change(answer: anchor_pb2.SubmitLeavesResponse) -> None:
        answer.tree_size += by
        for run in answer.runs:
            run.start_index += by

    return change


async def test_a_place_behind_the_signed_tree_is_never_stored(database_url: str) -> None:
    anchor = WrongAnchor()

    def far(answer: anchor_pb2.SubmitLeavesResponse) -> None:
        answer.runs[0].start_index += 2**40

    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await recorded(service, 0)
        anchor.wrong = far
        before = anchor.faults.calls.count("SubmitLeaves")
        await append(service, draft("r1"))
        await eventually(lambda: anchor.faults.calls.count("SubmitLeaves") > before + 1)
        assert await runs_of(service, 0) == [(0, 1, 1)]
        anchor.wrong = None
        assert await runs_of(service, 1) == [(0, 1, 2)]
        await verify_all(service)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("by", [2, 2**40])
async def test_a_place_that_was_too_large_once_is_corrected(
    database_url: str, by: int, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It was held against every right answer: nothing more was logged, and the chain was broken."""
    anchor = WrongAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await recorded(service, 1)
        anchor.wrong = move(by)
        await append_batch(service, [draft("r2"), draft("r3")])
        uid = await recorded(service, 3)
        anchor.wrong = None
        assert await runs_of(service, 3) == [(0, 1, 2), (2, 3 + by, 2)]
        if not restarted:
            await append(service, draft("r4"))
            assert await runs_of(service, 4) == [(0, 1, 2), (2, 3, 3)]
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        for n in (4, 5, 6):
            await append(service, draft(f"r{n}"))
        await eventually(lambda: len(anchor.leaves) == 8)
        await recorded(service, 6)
        assert places_of(anchor, uid) == [1, 2, 3, 4, 5, 6, 7]
        assert (await verify_all(service)).places_checked
    assert [fields["was"] for fields in told(caplog, "relay.places_corrected")] == [3 + by]


async def test_a_place_among_those_of_others_is_corrected(database_url: str) -> None:
    """Entries of another ledger stand between, so that one run becomes several."""
    anchor = WrongAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await recorded(service, 0)
        await create_ledger(service, OTHER)
        await eventually(lambda: len(anchor.leaves) == 3)
        for n in range(3):
            await append(service, draft(f"r{n}"))
            await recorded(service, n + 1)
            await append(service, draft(f"s{n}"), ledger=OTHER)
            await eventually(lambda n=n: len(anchor.leaves) == 3 + 2 * (n + 1))  # type: ignore[misc]
        uid = await recorded(service, 3)
        right = await runs_of(service, 3)
        assert len(right) == 4
        assert await service.storage.replace_runs(uid, [LogRun(2, 2**40, 2)], 3)
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await append(service, draft("r9"))
        runs = await runs_of(service, 4)
        assert runs[:4] == right
        await verify_all(service)


class Shifted(InMemoryAnchor):
    """Says of all places, while told to, that they are others; `proves`: with paths, of the right
    ones."""

    by = 0
    proves = False

    async def GetLedgerState(
        self, request: anchor_pb2.GetLedgerStateRequest, *args: Any, **options: Any
    ) -> anchor_pb2.GetLedgerStateResponse:
        answer = await super().GetLedgerState(request, *args, **options)
        answer.log_index += self.by
        return answer

    async def BatchGetInclusionProofs(
        self, request: anchor_pb2.BatchGetInclusionProofsRequest, *args: Any, **options: Any
    ) -> anchor_pb2.BatchGetInclusionProofsResponse:
        answer = await super().BatchGetInclusionProofs(request, *args, **options)
        for proof in answer.proofs if self.by else ():
            proof.log_index += self.by
            if not self.proves:
                proof.ClearField("hashes")
        return answer


@pytest.mark.parametrize("proves", [False, True])
async def test_right_places_are_not_lost_to_what_is_not_proved(
    database_url: str, proves: bool
) -> None:
    anchor = Shifted()
    anchor.proves = proves
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        right = await runs_of(service, 2)
    anchor.by = -1
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await append(service, draft("r3"))
        await eventually(lambda: "BatchGetInclusionProofs" in anchor.faults.calls)
        assert await runs_of(service, 2) == right
    anchor.by = 0
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await append(service, draft("r4"))
        await recorded(service, 4)
        assert (await verify_all(service)).places_checked


async def test_places_that_differ_before_the_last_run_are_for_a_person(database_url: str) -> None:
    """As after a log was begun again from an older copy: it is no one answer that was wrong."""
    anchor = WrongAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        uid = await recorded(service, 2)
        wrong = [LogRun(0, 1, 1), LogRun(1, 8, 1), LogRun(2, 10, 1)]
        assert await service.storage.replace_runs(uid, wrong, 2)
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await append(service, draft("r3"))
        asked = anchor.faults.calls.count("GetLedgerState")
        await eventually(lambda: anchor.faults.calls.count("GetLedgerState") > asked + 2)
        assert (await service.storage.get_head(uid)).logged_seq == 2
        assert await service.storage.log_runs(uid, 0, 2) == wrong
        assert len(anchor.leaves) == 4


async def test_a_fork_that_is_said_once_latches_nothing(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await recorded(service, 1)

        def lie_once(method: str, request: Any) -> None:
            if method == "SubmitLeaves":
                anchor.faults.before = None
                raise FailedPreconditionError("LEDGER_FORKED", "another history")

        for n in range(2, 5):
            # A word now and then is not the same as twice on end.
            anchor.faults.before = lie_once
            await append(service, draft(f"r{n}"))
            await recorded(service, n)
        state = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
        assert not state.ledger.read_only_reason
        await verify_all(service)


def fork(anchor: InMemoryAnchor, uid: bytes) -> None:
    """Somebody else's entry comes in where the ledger's next one belongs, a moment before it."""

    def come_first(method: str, request: Any) -> None:
        if method == "SubmitLeaves":
            anchor.faults.before = None
            logged = anchor.ledgers[uid]
            index = len(anchor.leaves)
            logged.append(replace(logged[-1], seq=len(logged), index=index, receipt_hash=NONE))
            anchor.leaves.append(NONE)

    anchor.faults.before = come_first


async def test_a_fork_latches_though_the_log_is_asked_again(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        uid = await recorded(service, 1)
        fork(anchor, uid)
        await append(service, draft("r2"))

        async def is_latched() -> bool:
            return (await service.storage.get_head(uid)).read_only_reason == "LEDGER_FORKED"

        await eventually(is_latched)


async def test_after_the_word_of_a_fork_nothing_is_appended_before_the_log_was_asked(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the relay waits before it submits again."""
    monkeypatch.setattr(relay, "_RETRY", RetryPolicy(base_s=600.0, cap_s=600.0, budget_s=1e6))
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        fork(anchor, await recorded(service, 1))
        await append(service, draft("r2"))
        await eventually(lambda: reasons(caplog) == {"LEDGER_FORKED"})
        with pytest.raises(FailedPreconditionError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "LEDGER_BEHIND_ANCHOR"


def way_out() -> list[str]:
    """The statements of the runbook, for our ledger."""
    blocks = [each.split("```")[0] for each in RUNBOOK.read_text().split("```sql\n")[1:]]
    (block,) = [each for each in blocks if "logged_seq" in each]
    return [each.replace("'demo'", "'acme'") for each in block.split(";") if each.strip()]


async def test_an_answer_that_nothing_stands_behind_is_told_and_has_a_way_out(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    anchor = WrongAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await recorded(service, 1)
        anchor.swallows = True
        await append(service, draft("r2"))
        await recorded(service, 2)
        anchor.swallows = False
        await append(service, draft("r3"))
        await eventually(lambda: "ANCHOR_BEHIND_LEDGER" in reasons(caplog))
        # Nothing is handed to a log that may have been put back.
        assert len(anchor.leaves) == 3
        # Told by its own name, though the log's refusal (SEQ_GAP) came first.
        *_, failed = told(caplog, "relay.failed")
        assert "that answer was wrong" in failed["message"]
        assert "stale-restore.md" in failed["message"]
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            for statement in way_out():
                assert connection.execute(sa.text(statement)).rowcount == 1
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        assert await runs_of(service, 3) == [(0, 1, 4)]
        await verify_all(service)


async def test_a_log_that_was_put_back_is_handed_nothing(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it answers of places: it lacks what it had, and would begin a second history."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        for n in (1, 2):
            await append(service, draft(f"r{n}"))
            await recorded(service, n)
        (uid,) = anchor.ledgers
        del anchor.ledgers[uid][2:], anchor.leaves[3:]
        before = len(anchor.leaves)
        for n in (3, 4):
            await append(service, draft(f"r{n}"))
        await eventually(lambda: "ANCHOR_BEHIND_LEDGER" in reasons(caplog))
        assert len(anchor.leaves) == before
        assert await runs_of(service, 2) == [(0, 1, 3)]
