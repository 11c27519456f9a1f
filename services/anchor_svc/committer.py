"""The flush: from a batch of submissions to a signed checkpoint that covers them.

::

    1  admit     each submission on its own; a bad one fails alone          (pure)
    2  commit    entries, runs, ledgers, the log's size, the head intended  (one transaction)
       sign      the head, by the key of purpose `checkpoint`, meanwhile
    3  tile      full tiles and bundles to disk, synced
    4  release   the note stored; entries that are in tiles dropped         (one transaction)
    5  answer    whoever waits for these entries, whoever watches checkpoints

Flushes overlap: the next is planned upon the tree of this one as soon as it is launched
(`pipeline`). Nobody is told anything before all that its answer builds on is released.

Killed between any two of these, the next start finds what is left to do (`recovery`). If a step
fails while the process lives on, callers of this flush and of those behind it get UNAVAILABLE; all
that is held in memory is thrown away and read again, and the newest stored head is signed before
anything new is admitted: by the flush of a retry or by `heal`, whichever comes first. A retry finds
its entries there and waits for nothing but the checkpoint. Heads that were overtaken like that stay
intended for ever; what they covered is covered by the newest.

Only one process writes to a log: the one that acquired it last. One that finds itself fenced
answers nothing any more, and its service ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from anchor_svc.admission import Admission
from anchor_svc.checkpointing import FlushPlan, LeafRun
from anchor_svc.keys import OVERLAP_TIMEOUT_S, SIGN_TIMEOUT_S, Keys, all_signers, signing_failed
from anchor_svc.pipeline import Flight, Pipeline
from anchor_svc.proofs import TileCache, View
from anchor_svc.recovery import Tiled, check_released, check_released_head, load, look
from anchor_svc.state import LogIdentity, LogState
from anchor_svc.storage import FencedError, LogRow, Signed, Storage
from anchor_svc.submission import LedgerState, Submission
from anchor_svc.tilefiles import disk_unavailable
from anchor_svc.tree import TILE_WIDTH, Edge, Growth
from provledger import logs, telemetry
from provledger.errors import DataLossError, KMSError, StatusError, UnavailableError
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms.signing import sign_checkpoint
from provledger.retry import RetryPolicy

log = logs.get(__name__)

_HEAL: Final = RetryPolicy(attempts=1_000_000, base_s=0.2, cap_s=10.0, budget_s=float("inf"))

_FENCE_CHECK_S: Final = 5.0

_commit_s = telemetry.histogram("anchor.commit.duration", unit="s", doc="One flush")
_batch = telemetry.histogram("anchor.batch.entries", unit="1", doc="Entries in one flush")
_leaves = telemetry.counter("anchor.leaves", doc="Entries logged")


@dataclass(frozen=True, slots=True, eq=False)
class Queued:
    """A submission that waits for a flush; `ref` is the span it came in with, for links."""

    submission: Submission
    ref: object | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the entries of a submission are, and the size of a signed checkpoint over them."""

    runs: Sequence[LeafRun]
    tree_size: int


@dataclass(frozen=True, slots=True)
class _Pending:
    """A head that was found intended. `growth`: tiles that may not be on disk yet."""

    size: int
    root: bytes
    edge: Edge
    growth: Growth


class Committer:
    """The only writer of one log. Belongs to one event loop.

    Owned by whoever holds `_lock`: `_edge`, `_pending` and what `_admission` builds on; launching.
    budget_s: how long the batcher lets a batch fill up, which says how many flushes overlap.
    """

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        cache: TileCache,
        keys: Keys,
        state: LogState,
        *,
        clock: Callable[[], int],
        budget_s: float = 0.0,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._cache = cache
        self._store = cache.store
        self._keys = keys
        self._state = state
        self._clock = clock
        self._admission = Admission(identity.uid, storage, state)
        self._lock = asyncio.Lock()
        self.pipeline = Pipeline(
            identity.uid,
            storage,
            cache.store,
            self._sign,
            released=self._released,
            epoch=lambda: self.epoch,
            budget_s=budget_s,
            log_name=identity.name,
        )
        # The tree with all that was launched; None: not known, to be read before anything else.
        self._edge: Edge | None = None
        self._pending: _Pending | None = None
        self._unfinished = asyncio.Event()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self.epoch = 0
        self.fenced = asyncio.Event()

    async def open(self) -> None:
        """Take the log over and rebuild its edge; nothing is signed yet.

        One that cannot be opened is not taken from another process, which may be able to serve it.

        Raises:
            DataLossError: what is stored does not fit together.
            StatusError: the database or the disk cannot be used.
        """
        async with self._lock:
            with self._faults():
                tiled = await look(self._storage, self._store, self._log.uid)
                self.epoch = (await self._storage.acquire(self._log.uid)).writer_epoch
                await self._reload(tiled)

    def known(self, ledger_uid: bytes) -> LedgerState | None:
        """How far a ledger is in the signed tree, if this process remembers."""
        return self._admission.known(ledger_uid)

    async def finish(self) -> None:
        """Sign what was intended when the log was closed, if that can be done now.

        Raises:
            DataLossError, StatusError: as `open`.
        """
        if self._state.held is not None:
            return
        async with self._lock:
            with self._faults():
                try:
                    await self._settle()
                except UnavailableError as error:
                    log.warning("anchor.unfinished", reason=error.reason, message=error.message)

    async def heal(self) -> None:
        """Finish what failed, again and again until it works; runs as long as the service.

        Looks every few seconds whether the log is still ours, and whether the database still has
        what was released: whoever does not write would not notice, and go on answering with what is
        no longer the newest, or from a database that went back.

        Raises:
            FencedError: another process has taken the log over.
        """
        delays = _HEAL.delays(self._rng)
        while not self.fenced.is_set():
            await _either(self._unfinished, self.fenced, timeout_s=_FENCE_CHECK_S)
            try:
                async with self._lock:
                    with self._faults():
                        await self._check_fence()
                        await self._settle()
                delays = _HEAL.delays(self._rng)
            except StatusError as error:
                tell = log.error if isinstance(error, DataLossError) else log.warning
                tell("anchor.unfinished", reason=error.reason, message=error.message)
                await self._pause(next(delays, 10.0))
            except Exception as error:
                # A fault of ours: reads go on, and perhaps it was this moment's.
                log.error("anchor.heal_failed", exc_info=error)
                await self._pause(next(delays, 10.0))
        raise FencedError("another process writes to this log now")

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self.fenced.wait()

    async def close(self) -> None:
        """Return when nothing runs any more; call it when nothing is flushed any more."""
        await self.pipeline.idle()

    async def flush(self, items: list[Queued]) -> Awaitable[Sequence[Outcome | Exception]]:
        """Log submissions; for `provledger.batching.GroupCommit`.

        An item stands for one entry: a submission comes as often as it has entries, so that
        batches are counted in entries, and gets as many times the same answer. Returns once they
        are committed; what it returns waits for the signed checkpoint.
        """
        groups = [(item, sum(1 for _ in same)) for item, same in groupby(items)]
        queued = [item for item, _ in groups]
        started_s = time.perf_counter()
        with ExitStack() as stack:
            attributes = {"provledger.entries": len(items)}
            links = [item.ref for item in queued]
            span = stack.enter_context(telemetry.span("anchor.commit", attributes, links=links))
            stack.enter_context(self._faults())
            async with self._lock:
                flight, placed = await self._launch([item.submission for item in queued], span)
            if flight is not None:
                await flight.committed
            rest = stack.pop_all()

        async def answer() -> Sequence[Outcome | Exception]:
            with rest:
                if flight is not None:
                    await flight.released
            size = self._state.signed_size
            _commit_s.record(time.perf_counter() - started_s)
            _batch.record(len(items))
            return [
                place if isinstance(place, StatusError) else Outcome(place, size)
                for place, (_, count) in zip(placed, groups, strict=True)
                for _ in range(count)
            ]

        return answer()

    async def _launch(
        self, submissions: list[Submission], span: telemetry.Span
    ) -> tuple[Flight | None, list[list[LeafRun] | StatusError]]:
        """Step 1, and the beginning of 2; the flight that the answers have to wait for."""
        self._state.check_held()
        edge = await self._settle()
        if self._admission.repeats_in_flight(submissions):
            await self.pipeline.landed()
        plan = FlushPlan(edge, self._log.hasher)
        placed = await self._admission.admit_all(plan, submissions)
        if any(isinstance(place, DataLossError) for place in placed):
            # Rows that another writer has moved on look damaged to one that was replaced.
            await self._check_fence()
        if plan.leaves:
            planned = plan.finish(self._clock())
            flight = self.pipeline.launch(planned, span)
            self._edge = planned.edge
            self._admission.launch(planned.flush.ledgers)
            return flight, placed
        if plan.states:
            # Only latches: there is no head to tell by whether it was stored, so it goes alone.
            await self.pipeline.landed()
            self._edge = None
            await self._storage.commit(self._log.uid, self.epoch, plan.finish(self._clock()).flush)
            self._edge = edge
            self._admission.remember(plan.states.values())
        # What the answers say may build on what is still on its way.
        return self.pipeline.newest(), placed

    def _released(self, flights: Sequence[Flight]) -> None:
        """Step 5, for flights whose notes are stored; in order."""
        for flight in flights:
            self._admission.remember(flight.planned.flush.ledgers)
            _leaves.add(flight.size - flight.planned.flush.old_size)
        newest = flights[-1]
        self._show(newest.size, newest.planned.flush.root, newest.stored_note, newest.planned.edge)

    def _show(self, size: int, root: bytes, note: bytes | None, edge: Edge) -> None:
        assert note is not None  # noqa: S101 - released heads are signed
        self._state.set_view(View(size, root, note, edge, self._cache))

    async def _settle(self) -> Edge:
        """Finish whatever an earlier flush, or an earlier process, left unfinished."""
        if self.fenced.is_set():
            raise FencedError("another process writes to this log now")
        if self.pipeline.failure is not None:
            # Writes that are under way may still take effect.
            await self.pipeline.idle()
            self.pipeline.reset()
            self._edge = None
        edge = self._edge
        if edge is None:
            edge = await self._reload()
        if self._pending is not None:
            await self._release(self._pending)
        self._unfinished.clear()
        return edge

    async def _reload(self, tiled: Tiled | None = None) -> Edge:
        """Read what is stored; what it leaves to do becomes `_pending`."""
        row = await self._check_fence()
        stored = await load(self._storage, self._store, row, tiled)
        signed = stored.signed
        await check_released_head(self._storage, self._log.uid, self._state.view)
        if signed is not None and signed.note is not None:
            # The view leads to these tiles.
            await asyncio.to_thread(self._store.write_growth, stored.growth)
            self._show(signed.size, signed.root, signed.note, stored.edge)
        self._admission.forget()
        self._edge = stored.edge
        self._pending = None
        if stored.newest.note is None or stored.growth.tiles:
            head = stored.newest
            self._pending = _Pending(head.size, head.root, stored.edge, stored.growth)
            self._unfinished.set()
        return stored.edge

    async def check_ours(self) -> None:
        """Ask the database whether the log is still ours.

        Raises:
            FencedError: another process has taken it over.
            DataLossError: the database is older than what was released.
            StatusError: the database cannot be used.
        """
        await self._check_fence()

    async def _check_fence(self) -> LogRow:
        released = self._state.view
        now_ns = self._clock()
        row = await self._storage.log(self._log.uid)
        self._state.compare_clock(now_ns, row.database_ns)
        if row.writer_epoch != self.epoch:
            raise FencedError("another process writes to this log now")
        check_released(row, released)
        return row

    async def _release(self, pending: _Pending) -> None:
        """Steps 2 to 5 for a head that was found intended; may be repeated until it succeeds."""
        note = await self._sign(pending.size, pending.root, None)
        if pending.growth.tiles:
            await asyncio.to_thread(self._store.write_growth, pending.growth)
        signed = Signed({pending.size: note}, pending.size - pending.size % TILE_WIDTH)
        released = await self._storage.store_notes(self._log.uid, self.epoch, signed)
        self._pending = None
        self._show(pending.size, pending.root, released[pending.size], pending.edge)

    async def _sign(self, size: int, root: bytes, span: telemetry.Span | None) -> bytes:
        self._state.check_held()
        key, *draining = all_signers(self._keys, KeyPurpose.CHECKPOINT)
        if span is not None:
            span.set(telemetry.KID, key.kid)
        try:
            async with asyncio.timeout(SIGN_TIMEOUT_S):
                # At the same time: an overlap makes no flush longer.
                note, *lines = await asyncio.gather(
                    self._sign_by(key, size, root),
                    *(self._line_of_draining(each, size, root) for each in draining),
                )
                return b"".join((note, *lines))
        except (KMSError, TimeoutError) as error:
            log.error("anchor.sign_failed", exc_info=error, kid=key.kid, tree_size=size)
            raise signing_failed("the checkpoint", error) from error

    async def _sign_by(self, key: ActiveSigner, size: int, root: bytes) -> bytes:
        # One snapshot: the kid on the span and the signature are the same object's.
        attributes: dict[str, telemetry.Attribute] = {
            telemetry.KID: key.kid,
            "provledger.tree_size": size,
        }
        with telemetry.span("checkpoint.sign", attributes):
            return await sign_checkpoint(key.signer, self._log.origin, size, root)

    async def _line_of_draining(self, key: ActiveSigner, size: int, root: bytes) -> bytes:
        """The signature line of a replaced key, for those who know only that one.

        One that does not sign any more takes nothing along: the new key's signature is enough.
        """
        try:
            async with asyncio.timeout(OVERLAP_TIMEOUT_S):
                signed = await self._sign_by(key, size, root)
        except (KMSError, TimeoutError) as error:
            log.warning("anchor.old_key_failed", exc_info=error, kid=key.kid, tree_size=size)
            return b""
        return signed.rpartition(b"\n\n")[2]

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn faults of disk and fence into what callers are told; nothing else is changed."""
        try:
            yield
        except BaseException as error:
            # Whatever it was, `heal` finds out what is left to do.
            self._unfinished.set()
            self._raise_plain(error)
            raise

    def _raise_plain(self, error: BaseException) -> None:
        if isinstance(error, FencedError):
            if not self.fenced.is_set():
                log.error("anchor.fenced", log=self._log.name, epoch=self.epoch)
            self.fenced.set()
            raise UnavailableError(
                "WRITER_FENCED", "another process writes to this log now; ask that one"
            ) from error
        if isinstance(error, OSError):
            log.error("anchor.disk_failed", exc_info=error, log=self._log.name)
            raise disk_unavailable() from error


async def _either(first: asyncio.Event, second: asyncio.Event, *, timeout_s: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
    finally:
        for wait in waits:
            wait.cancel()
