"""Brings the entries of ledgers to their logs, behind the appends and never in their way.

Work is found by `heads.seq > heads.logged_seq`, one leased relay for each ledger: there is no
global cursor, since rows commit out of order (design §5, "Anchor"). What was just committed is
handed over in memory as far as that has room, the rest is read from the database. A chunk is
submitted, then comes the next one; the places of several are stored with `logged_seq` a moment
later (`recorder`). While nobody waits for a receipt to be logged, some milliseconds are let go by
between two chunks, so that a signed checkpoint covers more of them.

After a crash everything behind `logged_seq` is submitted again: the log recognises what it has, and
says where. What the log refuses for good, LEDGER_FORKED, latches the ledger read-only once it was
said twice. Everything else is tried again for ever. Nothing is submitted while the key registry is
behind the key ledger, or not known not to be (`key_registry`): a revoked key may sign the
checkpoint that covers it.

The log is believed, and may be wrong once: what it says of places is held against what it said
before (`places`). Where it holds less than it said, nothing more is submitted: it may have been put
back to an older copy, and would begin a second history with what it is handed.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from ledger_svc import guard, places
from ledger_svc.census import LEDGER_BEHIND_ANCHOR
from ledger_svc.chain import LedgerInfo, Linked
from ledger_svc.key_registry import AnyRegistry, Registry
from ledger_svc.places import ANCHOR_ANSWER, odd_answer
from ledger_svc.progress import Progress
from ledger_svc.recorder import LeaseLostError, Recorder
from ledger_svc.storage import LogRun, Storage, Unlogged
from ledger_svc.storage.relays import merge_runs
from ledger_svc.witnessing import SUITES_TO_PB
from provledger import logs, telemetry
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import InternalError, ProvledgerError, StatusError
from provledger.retry import NO_RETRY, RetryPolicy
from provledger.rpc.channel import call

log = logs.get(__name__)

MAX_CHUNK_ITEMS: Final = 1000
MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024
_PROVEN_ITEMS: Final = 128
"""Entries of a chunk that are proved at once, if somebody waits for one of them."""
_FEW_ITEMS: Final = 250
"""A chunk of fewer entries is followed by a pause."""
_SEARCH_SHARE: Final = 10
"""A search is followed by a pause of that many times what it took: it looks at all ledgers."""
_LEASE_SHARE: Final = 3
"""That pause is at most this part of a lease, by which others may have to wait for longer."""
LEDGER_FORKED: Final = "LEDGER_FORKED"
_OTHER_HISTORY: Final = frozenset({LEDGER_FORKED, LEDGER_BEHIND_ANCHOR})
_IDLE_S: Final = 2.0
_HAND_OVER_S: Final = 2.0
"""How long a stop may take because the database does not answer."""
_RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.1, cap_s=5.0, budget_s=float("inf"))

_lag = telemetry.gauge(
    "provledger.ledger.relay_lag",
    unit="{receipt}",
    doc="Receipts committed, but not yet logged, of all ledgers in the database.",
)


Proofs: TypeAlias = anchor_pb2.BatchGetInclusionProofsResponse


class AnchorStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    BatchGetInclusionProofs: Callable[..., Awaitable[Proofs]]
    GetLedgerState: Callable[..., Awaitable[anchor_pb2.GetLedgerStateResponse]]
    SubmitLeaves: Callable[..., Awaitable[anchor_pb2.SubmitLeavesResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """poll_s, lease_s, linger_s: seconds. memory_bytes: of entries handed over, for all ledgers."""

    poll_s: float = 0.25
    linger_s: float = 0.0
    lease_s: float = 10.0
    memory_bytes: int = 16 * 1024 * 1024
    anchor_timeout_s: float = 10.0


class Relay:
    """The relays of a process. `committed` and `run` belong to one event loop."""

    def __init__(
        self,
        storage: Storage,
        anchor: Any,
        progress: Progress,
        limits: RelayLimits,
        *,
        owner: str = "",
        learn: Callable[[bytes, Proofs], None] = lambda *_: None,
        doubt: Callable[[LedgerInfo], None] = lambda _: None,
        registry: Registry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage = storage
        self._clock = clock
        self.learn = learn
        self.doubt = doubt
        self.registry: Registry = registry or AnyRegistry()
        self.anchor: AnchorStub = anchor
        self.progress = progress
        self.limits = limits
        # Random, so that a process started anew does not take itself for its predecessor.
        self.owner = owner or secrets.token_hex(8)
        self.rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._memory = _Memory(limits.memory_bytes)
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._relays: dict[bytes, _LedgerRelay] = {}
        # Ledgers whose lease another replica held, and until when we do not ask for it again.
        self._foreign: dict[bytes, float] = {}
        self._running = False

    def committed(self, ledger: LedgerInfo, linked: Linked) -> None:
        """Take over what was just committed; never blocks."""
        if not self._running:
            return
        foreign_until_s = self._foreign.get(ledger.uid)
        if foreign_until_s is not None:
            if time.monotonic() < foreign_until_s:
                return
            del self._foreign[ledger.uid]
        self._memory.add(ledger.uid, linked.rows[0].seq, linked.entries)
        self._wake(ledger, linked.head.seq)

    async def run(self) -> None:
        """Find and do the work, for the life of the service."""
        self._running = True
        try:
            while True:
                started_s, took_s = self._clock(), 0.0
                try:
                    found = await self.storage.find_unlogged(self.owner)
                    took_s = self._clock() - started_s
                    _lag.set(sum(map(self._behind, found)))
                    for each in found:
                        if each.is_free:
                            self._foreign.pop(each.ledger.uid, None)
                            self._wake(each.ledger, None)
                except ProvledgerError as error:
                    log.warning("relay.search_failed", exc_info=error)
                await asyncio.sleep(self._pause_s(took_s))
        finally:
            self._running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, ledger_uid: bytes, seq: int) -> list[bytes]:
        """Entries from `seq` on that are in memory; nothing if the next one is not."""
        return self._memory.take(ledger_uid, seq)

    def leased_elsewhere(self, ledger_uid: bytes) -> None:
        """Leave a ledger to the replica that has its lease, until the search finds it free."""
        self._foreign[ledger_uid] = time.monotonic() + self.limits.lease_s / 2

    def _pause_s(self, took_s: float) -> float:
        """Until the next search, after one of `took_s`; 0 of one that failed, which says nothing of
        the next. What is committed here wakes the relay by itself; what another replica leaves
        behind is found, after its lease, within a third of one and two searches."""
        poll_s = self.limits.poll_s * self.rng.uniform(0.75, 1.25)
        longest_s = self.limits.lease_s / _LEASE_SHARE
        return max(poll_s, min(_SEARCH_SHARE * took_s, longest_s))

    def _behind(self, found: Unlogged) -> int:
        """How many receipts of a ledger the log lacks; it may be ahead of the database."""
        logged_seq = max(found.logged_seq, self.progress.logged_seq(found.ledger.uid))
        return max(0, found.head_seq - logged_seq)

    def _wake(self, ledger: LedgerInfo, head_seq: int | None) -> None:
        running = self._relays.get(ledger.uid)
        if running is not None:
            running.wake(head_seq)
            return
        relay = self._relays[ledger.uid] = _LedgerRelay(self, ledger)
        task = self._tasks[ledger.uid] = asyncio.create_task(relay.run())
        task.add_done_callback(lambda done: self._ended(ledger, relay, done))

    def _ended(self, ledger: LedgerInfo, relay: _LedgerRelay, task: asyncio.Task[None]) -> None:
        self._relays.pop(ledger.uid, None)
        self._tasks.pop(ledger.uid, None)
        failed = not task.cancelled() and task.exception() is not None
        if failed:
            log.error("relay.ended", exc_info=task.exception())
        elif self._running and relay.is_woken and ledger.uid not in self._foreign:
            # By what was committed while it gave its lease back; nobody else brings that to the log
            # before the next search.
            self._wake(ledger, None)
            return
        self._memory.forget(ledger.uid)


class _LedgerRelay:
    """The relay of one ledger, from the first unlogged receipt until there are none."""

    def __init__(self, relay: Relay, ledger: LedgerInfo) -> None:
        self._relay = relay
        self._ledger = ledger
        self._work = asyncio.Event()
        # What the log has; the recorder stores it.
        self._logged_seq = -1
        # Behind the last place that the log gave.
        self._next_index = 0
        # Whether the last answer was refused, and whether it was that there is another history.
        self._was_odd = False
        self._said_forked = False
        self._submitted_s = float("-inf")
        # The last seq we were told of; None where only the database knows.
        self._head_seq: int | None = None

    @property
    def is_woken(self) -> bool:
        """Whether there is something new since it looked last."""
        return self._work.is_set()

    def wake(self, head_seq: int | None) -> None:
        """There is something new, up to `head_seq` if that is known."""
        if head_seq is None or (self._head_seq is not None and head_seq > self._head_seq):
            self._head_seq = head_seq
        self._work.set()

    async def run(self) -> None:
        """Take the lease and work until idle, trying again for ever in between."""
        delays = _RETRY.delays(self._relay.rng)
        told: set[str] = set()
        failed_at_seq = -1
        while True:
            try:
                await self._work_until_idle()
                return
            except LeaseLostError:
                continue
            except asyncio.CancelledError:
                await self._hand_over()
                raise
            except StatusError as error:
                if self._logged_seq > failed_at_seq:
                    delays, told = _RETRY.delays(self._relay.rng), set()
                    failed_at_seq = self._logged_seq
                if error.reason in _OTHER_HISTORY:
                    # Nothing is appended before the log has said what it holds.
                    self._relay.doubt(self._ledger)
                    # A latch is for good, and the bare word may have been wrong: it is asked twice.
                    if self._said_forked:
                        await self._latch(error)
                        return
                    self._said_forked = error.reason == LEDGER_FORKED
                self._was_odd = error.reason == ANCHOR_ANSWER
                # Once for each outage and reason, not for each attempt: what lasts may come second.
                report = log.debug if error.reason in told else log.warning
                report("relay.failed", ledger=self._ledger.name, reason=error.reason,
                       message=error.message)  # fmt: skip
                told.add(error.reason)
                await self._release_lease()
                wait_s = next(delays, 5.0)
                await asyncio.sleep(max(wait_s, error.retry_delay_s or 0.0))

    async def _latch(self, error: StatusError) -> None:
        log.error("relay.ledger_forked", ledger=self._ledger.name, message=error.message)
        await self._relay.storage.latch(self._ledger.uid, LEDGER_FORKED)

    async def _hand_over(self) -> None:
        """The service stops: whoever goes on here need not wait until the lease has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER_S):
                await self._release_lease()

    async def _release_lease(self) -> None:
        """Let a replica that may reach the log try."""
        try:
            await self._relay.storage.release_lease(self._ledger.uid, self._relay.owner)
        except StatusError as error:
            log.debug("relay.lease_not_released", reason=error.reason)

    async def _work_until_idle(self) -> None:
        relay, ledger = self._relay, self._ledger
        lease_s = relay.limits.lease_s
        state = await relay.storage.acquire_lease(ledger.uid, relay.owner, lease_s)
        if state is None:
            relay.leased_elsewhere(ledger.uid)
            return
        if state.read_only_reason:
            return
        self._logged_seq = state.logged_seq
        recorder = Recorder(
            relay.storage, ledger.uid, relay.owner, lease_s, state.logged_seq, self._work.set
        )
        try:
            await self._compare()
            self._head_seq = None
            while await self._work_or_idle(recorder):
                pass
            await recorder.settle()
        finally:
            await recorder.close()
        await self._release_lease()

    async def _work_or_idle(self, recorder: Recorder) -> bool:
        """Log what there is, or wait until there is something; False after a while without."""
        self._work.clear()
        recorder.check()
        submitted = await self._step(recorder)
        if not submitted:
            # Each chunk renews the lease. What another replica commits is found by the search.
            idle_s = min(_IDLE_S, self._relay.limits.lease_s / 3)
            idle_s -= time.monotonic() - recorder.renewed_s
            try:
                async with asyncio.timeout(max(0.0, idle_s)):
                    await self._work.wait()
            except TimeoutError:
                return False
        if submitted < _FEW_ITEMS:
            await self._gather()
        return True

    async def _gather(self) -> None:
        """Let receipts gather since the last chunk, until somebody waits for one of them."""
        wait_s = self._submitted_s + self._relay.limits.linger_s - time.monotonic()
        if wait_s > 0.0:
            await self._relay.progress.wanted(self._ledger.uid, wait_s)

    async def _compare(self) -> None:
        """Compare the log with the database before anything is submitted."""
        relay, ledger = self._relay, self._ledger
        request = anchor_pb2.GetLedgerStateRequest(log=ledger.log_name, ledger_uid=ledger.uid)
        held = await call(
            relay.anchor.GetLedgerState,
            request,
            timeout_s=relay.limits.anchor_timeout_s,
            policy=NO_RETRY,
        )
        await guard.compare(relay.storage, ledger, held)
        if held.seq < self._logged_seq:
            raise InternalError(
                "ANCHOR_BEHIND_LEDGER",
                f"the log holds {ledger.name} up to {held.seq}, and once answered that it had "
                f"{self._logged_seq}: the anchor's database is an older one than then, or that "
                "answer was wrong. Nothing more of this ledger is logged; see "
                "docs/runbooks/stale-restore.md",
                metadata={
                    "ledger": ledger.name,
                    "heldSeq": str(held.seq),
                    "loggedSeq": str(self._logged_seq),
                },
                retry_delay_s=5.0,
            )
        self._next_index = await self._stored_end(held)
        relay.progress.logged(ledger.uid, self._logged_seq)

    async def _stored_end(self, held: anchor_pb2.GetLedgerStateResponse) -> int:
        """Log index behind our last logged entry, 0 if there is none; corrected if it is wrong."""
        relay, ledger = self._relay, self._ledger
        stored = await relay.storage.log_runs(ledger.uid, self._logged_seq, self._logged_seq)
        if not stored:
            return 0
        run = stored[-1]
        is_last = held.seq == self._logged_seq
        if held.log_index != run.start_index + run.count - 1 if is_last else self._was_odd:
            run = await places.correct(
                relay.storage,
                relay.anchor,
                ledger,
                run,
                self._logged_seq,
                timeout_s=relay.limits.anchor_timeout_s,
            )
        return run.start_index + run.count

    async def _step(self, recorder: Recorder) -> int:
        """Submit the next chunk; how many entries it had, 0 if there is none."""
        relay, ledger = self._relay, self._ledger
        start_seq = self._logged_seq + 1
        entries: Sequence[bytes] = relay.take(ledger.uid, start_seq)
        if not entries:
            if self._head_seq is not None and self._head_seq <= self._logged_seq:
                return 0
            read = await relay.storage.entries_for_log(
                ledger, start_seq, MAX_CHUNK_ITEMS, MAX_CHUNK_BYTES
            )
            entries = read.entries
            self._head_seq = read.state.head.seq
            if not entries:
                return 0
        await relay.registry.check_compared()
        request = anchor_pb2.SubmitLeavesRequest(
            log=ledger.log_name,
            ledger_uid=ledger.uid,
            suite=SUITES_TO_PB[ledger.suite],
            start_seq=start_seq,
            entries=entries,
            with_proofs=len(entries) <= _PROVEN_ITEMS and relay.progress.is_awaited(ledger.uid),
        )
        # One attempt: the retries of this relay are slower, and say so in the log.
        response = await call(
            relay.anchor.SubmitLeaves,
            request,
            timeout_s=relay.limits.anchor_timeout_s,
            policy=NO_RETRY,
        )
        runs = _runs(response, start_seq, len(entries), self._next_index)
        self._said_forked = False
        self._submitted_s = time.monotonic()
        self._logged_seq += len(entries)
        self._next_index = runs[-1].start_index + runs[-1].count
        recorder.add(runs)
        if response.HasField("proofs"):
            relay.learn(ledger.uid, response.proofs)
        relay.progress.logged(ledger.uid, self._logged_seq)
        return len(entries)


def _runs(
    response: anchor_pb2.SubmitLeavesResponse, start_seq: int, count: int, next_index: int
) -> list[LogRun]:
    """The places the log gave, which must be those of exactly what was submitted.

    A log only grows, so that none of them lies before `next_index` or before another's end; and
    none behind the end of the tree that the log has signed.

    Raises:
        InternalError: ANCHOR_ANSWER.
    """
    runs = [LogRun(run.start_seq, run.start_index, run.count) for run in response.runs]
    next_seq = start_seq
    for run in runs:
        if run.start_seq != next_seq or run.count < 1 or run.start_index < next_index:
            raise odd_answer()
        next_seq, next_index = next_seq + run.count, run.start_index + run.count
    if next_seq != start_seq + count or next_index > response.tree_size:
        raise odd_answer()
    return merge_runs(runs)


class _Memory:
    """Entries on their way from the commit to the log, bounded for all ledgers together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: dict[bytes, deque[tuple[int, list[bytes], int]]] = {}

    def add(self, ledger_uid: bytes, first_seq: int, entries: list[bytes]) -> None:
        """Keep entries, unless there is no room."""
        # All entries of a ledger are about as long as its first one.
        size = len(entries) * len(entries[0])
        if self._bytes + size > self._max_bytes:
            return
        self._bytes += size
        self._chunks.setdefault(ledger_uid, deque()).append((first_seq, entries, size))

    def take(self, ledger_uid: bytes, seq: int) -> list[bytes]:
        """Take out entries from `seq` on, up to a chunk; what lies before them is dropped."""
        taken: list[bytes] = []
        chunks = self._chunks.get(ledger_uid)
        while chunks:
            first_seq, entries, size = chunks[0]
            if first_seq > seq:
                break
            skipped = seq - first_seq
            fits = len(taken) + len(entries) - skipped <= MAX_CHUNK_ITEMS
            if taken and not fits:
                break
            chunks.popleft()
            self._bytes -= size
            if skipped < len(entries):
                taken += entries[skipped:]
                seq = first_seq + len(entries)
        if chunks is not None and not chunks:
            del self._chunks[ledger_uid]
        return taken

    def forget(self, ledger_uid: bytes) -> None:
        """Drop what is kept of a ledger."""
        for _, _, size in self._chunks.pop(ledger_uid, ()):
            self._bytes -= size
