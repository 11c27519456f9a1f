"""One receipt against a head or a checkpoint that a verifier holds from elsewhere. Pure.

An export shows that it reaches them; a single receipt can only be in their history or not. It is
shown to be where its own proof leads to that very tree, or where both trees are shown by another
export to be of one history, and where it is itself the receipt that the head names. Whatever else
there is cannot be told from one receipt, which is said and never passes.
"""

from __future__ import annotations

from provledger import checkpoint as checkpoints
from provledger import dsse, note
from provledger.checkpoint import Checkpoint
from provledger.errors import VerificationError
from provledger.head import parse_head
from provledger.receipt import Receipt
from provledger.report import Check, CheckResult, Finding, Outcome
from provledger.revocation import Trees
from provledger.verify import Verifier


def check_readable(*, head: bytes | None = None, checkpoint: bytes | None = None) -> None:
    """Look whether what is held is a head and a checkpoint at all, whoever signed them.

    A download that failed is no sign of tampering. Raises InputError, naming the one.
    """
    if head is not None:
        parse_head(dsse.decode(head).payload)
    if checkpoint is not None:
        checkpoints.parse(note.parse(checkpoint).text)


def check_held(
    receipt: Receipt,
    verifier: Verifier,
    trees: Trees,
    *,
    head: bytes | None,
    checkpoint: bytes | None,
) -> tuple[CheckResult, ...]:
    """Hold a verified receipt against them; a result for each that is given.

    `trees` is what another export has shown.

    Raises:
        VerificationError: one of them is signed by nobody we trust, is of another ledger or log,
            says something else, or is of another tree of some size than what else is given.
    """
    results = []
    try:
        verifier.compare(trees)
        found = [verifier.open_checkpoint(each.checkpoint, each.origin) for each in receipt.proofs]
        if checkpoint is not None:
            results.append(_against_checkpoint(receipt, verifier, found, trees, checkpoint))
        if head is not None:
            results.append(_against_head(receipt, verifier, head))
    except VerificationError as error:
        error.receipt = error.receipt or receipt.name
        raise
    return tuple(results)


def _against_checkpoint(
    receipt: Receipt, verifier: Verifier, found: list[Checkpoint], trees: Trees, signed: bytes
) -> CheckResult:
    origin = checkpoints.parse(note.parse(signed).text).origin
    held = verifier.open_checkpoint(signed, origin)
    here = [own for own in found if own.origin == origin]
    if not here:
        if found:
            raise _broken(receipt, "the checkpoint given is of another log", Check.CONSISTENCY)
        return _open(Check.CONSISTENCY, "the receipt has no proof yet")
    # Of one size it is that very tree: another one would not have been opened.
    if any(own.size == held.size or _is_shown(own, held, trees) for own in here):
        detail = f"in the tree of the checkpoint given, size {held.size}"
        return CheckResult(Check.CONSISTENCY, Outcome.HOLDS, detail)
    return _open(
        Check.CONSISTENCY,
        f"its proof leads to size {here[0].size}, not {held.size}: get the receipt anew with "
        "--checkpoint, or give a newer export as --history",
    )


def _is_shown(own: Checkpoint, held: Checkpoint, trees: Trees) -> bool:
    return all(trees.get((each.origin, each.size)) == each.root for each in (own, held))


def _against_head(receipt: Receipt, verifier: Verifier, envelope: bytes) -> CheckResult:
    head = verifier.open_head(envelope)
    if head.ledger_uid != receipt.ledger_uid:
        raise VerificationError(
            "the head given is of another ledger",
            check=Check.HEAD,
            finding=Finding.FOREIGN_LEDGER,
            receipt=receipt.name,
        )
    places = {proof.origin: proof.log_index for proof in receipt.proofs}
    if places and head.origin not in places:
        raise _broken(receipt, "the head given is of another log", Check.HEAD)
    if head.seq != receipt.seq:
        return _open(Check.HEAD, f"it names the receipt at seq {head.seq}: verify an export")
    if head.receipt_hash != receipt.receipt_hash:
        raise _broken(receipt, "the head given names another receipt at its place", Check.HEAD)
    if places.get(head.origin, head.log_index) != head.log_index:
        raise _broken(receipt, "the head given names another log index than its proof", Check.HEAD)
    return CheckResult(Check.HEAD, Outcome.HOLDS, f"the head given names it, seq {head.seq}")


def _open(check: Check, detail: str) -> CheckResult:
    return CheckResult(check, Outcome.NOT_CHECKED, detail)


def _broken(receipt: Receipt, message: str, check: Check) -> VerificationError:
    return VerificationError(
        message, check=check, finding=Finding.HEAD_NOT_EXTENDING, receipt=receipt.name
    )
