"""The pipeline of an append, one for each ledger (design §5, "Append").

    admission (before) -> queue -> look up request ids -> witness -> commit -> answer (after)

What arrives while a flush runs is the next flush. Two flushes run at a time: while one commits,
the next one is witnessed; they commit in the order in which they started. Where many drafts wait, a
third one runs, so that witness and ledger both have the next at hand when they are done with one.
The lookup before the witness answers repeats without it; what decides is looked up under the head's
lock. A small flush leaves the first one out, and makes it up for whoever is not recorded: nearly
nobody repeats.
Flushes and commits of all ledgers take turns, fairly by tenant (`turns`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

from ledger_svc import chain
from ledger_svc.beside import beside
from ledger_svc.chain import Candidate, Head, LedgerInfo
from ledger_svc.commit import Commit, Memory, Passed
from ledger_svc.outcomes import Outcome, Recorded, answer_known
from ledger_svc.patience import patiently
from ledger_svc.storage import FoundRequests
from ledger_svc.tools import Flushed, StaleSignatureError, Tools
from ledger_svc.turns import CONTENDED_ITEMS, GATHER_S
from ledger_svc.witnessing import Pending, Witnessed
from provledger import logs, telemetry
from provledger.batching import GroupCommit
from provledger.errors import (
    AbortedError,
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    StatusError,
    UnavailableError,
)
from provledger.key_events import TENANT as SYSTEM_TENANT
from provledger.rpc.errors import MESSAGE_TOO_LARGE

log = logs.get(__name__)

MAX_WITNESS_ROUNDS: Final = 3
"""How often a flush is witnessed at most, when its signature is too old to be committed."""
_IN_FLIGHT: Final = 2
_ONE_MORE_FROM: Final = 256
"""Drafts that wait: with fewer of them, a third flush would cost more than it gains."""
_UNSEEN_ITEMS: Final = 64
"""A flush of no more is witnessed before its request ids are looked up: a large one, of repeats,
would cost more to witness than that gains."""
_LOOK_UP_AFTER_S: Final = 0.05
"""How long a repeat waits, for the witness and for flushes before it, until it is looked up all the
same."""
_NOT_LOOKED_UP: Final = -1
_OF_DATABASE: Final = ("DATABASE_", "COMMIT_OUTCOME_UNKNOWN")
"""How the reasons of errors begin that come from the database itself."""

_Turn: TypeAlias = "asyncio.Future[None]"
"""Done when a flush, and all before it, have committed or given up."""

_receipts = telemetry.counter(
    "provledger.ledger.receipts", unit="{receipt}", doc="Drafts that were answered by a receipt."
)
_flush_items = telemetry.histogram(
    "provledger.ledger.flush_items", unit="{draft}", doc="Drafts in one flush."
)
_flush_s = telemetry.histogram(
    "provledger.ledger.flush_duration", doc="From the start of a flush to its commit."
)


class _FlushFailedError(Exception):
    """Why a flush failed that had nothing to do with the item: the witness, the database."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _BehindError(_FlushFailedError):
    """What failed was an item before it in its order."""


class Pipeline:
    """Appends to one ledger; `acknowledged` is the head as of this process's last commit to it."""

    def __init__(
        self, ledger: LedgerInfo, tools: Tools, acknowledged: Head = chain.EMPTY_HEAD
    ) -> None:
        self._ledger = ledger
        self._tools = tools
        self._memory = Memory(acknowledged)
        self._last_turn: _Turn | None = None
        turns = self._turns = tools.turns.of(ledger.tenant)
        self._batcher: GroupCommit[Pending, Recorded] = GroupCommit(
            self._flush,
            max_items=tools.flush_items,
            max_bytes=tools.flush_bytes,
            max_queued_items=tools.queue_items,
            max_queued_bytes=tools.queue_bytes,
            max_in_flight=_IN_FLIGHT,
            one_more_from=_ONE_MORE_FROM,
            turns=turns,
            budget_s=GATHER_S,
            patience=turns.patience,
            linger_s=tools.flush_linger_s,
            name="ledger",
        )

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return self._batcher.idle

    @property
    def acknowledged(self) -> Head:
        """The head as of the last commit."""
        return self._memory.acknowledged

    async def append(self, items: Sequence[Pending]) -> list[Outcome]:
        """Record admitted drafts; an outcome for each, in order. An answer means durable.

        Drafts of one call stay in order (`order`), and together unless they are too large for one
        message to the witness or other tenants are waiting.

        Raises:
            ResourceExhaustedError: the queue is full.
            UnavailableError, DeadlineExceededError: the witness or the database is away. Whether
                something was stored shows when the same request ids come again.
            FailedPreconditionError: the ledger is read-only, or behind its log.
            DataLossError: the database holds less than was acknowledged.
        """
        most = min(self._tools.flush_items, CONTENDED_ITEMS)
        groups = _split(items, self._tools.flush_bytes, most)
        try:
            outcomes = await self._batcher.submit_groups(
                [(group, sum(item.size_bytes for item in group)) for group in groups]
            )
        except Exception as error:
            _fail(items, error)
            raise
        failed = [item for item in outcomes if isinstance(item, _FlushFailedError)]
        if not failed:
            return outcomes
        if len(failed) == len(outcomes):
            raise failed[0].cause
        # Repeats among them are answered all the same.
        return [item.cause if isinstance(item, _FlushFailedError) else item for item in outcomes]

    async def close(self) -> None:
        """Flush what waits; nothing more is taken."""
        await self._batcher.close()

    # --- one flush

    async def _flush(self, items: list[Pending]) -> list[Outcome]:
        """Take one flush through the pipeline, committing in the order of the calls."""
        started_s = time.perf_counter()
        alone = self._tools.turns.running == 1
        before = self._last_turn
        turn = self._last_turn = asyncio.get_running_loop().create_future()
        links = [item.ref for item in items] if telemetry.enabled() else ()
        try:
            with telemetry.span("receipt.create", {"items": len(items)}, links=links) as span:
                outcomes = await self._create(items, before, span)
        except Exception as error:
            _fail(items, error)
            raise
        finally:
            _end_turn(turn, before)
        took_s = time.perf_counter() - started_s
        size_bytes = sum(item.size_bytes for item in items)
        # To wait since the tenant is kept to a quota is no sign of too much work.
        waited_s = max(0.0, started_s - items[0].since_s - self._turns.kept_waiting_s())
        self._tools.flushed(Flushed(waited_s, len(items), size_bytes, took_s, alone))
        _flush_s.record(took_s)
        _flush_items.record(len(items))
        _receipts.add(sum(isinstance(outcome, Recorded) for outcome in outcomes))
        return outcomes

    async def _create(
        self, items: list[Pending], before: _Turn | None, span: telemetry.Span
    ) -> list[Outcome]:
        await self._tools.check(self._ledger)
        _give_receipt_ids(items, self._tools)
        if len(items) <= _UNSEEN_ITEMS:
            return await self._record_unseen(items, before, span)
        return await self._find_and_record(items, before, span)

    async def _record_unseen(
        self, items: list[Pending], before: _Turn | None, span: telemetry.Span
    ) -> list[Outcome]:
        """Record drafts of which the commit will tell whether they are repeats.

        A repeat is answered whatever became of its flush: who is not recorded is looked up before
        being told why. Where that cannot be done, it is what they are told.
        """
        async with beside(self._witness(items)) as witnessing:
            awaited = (witnessing,) if before is None else (witnessing, before)
            _, late = await asyncio.wait(awaited, timeout=_LOOK_UP_AFTER_S)
            if late:
                return await self._find_and_record(items, before, span, witnessing)
            outcomes = await self._try_to_record(items, _NOT_LOOKED_UP, before, span, witnessing)
        left = [index for index, outcome in enumerate(outcomes) if _may_be_repeat(outcome)]
        if left:
            answered: Mapping[int, Outcome]
            try:
                answered = await self._find([items[index] for index in left])
            except Exception as error:
                # Also a fault of ours: others of this flush are recorded, and are told so.
                if not isinstance(error, StatusError):
                    log.error("append.look_up_failed", exc_info=error, ledger=self._ledger.name)
                answered = dict(enumerate(_fail([items[index] for index in left], error)))
            for place, outcome in answered.items():
                outcomes[left[place]] = outcome
        return outcomes

    async def _find(self, items: Sequence[Pending]) -> dict[int, Outcome]:
        """Outcomes, by index, of those that are repeats."""
        storage, uid = self._tools.storage, self._ledger.uid
        found = await self._look_up(items)
        return await answer_known(storage, uid, items, found.known) if found.known else {}

    async def _look_up(self, items: Sequence[Pending]) -> FoundRequests:
        """Where the request ids of items are, or why the ledger is not stored any more."""
        tools, request_ids = self._tools, [item.draft.request_id for item in items]
        try:
            return await tools.storage.find_requests(self._ledger.uid, request_ids)
        except DataLossError:
            await tools.look_for(self._ledger)
            raise

    async def _find_and_record(
        self,
        items: list[Pending],
        before: _Turn | None,
        span: telemetry.Span,
        witnessing: asyncio.Task[Witnessed] | None = None,
    ) -> list[Outcome]:
        """Answer repeats, and record the others; `witnessing` is under way for all of them."""
        tools, uid = self._tools, self._ledger.uid
        found = await self._look_up(items)
        if not found.known:
            return await self._try_to_record(items, found.head_seq, before, span, witnessing)
        outcomes = await answer_known(tools.storage, uid, items, found.known)
        fresh = [index for index in range(len(items)) if index not in outcomes]
        if fresh:
            wanted = [items[index] for index in fresh]
            results = await self._try_to_record(wanted, found.head_seq, before, span, None)
            outcomes.update(zip(fresh, results, strict=True))
        return [outcomes[index] for index in range(len(items))]

    async def _try_to_record(
        self,
        items: Sequence[Pending],
        looked_up_seq: int,
        before: _Turn | None,
        span: telemetry.Span,
        witnessing: asyncio.Task[Witnessed] | None,
    ) -> list[Outcome]:
        """As `_record`; what failed as a whole is told to each."""
        cause: Exception
        try:
            return await self._record(items, looked_up_seq, before, span, witnessing)
        except AbortedError as error:
            # To a caller it is a moment's trouble: the same request may simply come again.
            cause = UnavailableError("LEDGER_BUSY", error.message, retry_delay_s=0.5)
        except Exception as error:
            cause = error
        return _fail(items, cause)

    async def _record(
        self,
        items: Sequence[Pending],
        looked_up_seq: int,
        before: _Turn | None,
        span: telemetry.Span,
        witnessing: asyncio.Task[Witnessed] | None = None,
    ) -> list[Outcome]:
        """Witness and commit; in halves where the witness refuses them as a whole.

        Not where it does not answer in time: it would have more to do, and those behind wait.
        """
        try:
            return await self._witness_and_commit(items, looked_up_seq, before, span, witnessing)
        except StatusError as error:
            refused = isinstance(error, InvalidArgumentError) or error.reason == MESSAGE_TOO_LARGE
            if not refused:
                raise
            if len(items) == 1:
                return [error]
        middle = len(items) // 2
        # Each half has its own outcome: the first is durable, whatever becomes of the second.
        outcomes = await self._try_to_record(items[:middle], looked_up_seq, before, span, None)
        failed = outcomes[-1]
        if isinstance(failed, _FlushFailedError) and not isinstance(failed, _BehindError):
            # So would the second, whose drafts are not to overtake those before them.
            return outcomes + _fail(items[middle:], failed.cause)
        return outcomes + await self._try_to_record(
            items[middle:], looked_up_seq, before, span, None
        )

    async def _witness_and_commit(
        self,
        items: Sequence[Pending],
        looked_up_seq: int,
        before: _Turn | None,
        span: telemetry.Span,
        witnessing: asyncio.Task[Witnessed] | None,
    ) -> list[Outcome]:
        tools, ledger = self._tools, self._ledger
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(items)))
        for attempt in range(MAX_WITNESS_ROUNDS):
            if witnessing is not None:
                witnessed, witnessing = await witnessing, None
            else:
                witnessed = await self._witness([items[index] for index in waiting])
            passed: list[tuple[int, Candidate]] = []
            for index, result in zip(waiting, witnessed.results, strict=True):
                if isinstance(result, Candidate):
                    passed.append((index, result))
                else:
                    outcomes[index] = result
            seal = witnessed.seal
            if seal is None:
                break
            span.set(telemetry.KID, seal.kid)
            commit = Commit(ledger, tools, self._memory, items, seal, again=attempt > 0)
            try:
                if not await tools.keys.wait_accepts(seal.kid, seal.epoch):
                    raise StaleSignatureError(f"key {seal.kid} is neither active nor draining")
                tools.keys.check_signature(seal)
                if before is not None:
                    await asyncio.wait((before,))
                passed = _in_order(items, passed, outcomes)
                if not passed:
                    break
                outcomes.update(
                    await patiently(partial(self._commit, commit, passed, looked_up_seq))
                )
                outcomes.update(await commit.answer_repeats())
                break
            except StaleSignatureError as error:
                log.info("append.witnessed_again", ledger=ledger.name, why=str(error))
                waiting = [index for index, _ in passed]
        else:
            raise UnavailableError(
                "SIGNATURE_STALE",
                "the witness's signatures are too old, or its key is on its way out",
                retry_delay_s=1.0,
            )
        return [outcomes[index] for index in range(len(items))]

    async def _commit(
        self, commit: Commit, passed: Passed, looked_up_seq: int
    ) -> dict[int, Outcome]:
        """Commit in a turn, which ends with the attempt: others have theirs before the next."""
        async with self._tools.turns.commit(self._ledger.tenant, len(passed)):
            return await commit.run(passed, looked_up_seq)

    async def _witness(self, items: Sequence[Pending]) -> Witnessed:
        # Nobody but this service itself gets as far as here with its own tenant.
        system = self._ledger.tenant == SYSTEM_TENANT
        return await self._tools.witness.witness(self._ledger, items, system=system)


def _may_be_repeat(outcome: Outcome) -> bool:
    """Whether a look may find that a draft was recorded earlier, which was not recorded now.

    Not where that was found already; and where the database gave no answer, it would give none.
    """
    if isinstance(outcome, _FlushFailedError):
        reason = getattr(outcome.cause, "reason", "")
        return not reason.startswith(_OF_DATABASE)
    return isinstance(outcome, Exception) and not isinstance(outcome, AlreadyExistsError)


def _fail(items: Sequence[Pending], cause: Exception) -> list[Outcome]:
    """The outcomes of items that failed as a whole, which those behind them are not to overtake."""
    for item in items:
        if item.order is not None:
            item.order.fail(cause, item.place)
    return [_FlushFailedError(cause)] * len(items)


def _in_order(
    items: Sequence[Pending],
    passed: list[tuple[int, Candidate]],
    outcomes: dict[int, Outcome],
) -> list[tuple[int, Candidate]]:
    """Those that overtake nobody, once all flushes before have ended; the others are refused."""
    kept = []
    for index, candidate in passed:
        item = items[index]
        failed = None if item.order is None else item.order.failure_at(item.place)
        if failed is None:
            kept.append((index, candidate))
        else:
            outcomes[index] = _BehindError(failed)
    return kept


def _end_turn(turn: _Turn, before: _Turn | None) -> None:
    """End a flush's turn; one that had nothing to commit did not wait for those before it, and
    must not let the next one overtake them."""
    if before is None or before.done():
        turn.set_result(None)
    else:
        before.add_done_callback(lambda _: turn.set_result(None))


def _give_receipt_ids(items: Sequence[Pending], tools: Tools) -> None:
    """Name the receipts to be. Given once: they tell an attempt of ours from a repeat."""
    ids = chain.receipt_ids(tools.clock(), tools.random(10 * len(items)))
    for item, receipt_id in zip(items, ids, strict=True):
        item.receipt_id = receipt_id


def _split(items: Sequence[Pending], max_bytes: int, max_items: int) -> list[Sequence[Pending]]:
    """Groups that each fit into one flush; mostly one."""
    if len(items) <= max_items and sum(item.size_bytes for item in items) <= max_bytes:
        return [items]
    groups: list[Sequence[Pending]] = []
    start = size = 0
    for place, item in enumerate(items):
        if place > start and (size + item.size_bytes > max_bytes or place - start >= max_items):
            groups.append(items[start:place])
            start, size = place, 0
        size += item.size_bytes
    return [*groups, items[start:]]
