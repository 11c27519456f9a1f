"""Corrects where a ledger's last entries are in its log, where two answers of the log differ.

A place that was too large once would be held against every right answer that comes after it, so
that nothing more of the ledger is logged. So the log is asked once more, by proofs, where the last
stored run is, and that is stored instead. Only the last run: before it, the log must say what it
always said, or it is not one answer that is wrong, and a person has to look. Each proof has to hold
for the entry as it is stored here: right places must not be lost to the next wrong answer.

Nothing is submitted again to find out: a log that was put back to an older copy meanwhile would
take old entries for new ones. Whether it holds what it said is compared before (`relay`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from ledger_svc.chain import LedgerInfo, split_hashes
from ledger_svc.recorder import LeaseLostError
from ledger_svc.storage import LogRun, Storage
from ledger_svc.storage.relays import merge_runs
from provledger import logs, note
from provledger.api.anchor.v1 import anchor_pb2
from provledger.checkpoint import parse as parse_checkpoint
from provledger.errors import InputError, InternalError, VerificationError
from provledger.hashing import suite
from provledger.merkle import leaf_hash, verify_inclusion
from provledger.retry import NO_RETRY
from provledger.rpc.channel import call

log = logs.get(__name__)

ANCHOR_ANSWER: Final = "ANCHOR_ANSWER"
_MAX_PLACES: Final = 1000
"""Most places that are asked for at once."""
_MAX_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of entries that are read for them."""


class ProofStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    BatchGetInclusionProofs: Callable[..., Awaitable[anchor_pb2.BatchGetInclusionProofsResponse]]


async def correct(
    storage: Storage,
    anchor: ProofStub,
    ledger: LedgerInfo,
    run: LogRun,
    logged_seq: int,
    *,
    timeout_s: float,
) -> LogRun:
    """The run that ends at `logged_seq`; what is stored of the last run, `run`, becomes right.

    Raises:
        InternalError: ANCHOR_ANSWER, the log proves other places before that run, too, or some
            that cannot be.
        LeaseLostError: another replica has gone on.
        StatusError: of the anchor, which may be away.
    """
    last_seq = run.start_seq + run.count - 1
    if last_seq != logged_seq:
        # That is damage of ours, which verification finds.
        return run

    async def ask(first_seq: int, count: int) -> list[LogRun]:
        read = await storage.entries_for_log(ledger, first_seq, count, _MAX_BYTES)
        seqs = range(first_seq, first_seq + len(read.entries))
        request = anchor_pb2.BatchGetInclusionProofsRequest(
            log=ledger.log_name, ledger_uid=ledger.uid, seqs=seqs, tenant=ledger.tenant_name
        )
        answer = await call(
            anchor.BatchGetInclusionProofs, request, timeout_s=timeout_s, policy=NO_RETRY
        )
        if not seqs or [proof.seq for proof in answer.proofs] != list(seqs):
            raise odd_answer()
        _check_proofs(ledger, read.entries, answer)
        return [LogRun(proof.seq, proof.log_index, 1) for proof in answer.proofs]

    (found,) = await ask(last_seq, 1)
    if found.start_index == run.start_index + run.count - 1:
        return run
    runs: list[LogRun] = []
    next_index = 0
    if run.start_seq:
        next_index = await _end_before(storage, ledger, run)
        (before,) = await ask(run.start_seq - 1, 1)
        if before.start_index != next_index - 1:
            raise odd_answer()
    seq = run.start_seq
    while seq <= last_seq:
        for place in await ask(seq, min(_MAX_PLACES, last_seq + 1 - seq)):
            if place.start_index < next_index:
                raise odd_answer()
            next_index = place.start_index + 1
            runs[-1:] = merge_runs([*runs[-1:], place])
            seq += 1
    log.error("relay.places_corrected", ledger=ledger.name, start_seq=run.start_seq,
              end_seq=last_seq, was=run.start_index, now=runs[0].start_index)  # fmt: skip
    if not await storage.replace_runs(ledger.uid, runs, logged_seq):
        raise LeaseLostError
    return runs[-1]


async def _end_before(storage: Storage, ledger: LedgerInfo, run: LogRun) -> int:
    """Log index behind the stored place of the entry before `run`."""
    seq = run.start_seq - 1
    stored = await storage.log_runs(ledger.uid, seq, seq)
    if not stored or stored[-1].start_seq + stored[-1].count != run.start_seq:
        raise odd_answer()
    return stored[-1].start_index + stored[-1].count


def _check_proofs(
    ledger: LedgerInfo,
    entries: Sequence[bytes],
    answer: anchor_pb2.BatchGetInclusionProofsResponse,
) -> None:
    """Check that entries of ours are where the log says, in the tree of the checkpoint it shows.

    Raises:
        InternalError: ANCHOR_ANSWER.
    """
    tree_hash = suite(ledger.suite).tree
    try:
        tree = parse_checkpoint(note.parse(answer.checkpoint).text, hasher=tree_hash)
        if tree.origin != ledger.log_origin:
            raise odd_answer()
        for entry, proof in zip(entries, answer.proofs, strict=True):
            verify_inclusion(
                proof.log_index,
                tree.size,
                leaf_hash(entry, tree_hash),
                split_hashes(proof.hashes),
                tree.root,
                tree_hash,
            )
    except (InputError, VerificationError) as error:
        raise odd_answer() from error


def odd_answer() -> InternalError:
    """The error for places that cannot be those of the entries."""
    return InternalError(ANCHOR_ANSWER, "the anchor's places are not those of the entries")
