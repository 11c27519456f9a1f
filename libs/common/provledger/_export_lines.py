"""Checking one line of an export: all of it that needs no other line.

What a line leaves for the chain is a `Link`, small enough to come from another process: whoever
checks lines elsewhere (`provledger.verify_pool`) returns links, and a line that does not hold is
checked again where its neighbours are known, so that there is one way to say what is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, TypeAlias

from provledger._export_format import ExportHeader
from provledger.checkpoint import Checkpoint
from provledger.errors import ReceiptFormatError, VerificationError
from provledger.keyset import CoveredCheckpoint
from provledger.receipt import MAX_RECEIPT_BYTES, Proof, Receipt, parse_canonical_receipt
from provledger.report import Check, CheckResult, Finding, Status
from provledger.revocation import Unsettled
from provledger.signing_token import Token
from provledger.verify import Verifier
from provledger.witness_batch import parse_body


class Link(NamedTuple):
    """What the chain has to know of a receipt that holds in itself.

    `statement` is SHA-256 of the statement, 32 bytes. `results` are those of its checks that were
    not there before, or came out weaker; `unsettled` the pairs of checkpoints that the end of the
    export has to show to be of one history; `use` of which signing token its batch is, with
    SHA-256 of the batch's body, where that is another batch than the last one; `trees` the size and
    root of what its proofs lead to, where that is another checkpoint than the last one. `masked`:
    not all of its payload is shown. `log_index` is where its proofs have it, None without a proof.
    """

    name: str
    seq: int
    t_ns: int
    previous_hash: bytes | None
    receipt_hash: bytes
    statement: bytes
    verified: bool
    results: tuple[CheckResult, ...] = ()
    unsettled: tuple[tuple[Checkpoint, CoveredCheckpoint], ...] = ()
    use: tuple[Token, bytes] | None = None
    trees: tuple[tuple[int, bytes], ...] = ()
    masked: bool = False
    log_index: int | None = None


Checked: TypeAlias = Generator[tuple[bytes, Link | None], None, None]

CheckLines: TypeAlias = Callable[[ExportHeader, Iterable[bytes]], Checked]
"""Takes lines of receipts and gives each back, in order, with its link: None where the line does
not hold, or was not looked at."""


def look_at_none(_header: ExportHeader, lines: Iterable[bytes]) -> Checked:
    """The plain `CheckLines`: leaves every line to whoever asks."""
    for line in lines:
        yield line, None


class LineVerifier:
    """Checks lines of one export. Remembers signatures, and what was reported before."""

    def __init__(self, header: ExportHeader, verifier: Verifier) -> None:
        self._header = header
        self._verifier = verifier
        self._weakest: dict[Check, CheckResult] = {}
        self._last_results: tuple[CheckResult, ...] = ()
        self._last_status = Status.UNVERIFIED
        self._last_body = b""
        self._last_checkpoint = b""

    def read(self, line: bytes) -> Receipt:
        """Read a line, with its LF; raises ReceiptFormatError."""
        # What is limited is the receipt, as everywhere else: its LF comes on top.
        if not line.endswith(b"\n") or len(line) - 1 > MAX_RECEIPT_BYTES:
            raise ReceiptFormatError("line", "is cut off or too long")
        return parse_canonical_receipt(line[:-1])

    def check(self, receipt: Receipt) -> Link:
        """Check a receipt that stands in the export; raises VerificationError."""
        self._check_place(receipt)
        unsettled: Unsettled = {}
        self._verifier.leave_unsettled(unsettled)
        report = self._verifier.verify(receipt)
        news: tuple[CheckResult, ...] = ()
        # Most receipts have the results of the one before, and those are the same objects.
        if report.results != self._last_results:
            self._last_results, self._last_status = report.results, report.status
            news = tuple([result for result in report.results if self._is_news(result)])
        return Link(
            receipt.name,
            receipt.seq,
            receipt.t_ns,
            receipt.previous_hash,
            receipt.receipt_hash,
            hashlib.sha256(receipt.statement).digest(),
            self._last_status is Status.VERIFIED,
            news,
            tuple(unsettled),
            self._use(receipt.signature.body),
            self._trees(receipt.proofs),
            receipt.commitment.secret is None,
            # All of them are of the export's one log, and of one log all name one index.
            receipt.proofs[0].log_index if receipt.proofs else None,
        )

    def _use(self, body: bytes) -> tuple[Token, bytes] | None:
        if body == self._last_body:
            return None
        self._last_body = body
        token = parse_body(body).token if b'"token":' in body else None
        return None if token is None else (token, hashlib.sha256(body).digest())

    def _trees(self, proofs: Iterable[Proof]) -> tuple[tuple[int, bytes], ...]:
        """Size and root of the checkpoints, where they are others than before."""
        found = []
        for proof in proofs:
            if proof.checkpoint != self._last_checkpoint:
                self._last_checkpoint = proof.checkpoint
                tree = self._verifier.open_checkpoint(proof.checkpoint, proof.origin)
                found.append((tree.size, tree.root))
        return tuple(found)

    def _is_news(self, result: CheckResult) -> bool:
        if result.check is Check.CHAIN:
            return False
        known = self._weakest.get(result.check)
        if known is None or result.is_weaker_than(known):
            self._weakest[result.check] = result
            return True
        return False

    def _check_place(self, receipt: Receipt) -> None:
        header = self._header
        if receipt.ledger_uid != header.ledger_uid or receipt.ledger != header.ledger:
            raise VerificationError(
                "the receipt is of another ledger",
                check=Check.CHAIN,
                finding=Finding.FOREIGN_LEDGER,
            )
        if receipt.suite != header.suite:
            raise VerificationError(
                "the receipt is of another suite than its ledger",
                check=Check.CHAIN,
                finding=Finding.HASH_CHANGED,
            )
        if any(proof.origin != header.origin for proof in receipt.proofs):
            raise VerificationError(
                "a proof is of another log", check=Check.INCLUSION, finding=Finding.PROOF_INVALID
            )
        if (receipt.receipt_type == "ledger.created") != (receipt.seq == 0):
            raise VerificationError(
                "ledger.created is at seq 0 and nowhere else",
                check=Check.CHAIN,
                finding=Finding.INSERTED,
            )
