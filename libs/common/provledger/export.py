"""Exports: a whole ledger in one file, verified offline in constant memory (design §5).

An export is lines of RFC 8785 text, each ended by LF (docs/formats/export.md)::

    {"export":{"createdAtNs":"..","ledger":"tenants/..","ledgerUid":"..","origin":"..",
               "suite":"blake3","treeSize":"501","v":"1"}}
    {"keyLedger":<line>}                                    optional: each line of an export of the
    ...                                                     key ledger, as of that checkpoint
    {"commitment":{..},..,"id":"tenants/..","schema":"v0.2",..}      one receipt a line, seq 0 first
    ...
    {"footer":{"checkpoint":"..","consistency":[{"checkpoint":"..","hashes":[..]}],"count":"501",
               "digest":"<SHA-256 hex of all lines above>","head":"<base64 of the DSSE envelope>",
               "v":"1"}}

Each receipt stands alone; together they are a chain without gap from genesis to signed head.
`consistency` holds earlier published checkpoints and the proofs that the newest one extends them.
The digest binds the bytes that nothing signs, against accidents; a forger could recompute it.
What stands in the key ledger's lines is `provledger.key_ledger`'s to verify, from a pinned genesis.

Truncation is *not checked* unless a head or checkpoint obtained elsewhere is given, which the
export must reach: it never passes on the export's own word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from provledger._export_chain import Chain
from provledger._export_end import End, Proven
from provledger._export_format import (
    FOOTER_PREFIX,
    KEY_LEDGER_PREFIX,
    MAX_CONSISTENCY_PROOFS,
    MAX_HEAD_BYTES,
    BinarySink,
    ConsistencyProof,
    ExportFooter,
    ExportHeader,
    ExportWriter,
    is_export,
    parse_footer,
    parse_header,
)
from provledger._export_lines import Checked, CheckLines, LineVerifier, Link, look_at_none
from provledger.errors import ReceiptFormatError, VerificationError
from provledger.head import Head
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.outside import NOBODY, Outside
from provledger.receipt import Receipt
from provledger.report import Check, CheckResult, Finding, Outcome, Status, status_of
from provledger.revocation import Trees, Unsettled
from provledger.tampering import claimed_name, diagnose
from provledger.verify import Verifier

__all__ = [
    "FOOTER_PREFIX",
    "KEY_LEDGER_PREFIX",
    "MAX_CONSISTENCY_PROOFS",
    "MAX_HEAD_BYTES",
    "BinarySink",
    "CheckLines",
    "Checked",
    "ConsistencyProof",
    "ExportFooter",
    "ExportHeader",
    "ExportReport",
    "ExportWriter",
    "LineVerifier",
    "Link",
    "is_export",
    "look_at_none",
    "parse_footer",
    "parse_header",
    "verify_export",
]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What verifying an export found; everything here holds or says that it was not checked."""

    header: ExportHeader
    count: int
    last_seq: int
    last_hash: bytes
    unverified: int
    results: tuple[CheckResult, ...]
    trees: Trees = field(default_factory=dict)
    """Roots of the tree it leads to, and of those that are shown to be prefixes of that."""
    head: Head | None = None
    """Its own signed head, None if it carries none."""
    key_ledger_uid: bytes = b""
    """Of the key ledger that the keys were replayed from, 16 bytes; empty if they were not."""
    masked: int = 0
    """Receipts that do not show all of their payload: fields are taken out, by whomever."""
    first_unverified: tuple[str, int] | None = None
    """The first of the `unverified` receipts: its name, and its line in the file, from 1 on."""

    @property
    def status(self) -> Status:
        """`verified` only if there are receipts and each is verified."""
        if self.count == 0 or self.unverified:
            return Status.UNVERIFIED
        return status_of(self.results)

    @property
    def own_tree(self) -> Trees:
        """The tree that all its proofs lead to; empty if it has no checkpoint."""
        own = (self.header.origin, self.header.tree_size)
        return {own: self.trees[own]} if own in self.trees else {}


def verify_export(
    lines: Iterable[bytes],
    keys: KeySet | bytes | str,
    *,
    head: bytes | None = None,
    checkpoint: bytes | None = None,
    progress: Callable[[int], None] | None = None,
    outside: Outside = NOBODY,
    trees: Trees | None = None,
    known: KnownTrees | None = None,
    key_events: int = 0,
    check_lines: CheckLines = look_at_none,
) -> ExportReport:
    """Verify an export from its lines, each with its LF, reading them once.

    Args:
        lines: The lines of the file.
        keys: The trusted public keys, or a JWK Set as text.
        head: A head's DSSE envelope obtained elsewhere, which the export must reach.
        checkpoint: A signed checkpoint obtained elsewhere, which the export must reach.
        progress: Called with the number of receipts verified so far, now and then.
        outside: Whom else to believe; what it asks for becomes required.
        trees: What another export has shown (its report's `trees`), to place what revoked keys
            signed.
        known: The trees that are met in a verification of which this is a part.
        key_events: From how many events of the key ledger the keys were replayed, 0 if they were
            not.
        check_lines: Checks lines ahead, in other processes for example; what it leaves is checked
            here.

    Raises:
        VerificationError: for the first thing that does not hold, with `.receipt`, `.line`,
            `.check` and `.finding`.
    """
    verifier = Verifier(keys, outside, trees=trees or {}, known=known)
    # What a kept head leaves to the end of the export, where its key is revoked.
    unsettled: Unsettled = {}
    verifier.leave_unsettled(unsettled)
    outside_head = None if head is None else verifier.open_head(head)
    reading = _Reading(lines)
    header = reading.header()
    if outside_head is not None and outside_head.ledger_uid != header.ledger_uid:
        raise reading.error(
            "the head given is of another ledger", Check.TRUNCATION, Finding.FOREIGN_LEDGER
        )
    if outside_head is not None and outside_head.origin != header.origin:
        # A ledger is in one log, which its genesis names: one that goes on in two has forked.
        raise reading.error(
            "the head given is of another log", Check.TRUNCATION, Finding.FOREIGN_LEDGER
        )
    chain = Chain(outside_head)
    receipts = _Receipts(header, verifier, chain, reading)
    # Closed on every way out, so that who checks lines ahead can clean up.
    with closing(check_lines(header, reading.receipt_lines())) as checked:
        receipts.run(checked, progress)
    footer = reading.footer(chain)
    results = receipts.weakest | {
        Check.CHAIN: CheckResult(Check.CHAIN, Outcome.HOLDS, "no gap from the genesis on"),
        Check.FILE_DIGEST: CheckResult(Check.FILE_DIGEST, Outcome.HOLDS, "SHA-256"),
        Check.KEY_LEDGER: _keys_result(key_events, reading.carries_keys),
    }
    end = End(
        verifier,
        header,
        chain.last,
        reading.line_number,
        outside_head=outside_head,
        outside_checkpoint=checkpoint,
    )
    if chain.masked:
        detail = f"{chain.masked} of {chain.count} receipts show only some of their fields"
        results[Check.COMMITMENT] = CheckResult(Check.COMMITMENT, Outcome.HOLDS, detail)
    for result in end.check(footer, unsettled | receipts.unsettled, receipts.proven):
        results[result.check] = result
    return ExportReport(
        header=header,
        count=chain.count,
        last_seq=-1 if chain.last is None else chain.last.seq,
        last_hash=b"" if chain.last is None else chain.last.receipt_hash,
        unverified=chain.unverified,
        results=tuple(results[check] for check in Check if check in results),
        trees=end.trees,
        head=end.head,
        masked=chain.masked,
        first_unverified=receipts.first_unverified,
    )


class _Reading:
    """Takes an export's lines apart: header, key ledger, receipts, footer. Reads each once."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._digest = hashlib.sha256()
        self._footer_line: bytes | None = None
        self.line_number = 0
        self.first_receipt_line = 2
        self.carries_keys = False

    def header(self) -> ExportHeader:
        """Read the first line; raises VerificationError."""
        line = next(self._lines, b"")
        self.line_number = 1
        self._digest.update(line)
        try:
            return parse_header(line)
        except ReceiptFormatError as error:
            raise self.error(str(error), Check.FORMAT, Finding.FORMAT) from error

    def receipt_lines(self) -> Iterator[bytes]:
        """The lines between the key ledger, if there is one, and the footer."""
        for line in self._lines:
            self.line_number += 1
            if line.startswith(FOOTER_PREFIX):
                self._footer_line = line
                return
            self._digest.update(line)
            if line.startswith(KEY_LEDGER_PREFIX) and self.line_number == self.first_receipt_line:
                self.carries_keys = True
                self.first_receipt_line += 1
            else:
                yield line

    def footer(self, chain: Chain) -> ExportFooter:
        """Read the footer and hold it against the lines above; raises VerificationError."""
        last = "" if chain.last is None else chain.last.name
        if self._footer_line is None:
            raise self.error(
                "the file ends without a footer", Check.TRUNCATION, Finding.TRUNCATED, last
            )
        try:
            footer = parse_footer(self._footer_line)
        except ReceiptFormatError as error:
            raise self.error(str(error), Check.FORMAT, Finding.FORMAT, last) from error
        if footer.count != chain.count:
            raise self.error(
                f"the footer counts {footer.count} receipts, {chain.count} are there",
                Check.TRUNCATION,
                Finding.TRUNCATED if footer.count > chain.count else Finding.INSERTED,
                last,
            )
        if footer.digest != self._digest.digest():
            raise self.error(
                "bytes that nothing signs were changed (header or evidence)",
                Check.FILE_DIGEST,
                Finding.FILE_CHANGED,
                last,
            )
        # Last, since it reads on: a file that is damaged there is cut short all the same.
        if next(self._lines, None) is not None:
            raise self.error("lines follow the footer", Check.FORMAT, Finding.INSERTED, last)
        return footer

    def error(
        self, message: str, check: Check, finding: Finding, receipt: str = ""
    ) -> VerificationError:
        """An error at the line that was read last."""
        return VerificationError(
            message, check=check, finding=finding, line=self.line_number, receipt=receipt
        )


class _Receipts:
    """Checks the receipts of an export in order; `weakest` has the weakest result of each check."""

    def __init__(
        self, header: ExportHeader, verifier: Verifier, chain: Chain, reading: _Reading
    ) -> None:
        self._lines = LineVerifier(header, verifier)
        self._chain = chain
        self._reading = reading
        self.weakest: dict[Check, CheckResult] = {}
        self.unsettled: Unsettled = {}
        # What the proofs lead to, with the first receipt of each and its line.
        self.proven: Proven = {}
        self.first_unverified: tuple[str, int] | None = None

    def run(self, checked: Checked, progress: Callable[[int], None] | None) -> None:
        """Check all of them; raises VerificationError."""
        chain = self._chain
        for line, link in checked:
            receipt: Receipt | None = None
            try:
                if link is None:
                    receipt = self._lines.read(line)
                    link = self._lines.check(receipt)
                chain.add(link)
            except ReceiptFormatError as error:
                broken = VerificationError(str(error), check=Check.FORMAT, finding=Finding.FORMAT)
                raise self._named(broken, line) from error
            except VerificationError as error:
                if receipt is None:
                    receipt = self._lines.read(line)
                # What stands behind it cannot undo what was found, and may be cut off or damaged.
                with suppress(Exception):
                    diagnose(error, receipt, chain.last, (rest for rest, _ in checked))
                raise self._named(error, line) from error
            for result in link.results:
                known = self.weakest.get(result.check)
                if known is None or result.is_weaker_than(known):
                    self.weakest[result.check] = result
            for pair in link.unsettled:
                self.unsettled.setdefault(pair, link.name)
            number = self._reading.first_receipt_line + chain.count - 1
            for tree in link.trees:
                self.proven.setdefault(tree, (link.name, number))
            if not link.verified and self.first_unverified is None:
                self.first_unverified = (link.name, number)
            if progress is not None and chain.count % 256 == 0:
                progress(chain.count)

    def _named(self, error: VerificationError, line: bytes) -> VerificationError:
        # Lines may have been read ahead of the one that is broken.
        error.line = self._reading.first_receipt_line + self._chain.count
        error.receipt = error.receipt or claimed_name(line)
        return error


def _keys_result(key_events: int, carries_keys: bool) -> CheckResult:
    if key_events:
        detail = f"{key_events} events from the pinned genesis on"
        return CheckResult(Check.KEY_LEDGER, Outcome.HOLDS, detail)
    why = "the part that is here needs a pin" if carries_keys else "the keys were given as they are"
    return CheckResult(Check.KEY_LEDGER, Outcome.NOT_CHECKED, why)
