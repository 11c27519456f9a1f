"""One log that this process writes to and answers for, with everything that belongs to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from anchor_svc.committer import Committer, Outcome, Queued
from anchor_svc.cose import CoseReceipts
from anchor_svc.keys import Keys, LogKeys
from anchor_svc.overdue import Overdue
from anchor_svc.pipeline import MAX_FLIGHTS
from anchor_svc.policies import Policies
from anchor_svc.proofs import TileCache
from anchor_svc.publisher import Publisher
from anchor_svc.quorum import Quorum
from anchor_svc.reader import Reader
from anchor_svc.recovery import check_note, checkpoint_lost
from anchor_svc.relay import Relays
from anchor_svc.restored import Restored
from anchor_svc.sinks import AnchorSink
from anchor_svc.state import LogIdentity, LogState, Promise, SignedCheckpoint
from anchor_svc.storage import LogRow, Storage
from anchor_svc.submission import Submission, check_suite
from anchor_svc.tilefiles import TileFiles
from anchor_svc.tilestore import TileStore
from provledger import telemetry
from provledger.batching import GroupCommit
from provledger.policy import Policy

MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024


class OpenLog:
    """A log, open for writing. Made by `OpenLog.open`; belongs to one event loop."""

    def __init__(
        self,
        row: LogRow,
        storage: Storage,
        data_dir: Path,
        keys: Keys,
        sinks: Sequence[AnchorSink],
        *,
        publish_interval_s: float,
        sink_deadline_s: float,
        max_batch_leaves: int,
        max_queued_leaves: int,
        batch_budget_s: float = 0.0,
        batch_leaves: int = 0,
        wait_for_sinks: bool = False,
        clock: Callable[[], int],
        policy: Policy | None = None,
        files: TileFiles | None = None,
    ) -> None:
        self.identity = LogIdentity(row.log_uid, row.origin, row.suite)
        self.tenant = row.tenant
        self.state = LogState(Quorum(policy, [sink.uri for sink in sinks]))
        self._storage = storage
        self.store = TileStore(data_dir, row.log_uid, files)
        keys = LogKeys(keys, self.state)
        cache = TileCache(self.store, self.identity.hasher)
        self.committer = Committer(
            self.identity,
            storage,
            cache,
            keys,
            self.state,
            clock=clock,
            budget_s=batch_budget_s,
        )
        self.reader = Reader(
            self.identity, storage, self.state, keys, clock=clock, known=self.committer.known
        )
        self.overdue = Overdue(
            self.identity, storage, self.state, clock=clock, publish_interval_s=publish_interval_s
        )
        self.receipts = CoseReceipts(self.identity, self.reader, keys)
        self.publisher = Publisher(
            self.identity,
            storage,
            self.store,
            self.state,
            epoch=lambda: self.committer.epoch,
            interval_s=publish_interval_s,
            clock=clock,
        )
        self.relays = Relays(
            self.identity,
            storage,
            self.state,
            sinks,
            consistency=self.reader.consistency,
            deadline_s=sink_deadline_s,
            clock=clock,
        )
        self.policies = Policies(
            self.identity,
            storage,
            self.state,
            self.relays,
            sinks,
            policy,
            epoch=lambda: self.committer.epoch,
            clock=clock,
            deadline_s=sink_deadline_s,
            waits=wait_for_sinks,
        )
        self.restored = Restored(
            self.identity,
            storage,
            self.state,
            self.store.root,
            lambda: self.relays.sinks,
            consistency=self.reader.consistency,
            deadline_s=sink_deadline_s,
            wait=wait_for_sinks,
        )
        self._batcher: GroupCommit[Queued, Outcome] = GroupCommit(
            self.committer.flush,
            max_items=max_batch_leaves,
            max_bytes=MAX_BATCH_BYTES,
            max_queued_items=max_queued_leaves,
            max_queued_bytes=MAX_QUEUED_BYTES,
            # The pipeline gives the turns, and says by them how many flushes overlap.
            turns=self.committer.pipeline,
            patience=self.committer.pipeline.patience,
            max_in_flight=MAX_FLIGHTS,
            max_unanswered=MAX_FLIGHTS,
            budget_s=batch_budget_s,
            fixed_items=batch_leaves or None,
            name="anchor",
        )

    async def open(self) -> None:
        """Take the log over and find out where everything stands.

        Raises:
            DataLossError: what is stored does not fit together.
            StatusError: the database or the disk cannot be used.
        """
        self.store.open()
        self.restored.open()
        await self.committer.open()
        published = await self._storage.newest_published(self.identity.uid)
        if published is not None:
            if published.note is None:
                raise checkpoint_lost(published.size)
            check_note(self.identity.origin, published)
            self.state.set_published(
                SignedCheckpoint(published.size, published.root, published.note)
            )
            before = await self._storage.newest_published(self.identity.uid, below=published.size)
            self.publisher.resume(0 if before is None else before.size)
        await self.relays.open()
        await self.policies.open()
        await self.restored.look()
        await self.committer.finish()
        await self.overdue.look()

    @property
    def background(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What has to run as long as the log is open; FencedError ends it."""
        return (self.committer.heal, self.publisher.run, self._relay, self.overdue.run)

    async def _relay(self) -> None:
        """Relay to the sinks; after a restore, once they have confirmed it."""
        await self.restored.run()
        await self.relays.run()

    async def close(self) -> None:
        """Finish the flushes that wait, and release files and sinks; all that can be released."""
        async with AsyncExitStack() as closing:
            # The last one is closed first.
            closing.push_async_callback(self.relays.close)
            closing.push_async_callback(self.policies.close)
            closing.callback(self.reader.close)
            closing.push_async_callback(self.committer.close)
            closing.push_async_callback(self._batcher.close)

    async def submit(self, submission: Submission, *, urgent: bool = False) -> Outcome:
        """Log a submission; returns when a signed checkpoint covers it.

        urgent: somebody waits for it, so that it waits for no others.

        Raises:
            FailedPreconditionError: SEQ_GAP, PREV_MISMATCH, LEDGER_FORKED or SUITE_MISMATCH.
            ResourceExhaustedError: too much is waiting.
            UnavailableError: it could not be finished for now; submitting it again is safe.
        """
        check_suite(submission.suite, self.identity.suite)
        queued = Queued(submission, telemetry.current_ref())
        count = len(submission.entries)
        results = await self._batcher.submit_many(
            [queued] * count, sum(map(len, submission.entries)), urgent=urgent
        )
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    async def watch(
        self, *, published: bool, tenant: str = ""
    ) -> AsyncIterator[tuple[SignedCheckpoint, Promise]]:
        """The newest checkpoint and how far a promise is kept, now and after each change of either.

        Whoever is slow to ask for the next one skips those in between.
        """
        sent: tuple[int, int, bool] | None = None
        while True:
            changed = self.state.changed()
            newest = self._newest(published=published)
            if newest is not None:
                promise = self.state.promise(tenant)
                now = (newest.size, promise.anchored_size, promise.overdue)
                if now != sent:
                    sent = now
                    yield newest, promise
                    continue
            await changed.wait()

    def _newest(self, *, published: bool) -> SignedCheckpoint | None:
        view = self.state.view
        if published or view is None:
            return self.state.published if published else None
        return SignedCheckpoint(view.size, view.root, view.note)
