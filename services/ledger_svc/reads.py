"""Receipts as callers see them: with signatures, states and proofs; listings; heads.

What is stored once for a batch is put back into each of its receipts: the signature's path is
rebuilt from the batch's leaf hashes. Proofs of inclusion are the anchor's; a page takes one call.
Without the anchor receipts are shown without them, and a read does not fail for that, unless proofs
to one tree size are what it asks for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from ledger_svc import chain, convert, room
from ledger_svc.batch_tree import BatchTree
from ledger_svc.beside import beside
from ledger_svc.chain import BatchRow, LedgerInfo, Stored
from ledger_svc.progress import Progress, Sinks, index_of
from ledger_svc.proving import Proven, Proving
from ledger_svc.storage import LogRun, Storage
from ledger_svc.witnessing import SUITES_TO_PB
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    DataLossError,
    InputError,
    InvalidProofError,
    StatusError,
    UnavailableError,
)
from provledger.retry import NO_RETRY
from provledger.rpc.channel import call
from provledger.witness_batch import parse_body

P = ParamSpec("P")
R = TypeVar("R")

log = logs.get(__name__)

_MAX_BATCHES: Final = 128
_PROOF_TIMEOUT_S: Final = 3.0
_PROOF_RETRY_S: Final = 0.2
_SINKS_WAIT_S: Final = 0.25
# From here on receipts are put together in a thread: a page of 1,000 takes tens of milliseconds.
_THREAD_FROM: Final = 64
_MAX_PLACES: Final = 1000
_ANCHOR_IS_AWAY: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL", "UNKNOWN"}
)


class ProofStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    BatchGetInclusionProofs: Callable[..., Awaitable[anchor_pb2.BatchGetInclusionProofsResponse]]


class _Batch:
    """A signed batch, with its tree once paths are asked for."""

    def __init__(self, row: BatchRow) -> None:
        self.row = row
        self._tree: BatchTree | None = None

    def path(self, suite: str, index: int) -> Sequence[bytes]:
        """The inclusion path of a leaf in the batch tree.

        Raises:
            DataLossError: CHAIN_BROKEN, what is stored of the batch does not hang together.
        """
        try:
            if self._tree is None:
                size = parse_body(self.row.body).size
                self._tree = chain.tree_of(self.row, size, suite)
            return self._tree.path(index)
        except (InputError, InvalidProofError) as error:
            raise DataLossError(
                "CHAIN_BROKEN",
                f"the batch at {self.row.batch_seq} does not hold what it should",
                metadata={"seq": str(self.row.batch_seq), "column": "batches"},
            ) from error


class Reads:
    """Puts receipts together."""

    def __init__(self, storage: Storage, anchor: Any, sinks: Sinks, progress: Progress) -> None:
        self._storage = storage
        self._progress = progress
        self._anchor: ProofStub = anchor
        self._sinks = sinks
        self._proving = Proving(lambda ledger, seqs: self._proofs(ledger, seqs, 0))
        # Of the storage's generation in which they were read or stored: another database may have
        # another batch at the same place.
        self._batches: OrderedDict[tuple[bytes, int], _Batch] = OrderedDict()
        self._generation = storage.generation

    def remember(self, batch: BatchRow, generation: int) -> None:
        """Keep a batch that was just committed: its receipts are about to be shown.

        generation: the storage's, taken before the commit.
        """
        self._keep(_Batch(batch), generation)

    async def fresh(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        view: common_pb2.ReceiptView,
        receipts: Sequence[common_pb2.Receipt],
    ) -> None:
        """Fill in receipts that were just committed, which are in no checkpoint yet."""
        batches = await self._load_batches(ledger, stored)
        states = [convert.PENDING] * len(stored)
        if view == convert.FULL:
            stored = await self._with_content(ledger, stored)
        await self._assemble(ledger, stored, batches, states, view, receipts)

    def learn(self, ledger_uid: bytes, answer: anchor_pb2.BatchGetInclusionProofsResponse) -> None:
        """Take note of proofs that came with the log's answer."""
        self._proving.learn(ledger_uid, answer)

    async def just_logged(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        receipts: Sequence[common_pb2.Receipt],
    ) -> None:
        """Fill in, whole, receipts that were waited for until the log took them.

        They are proved together with all others that were waited for at this moment, to the newest
        checkpoint. What the anchor does not prove is shown as pending.
        """
        batches = await self._load_batches(ledger, stored)
        content = await self._with_content(ledger, stored)
        seqs = [item.row.seq for item in stored]
        told = await self._proving.prove_all(ledger, seqs)
        proved: dict[Proven, room.Proved] = {}
        for each in told:
            if each.answer is not None and each not in proved:
                proved[each] = await self._proved(ledger, each.answer)
        found: list[room.Found] = []
        for seq, each in zip(seqs, told, strict=True):
            proof = each.by_seq.get(seq)
            found.append(None if proof is None else (proof, proved[each]))
        states = [convert.PENDING] * len(stored)
        await self._assemble(ledger, content, batches, states, convert.FULL, receipts)
        await _in_thread_if_many(room.fit_answer, receipts, found)

    async def show(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        view: common_pb2.ReceiptView,
        receipts: Sequence[common_pb2.Receipt],
        *,
        logged_seq: int | None = None,
        tree_size: int = 0,
        beside_bytes: int | None = None,
    ) -> room.Shown:
        """Fill in receipts, in order of seq, with states and, in the FULL view, with proofs.

        logged_seq: of the head, where it was read with them. beside_bytes: of an answer that must
        hold all of them, what else it holds; without it, only as many are to be returned as fit.

        Returns:
            The tree size that their proofs lead to: the one asked for, or else 0 if there are none;
            and how many of the receipts, from the first, fit into one answer.

        Raises:
            StatusError: a `tree_size` that the anchor refuses.
            UnavailableError: PROOF_UNAVAILABLE, proofs to a `tree_size` were asked for, and the
                anchor does not answer.
        """
        if not stored:
            return room.Shown(tree_size, 0)
        if logged_seq is None:
            logged_seq = (await self._storage.get_head(ledger.uid)).logged_seq
        # What was said to be logged stays so, although it may not be stored yet.
        logged_seq = max(logged_seq, self._progress.logged_seq(ledger.uid))
        if view == convert.BASIC:
            batches = await self._load_batches(ledger, stored)
            states = await self._states(ledger, stored, logged_seq)
            await self._assemble(ledger, stored, batches, states, view, receipts)
            return room.Shown(0, len(receipts))
        # Whoever names a tree may know of one that is newer than what is stored here as logged.
        seqs = sorted({item.row.seq for item in stored if tree_size or item.row.seq <= logged_seq})
        # The anchor proves while all the rest is put together here.
        async with beside(self._proofs(ledger, seqs, tree_size)) as proofs:
            content = await self._with_content(ledger, stored)
            batches = await self._load_batches(ledger, content)
            states = [convert.PENDING] * len(stored)
            await self._assemble(ledger, content, batches, states, view, receipts)
            answer = await proofs
        found = await self._found(ledger, stored, answer)
        await self._show_unproved(ledger, stored, logged_seq, receipts, found)
        if answer is None:
            return room.Shown(0, len(receipts))
        count = len(receipts)
        if beside_bytes is None:
            count = await _in_thread_if_many(room.cut_page, receipts, found)
        else:
            await _in_thread_if_many(room.fit_answer, receipts, found, beside_bytes)
        return room.Shown(answer.tree_size if tree_size or answer.proofs else 0, count)

    async def _found(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        answer: anchor_pb2.BatchGetInclusionProofsResponse | None,
    ) -> list[room.Found]:
        """What the anchor's answer holds for each receipt; without an answer, nothing."""
        if answer is None:
            return [None] * len(stored)
        proved = await self._proved(ledger, answer)
        by_seq = {proof.seq: (proof, proved) for proof in answer.proofs}
        return [by_seq.get(item.row.seq) for item in stored]

    async def _show_unproved(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        logged_seq: int,
        receipts: Sequence[common_pb2.Receipt],
        found: Sequence[room.Found],
    ) -> None:
        """Give the receipts that are not proved the state that they have all the same."""
        places = [place for place, each in enumerate(found) if each is None]
        if not places:
            return
        states = await self._states(ledger, [stored[place] for place in places], logged_seq)
        for place, state in zip(places, states, strict=True):
            receipts[place].anchor_state = state

    async def _proved(
        self, ledger: LedgerInfo, answer: anchor_pb2.BatchGetInclusionProofsResponse
    ) -> room.Proved:
        size = answer.tree_size if answer.anchored else await self._anchored_size(ledger)
        return room.Proved(answer, size)

    async def _with_content(self, ledger: LedgerInfo, stored: Sequence[Stored]) -> Sequence[Stored]:
        """The same receipts with statement and payload, read where they were left out."""
        light = sorted({item.row.seq for item in stored if not item.row.statement})
        if not light:
            return stored
        rows = await self._storage.get_rows(ledger.uid, light, full=True)
        full = {item.row.seq: item for item in rows}
        return [full.get(item.row.seq, item) for item in stored]

    # --- states

    async def _states(
        self, ledger: LedgerInfo, stored: Sequence[Stored], logged_seq: int
    ) -> list[common_pb2.AnchorState]:
        first, last = stored[0].row.seq, stored[-1].row.seq
        if first > logged_seq:
            return [convert.PENDING] * len(stored)
        anchored = await self._anchored_size(ledger)
        runs: Sequence[LogRun] = ()
        if anchored > 0:
            runs = await self._storage.log_runs(ledger.uid, first, min(last, logged_seq))
        states = []
        for item in stored:
            seq = item.row.seq
            if seq > logged_seq:
                states.append(convert.PENDING)
                continue
            index = index_of(runs, seq)
            is_anchored = index is not None and index < anchored
            states.append(convert.ANCHORED if is_anchored else convert.LOGGED)
        return states

    async def _anchored_size(self, ledger: LedgerInfo) -> int:
        """Tree size every sink has, as far as the anchor says so at once."""
        try:
            async with asyncio.timeout(_SINKS_WAIT_S):
                return await self._sinks.anchored_size(ledger.log_name, ledger.tenant_name) or 0
        except TimeoutError:
            return 0

    # --- proofs and batches

    async def check_places(self, ledger: LedgerInfo, first_seq: int, last_seq: int) -> bool:
        """Compare where we say receipts are in the log with what the log says, run by run.

        Whether that could be told: not while the anchor does not answer, or not with one proof of
        each place.

        Raises:
            DataLossError: CHAIN_BROKEN, naming the first seq that is elsewhere.
        """
        runs = await self._storage.log_runs(ledger.uid, first_seq, last_seq)
        expected = {run.start_seq: run.start_index for run in runs}
        seqs = sorted(expected)
        for start in range(0, len(seqs), _MAX_PLACES):
            asked = seqs[start : start + _MAX_PLACES]
            answer = await self._proofs(ledger, asked, 0)
            # Each has a proof of its own: one that is there twice stands for no other.
            if answer is None or [proof.seq for proof in answer.proofs] != asked:
                return False
            self._compare_places(ledger, expected, answer)
        return True

    def _compare_places(
        self,
        ledger: LedgerInfo,
        expected: Mapping[int, int],
        answer: anchor_pb2.BatchGetInclusionProofsResponse,
    ) -> None:
        for proof in answer.proofs:
            if expected[proof.seq] != proof.log_index:
                raise DataLossError(
                    "CHAIN_BROKEN",
                    f"{ledger.name}: receipt {proof.seq}: log_runs.start_index is not its place",
                    metadata={
                        "ledger": ledger.name,
                        "seq": str(proof.seq),
                        "column": "log_runs.start_index",
                    },
                )

    async def _proofs(
        self, ledger: LedgerInfo, seqs: Sequence[int], tree_size: int
    ) -> anchor_pb2.BatchGetInclusionProofsResponse | None:
        if not seqs:
            return None
        request = anchor_pb2.BatchGetInclusionProofsRequest(
            log=ledger.log_name,
            ledger_uid=ledger.uid,
            seqs=seqs,
            tree_size=tree_size,
            tenant=ledger.tenant_name,
        )
        try:
            return await call(
                self._anchor.BatchGetInclusionProofs,
                request,
                timeout_s=_PROOF_TIMEOUT_S,
                policy=NO_RETRY,
            )
        except StatusError as error:
            if tree_size and error.code not in _ANCHOR_IS_AWAY:
                raise
            if tree_size:
                raise UnavailableError(
                    "PROOF_UNAVAILABLE",
                    f"the anchor did not prove receipts against the tree of size {tree_size}",
                    retry_delay_s=_PROOF_RETRY_S,
                ) from error
            log.debug("reads.no_proofs", ledger=ledger.name, reason=error.reason)
            return None

    async def _load_batches(
        self, ledger: LedgerInfo, stored: Sequence[Stored]
    ) -> Mapping[int, _Batch]:
        self._forget_others()
        found: dict[int, _Batch] = {}
        missing: set[int] = set()
        for item in stored:
            seq = item.row.batch_seq
            if seq in found:
                continue
            batch = self._batches.get((ledger.uid, seq))
            if batch is None:
                missing.add(seq)
            else:
                found[seq] = batch
                self._batches.move_to_end((ledger.uid, seq))
        if missing:
            generation = self._storage.generation
            rows = await self._storage.get_batches(ledger.uid, sorted(missing))
            for seq in missing:
                if seq not in rows:
                    raise DataLossError(
                        "CHAIN_BROKEN",
                        f"{ledger.name}: the batch at {seq} is missing",
                        metadata={"ledger": ledger.name, "seq": str(seq), "column": "batch_seq"},
                    )
                found[seq] = self._keep(_Batch(rows[seq]), generation)
        return found

    def _forget_others(self) -> None:
        """Drop the batches of a database that may have become another one since."""
        generation = self._storage.generation
        if generation != self._generation:
            self._generation = generation
            self._batches.clear()

    def _keep(self, batch: _Batch, generation: int) -> _Batch:
        """Keep what came of the database of a generation, unless that may be another one by now."""
        self._forget_others()
        if generation != self._generation:
            return batch
        self._batches[(batch.row.ledger_uid, batch.row.batch_seq)] = batch
        while len(self._batches) > _MAX_BATCHES:
            self._batches.popitem(last=False)
        return batch

    # --- messages

    async def _assemble(
        self,
        ledger: LedgerInfo,
        stored: Sequence[Stored],
        batches: Mapping[int, _Batch],
        states: Sequence[common_pb2.AnchorState],
        view: common_pb2.ReceiptView,
        receipts: Sequence[common_pb2.Receipt],
    ) -> None:
        if view == convert.FULL:
            await _in_thread_if_many(_assemble, receipts, ledger, stored, batches, states, view)
        else:
            _assemble(receipts, ledger, stored, batches, states, view)


def _assemble(
    receipts: Sequence[common_pb2.Receipt],
    ledger: LedgerInfo,
    stored: Sequence[Stored],
    batches: Mapping[int, _Batch],
    states: Sequence[common_pb2.AnchorState],
    view: common_pb2.ReceiptView,
) -> None:
    """Fill in the receipts of rows, but for proofs."""
    name, suite = ledger.name, SUITES_TO_PB[ledger.suite]
    fill = convert.fill_receipt
    for receipt, item, state in zip(receipts, stored, states, strict=True):
        fill(receipt, ledger, name, suite, item, batches[item.row.batch_seq].row.kid, state)
    if view == convert.BASIC:
        return
    for receipt, item in zip(receipts, stored, strict=True):
        batch = batches[item.row.batch_seq]
        path = batch.path(ledger.suite, item.row.batch_index)
        convert.complete_receipt(receipt, item, batch.row, path)


async def _in_thread_if_many(
    fill: Callable[Concatenate[Sequence[common_pb2.Receipt], P], R],
    receipts: Sequence[common_pb2.Receipt],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    if len(receipts) >= _THREAD_FROM:
        return await asyncio.to_thread(fill, receipts, *args, **kwargs)
    return fill(receipts, *args, **kwargs)
