"""How published checkpoints get to the sinks: one task for each sink, and no shared fate.

Each sink has its own cursor in the database, its own deadline and backoff, and takes the newest
published checkpoint when it is ready for one: those skipped are covered by consistency. A sink that
is dead, slow or wrong delays nobody, and never an append.

What a receipt needs is one checkpoint that enough sinks hold: all of them, or what a policy asks
for (`anchor_svc.anchored`). Slow sinks that always took the newest might never meet; so a sink that
finds others ahead of it joins the nearest (`choose`).

A cosigner that was given another key, by a policy, is asked once more for what it has cosigned
already; and again once in a while, as long as somebody waits for a cosignature that it lacks.

A sink that fails `BREAK_AFTER` times in a row has its circuit open: it is asked again only as often
as the backoff's cap says, which is logged once, until it answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from anchor_svc.anchored import Anchored
from anchor_svc.opening import close_sinks
from anchor_svc.quorum import MAX_EVIDENCE_BYTES
from anchor_svc.sinks import (
    AnchorSink,
    Evidence,
    PublishedCheckpoint,
    SinkError,
    SinkIntegrityError,
    answer_of,
)
from anchor_svc.sinks.cosigner import CosignerSink
from anchor_svc.sinkstatus import SinkStatus, Trouble
from anchor_svc.state import LogIdentity, LogState, SignedCheckpoint
from anchor_svc.storage import AnchorRow, Storage
from provledger import logs, telemetry
from provledger.errors import NotFoundError, ProvledgerError
from provledger.retry import RetryPolicy

log = logs.get(__name__)

RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.25, cap_s=60.0, budget_s=float("inf"))
BREAK_AFTER: Final = 8

_lag = telemetry.gauge("anchor.sink.lag", doc="Published leaves that a sink does not cover yet")
_anchored = telemetry.counter("anchor.sink.anchored", doc="Checkpoints a sink acknowledged")
_failed = telemetry.counter("anchor.sink.failed", doc="Attempts that failed, by sink and log")
_open_circuit = telemetry.gauge("anchor.sink.circuit_open", doc="1 while a sink counts as away")


def choose(cursor: int, floor: int, others: Iterable[int], newest: int) -> int:
    """The size a sink takes next: that of the nearest other sink ahead of it, else the newest.

    cursor: the largest size it holds. floor: a size it may have been handed already, without an
    answer that reached us; a sink is never asked to go back. others: for each other sink, the size
    it is busy with, or else the largest it holds. newest: the largest published size. Returns
    `cursor` if there is nothing to take.
    """
    ahead = [size for size in others if max(cursor + 1, floor) <= size <= newest]
    return min(ahead, default=max(cursor, newest))


class Relays:
    """The relays of one log. Belongs to one event loop."""

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        sinks: Sequence[AnchorSink],
        *,
        consistency: Callable[[int, int], Awaitable[tuple[Sequence[bytes], int]]],
        deadline_s: float,
        clock: Callable[[], int],
        rng: random.Random | None = None,
        retry: RetryPolicy = RETRY,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._sinks = {sink.uri: sink for sink in sinks}
        self._consistency = consistency
        self._deadline_s = deadline_s
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._retry = retry
        self.anchored = Anchored(identity, storage, state, rng=self._rng)
        # Tasks by sink, while `run` runs; `_other_sinks` tells it that there are others.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._other_sinks = asyncio.Event()
        # By sink: the largest size it holds, the largest it may hold, and that it is busy with.
        self._cursors: dict[str, int] = {}
        self._floors: dict[str, int] = {}
        self._busy: dict[str, int] = {}
        # Cosigners whose newest evidence lacks a key's cosignature: when they may be asked for it,
        # by the loop's clock.
        self._lacking: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        # Sinks that wait after a failure: why and until when, and what ends the wait.
        self._troubles: dict[str, Trouble] = {}
        self._wakes: dict[str, asyncio.Event] = {}

    @property
    def sinks(self) -> list[AnchorSink]:
        """The sinks that checkpoints go to."""
        return list(self._sinks.values())

    async def open(self) -> None:
        """Read how far each sink is."""
        await self._read_cursors(self.sinks)
        await self.anchored.find()

    async def use(self, sinks: Sequence[AnchorSink]) -> None:
        """Relay to these sinks from now on; those that are no longer wanted are closed.

        Raises:
            StatusError: the database cannot be read; the sinks are the same as before.
        """
        wanted = {sink.uri: sink for sink in sinks}
        gone = [sink for uri, sink in self._sinks.items() if wanted.get(uri) is not sink]
        new = [sink for uri, sink in wanted.items() if self._sinks.get(uri) is not sink]
        await self._read_cursors(new)
        self._sinks = wanted
        try:
            for sink in gone:
                await self._end(sink)
        finally:
            self._other_sinks.set()

    async def status(self) -> list[SinkStatus]:
        """How each sink is."""
        found = []
        for uri in list(self._sinks):
            rows = await self._storage.anchors(self._log.uid, after=None, sink=uri, limit=1)
            size = self._cursors.get(uri, 0)
            found.append(
                SinkStatus(
                    uri=uri,
                    size=size,
                    lag=max(0, self._state.published_size - size),
                    busy_size=self._busy.get(uri, 0),
                    last=rows[0] if rows else None,
                    trouble=self._troubles.get(uri),
                    circuit_open=self._failures.get(uri, 0) >= BREAK_AFTER,
                )
            )
        return found

    def retry(self, uri: str = "") -> list[str]:
        """End the wait of a sink, or of all that wait; those that waited.

        Raises:
            NotFoundError: there is no such sink.
        """
        if uri and uri not in self._sinks:
            raise NotFoundError(
                "SINK_NOT_FOUND", "this log has no such sink", metadata={"sink": uri}
            )
        waiting = [name for name in self._wakes if uri in ("", name)]
        for name in waiting:
            self._wakes[name].set()
        return waiting

    async def run(self) -> None:
        """Relay to all sinks, as long as the service runs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.anchored.run())
            while True:
                self._other_sinks.clear()
                for uri, sink in self._sinks.items():
                    if uri not in self._tasks:
                        self._tasks[uri] = group.create_task(self._run_one(sink))
                await self._other_sinks.wait()

    async def close(self) -> None:
        """Release the sinks."""
        await close_sinks(self.sinks)

    async def _end(self, sink: AnchorSink) -> None:
        task = self._tasks.pop(sink.uri, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._troubles.pop(sink.uri, None)
        # Whoever takes it up again begins anew, and nobody waits for it until then.
        if self._failures.pop(sink.uri, 0) >= BREAK_AFTER:
            _open_circuit.set(0, self._labels(sink.uri))
        _lag.set(0, self._labels(sink.uri))
        await close_sinks([sink])

    async def _read_cursors(self, sinks: Sequence[AnchorSink]) -> None:
        names = [sink.uri for sink in sinks]
        cursors = await self._storage.cursors(self._log.uid, names)
        newest = {}
        for sink in sinks:
            if not isinstance(sink, CosignerSink):
                continue
            rows = await self._storage.anchors(self._log.uid, after=None, sink=sink.uri, limit=1)
            newest.update({row.sink: row for row in rows})
        self._cursors.update(cursors)
        # What an earlier process handed over without hearing back was published before.
        self._floors.update(dict.fromkeys(names, self._state.published_size))
        for sink in sinks:
            self._note_lacking(sink, newest.get(sink.uri), pause_s=0.0)

    def _note_lacking(self, sink: AnchorSink, newest: AnchorRow | None, *, pause_s: float) -> None:
        self._lacking.pop(sink.uri, None)
        if newest is not None and isinstance(sink, CosignerSink) and sink.misses(newest.evidence):
            self._lacking[sink.uri] = asyncio.get_running_loop().time() + pause_s

    async def _run_one(self, sink: AnchorSink) -> None:
        delays = self._retry.delays(self._rng)
        repeat: SignedCheckpoint | None = None
        while True:
            target = repeat
            try:
                target = target or await self._next(sink.uri)
                self._busy[sink.uri] = self._floors[sink.uri] = target.size
                await self._relay(sink, target)
                repeat = None
                delays = self._retry.delays(self._rng)
                self._answered(sink.uri)
                continue
            except SinkIntegrityError as error:
                wait_s, problem = None, str(error)
                if repeat is None and 0 < error.held_size <= self._state.published_size:
                    # Two sinks may be one place. Whether what it holds is of our history, the next
                    # checkpoint tells, which is as large.
                    self._floors[sink.uri] = error.held_size
                    problem = f"it holds a checkpoint of tree size {error.held_size} already"
                    self._log_failure(sink.uri, error)
                else:
                    # Kept at: a newer one might go through, and the alarm be forgotten.
                    repeat = target
                    log.error(
                        "anchor.sink_integrity", exc_info=error, sink=sink.uri, log=self._log.name
                    )
            except ProvledgerError as error:
                wait_s, problem = getattr(error, "retry_after_s", None), str(error)
                self._log_failure(sink.uri, error)
            except Exception as error:
                # A sink may be anybody's code: whatever it raises is its own affair.
                wait_s, problem = None, type(error).__name__
                log.error("anchor.sink_failed", exc_info=error, sink=sink.uri, log=self._log.name)
            finally:
                self._busy.pop(sink.uri, None)
                self._record_lag(sink.uri)
            _failed.add(1, self._labels(sink.uri))
            broken = self._count_failure(sink.uri)
            delay_s = next(delays, self._retry.cap_s)
            if wait_s is not None:
                # Whoever asks to be left alone is, though not for ever.
                delay_s = max(delay_s, min(wait_s, self._retry.cap_s))
            if broken:
                delay_s = max(delay_s, self._retry.cap_s * self._rng.uniform(0.5, 1.0))
            await self._pause(sink.uri, delay_s, problem, needs_person=repeat is not None)

    async def _pause(self, sink: str, delay_s: float, why: str, *, needs_person: bool) -> None:
        """Wait before a sink is asked again, or until somebody asks for it."""
        now_ns = self._clock()
        self._troubles[sink] = Trouble(
            message=why,
            failures=self._failures.get(sink, 0),
            failed_at_ns=now_ns,
            next_try_at_ns=now_ns + int(delay_s * 1e9),
            needs_person=needs_person,
        )
        wake = self._wakes[sink] = asyncio.Event()
        try:
            async with asyncio.timeout(delay_s):
                await wake.wait()
        except TimeoutError:
            pass
        finally:
            self._wakes.pop(sink, None)

    def _answered(self, sink: str) -> None:
        self._troubles.pop(sink, None)
        if self._failures.pop(sink, 0) >= BREAK_AFTER:
            _open_circuit.set(0, self._labels(sink))
            log.warning("anchor.sink_back", sink=sink, log=self._log.name)

    def _count_failure(self, sink: str) -> bool:
        """Whether the sink's circuit is open now."""
        failures = self._failures[sink] = self._failures.get(sink, 0) + 1
        if failures == BREAK_AFTER:
            _open_circuit.set(1, self._labels(sink))
            log.error("anchor.sink_away", sink=sink, failures=failures, log=self._log.name)
        return failures >= BREAK_AFTER

    def _log_failure(self, sink: str, error: ProvledgerError) -> None:
        if self._failures.get(sink, 0) < BREAK_AFTER:
            log.warning("anchor.sink_failed", exc_info=error, sink=sink, log=self._log.name)

    async def _next(self, sink: str) -> SignedCheckpoint:
        """Wait until there is something for a sink, and choose what."""
        while True:
            changed = self._state.changed()
            published = self._state.published
            if published is not None:
                others = [
                    self._busy.get(name, self._cursors[name])
                    for name in self._sinks
                    if name != sink
                ]
                cursor = self._cursors[sink]
                size = choose(cursor, self._floors[sink], others, published.size)
                if cursor < size < published.size:
                    row = await self._storage.checkpoint(self._log.uid, size)
                    if row is not None and row.note is not None:
                        return SignedCheckpoint(row.size, row.root, row.note)
                pause_s = self._until_asked_again(sink, published.size)
                if cursor < published.size or pause_s == 0:
                    return published
            else:
                pause_s = None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await changed.wait()

    def _until_asked_again(self, sink: str, size: int) -> float | None:
        """Seconds until a cosigner is asked for what its evidence lacks; None: it is not asked.

        size: the largest published one. What everybody is content with needs nothing more.
        """
        due_s = self._lacking.get(sink)
        promises = self._state.promises.values()
        waiting = (one for one in promises if one.quorum.has_sinks and one.anchored_size < size)
        if due_s is None or not any(waiting):
            return None
        return max(0.0, due_s - asyncio.get_running_loop().time())

    async def _relay(self, sink: AnchorSink, target: SignedCheckpoint) -> None:
        async def prove(old_size: int) -> Sequence[bytes]:
            return (await self._consistency(old_size, target.size))[0]

        checkpoint = PublishedCheckpoint(
            self._log.origin,
            target.size,
            target.root,
            target.note,
            known_size=self._cursors[sink.uri],
            prove=prove,
            hasher=self._log.hasher,
        )
        evidence = await self._attempt(sink, checkpoint)
        row = AnchorRow(target.size, sink.uri, evidence.kind, self._clock(), evidence.data)
        # If this fails, the sink is handed the checkpoint again, and says the same.
        row = await self._storage.add_anchor(self._log.uid, row)
        # Not if one with other keys has just taken its place.
        if self._sinks.get(sink.uri) is sink:
            self._note_lacking(sink, row, pause_s=self._retry.cap_s)
        self._cursors[sink.uri] = max(self._cursors[sink.uri], target.size)
        _anchored.add(1, self._labels(sink.uri))
        self.anchored.look_at(target.size)

    async def _attempt(self, sink: AnchorSink, checkpoint: PublishedCheckpoint) -> Evidence:
        try:
            async with asyncio.timeout(self._deadline_s):
                evidence = await answer_of(sink.anchor(checkpoint))
        except TimeoutError as error:
            raise SinkError(f"no answer within {self._deadline_s} s") from error
        if len(evidence.data) > MAX_EVIDENCE_BYTES:
            raise SinkError("the evidence is too large to be kept")
        return evidence

    def _record_lag(self, sink: str) -> None:
        lag = max(0, self._state.published_size - self._cursors.get(sink, 0))
        _lag.set(lag, self._labels(sink))

    def _labels(self, sink: str) -> dict[str, str]:
        """Of a series that is this log's; there are at most `max_own_logs` logs and one."""
        return {"sink": sink, "log": self._log.name}
