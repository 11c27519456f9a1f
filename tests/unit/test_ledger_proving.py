"""One question to the anchor for all who wait for a proof at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ledger_svc import proving
from ledger_svc.chain import LedgerInfo
from ledger_svc.proving import Answer, Proving
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import DataLossError


def ledger(number: int = 1) -> LedgerInfo:
    return LedgerInfo(
        uid=bytes([number]) * 16,
        tenant="acme",
        ledger=f"l{number}",
        suite="blake3",
        log_name="logs/0",
        log_origin="log.test",
        created_at_ns=0,
    )


class Anchor:
    """Answers when it is let to; proves what is below `size`."""

    def __init__(self, size: int = 1_000_000) -> None:
        self.asked: list[tuple[bytes, list[int]]] = []
        self.may_answer = asyncio.Event()
        self.size = size
        self.error: Exception | None = None

    async def ask(self, ledger: LedgerInfo, seqs: Sequence[int]) -> Answer | None:
        self.asked.append((ledger.uid, list(seqs)))
        await self.may_answer.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return anchor_pb2.BatchGetInclusionProofsResponse(
            proofs=[
                anchor_pb2.IndexedProof(seq=seq, log_index=seq + 1)
                for seq in seqs
                if seq < self.size
            ],
            tree_size=self.size,
        )


async def settled(tasks: Sequence[asyncio.Task[proving.Proven]]) -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_who_asks_in_one_moment_asks_together_and_the_next_ones_after() -> None:
    anchor = Anchor()
    desk = Proving(anchor.ask)
    first = [asyncio.create_task(desk.prove(ledger(), seq)) for seq in (9, 7, 8, 7)]
    await settled(first)
    later = [asyncio.create_task(desk.prove(ledger(), seq)) for seq in (11, 10)]
    other = [asyncio.create_task(desk.prove(ledger(2), 5))]
    await settled([*first, *later, *other])
    assert anchor.asked == [(ledger().uid, [7, 8, 9]), (ledger(2).uid, [5])]
    anchor.may_answer.set()
    for task, seq in zip([*first, *later, *other], (9, 7, 8, 7, 11, 10, 5), strict=True):
        assert (await task).by_seq[seq].log_index == seq + 1
    assert anchor.asked[2:] == [(ledger().uid, [10, 11])]
    # Nothing is kept of what was answered.
    await asyncio.sleep(0)
    assert not desk._waiting
    assert not desk._tasks


async def test_what_the_checkpoint_lacks_has_no_proof() -> None:
    anchor = Anchor(size=8)
    anchor.may_answer.set()
    desk = Proving(anchor.ask)
    proven = await asyncio.gather(*(desk.prove(ledger(), seq) for seq in (7, 8)))
    assert [sorted(item.by_seq) for item in proven] == [[7], [7]]


async def test_an_error_reaches_all_who_asked_and_nobody_else() -> None:
    anchor = Anchor()
    desk = Proving(anchor.ask)
    asking = [asyncio.create_task(desk.prove(ledger(), seq)) for seq in (1, 2)]
    await settled(asking)
    later = asyncio.create_task(desk.prove(ledger(), 3))
    anchor.error = DataLossError("TREE_DAMAGED", "broken")
    anchor.may_answer.set()
    for task in asking:
        with pytest.raises(DataLossError):
            await task
    assert 3 in (await later).by_seq


async def test_what_came_with_the_answer_of_the_log_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anchor = Anchor()
    anchor.may_answer.set()
    desk = Proving(anchor.ask)
    desk.learn(
        ledger().uid,
        anchor_pb2.BatchGetInclusionProofsResponse(
            proofs=[anchor_pb2.IndexedProof(seq=4, log_index=9)], tree_size=10
        ),
    )
    assert (await desk.prove(ledger(), 4)).by_seq[4].log_index == 9
    assert not anchor.asked
    # Another receipt, and another ledger.
    await desk.prove(ledger(), 5)
    await desk.prove(ledger(2), 4)
    assert anchor.asked == [(ledger().uid, [5]), (ledger(2).uid, [4])]
    monkeypatch.setattr(proving, "MAX_TOLD", 1)
    desk.learn(ledger(3).uid, anchor_pb2.BatchGetInclusionProofsResponse())
    assert list(desk._told) == [ledger().uid]
    desk._forget(ledger().uid, desk._told[ledger().uid])
    assert not desk._told


async def test_a_caller_who_leaves_takes_nothing_from_the_others() -> None:
    anchor = Anchor()
    desk = Proving(anchor.ask)
    leaving, staying = (asyncio.create_task(desk.prove(ledger(), seq)) for seq in (1, 2))
    await settled([leaving, staying])
    leaving.cancel()
    anchor.may_answer.set()
    assert 2 in (await staying).by_seq
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_questions_are_no_larger_than_the_anchor_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proving, "MAX_SEQS", 3)
    anchor = Anchor()
    anchor.may_answer.set()
    desk = Proving(anchor.ask)
    await asyncio.gather(*(desk.prove(ledger(), seq) for seq in range(8)))
    assert [seqs for _, seqs in anchor.asked] == [[0, 1, 2], [3, 4, 5], [6, 7]]
