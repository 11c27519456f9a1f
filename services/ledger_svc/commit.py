"""The commit of a witnessed batch: decide under the head's lock, in halves where data is refused.

What a commit may rely on is in `Memory`: it belongs to the event loop, and is read from the writing
thread only while the one commit that is running there waits for its result.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger_svc import chain
from ledger_svc.chain import Candidate, Head, HeadState, LedgerInfo, Linked, Seal, Stored
from ledger_svc.outcomes import Outcome, Recorded, answer_known, compare
from ledger_svc.storage import Known, RowsRefusedError
from ledger_svc.tools import StaleSignatureError, Tools, UnconfirmedError
from ledger_svc.witnessing import Pending
from provledger import logs
from provledger.errors import (
    DataLossError,
    InvalidArgumentError,
    UnavailableError,
)

log = logs.get(__name__)

_RECENT_COMMITS: Final = 4
_CONFIRMATIONS: Final = 3
"""How often the database may become another one during a commit."""
_ALARM_EVERY_S: Final = 60.0

Passed = Sequence[tuple[int, Candidate]]
"""Candidates with the index of their item."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided under the lock. `previous_hash` is the receipt hash of the head then."""

    linked: Linked | None
    known: Mapping[str, Known]
    previous_hash: bytes


@dataclass(frozen=True, slots=True)
class _Commit:
    """Request ids that a commit of ours stored, from seq `first` to `last`."""

    first: int
    last: int
    request_ids: frozenset[str]


class Memory:
    """What a process remembers of its own commits to a ledger.

    `acknowledged` is the head as of the last one: a database that has less was put back. Both it
    and the request ids of the last few are only ever compared under the lock, never believed.
    """

    def __init__(self, acknowledged: Head = chain.EMPTY_HEAD) -> None:
        self.acknowledged = acknowledged
        self._recent: deque[_Commit] = deque(maxlen=_RECENT_COMMITS)
        self._alarmed_s = float("-inf")

    def remember(self, linked: Linked) -> None:
        """Take note of a commit of ours."""
        self.acknowledged = linked.head
        rows = linked.rows
        ids = frozenset([row.request_id for row in rows])
        self._recent.append(_Commit(rows[0].seq, rows[-1].seq, ids))

    def known_seq(self, looked_up_seq: int, passed: Passed) -> int:
        """The seq up to which none of the request ids is in the chain.

        They were looked up as of `looked_up_seq`. If all that came since are commits of our own,
        their ids are here. That the head is still our last one is compared under its lock.
        """
        reached = looked_up_seq
        request_ids = {candidate.request_id for _, candidate in passed}
        for commit in self._recent:
            if commit.last <= reached:
                continue
            if commit.first > reached + 1 or not request_ids.isdisjoint(commit.request_ids):
                return looked_up_seq
            reached = commit.last
        return reached

    def alarm(self, ledger: LedgerInfo, behind_ns: int) -> None:
        """Say, once a minute, that the clock is far behind the last entry."""
        now_s = time.monotonic()
        if behind_ns > chain.STEP_ALARM_NS and now_s - self._alarmed_s > _ALARM_EVERY_S:
            self._alarmed_s = now_s
            log.error(
                "append.clock_stepped_back",
                ledger=ledger.name,
                behind_s=behind_ns // 1_000_000_000,
            )


class Commit:
    """The commit of one witnessed batch. `again` says that it was witnessed more than once.

    Drafts whose request ids turn out to be there are answered after it, by `answer_repeats`:
    comparing them takes time, which nobody else's commit should wait for.
    """

    def __init__(
        self,
        ledger: LedgerInfo,
        tools: Tools,
        memory: Memory,
        items: Sequence[Pending],
        seal: Seal,
        *,
        again: bool,
    ) -> None:
        self._ledger = ledger
        self._tools = tools
        self._memory = memory
        self._items = items
        self._seal = seal
        self._again = again
        self._witnessed_at_s = time.monotonic()
        self._twice: list[tuple[int, Pending, Recorded]] = []
        self._elsewhere: list[tuple[list[int], Mapping[str, Known]]] = []

    async def run(self, passed: Passed, looked_up_seq: int) -> dict[int, Outcome]:
        """Commit candidates; outcomes of those that were stored, by the index of their item.

        Raises:
            StaleSignatureError: the batch must be witnessed again; nothing was stored.
            StatusError: of the database, the clock or the ledger.
        """
        for _ in range(_CONFIRMATIONS):
            self._twice, self._elsewhere = [], []
            try:
                return await self._split(passed, looked_up_seq)
            except UnconfirmedError:
                # Nothing was stored, or what was stored is found again by its request ids; those
                # were looked up in the database of before.
                await self._tools.check(self._ledger)
                looked_up_seq = -1
        raise UnavailableError(
            "DATABASE_UNAVAILABLE",
            "connections to the database are lost again and again",
            retry_delay_s=0.5,
        )

    async def answer_repeats(self) -> dict[int, Outcome]:
        """Outcomes of the candidates that were not stored by the commit, after it."""
        outcomes = await compare(self._twice)
        for others, known in self._elsewhere:
            items = [self._items[index] for index in others]
            answered = await answer_known(self._tools.storage, self._ledger.uid, items, known)
            outcomes.update({others[place]: outcome for place, outcome in answered.items()})
        return outcomes

    async def _split(self, passed: Passed, looked_up_seq: int) -> dict[int, Outcome]:
        try:
            return await self._once(passed, looked_up_seq)
        except DataLossError as error:
            if error.reason == chain.LEDGER_ROLLED_BACK:
                self._tools.doubt(self._ledger)
            else:
                await self._tools.look_for(self._ledger)
            raise
        except RowsRefusedError as error:
            if looked_up_seq >= 0:
                # One of them may be a repeat: what was looked up, and our own commits since, may
                # be of the database of before.
                return await self._split(passed, -1)
            if len(passed) == 1:
                index, candidate = passed[0]
                log.error("append.row_refused", exc_info=error, ledger=self._ledger.name)
                return {index: _not_storable(candidate)}
        # Whoever is not to blame is stored.
        middle = len(passed) // 2
        outcomes = await self._split(passed[:middle], looked_up_seq)
        outcomes.update(await self._split(passed[middle:], looked_up_seq))
        return outcomes

    async def _once(self, passed: Passed, looked_up_seq: int) -> dict[int, Outcome]:
        storage, uid = self._tools.storage, self._ledger.uid
        candidates = [candidate for _, candidate in passed]
        last = self._memory.acknowledged
        # If it is still the same one afterwards, the commit was in the database of that one.
        generation = storage.generation
        decision = await storage.append(
            uid,
            [candidate.request_id for candidate in candidates],
            self._memory.known_seq(looked_up_seq, passed),
            lambda state, known, database_ns: self._decide(state, known, database_ns, candidates),
            last=None if last == chain.EMPTY_HEAD else last,
            clock=self._tools.clock,
        )
        by_request = self._recorded(decision, generation)
        outcomes: dict[int, Outcome] = {}
        others: list[int] = []
        for index, candidate in passed:
            there = by_request.get(candidate.request_id)
            if there is None:
                others.append(index)
            elif there.stored.row.receipt_id == candidate.receipt_id:
                outcomes[index] = there
            else:
                # A second draft of the same request id in this very flush.
                self._twice.append((index, self._items[index], there))
        if others:
            # Somebody stored them meanwhile: another flush or replica, or we ourselves in an
            # attempt whose answer was lost.
            self._elsewhere.append((others, decision.known))
        return outcomes

    def _recorded(self, decision: Decision, generation: int) -> dict[str, Recorded]:
        """The receipts that this commit stored, by their request ids."""
        linked = decision.linked
        if linked is None:
            return {}
        self._memory.remember(linked)
        self._tools.committed(self._ledger, linked, generation)
        by_request: dict[str, Recorded] = {}
        previous: bytes | None = decision.previous_hash or None
        for row in linked.rows:
            size = len(row.statement) + len(row.payload)
            by_request[row.request_id] = Recorded(Stored(row, previous), False, size)
            previous = row.receipt_hash
        return by_request

    # --- in the writing thread, under the lock

    def _decide(
        self,
        state: HeadState,
        known: Mapping[str, Known],
        database_ns: int,
        candidates: Sequence[Candidate],
    ) -> Decision:
        """Pure but for the clock: what of the candidates is stored behind this head."""
        seen_seq = self._tools.seen_seq(self._ledger)
        chain.check_not_rolled_back(self._ledger, state.head, self._memory.acknowledged, seen_seq)
        seen: set[str] = set(known)
        fresh: list[Candidate] = []
        for candidate in candidates:
            if candidate.request_id not in seen:
                seen.add(candidate.request_id)
                fresh.append(candidate)
        if not fresh:
            return Decision(None, known, state.head.receipt_hash)
        chain.check_writable(self._ledger, state)
        now_ns = self._tools.clock()
        self._check_seal(now_ns)
        chain.check_clock(now_ns, database_ns, self._seal.signed_at_ns)
        self._memory.alarm(self._ledger, state.head.t_ns - now_ns)
        linked = chain.link(self._ledger, state.head, self._seal, fresh, now_ns)
        return Decision(linked, known, state.head.receipt_hash)

    def _check_seal(self, now_ns: int) -> None:
        """Refuse a signature that is too old, or by a key that is neither active nor draining.

        Age is taken from what was signed, and is no less than how long we had it, whoever set our
        clock back meanwhile. A batch that was just signed again and still looks old shows that the
        clocks differ; it is then measured by how long we had it alone.
        """
        seal = self._seal
        if not self._tools.keys.accepts(seal.kid, seal.epoch):
            raise StaleSignatureError(f"key {seal.kid} is neither active nor draining")
        age_ns = now_ns - seal.signed_at_ns
        held_ns = int((time.monotonic() - self._witnessed_at_s) * 1e9)
        if self._again and age_ns > chain.MAX_CLOCK_AHEAD_NS:
            return  # for `check_clock` to refuse
        age_ns = held_ns if self._again else max(age_ns, held_ns)
        if age_ns > chain.MAX_SIGNATURE_AGE_NS:
            raise StaleSignatureError(f"signed {age_ns // 1_000_000_000} s ago")


def _not_storable(candidate: Candidate) -> InvalidArgumentError:
    return InvalidArgumentError(
        "NOT_STORABLE",
        "the database refuses the data of this draft",
        metadata={"requestId": candidate.request_id},
    )
