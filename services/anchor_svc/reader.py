"""Everything that is asked of a log: proofs, checkpoints, heads, evidence.

Which checkpoint an answer is for: the one asked for, if it is signed; by default the newest that
enough sinks hold, if that covers what is asked about, else the newest signed one. Reading tiles and
making proofs happens in threads; what is returned has been checked (`proofs`).

What only the database says (how far a ledger is, that there is no more of something) counts if the
database still has what this process had released before it was asked: a standby that lagged may
have taken its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeVar

from anchor_svc.admission import check_entry, check_known, check_state, damaged_ledger
from anchor_svc.checkpointing import LeafRun, clip_runs
from anchor_svc.keys import SIGN_TIMEOUT_S, Keys, signing_failed
from anchor_svc.proofs import Prover, View
from anchor_svc.recovery import check_note, check_released, checkpoint_lost
from anchor_svc.state import LogIdentity, LogState, Promise, SignedCheckpoint
from anchor_svc.storage import AnchorRow, CheckpointRow, Storage
from anchor_svc.submission import LedgerState, Submission
from anchor_svc.tilefiles import disk_unavailable
from provledger import dsse, logs, telemetry
from provledger.entry import receipt_hash
from provledger.errors import KMSError, NotFoundError, OutOfRangeError, UnavailableError
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head
from provledger.keyset import KeyPurpose
from provledger.kms.signing import sign_head

T = TypeVar("T")

log = logs.get(__name__)

_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Proof:
    """Where an entry is, and its inclusion path: 32 bytes each, leaf to root, concatenated."""

    seq: int
    log_index: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class Proven:
    """Proofs that all lead to one checkpoint, with what is known of it."""

    proofs: Sequence[Proof]
    checkpoint: SignedCheckpoint
    evidence: Sequence[AnchorRow]
    anchored: bool


class Reader:
    """Answers about one log. Belongs to one event loop.

    known: how far a ledger is in the signed tree, as far as its writer remembers.
    """

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        keys: Keys,
        *,
        clock: Callable[[], int],
        known: Callable[[bytes], LedgerState | None] = lambda _: None,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._keys = keys
        self._clock = clock
        self._known = known
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="anchor-proofs")

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def checkpoint(self, size: int, *, published: bool = False) -> SignedCheckpoint:
        """The signed checkpoint of exactly this size, or the newest for 0.

        Raises:
            OutOfRangeError: the log is smaller.
            NotFoundError: there is none of that size (that is published, if so asked).
            DataLossError: there is none in the database, which is older than what was released, or
                has lost it (CHECKPOINT_LOST).
        """
        if size == 0:
            newest = self._state.published if published else _signed(self._state)
            if newest is None:
                raise _no_checkpoint("there is no published checkpoint yet", size)
            return newest
        anchored = [promise.anchored for promise in self._state.promises.values()]
        for known in (self._state.published, *anchored):
            if known is not None and known.size == size:
                return known
        newest, released = _signed(self._state), self._state.view
        if size > newest.size:
            raise OutOfRangeError(
                "TREE_SIZE_OUT_OF_RANGE",
                f"the newest signed checkpoint is of tree size {newest.size}, not {size}",
                metadata={"treeSize": str(newest.size)},
            )
        if size == newest.size and not published:
            return newest
        row = await self._storage.checkpoint(self._log.uid, size)
        if row is None or row.note is None or (published and row.published_at_ns is None):
            await self._check_released(released)
            await self._check_lost(size, row)
            kind = "published" if published else "signed"
            raise _no_checkpoint(f"there is no {kind} checkpoint of tree size {size}", size)
        check_note(self._log.origin, row)
        return SignedCheckpoint(row.size, row.root, row.note)

    async def _check_lost(self, size: int, row: CheckpointRow | None) -> None:
        """Raise DataLossError if there was a signed checkpoint of a size that has none now: one
        that was published, or that a sink holds."""
        if row is not None and row.note is not None:
            return
        published = row is not None and row.published_at_ns is not None
        if published or await self._storage.evidence(self._log.uid, size):
            raise checkpoint_lost(size)

    async def is_published(self, size: int) -> bool:
        """Whether the checkpoint of this size was published."""
        row = await self._storage.checkpoint(self._log.uid, size)
        return row is not None and row.published_at_ns is not None

    async def inclusion(self, log_index: int, size: int, tenant: str = "") -> Proven:
        """Proof of one leaf. The seq in it is -1: nobody asked for a ledger's.

        tenant: whose policy says what is anchored; the log's if it has none, or none is named.

        Raises:
            OutOfRangeError, NotFoundError: as `checkpoint`; also for an index beyond the tree.
        """
        promise = self._state.promise(tenant)
        target = await self._resolve(size, log_index, promise)
        if log_index >= target.size:
            raise OutOfRangeError(
                "LOG_INDEX_OUT_OF_RANGE",
                f"log index {log_index} is not below tree size {target.size}",
                metadata={"logIndex": str(log_index), "treeSize": str(target.size)},
            )
        hashes = await self._with_prover(target, lambda prover: prover.inclusion(log_index))
        return await self._proven([Proof(-1, log_index, hashes)], target, promise, tenant)

    async def batch_inclusion(
        self, ledger_uid: bytes, seqs: Sequence[int], size: int, tenant: str = ""
    ) -> Proven:
        """Proofs of a ledger's entries, by rising seq; those the checkpoint lacks are left out.

        tenant: as for `inclusion`.

        Raises:
            OutOfRangeError, NotFoundError: as `checkpoint`.
            DataLossError: what is stored does not fit together, or is older than what was released.
        """
        places = await self._places(ledger_uid, seqs)
        promise = self._state.promise(tenant)
        last_index = places[-1][1] if places else self._state.signed_size
        target = await self._resolve(size, last_index, promise)
        covered = [(seq, index) for seq, index in places if index < target.size]

        def prove(prover: Prover) -> list[Proof]:
            # A ledger's entries are in the log in their order and without a gap: if the first and
            # the last of a stretch are where the database says, so are all between them.
            for _, stretch in groupby(covered, key=lambda place: place[1] - place[0]):
                places = [*stretch]
                for seq, index in {places[0], places[-1]}:
                    check_entry(prover.entry(index), ledger_uid, seq)
            return [Proof(seq, index, prover.inclusion(index)) for seq, index in covered]

        proofs = await self._with_prover(target, prove)
        return await self._proven(proofs, target, promise, tenant)

    async def just_logged(self, submission: Submission, runs: Sequence[LeafRun]) -> Proven:
        """Proofs of what was logged a moment ago in these runs, to the newest signed checkpoint.

        Raises:
            DataLossError: what is stored is not what was logged.
        """
        target = _signed(self._state)
        places = [
            (run.start_seq + step, run.start_index + step)
            for run in runs
            for step in range(run.count)
        ]

        def prove(prover: Prover) -> list[Proof]:
            for leaf_hash, (_, index) in zip(submission.leaf_hashes, places, strict=True):
                if leaf_hash != prover.leaf_hash(index):
                    raise damaged_ledger(submission.ledger_uid)
            return [Proof(seq, index, prover.inclusion(index)) for seq, index in places]

        return Proven(await self._with_prover(target, prove), target, (), False)

    async def consistency(self, old_size: int, new_size: int) -> tuple[list[bytes], int]:
        """Proof that the tree of `new_size` (0: the newest) extends that of `old_size`."""
        new = await self.checkpoint(new_size)
        if old_size > new.size:
            raise OutOfRangeError(
                "TREE_SIZE_OUT_OF_RANGE",
                f"the old size {old_size} is larger than the new one, {new.size}",
                metadata={"treeSize": str(new.size)},
            )
        old = await self.checkpoint(old_size)
        hashes = await self._with_prover(new, lambda prover: prover.consistency(old.size, old.root))
        return hashes, new.size

    async def ledger_state(self, ledger_uid: bytes) -> LedgerState | None:
        """How far the log holds a ledger, signed or not yet; None if it knows nothing of it.

        Raises:
            DataLossError: the database is older than what was released, or LEDGER_ROWS_DAMAGED.
            UnavailableError: the disk cannot be read.
        """
        released, known = self._state.view, self._known(ledger_uid)
        states = await self._storage.ledgers(self._log.uid, [ledger_uid])
        state = states.get(ledger_uid)
        row = await self._storage.log(self._log.uid)
        check_released(row, released)
        check_known(known, state, ledger_uid)
        if state is None or state == known:
            return state
        if state.log_index >= row.size:
            raise damaged_ledger(ledger_uid)
        if released is not None and state.log_index < released.size:
            await self._in_thread(lambda: check_state(released.newest_prover(), state))
        # What is committed and not signed yet has no tree to be compared with.
        return state

    async def ledger_head(self, ledger_uid: bytes, size: int) -> tuple[bytes, SignedCheckpoint]:
        """The signed head of a ledger as of a checkpoint: a DSSE envelope, and the checkpoint.

        Raises:
            NotFoundError: the log holds nothing of that ledger at that size.
            DataLossError: the database is older than what was released, or LEDGER_ROWS_DAMAGED.
            UnavailableError: there is no key to sign with for now; CLOCK_SKEW; what follows in the
                ledger is not signed yet.
            StatusError: why the log is held. A head says what the last receipt is now.
        """
        target = await self.checkpoint(size)
        seq, index = await self._last_place(ledger_uid, target.size)
        entry = await self._with_prover(target, lambda prover: prover.entry(index))
        parsed = check_entry(entry, ledger_uid, seq)
        key = self._keys.current(KeyPurpose.HEAD)
        await self._check_clock()
        head = Head(
            ledger_uid=ledger_uid,
            seq=seq,
            receipt_hash=receipt_hash(parsed.suite, entry),
            log_index=index,
            origin=self._log.origin,
            size=target.size,
            root=target.root,
            kid=key.kid,
            epoch=key.epoch,
            signed_at_ns=key.signing_time_ns(self._clock()),
        )
        body = head.encode()
        try:
            async with asyncio.timeout(SIGN_TIMEOUT_S):
                with telemetry.span("head.sign", {telemetry.KID: key.kid}):
                    signature = await sign_head(key.signer, body)
        except (KMSError, TimeoutError) as error:
            raise signing_failed("the head", error) from error
        signed = dsse.Envelope(HEAD_TYPE, body, (dsse.Signature(key.kid, signature),))
        return dsse.encode(signed), target

    async def _check_clock(self) -> None:
        """As `LogState.check_clock`; one that was ahead may have been set since."""
        try:
            self._state.check_clock()
        except UnavailableError:
            now_ns = self._clock()
            row = await self._storage.log(self._log.uid)
            self._state.compare_clock(now_ns, row.database_ns)
            self._state.check_clock()

    async def anchors(
        self, after: tuple[int, str] | None, sink: str, limit: int
    ) -> Sequence[AnchorRow]:
        """What sinks hold, newest first, after a place in that order.

        Raises:
            DataLossError: the database is older than what was released.
        """
        released = self._state.view
        rows = await self._storage.anchors(self._log.uid, after=after, sink=sink, limit=limit)
        await self._check_released(released)
        return rows

    async def _check_released(self, released: View | None) -> None:
        """Check what was read since `released` was taken: see the module's docstring."""
        if released is not None:
            check_released(await self._storage.log(self._log.uid), released)

    async def _resolve(self, size: int, last_index: int, promise: Promise) -> SignedCheckpoint:
        """The checkpoint to prove against: see the module's docstring."""
        if size:
            return await self.checkpoint(size)
        anchored = promise.anchored
        if anchored is not None and last_index < anchored.size:
            return anchored
        return _signed(self._state)

    async def _places(self, ledger_uid: bytes, seqs: Sequence[int]) -> list[tuple[int, int]]:
        """(seq, log index) of those seqs that are in the log, signed or not yet."""
        released, known = self._state.view, self._known(ledger_uid)
        state, stored = await self._storage.ledger_runs(
            self._log.uid, ledger_uid, seqs[0], seqs[-1] + 1
        )
        wanted = [seq for seq in seqs if state is not None and seq <= state.seq]
        if len(wanted) < len(seqs):
            await self._check_released(released)
            check_known(known, state, ledger_uid)
        if not wanted:
            return []
        first, end = wanted[0], wanted[-1] + 1
        places = []
        runs = iter(clip_runs(stored, first, end))
        run = next(runs, None)
        for seq in wanted:
            while run is not None and seq >= run.start_seq + run.count:
                run = next(runs, None)
            if run is None or seq < run.start_seq or run.start_index < 0:
                raise damaged_ledger(ledger_uid)
            places.append((seq, run.start_index + seq - run.start_seq))
        return places

    async def _last_place(self, ledger_uid: bytes, size: int) -> tuple[int, int]:
        """(seq, log index) of a ledger's last entry below a tree size.

        Nothing is taken from the database alone that would make another entry the last one. Either
        the ledger's state names the last of all (`admission.check_state`), or the entry is at the
        very end of that tree, or the one after it is proven to be behind that.
        """
        state = await self.ledger_state(ledger_uid)
        if state is not None and state.log_index < size:
            return state.seq, state.log_index
        around = await self._storage.runs_around(self._log.uid, ledger_uid, size)
        if state is None or around is None:
            raise NotFoundError(
                "LEDGER_NOT_FOUND",
                f"the log holds nothing of ledger {ledger_uid.hex()} at tree size {size}",
                metadata={"ledgerUid": ledger_uid.hex(), "treeSize": str(size)},
            )
        run, following = around
        if run.start_index < 0:
            raise damaged_ledger(ledger_uid)
        if following is None:
            return run.start_seq + size - 1 - run.start_index, size - 1
        index = min(size - 1, run.start_index + following.start_seq - 1 - run.start_seq)
        if index < size - 1:
            if not size <= following.start_index <= state.log_index:
                raise damaged_ledger(ledger_uid)
            view = await self._covering(following.start_index)
            entry = await self._in_thread(lambda: view.newest_prover().entry(following.start_index))
            check_entry(entry, ledger_uid, following.start_seq)
        return run.start_seq + index - run.start_index, index

    async def _covering(self, log_index: int) -> View:
        """A signed head over a leaf that is stored, which may be about to be signed.

        Raises:
            UnavailableError: it is not; or the StatusError for which the log is held.
        """
        try:
            async with asyncio.timeout(SIGN_TIMEOUT_S):
                while True:
                    changed = self._state.changed()
                    view = self._state.signed_view()
                    if log_index < view.size:
                        return view
                    self._state.check_held()
                    await changed.wait()
        except TimeoutError as error:
            raise UnavailableError(
                "NOT_SIGNED_YET",
                f"there is no signed checkpoint over log index {log_index} yet",
                metadata={"logIndex": str(log_index)},
                retry_delay_s=1.0,
            ) from error

    async def _proven(
        self, proofs: Sequence[Proof], target: SignedCheckpoint, promise: Promise, tenant: str
    ) -> Proven:
        published = self._state.published
        evidence: Sequence[AnchorRow] = ()
        if published is not None and target.size <= published.size:
            evidence = await self._storage.evidence(self._log.uid, target.size)
        anchored = promise.quorum.met(evidence)
        foreign = self._state.foreign
        shown = promise.quorum.shown(evidence, foreign.of_tenants, foreign.owned_by(tenant))
        return Proven(proofs, target, shown, anchored)

    async def _with_prover(self, target: SignedCheckpoint, work: Callable[[Prover], T]) -> T:
        """`work` on the proofs for a checkpoint, in a thread; raises UnavailableError."""
        view = self._state.signed_view()
        return await self._in_thread(lambda: work(view.prover(target.size, target.root)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """`work`, which reads files, in a thread; raises UnavailableError."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work)
        except OSError as error:
            log.error("anchor.disk_failed", exc_info=error, log=self._log.name)
            raise disk_unavailable() from error


def _signed(state: LogState) -> SignedCheckpoint:
    view = state.signed_view()
    return SignedCheckpoint(view.size, view.root, view.note)


def _no_checkpoint(message: str, size: int) -> NotFoundError:
    return NotFoundError("CHECKPOINT_NOT_FOUND", message, metadata={"treeSize": str(size)})
