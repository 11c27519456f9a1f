"""A receipt gets a newer proof, and stays the same receipt (design §5, "Verify").

Proofs age: the checkpoint of an old receipt may be held by nobody any more, or signed by a key that
was replaced. A newer one can take its place, given offline::

    receipt ──old proof──> old checkpoint ──consistency──> newer one <──newer proof── receipt

What is replaced is the proof in the same log; every other byte stays, so that signatures, hashes
and commitments are those that were handed out. Nothing is believed: the new receipt is verified
whole, and the newer checkpoint must extend the old one, or it would be another history of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from provledger import merkle
from provledger._verify_claims import check_commitment, check_statement
from provledger.errors import InvalidProofError, VerificationError
from provledger.hashing import suite
from provledger.receipt import Proof, Receipt
from provledger.report import Check, Finding, Report
from provledger.verify import Verifier


def refreshed(
    receipt: Receipt, newer: Proof, consistency: Sequence[bytes], verifier: Verifier
) -> tuple[Receipt, Report]:
    """The receipt with `newer` instead of its proof in that log, and what was checked of it.

    consistency: from the old checkpoint to the newer one (RFC 9162 §2.1.4), 32 bytes each; empty if
    they are of one size, or if the receipt had no proof in that log.

    Raises:
        VerificationError: it does not hold, or the newer checkpoint does not extend the old one.
    """
    others = tuple(proof for proof in receipt.proofs if proof.origin != newer.origin)
    for old in receipt.proofs:
        if old.origin == newer.origin:
            _check_extends(receipt, old, newer, consistency, verifier)
    found = replace(receipt, proofs=(*others, newer))
    return found, verifier.verify(found)


def check_same(held: Receipt, fetched: Receipt) -> None:
    """Check that two receipts are one but for their proofs, and for what a masked one leaves out.

    What a masked receipt shows must be what its payload hash commits to, which both have: no other
    payload has it (docs/formats/commitment.md, "List and root").

    Raises:
        VerificationError: naming it.
    """
    same = replace(fetched, proofs=held.proofs)
    if is_masked(held):
        same = replace(
            same,
            payload=held.payload,
            commitment=held.commitment,
            fields_mask=held.fields_mask,
        )
    if same != held:
        raise VerificationError(
            "what is held and what the services have are different receipts",
            check=Check.ENTRY,
            finding=Finding.HASH_CHANGED,
            receipt=held.name,
        )
    if is_masked(held):
        try:
            check_commitment(held, check_statement(held))
        except VerificationError as error:
            error.receipt = error.receipt or held.name
            raise


def is_masked(receipt: Receipt) -> bool:
    """Whether fields of the payload, or all of them, were taken out of a receipt."""
    return receipt.commitment.secret is None


def _check_extends(
    receipt: Receipt, old: Proof, newer: Proof, consistency: Sequence[bytes], verifier: Verifier
) -> None:
    before = verifier.open_checkpoint(old.checkpoint, old.origin)
    after = verifier.open_checkpoint(newer.checkpoint, newer.origin)
    why = ""
    if old.log_index != newer.log_index:
        why = f"the newer proof is of log index {newer.log_index}, not {old.log_index}"
    elif after.size < before.size:
        why = f"the checkpoint of size {after.size} is older than that of {before.size}"
    else:
        try:
            merkle.verify_consistency(
                before.size,
                after.size,
                list(consistency),
                before.root,
                after.root,
                suite(receipt.suite).tree,
            )
        except InvalidProofError as error:
            why = f"the newer checkpoint does not extend the old one: {error.message}"
    if why:
        raise VerificationError(
            why, check=Check.INCLUSION, finding=Finding.PROOF_INVALID, receipt=receipt.name
        )
