"""What has to be looked up before a submission can be admitted, and checked before it is believed.

States and runs of ledgers come from a database we do not trust for what the log holds. A state is
checked, when it is first read, against the entry it names (`check_state`); a run, before a
difference under it counts as a fork, against the entry it leads to. So damage of ours is DATA_LOSS
and never latches somebody's ledger.

A state is *in flight* from the moment a flush is planned that changes it until its signed head is
released: that flush builds on it already, but what it says is not in a signed tree yet, and is
forgotten if the flush fails.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Final, TypeAlias

from anchor_svc.checkpointing import FlushPlan, LeafRun, Logged, clip_runs
from anchor_svc.proofs import Prover
from anchor_svc.state import LogState
from anchor_svc.storage import RunStart, Storage
from anchor_svc.submission import LedgerForkedError, LedgerState, Submission
from provledger import logs, telemetry
from provledger.entry import Entry, parse_entry, receipt_hash
from provledger.errors import DataLossError, ReceiptFormatError, StatusError

log = logs.get(__name__)

ProverMaker: TypeAlias = Callable[[], Prover]
"""Makes the prover of a flush when it is first needed: mostly, nothing has to be looked up."""

MAX_CACHED_LEDGERS: Final = 10_000
"""States of ledgers kept in memory, about half a KiB each."""

_forks = telemetry.counter("anchor.forks", doc="Submissions that showed a second history")


class Admission:
    """Admits submissions to the next flush. For the one writer of a log, one plan at a time."""

    def __init__(self, log_uid: bytes, storage: Storage, state: LogState) -> None:
        self._log_uid = log_uid
        self._storage = storage
        self._state = state
        self._ledgers: OrderedDict[bytes, LedgerState] = OrderedDict()
        self._in_flight: dict[bytes, LedgerState] = {}

    def forget(self) -> None:
        """Drop what is remembered of ledgers: it may not be what is stored."""
        self._ledgers.clear()
        self._in_flight.clear()

    def known(self, ledger_uid: bytes) -> LedgerState | None:
        """What this process has released of a ledger, or checked; None if it does not remember."""
        return self._ledgers.get(ledger_uid)

    def launch(self, states: Collection[LedgerState]) -> None:
        """Build on states of a flush that is on its way."""
        self._in_flight.update((state.ledger_uid, state) for state in states)

    def repeats_in_flight(self, submissions: Sequence[Submission]) -> bool:
        """Whether one brings seqs again that are in flight: no signed tree can be asked for."""
        for submission in submissions:
            state = self._in_flight.get(submission.ledger_uid)
            if state is not None and submission.start_seq <= state.seq:
                return True
        return False

    def remember(self, states: Collection[LedgerState]) -> None:
        """Take over states that have been stored, and are in a signed tree."""
        for state in states:
            if self._in_flight.get(state.ledger_uid) is state:
                del self._in_flight[state.ledger_uid]
            self._ledgers[state.ledger_uid] = state
            self._ledgers.move_to_end(state.ledger_uid)
        while len(self._ledgers) > MAX_CACHED_LEDGERS:
            self._ledgers.popitem(last=False)

    async def admit_all(
        self, plan: FlushPlan, submissions: Sequence[Submission]
    ) -> list[list[LeafRun] | StatusError]:
        """Admit submissions in their order: for each where its entries are or will be, or why not.

        Raises:
            StatusError: the database cannot be asked.
        """
        prover = cache(self._state.signed_view().newest_prover)
        states = await self._states({each.ledger_uid for each in submissions}, prover)
        placed: list[list[LeafRun] | StatusError] = []
        for submission in submissions:
            base = states.get(submission.ledger_uid)
            if base is None:
                base = LedgerState(submission.ledger_uid, submission.suite)
            if isinstance(base, StatusError):
                placed.append(base)
                continue
            try:
                placed.append(await self._admit(plan, base, submission, prover))
            except StatusError as error:
                placed.append(error)
        return placed

    async def _admit(
        self, plan: FlushPlan, base: LedgerState, submission: Submission, prover: ProverMaker
    ) -> list[LeafRun]:
        logged = await self._logged(base, submission, prover)
        try:
            return plan.admit(base, submission, logged)
        except LedgerForkedError as error:
            _forks.add()
            for run in clip_runs(logged.runs, error.seq, error.seq + 1):
                await _check_entry(prover, base.ledger_uid, run.start_seq, run.start_index)
            if base.forked_seq is None:
                log.error("anchor.ledger_forked", ledger=base.ledger_uid.hex(), seq=error.seq)
                plan.latch(base, error.seq)
            raise

    async def _logged(
        self, base: LedgerState, submission: Submission, prover: ProverMaker
    ) -> Logged:
        """What the log holds already of a submission's seqs."""
        first, end = submission.start_seq, min(submission.end_seq, base.seq + 1)
        if first >= end or base.forked_seq is not None:
            return Logged()
        runs = await self._storage.runs(self._log_uid, base.ledger_uid, first, end)
        indices = run_indices(runs, first, end)
        if len(indices) != end - first or min(indices) < 0 or max(indices) >= prover().size:
            raise damaged_ledger(base.ledger_uid)
        hashes = await asyncio.to_thread(lambda: [prover().leaf_hash(index) for index in indices])
        return Logged(runs, hashes)

    async def _states(
        self, uids: Collection[bytes], prover: ProverMaker
    ) -> dict[bytes, LedgerState | StatusError]:
        """What is known of these ledgers, from memory or, once checked, from the database."""
        states: dict[bytes, LedgerState | StatusError] = {}
        unknown = []
        for uid in uids:
            if uid in self._in_flight:
                states[uid] = self._in_flight[uid]
            elif uid in self._ledgers:
                states[uid] = self._ledgers[uid]
                self._ledgers.move_to_end(uid)
            else:
                unknown.append(uid)
        if unknown:
            for uid, state in (await self._stored(unknown)).items():
                if isinstance(state, DataLossError):
                    states[uid] = state
                    continue
                try:
                    await asyncio.to_thread(check_state, prover(), state)
                except DataLossError as error:
                    states[uid] = error
                else:
                    states[uid] = state
                    self.remember([state])
        return states

    async def _stored(self, uids: Sequence[bytes]) -> dict[bytes, LedgerState | DataLossError]:
        """What the database says of these ledgers; one whose row cannot be read stops no other."""
        try:
            return {**await self._storage.ledgers(self._log_uid, uids)}
        except DataLossError as error:
            if len(uids) == 1:
                return {uids[0]: error}
        found: dict[bytes, LedgerState | DataLossError] = {}
        for uid in uids:
            found |= await self._stored([uid])
        return found


def run_indices(runs: Sequence[RunStart], start_seq: int, end_seq: int) -> list[int]:
    """Log indices of seqs from `start_seq` to before `end_seq`, in order."""
    return [
        run.start_index + place
        for run in clip_runs(runs, start_seq, end_seq)
        for place in range(run.count)
    ]


async def _check_entry(prover: ProverMaker, ledger_uid: bytes, seq: int, log_index: int) -> bytes:
    """The entry at an index, which must be the one of this ledger and seq."""
    if not 0 <= log_index < prover().size:
        raise damaged_ledger(ledger_uid)
    data = await asyncio.to_thread(prover().entry, log_index)
    check_entry(data, ledger_uid, seq)
    return data


def check_entry(data: bytes, ledger_uid: bytes, seq: int) -> Entry:
    """Read an entry of the log, which must be the one that the database says is there.

    Raises:
        DataLossError: it is another one.
    """
    try:
        entry = parse_entry(data)
    except ReceiptFormatError as error:
        raise damaged_ledger(ledger_uid) from error
    if (entry.ledger_uid, entry.seq) != (ledger_uid, seq):
        raise damaged_ledger(ledger_uid)
    return entry


def check_state(prover: Prover, state: LedgerState) -> None:
    """Check what the database says of a ledger against the entry that it names.

    The state must have been read after the prover's view was taken. Nor may the ledger go on right
    behind that entry. That it goes on anywhere else, only all of the log tells (`log fsck`).

    Raises:
        DataLossError: LEDGER_ROWS_DAMAGED; or the log itself is.
    """
    uid, index = state.ledger_uid, state.log_index
    if not 0 <= index < prover.size:
        raise damaged_ledger(uid)
    data = prover.entry(index)
    entry = check_entry(data, uid, state.seq)
    if entry.suite != state.suite or receipt_hash(entry.suite, data) != state.receipt_hash:
        raise damaged_ledger(uid)
    if index + 1 < prover.size and _ledger_of(prover.entry(index + 1)) == uid:
        raise damaged_ledger(uid)


def check_known(known: LedgerState | None, state: LedgerState | None, ledger_uid: bytes) -> None:
    """Check that the database says no less of a ledger than this process knew before asking it.

    Raises:
        DataLossError: LEDGER_ROWS_DAMAGED.
    """
    if known is not None and (state is None or state.seq < known.seq):
        raise damaged_ledger(ledger_uid)


def _ledger_of(data: bytes) -> bytes | None:
    try:
        return parse_entry(data).ledger_uid
    except ReceiptFormatError:
        return None


def damaged_ledger(ledger_uid: bytes) -> DataLossError:
    """The error for rows about a ledger that do not agree with the log."""
    ledger = ledger_uid.hex()
    return DataLossError(
        "LEDGER_ROWS_DAMAGED",
        f"what the database says of ledger {ledger} is not what the log holds",
        metadata={"ledgerUid": ledger},
    )
