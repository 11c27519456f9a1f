"""The end of an export: its checkpoint and head, and whether anything after them is missing."""

from __future__ import annotations

from typing import TypeAlias

from provledger._export_format import ExportFooter, ExportHeader
from provledger._export_lines import Link
from provledger.checkpoint import Checkpoint
from provledger.errors import InvalidProofError, VerificationError
from provledger.hashing import SUITES
from provledger.head import Head
from provledger.merkle import verify_consistency
from provledger.report import Check, CheckResult, Finding, Outcome
from provledger.revocation import Trees, Unsettled, is_shown, not_placed
from provledger.verify import Verifier

Proven: TypeAlias = dict[tuple[int, bytes], tuple[str, int]]
"""Trees, by size and root, that receipts are proven to be in; the first of each and its line."""


class End:
    """Checks the footer against the chain above it.

    `trees` holds, afterwards, the roots of the tree that the export leads to and of those shown to
    be prefixes of it, and `head` the export's own head, None if it carries none.
    """

    def __init__(
        self,
        verifier: Verifier,
        header: ExportHeader,
        last: Link | None,
        line_number: int,
        *,
        outside_head: Head | None,
        outside_checkpoint: bytes | None,
    ) -> None:
        self._verifier = verifier
        self._header = header
        self._last = last
        self._line_number = line_number
        self._outside_head = outside_head
        self._outside_checkpoint = outside_checkpoint
        self.trees: Trees = {}
        self.head: Head | None = None

    def check(
        self, footer: ExportFooter, unsettled: Unsettled, proven: Proven
    ) -> list[CheckResult]:
        """Check all of it; `unsettled` is what the receipts left to the end, and `proven` what
        their proofs lead to.

        Raises:
            VerificationError: for the first thing that does not hold.
        """
        self._verifier.leave_unsettled(unsettled)
        own = self._own_checkpoint(footer)
        earlier = self._earlier(footer, own)
        self.head = head = self._own_head(footer, own)
        results = [
            CheckResult(Check.CONSISTENCY, Outcome.HOLDS, f"{len(earlier)} earlier checkpoints")
            if earlier
            else CheckResult(Check.CONSISTENCY, Outcome.NOT_CHECKED, "no earlier checkpoint"),
            CheckResult(Check.HEAD, Outcome.HOLDS, f"seq {head.seq}, kid {head.kid}")
            if head is not None
            else CheckResult(Check.HEAD, Outcome.NOT_CHECKED, _no_head(footer)),
            self._truncation(own, earlier, head),
        ]
        self._check_one_tree(own, proven)
        self._settle_revoked(unsettled, own, earlier)
        return results

    def _own_checkpoint(self, footer: ExportFooter) -> Checkpoint | None:
        if footer.checkpoint is None:
            return None
        own = self._open(footer.checkpoint)
        if own.size != self._header.tree_size:
            raise self._error(
                "the header names another tree size than the checkpoint",
                Check.CHECKPOINT_SIGNATURE,
                Finding.FILE_CHANGED,
            )
        return own

    def _check_one_tree(self, own: Checkpoint | None, proven: Proven) -> None:
        """Check that the proofs lead to the export's checkpoint, and none of them elsewhere.

        Whatever is shown of that checkpoint, such as that it extends one that the verifier holds,
        says nothing of receipts that are in another tree.
        """
        for tree, (receipt, line_number) in proven.items():
            if own is None or tree != (own.size, own.root):
                error = self._error(
                    "it is proven to be in another tree than that of the export's own checkpoint",
                    Check.INCLUSION,
                    Finding.PROOF_INVALID,
                )
                error.receipt, error.line = receipt, line_number
                raise error

    def _earlier(self, footer: ExportFooter, own: Checkpoint | None) -> dict[int, Checkpoint]:
        """Check that the export's checkpoint extends every earlier one it carries.

        One that a revoked key signed later than what its revocation names shows nothing, and is
        passed over.
        """
        earlier: dict[int, Checkpoint] = {}
        for proof in footer.consistency:
            try:
                old = self._open(proof.checkpoint)
            except VerificationError as error:
                if error.finding == Finding.CAME_LATER:
                    continue
                raise
            self._check_extends(old, own, proof.hashes)
            earlier[old.size] = old
        return earlier

    def _settle_revoked(
        self, unsettled: Unsettled, own: Checkpoint | None, earlier: dict[int, Checkpoint]
    ) -> None:
        """Check that the checkpoints which revocations name place what revoked keys signed."""
        known = [*earlier.values(), *([own] if own is not None else [])]
        self.trees = {(self._header.origin, each.size): each.root for each in known}
        for (found, named), receipt in unsettled.items():
            if not is_shown(found, named, self.trees):
                error = not_placed(found, named, Check.KEY_VALIDITY)
                error.line = self._line_number
                error.receipt = receipt
                raise error

    def _check_extends(
        self,
        old: Checkpoint,
        own: Checkpoint | None,
        hashes: tuple[bytes, ...],
    ) -> None:
        try:
            if own is None:
                raise InvalidProofError("the export has no checkpoint of its own")
            verify_consistency(
                old.size, own.size, list(hashes), old.root, own.root,
                hasher=SUITES[self._header.suite].tree,
            )  # fmt: skip
        except InvalidProofError as error:
            raise self._error(
                f"the tree head does not extend the earlier one of size {old.size}",
                Check.CONSISTENCY,
                Finding.HEAD_NOT_EXTENDING,
            ) from error

    def _own_head(self, footer: ExportFooter, own: Checkpoint | None) -> Head | None:
        if footer.head is None:
            return None
        head = self._verifier.open_own_head(footer.head)
        if head is None:
            return None
        if head.ledger_uid != self._header.ledger_uid or head.origin != self._header.origin:
            raise self._error("the head is of another ledger", Check.HEAD, Finding.FOREIGN_LEDGER)
        if own is None or (head.size, head.root) != (own.size, own.root):
            raise self._error(
                "the head names another tree than the checkpoint",
                Check.HEAD,
                Finding.HEAD_NOT_EXTENDING,
            )
        self._check_reaches(head, "the export's own head")
        if self._last is not None and self._last.seq > head.seq:
            # Whatever comes after it, nothing says that what it names is among these receipts.
            raise self._error(
                f"the export's own head is at seq {head.seq}, the export goes on to "
                f"{self._last.seq}",
                Check.HEAD,
                Finding.INSERTED,
            )
        return head

    def _check_reaches(self, head: Head, what: str) -> None:
        last = self._last
        if last is None or last.seq < head.seq:
            raise self._error(
                f"{what} is at seq {head.seq}, the export ends at "
                f"{-1 if last is None else last.seq}",
                Check.TRUNCATION,
                Finding.TRUNCATED,
            )
        if last.seq == head.seq and last.receipt_hash != head.receipt_hash:
            raise self._error(
                f"{what} names another last receipt", Check.HEAD, Finding.HEAD_NOT_EXTENDING
            )
        if last.seq == head.seq and last.log_index not in (None, head.log_index):
            raise self._error(
                f"{what} names log index {head.log_index}, its receipt is at {last.log_index}",
                Check.HEAD,
                Finding.HEAD_NOT_EXTENDING,
            )

    def _truncation(
        self, own: Checkpoint | None, earlier: dict[int, Checkpoint], head: Head | None
    ) -> CheckResult:
        proven = []
        if self._outside_head is not None:
            self._check_reaches(self._outside_head, "the head given")
            proven.append(f"reaches the head given, seq {self._outside_head.seq}")
        if self._outside_checkpoint is not None:
            outside = self._open(self._outside_checkpoint)
            reason = self._reaches_checkpoint(outside, own, earlier, head)
            if reason:
                return CheckResult(Check.TRUNCATION, Outcome.NOT_CHECKED, reason)
            proven.append(f"reaches the checkpoint given, tree size {outside.size}")
        if not proven:
            return CheckResult(
                Check.TRUNCATION,
                Outcome.NOT_CHECKED,
                "needs a head or checkpoint obtained elsewhere",
            )
        return CheckResult(Check.TRUNCATION, Outcome.HOLDS, "; ".join(proven))

    def _reaches_checkpoint(
        self,
        outside: Checkpoint,
        own: Checkpoint | None,
        earlier: dict[int, Checkpoint],
        head: Head | None,
    ) -> str:
        """Return why it could not be told, or "" if the export reaches the checkpoint."""
        if own is None or head is None:
            return "the export carries no checkpoint or no head of its own to hold against it"
        if outside.size > own.size:
            raise self._error(
                f"the checkpoint given has size {outside.size}, the export ends at {own.size}",
                Check.TRUNCATION,
                Finding.TRUNCATED,
            )
        # Of one size it is that very tree: another one would not have been opened.
        if outside.size != own.size and outside.size not in earlier:
            return f"the export has no consistency proof from size {outside.size}; export again"
        return ""

    def _open(self, signed: bytes) -> Checkpoint:
        try:
            return self._verifier.open_checkpoint(signed, self._header.origin)
        except VerificationError as error:
            if error.finding == Finding.HEAD_NOT_EXTENDING:
                error.line = self._line_number
                error.receipt = "" if self._last is None else self._last.name
            raise

    def _error(self, message: str, check: Check, finding: Finding) -> VerificationError:
        return VerificationError(
            message,
            check=check,
            finding=finding,
            line=self._line_number,
            receipt="" if self._last is None else self._last.name,
        )


def _no_head(footer: ExportFooter) -> str:
    if footer.head is None:
        return "the export carries none"
    return "the key of the one that the export carries is revoked; export again"
