"""How much of what proves receipts goes into one answer.

Checkpoint and evidence come once from the anchor and stand in each receipt, so that a page of a
thousand small receipts may be far larger than what is stored of them. A page is cut where they do
not fit any more; the answer to an append, which must hold all its receipts, leaves evidence out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from ledger_svc import convert
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.hashing import HASH_BYTES

MAX_SHOWN_BYTES: Final = 14 * 1024 * 1024
"""Receipts of one answer with their proofs. A message may have 16 MiB; one receipt always fits:
64 sinks keep at most 64 KiB of evidence each."""

_FRAME_BYTES: Final = 16
"""More than tag, length and a number need around anything in a receipt."""


class Shown(NamedTuple):
    """What was shown: the tree size that proofs lead to, and how many receipts have room."""

    tree_size: int
    receipts: int


class Proved:
    """What one answer of the anchor adds to each receipt that it proves."""

    __slots__ = ("anchored_size", "answer", "bare_bytes", "evidence_bytes")

    def __init__(
        self, answer: anchor_pb2.BatchGetInclusionProofsResponse, anchored_size: int
    ) -> None:
        self.answer = answer
        self.anchored_size = anchored_size
        self.bare_bytes = len(answer.checkpoint) + len(answer.origin.encode()) + 4 * _FRAME_BYTES
        self.evidence_bytes = sum(each.ByteSize() + _FRAME_BYTES for each in answer.evidence)

    def proof_bytes(self, proof: anchor_pb2.IndexedProof) -> int:
        """What a proof takes at most, without evidence."""
        # Each hash has a tag and a length of one byte.
        return self.bare_bytes + len(proof.hashes) // HASH_BYTES * (HASH_BYTES + 2)

    def add_to(self, receipt: common_pb2.Receipt, proof: anchor_pb2.IndexedProof) -> None:
        """Add a proof, without evidence, to a pending receipt, which is pending no more."""
        is_anchored = proof.log_index < self.anchored_size
        receipt.anchor_state = convert.ANCHORED if is_anchored else convert.LOGGED
        convert.add_proof(receipt, proof, self.answer)


Found: TypeAlias = tuple[anchor_pb2.IndexedProof, Proved] | None
"""The proof of a receipt; None for one that the anchor did not prove."""


def cut_page(receipts: Sequence[common_pb2.Receipt], found: Sequence[Found]) -> int:
    """Add proofs and evidence to as many receipts, from the first, as fit; at least to one.

    Returns:
        How many receipts that is, with those between them that are not proved.
    """
    size = 0
    for count, (receipt, each) in enumerate(zip(receipts, found, strict=True)):
        size += receipt.ByteSize() + _FRAME_BYTES
        if each is not None:
            proof, proved = each
            size += proved.proof_bytes(proof) + proved.evidence_bytes
        if count and size > MAX_SHOWN_BYTES:
            return count
        if each is not None:
            proved.add_to(receipt, proof)
            convert.add_evidence(receipt, proved.answer)
    return len(receipts)


def fit_answer(
    receipts: Sequence[common_pb2.Receipt], found: Sequence[Found], beside_bytes: int = 0
) -> None:
    """Add proofs to receipts that are all shown; then evidence, to as many as there is room for.

    beside_bytes: what else stands in the answer. A receipt whose proof has no room stays pending.
    """
    if len(receipts) == 1 and not beside_bytes:
        cut_page(receipts, found)
        return
    left = MAX_SHOWN_BYTES - beside_bytes - size_bytes(receipts)
    added = []
    for receipt, each in zip(receipts, found, strict=True):
        if each is None:
            continue
        proof, proved = each
        size = proved.proof_bytes(proof)
        if size <= left:
            left -= size
            proved.add_to(receipt, proof)
            added.append((receipt, proved))
    for receipt, proved in added:
        if proved.evidence_bytes <= left:
            left -= proved.evidence_bytes
            convert.add_evidence(receipt, proved.answer)


def size_bytes(receipts: Sequence[common_pb2.Receipt]) -> int:
    """What receipts take in an answer."""
    return sum(receipt.ByteSize() + _FRAME_BYTES for receipt in receipts)
