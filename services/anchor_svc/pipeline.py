"""Flushes on their way: several at once, each upon the tree of the one before.

::

    launch   flush N:  commit N ───────►┐                  durable: entries, and the head intended
                       sign N ──────►   ├─ tiles N ─► note N ──► release N    durable: its signature
             flush N+1:      commit N+1 ────────►┐
                             sign N+1 ────►      ├─ …

The key is asked while the head it signs is being stored, but nothing is done with its signature
before that is durable: until then it is held here, and thrown away if the commit fails. A commit
that overtakes the one before it stores that one's part as well, so that it never waits for it. A
note is stored after the notes before it, in the same write as the commit of a later flush if one is
about to be written, and else at once. Released are heads in order.

If anything fails, everything behind it fails with the same error, and nothing more is launched:
what is stored has to be read again first (`committer`).

`Pipeline` also gives the batcher its turns: a batch is closed when it can be written, so that what
arrives while writes are under way goes together. It lets overlap what only waits (see
`provledger.pacing.Overlap`). It waits as well while the key has enough to sign: one that is bound
to a rate gets fewer and larger batches, and not more heads than it can sign in time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from anchor_svc.checkpointing import Planned
from anchor_svc.storage import Flush, Signed, Storage
from anchor_svc.tilestore import TileStore
from anchor_svc.tree import TILE_WIDTH
from provledger import telemetry
from provledger.errors import StatusError
from provledger.pacing import Overlap, Signing

MAX_FLIGHTS: Final = 16
"""Most flushes that are begun and not released."""

_OVERLAPPING_PATIENCE: Final = 0.65

_flights = telemetry.level("anchor.flights", doc="Flushes begun and not yet released, by log")


class Sign(Protocol):
    """Makes the signed note of a head; raises StatusError if that cannot be done for now."""

    async def __call__(self, size: int, root: bytes, span: telemetry.Span | None) -> bytes:
        """Size and root, 32 bytes, to a note."""
        ...


class Flight:
    """One flush under way.

    committed: done when its entries and its intended head are durable. released: done, with the
    tree size, when its signed head is. Either fails if the flush does.
    """

    __slots__ = ("committed", "note", "planned", "released", "signed", "stored_note")

    def __init__(self, planned: Planned) -> None:
        loop = asyncio.get_running_loop()
        self.planned = planned
        self.committed: asyncio.Future[None] = loop.create_future()
        self.released: asyncio.Future[int] = loop.create_future()
        # Whether the key has signed it; the signature goes nowhere yet.
        self.signed = False
        # Its signature, once the head is durable and its tiles are on disk.
        self.note: bytes | None = None
        # The note that is stored for it, the first one.
        self.stored_note: bytes | None = None

    @property
    def size(self) -> int:
        """Tree size of its head."""
        return self.planned.flush.size

    def fail(self, error: Exception) -> None:
        """End it, unless it has ended."""
        for future in (self.committed, self.released):
            if not future.done():
                future.set_exception(error)
                future.exception()  # somebody may be told already


class Pipeline:
    """The flushes of one log that are under way. Belongs to one event loop.

    sign: makes a note. released: called with a flight whose head is the newest released one.
    epoch: ours as the log's writer. budget_s: of the batcher; batches begin by it. log_name: in
    metrics.
    """

    def __init__(
        self,
        log_uid: bytes,
        storage: Storage,
        store: TileStore,
        sign: Sign,
        *,
        released: Callable[[Sequence[Flight]], None],
        epoch: Callable[[], int],
        budget_s: float,
        log_name: str = "",
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._log_uid = log_uid
        self._storage = storage
        self._store = store
        self._sign = sign
        self._on_released = released
        self._epoch = epoch
        self._budget_s = budget_s
        self._monotonic = monotonic
        self._overlap = Overlap()
        self._signing = Signing()
        # In order; the first `_noted` of them have their note stored, or on its way there.
        self._flights: deque[Flight] = deque()
        _flights.watch(self, lambda pipeline: len(pipeline._flights), {"log": log_name})
        self._noted = 0
        self._running: set[asyncio.Task[None]] = set()
        self._preparing: set[asyncio.Task[None]] = set()
        self._note_writes = 0
        # The batcher's turns: granted and not ended; those of them whose flush is yet to come.
        self._turns = 0
        self._boarding = 0
        self._landing = 0
        self._waiting: Callable[[], None] | None = None
        self.failure: Exception | None = None

    # --- turns of the batcher

    def ask(self, go: Callable[[], None]) -> None:
        """Call `go` when the next flush can be written; for one batcher."""
        self._waiting = go
        self._grant()

    def most_items(self) -> int | None:
        """No bound of its own."""
        return None

    def took(self, items: int) -> None:
        """Nothing has to be known of it."""

    def end(self) -> None:
        """A flush is committed, or came to nothing."""
        self._turns -= 1
        self._boarding = min(self._boarding, self._turns)
        self._grant()
        self._write_notes()

    def patience(self) -> float:
        """The part of the budget that a batch waits: less than all where commits overlap.

        A leaf pays for two far writes anyway there, and the last one of a batch is not worth what
        the first one waits for it.
        """
        overlaps = self._overlap.most(self._budget_s, self._storage.lanes) > 1
        return _OVERLAPPING_PATIENCE if overlaps else 1.0

    def _grant(self) -> None:
        lanes = self._storage.lanes
        if self._waiting is None or self._turns + self._note_writes >= lanes:
            return
        if self.failure is None:
            at_key = self._unsigned() + self._boarding
            if at_key >= self._signing.most(MAX_FLIGHTS):
                return  # again when one is signed
        if self._turns < self._overlap.most(self._budget_s, lanes):
            go, self._waiting = self._waiting, None
            self._turns += 1
            self._boarding += 1
            go()

    def _unsigned(self) -> int:
        return sum(not flight.signed for flight in self._flights)

    # --- flights

    def launch(self, planned: Planned, span: telemetry.Span | None) -> Flight:
        """Begin to store and to sign a flush.

        Raises:
            The error that the last one failed with, until `reset`.
        """
        if self.failure is not None:
            raise self.failure
        self._boarding = max(0, self._boarding - 1)
        earlier = [one.planned.flush for one in self._flights if not one.committed.done()]
        flight = Flight(planned)
        self._flights.append(flight)
        flush = replace(planned.flush, earlier=earlier) if earlier else planned.flush
        self._start(self._commit(flush, self._take_notes()))
        self._preparing.add(self._start(self._prepare(flight, span)))
        return flight

    def newest(self) -> Flight | None:
        """The flight launched last, None if all are released."""
        return self._flights[-1] if self._flights else None

    async def landed(self) -> None:
        """Return when all that was launched is released; raises what it failed with."""
        if self._flights:
            # Whoever boards may be waiting here.
            self._landing += 1
            try:
                self._write_notes()
                await self._flights[-1].released
            finally:
                self._landing -= 1

    async def idle(self) -> None:
        """Return when nothing runs any more: all is released, or has failed and come to its end."""
        while self._running:
            await asyncio.wait({*self._running})

    def reset(self) -> None:
        """Forget the failed flights; call it when nothing runs."""
        self._flights.clear()
        self._noted = 0
        self.failure = None

    # --- what runs for a flight

    async def _commit(self, flush: Flush, taken: Sequence[Flight]) -> None:
        started_s = self._monotonic()
        stored = await self._storage.commit(self._log_uid, self._epoch(), flush, _signed(taken))
        self._overlap.see(self._monotonic() - started_s)
        for flight in self._flights:
            if flight.size <= flush.size and not flight.committed.done():
                flight.committed.set_result(None)
        self._note_stored(taken, stored)

    async def _prepare(self, flight: Flight, span: telemetry.Span | None) -> None:
        planned = flight.planned
        note = await self._signed_by_key(flight, span)
        # SPEC: the signature goes nowhere before the intended head is stored (design §4, "Log").
        await flight.committed
        if planned.growth.tiles:
            await asyncio.to_thread(self._store.write_growth, planned.growth)
        flight.note = note
        self._write_notes()

    async def _signed_by_key(self, flight: Flight, span: telemetry.Span | None) -> bytes:
        started_s, at_once = self._monotonic(), self._unsigned()
        try:
            note = await self._sign(flight.size, flight.planned.flush.root, span)
        except StatusError:
            self._signing.failed()
            raise
        self._signing.see(self._monotonic() - started_s, at_once)
        flight.signed = True
        self._grant()
        return note

    def _write_notes(self) -> None:
        """Store the notes that are ready, unless a flush takes them along or no lane is free."""
        if self.failure is not None or (self._boarding and not self._landing):
            return
        if self._turns - self._boarding + self._note_writes >= self._storage.lanes:
            return
        taken = self._take_notes()
        if taken:
            self._note_writes += 1
            self._start(self._store_notes(taken))

    async def _store_notes(self, taken: Sequence[Flight]) -> None:
        try:
            stored = await self._storage.store_notes(self._log_uid, self._epoch(), _signed(taken))
            self._note_stored(taken, stored)
        finally:
            self._note_writes -= 1
            self._grant()
        self._write_notes()

    def _take_notes(self) -> list[Flight]:
        """The flights whose notes can be stored now, in order; they count as taken."""
        taken = []
        for place in range(self._noted, len(self._flights)):
            flight = self._flights[place]
            if flight.note is None:
                break
            taken.append(flight)
        self._noted += len(taken)
        return taken

    def _note_stored(self, taken: Sequence[Flight], stored: Mapping[int, bytes]) -> None:
        if self.failure is not None:
            return
        for flight in taken:
            flight.stored_note = stored[flight.size]
        released: list[Flight] = []
        while self._flights and self._flights[0].stored_note is not None:
            released.append(self._flights.popleft())
            self._noted -= 1
        if released:
            self._on_released(released)
            for flight in released:
                flight.released.set_result(flight.size)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._preparing.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and self.failure is None:
            self.failure = error
            for flight in self._flights:
                flight.fail(error)
            # Nobody wants these signatures any more. What is being written goes on to its end.
            for preparing in self._preparing:
                preparing.cancel()
            # Who waited for the key finds out what to do, or is told.
            self._grant()


def _signed(flights: Sequence[Flight]) -> Signed:
    """What storing these notes takes; full tiles are on disk up to the last of them."""
    notes = {flight.size: flight.note for flight in flights if flight.note is not None}
    tiled = any(flight.planned.growth.tiles for flight in flights)
    size = flights[-1].size if tiled else 0
    return Signed(notes, size - size % TILE_WIDTH)
