"""Proofs for receipts that the log has just taken: one question for all who wait for them.

When the relay says that a stretch of a ledger is in the log, everybody who waited for a receipt in
it wants a proof at the same moment, to the same checkpoint. What is asked while one question is on
its way is the next question, so that there is one at a time for each ledger. A short stretch the
log has mostly proved with its answer already, and nobody need ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from ledger_svc.chain import LedgerInfo
from provledger.api.anchor.v1 import anchor_pb2

MAX_SEQS: Final = 1000
"""What one question may hold; see `BatchGetInclusionProofsRequest.seqs`."""

MAX_TOLD: Final = 256
"""Ledgers whose last proofs are kept for a moment."""
_TOLD_S: Final = 0.5

Answer: TypeAlias = anchor_pb2.BatchGetInclusionProofsResponse
Ask: TypeAlias = Callable[[LedgerInfo, Sequence[int]], Awaitable[Answer | None]]
"""Proofs for seqs that rise strictly; None while the anchor cannot be asked."""


class Proven:
    """What one question brought: proofs by seq, all to one checkpoint."""

    __slots__ = ("answer", "by_seq")

    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.by_seq = {} if answer is None else {proof.seq: proof for proof in answer.proofs}


class _Question:
    __slots__ = ("future", "seqs")

    def __init__(self) -> None:
        self.seqs: set[int] = set()
        self.future: asyncio.Future[Proven] = asyncio.get_running_loop().create_future()


class Proving:
    """The questions of a process; for one event loop."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        # By ledger, what the log proved without being asked: for those it is just waking.
        self._told: dict[bytes, Proven] = {}
        # By ledger: the questions not asked yet, the first of them being filled up no more.
        self._waiting: dict[bytes, list[_Question]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def learn(self, ledger_uid: bytes, answer: Answer) -> None:
        """Take note of proofs that came with the log's answer, for a moment."""
        if len(self._told) >= MAX_TOLD and ledger_uid not in self._told:
            return
        proven = self._told[ledger_uid] = Proven(answer)
        asyncio.get_running_loop().call_later(_TOLD_S, self._forget, ledger_uid, proven)

    def _forget(self, ledger_uid: bytes, proven: Proven) -> None:
        if self._told.get(ledger_uid) is proven:
            del self._told[ledger_uid]

    async def prove(self, ledger: LedgerInfo, seq: int) -> Proven:
        """The proof of a logged receipt, with those of others who asked in this moment.

        Whether there is one shows in `by_seq`: an anchor that is away proves nothing.
        """
        (proven,) = await self.prove_all(ledger, (seq,))
        return proven

    async def prove_all(self, ledger: LedgerInfo, seqs: Sequence[int]) -> list[Proven]:
        """As `prove`, for some receipts at once, in order."""
        told = self._told.get(ledger.uid)
        known = frozenset[int]() if told is None else told.by_seq.keys()
        found = [told if seq in known else self._question(ledger, seq) for seq in seqs]
        # Whoever gives up waiting leaves the question to the others.
        return [
            await asyncio.shield(each.future) if isinstance(each, _Question) else each
            for each in found
            if each is not None
        ]

    def _question(self, ledger: LedgerInfo, seq: int) -> _Question:
        """The question that will be asked next, with this receipt in it."""
        questions = self._waiting.get(ledger.uid)
        if questions is None:
            questions = self._waiting[ledger.uid] = []
            # It begins in the next turn of the loop: who was woken in this one is among them.
            task = asyncio.create_task(self._run(ledger, questions))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not questions or len(questions[-1].seqs) >= MAX_SEQS:
            questions.append(_Question())
        question = questions[-1]
        question.seqs.add(seq)
        return question

    async def _run(self, ledger: LedgerInfo, questions: list[_Question]) -> None:
        """Ask until nobody waits any more."""
        try:
            while questions:
                question = questions.pop(0)
                try:
                    proven = Proven(await self._ask(ledger, sorted(question.seqs)))
                except Exception as error:
                    question.future.set_exception(error)
                    # Of one that nobody waits for any more, nobody need hear.
                    question.future.exception()
                else:
                    question.future.set_result(proven)
        finally:
            del self._waiting[ledger.uid]
            for question in questions:
                question.future.cancel()
