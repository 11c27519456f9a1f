"""Exports: a whole ledger in one file, verified offline in constant memory (design §5).

An export is lines of RFC 8785 text, each ended by LF (docs/formats/export.md)::

    {"export":{"createdAtNs":"..","ledger":"tenants/..","ledgerUid":"..","origin":"..",
               "suite":"blake3","treeSize":"501","v":"1"}}
    {"keyLedger":<line>}                                    optional: each line of an export of the
    ...                                                     key ledger, against the same checkpoint
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

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from provledger import jcs, names
from provledger.checkpoint import Checkpoint
from provledger.errors import (
    IdentifierError,
    InvalidJSONError,
    InvalidProofError,
    ReceiptFormatError,
    VerificationError,
)
from provledger.hashing import SUITES
from provledger.head import Head
from provledger.keyset import KeySet
from provledger.merkle import verify_consistency
from provledger.outside import NOBODY, Outside
from provledger.receipt import MAX_RECEIPT_BYTES, Receipt, parse_canonical_receipt
from provledger.report import Check, CheckResult, Finding, Outcome, Report, Status, status_of
from provledger.revocation import Trees, is_shown, not_placed
from provledger.tampering import claimed_name, diagnose
from provledger.verify import Verifier

FOOTER_PREFIX = b'{"footer":'
KEY_LEDGER_PREFIX = b'{"keyLedger":'
MAX_CONSISTENCY_PROOFS = 4096

_STATEMENTS_REMEMBERED = 65_536

_HEADER_MEMBERS = frozenset("createdAtNs ledger ledgerUid origin suite treeSize v".split())
_FOOTER_MEMBERS = frozenset("checkpoint consistency count digest head v".split())


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """What an export is of. `tree_size` is that of the checkpoint its proofs lead to."""

    ledger: str
    ledger_uid: bytes
    suite: str
    origin: str
    tree_size: int
    created_at_ns: int

    def encode(self) -> bytes:
        """Return the header's line, without its end."""
        members = {
            "v": "1",
            "ledger": self.ledger,
            "ledgerUid": self.ledger_uid.hex(),
            "suite": self.suite,
            "origin": self.origin,
            "treeSize": str(self.tree_size),
            "createdAtNs": str(self.created_at_ns),
        }
        return jcs.encode({"export": members})


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """An earlier signed checkpoint, and the proof that the export's checkpoint extends it."""

    checkpoint: bytes
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ExportFooter:
    """What ends an export; `digest` is SHA-256 over all lines before it, 32 bytes."""

    count: int
    digest: bytes
    head: bytes | None
    checkpoint: bytes | None
    consistency: tuple[ConsistencyProof, ...] = ()

    def encode(self) -> bytes:
        """Return the footer's line, without its end."""
        members = {
            "v": "1",
            "count": str(self.count),
            "digest": self.digest.hex(),
            "head": None if self.head is None else _b64(self.head),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.decode(),
            "consistency": [
                {
                    "checkpoint": proof.checkpoint.decode(),
                    "hashes": [_b64(step) for step in proof.hashes],
                }
                for proof in self.consistency
            ],
        }
        return jcs.encode({"footer": members})


class BinarySink(Protocol):
    """The little of a binary file that writing an export needs."""

    def write(self, data: bytes, /) -> object: ...


class ExportWriter:
    """Writes an export line by line to a binary file; the caller opens, syncs and closes it."""

    def __init__(self, file: BinarySink, header: ExportHeader) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.count = 0
        self._line(header.encode())

    def write_key_ledger(self, lines: Iterable[bytes]) -> None:
        """Write an export of the key ledger, given its lines, before the first receipt."""
        for line in lines:
            self._line(KEY_LEDGER_PREFIX + line.removesuffix(b"\n") + b"}")

    def write(self, receipt: Receipt) -> None:
        """Write the next receipt; they must come in chain order, from seq 0."""
        self._line(receipt.encode())
        self.count += 1

    def finish(
        self,
        *,
        head: bytes | None,
        checkpoint: bytes | None,
        consistency: Sequence[ConsistencyProof] = (),
    ) -> None:
        """Write the footer: the head's DSSE envelope and the checkpoint's signed note."""
        footer = ExportFooter(
            self.count, self._digest.digest(), head, checkpoint, tuple(consistency)
        )
        self._file.write(footer.encode() + b"\n")

    def _line(self, line: bytes) -> None:
        line += b"\n"
        self._digest.update(line)
        self._file.write(line)


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

    @property
    def status(self) -> Status:
        """`verified` only if there are receipts and each is verified."""
        if self.count == 0 or self.unverified:
            return Status.UNVERIFIED
        return status_of(self.results)


def is_export(first_line: bytes) -> bool:
    """Say whether a file that begins with this line means to be an export."""
    return first_line.startswith(b'{"export":')


def verify_export(
    lines: Iterable[bytes],
    keys: KeySet | bytes | str,
    *,
    head: bytes | None = None,
    checkpoint: bytes | None = None,
    progress: Callable[[int], None] | None = None,
    outside: Outside = NOBODY,
    trees: Trees | None = None,
    key_events: int = 0,
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
        key_events: From how many events of the key ledger the keys were replayed, 0 if they were
            not.

    Raises:
        VerificationError: for the first thing that does not hold, with `.receipt`, `.line`,
            `.check` and `.finding`.
    """
    verification = _ExportVerification(keys, head, checkpoint, progress, outside, trees or {})
    return verification.run(lines, key_events)


class _ExportVerification:
    """One pass over one export."""

    def __init__(
        self,
        keys: KeySet | bytes | str,
        head: bytes | None,
        checkpoint: bytes | None,
        progress: Callable[[int], None] | None,
        outside: Outside,
        trees: Trees,
    ) -> None:
        self._verifier = Verifier(keys, outside, trees=trees)
        self._verifier.unsettled = {}
        self._trees: dict[tuple[str, int], bytes] = {}
        self._outside_head = None if head is None else self._verifier.open_head(head)
        self._outside_checkpoint = checkpoint
        self._progress = progress
        self._digest = hashlib.sha256()
        self._line_number = 0
        self._previous: Receipt | None = None
        self._count = 0
        self._unverified = 0
        self._weakest: dict[Check, CheckResult] = {}
        self._statements: dict[bytes, None] = {}

    def run(self, lines: Iterable[bytes], key_events: int) -> ExportReport:
        reader = iter(lines)
        header = self._header(next(reader, b""))
        carries_keys = False
        footer: ExportFooter | None = None
        for line in reader:
            self._line_number += 1
            if line.startswith(FOOTER_PREFIX):
                footer = self._footer(line)
                break
            self._digest.update(line)
            if line.startswith(KEY_LEDGER_PREFIX) and not self._count:
                carries_keys = True
                continue
            self._receipt(header, line, reader)
        if footer is None:
            raise self._error("the file ends without a footer", Check.TRUNCATION, Finding.TRUNCATED)
        if next(reader, None) is not None:
            raise self._error("lines follow the footer", Check.FORMAT, Finding.INSERTED)
        self._weaken(CheckResult(Check.CHAIN, Outcome.HOLDS, "no gap from the genesis on"))
        for result in self._finish(header, footer):
            self._weakest[result.check] = result
        self._weaken(_keys_result(key_events, carries_keys))
        return ExportReport(
            header=header,
            count=self._count,
            last_seq=-1 if self._previous is None else self._previous.seq,
            last_hash=b"" if self._previous is None else self._previous.receipt_hash,
            unverified=self._unverified,
            results=tuple(self._weakest[check] for check in Check if check in self._weakest),
            trees=self._trees,
        )

    def _receipt(self, header: ExportHeader, line: bytes, rest: Iterable[bytes]) -> None:
        receipt: Receipt | None = None
        try:
            if not line.endswith(b"\n") or len(line) > MAX_RECEIPT_BYTES:
                raise ReceiptFormatError("line", "is cut off or too long")
            receipt = parse_canonical_receipt(line[:-1])
            self._check_place(header, receipt)
            report = self._verifier.verify(receipt)
            self._check_link(receipt)
        except ReceiptFormatError as error:
            broken = VerificationError(str(error), check=Check.FORMAT, finding=Finding.FORMAT)
            raise self._named(broken, line) from error
        except VerificationError as error:
            diagnose(error, receipt, self._previous, rest)
            raise self._named(error, line) from error
        self._accept(header, receipt, report)

    def _accept(self, header: ExportHeader, receipt: Receipt, report: Report) -> None:
        if self._outside_head is not None and receipt.seq == self._outside_head.seq:
            self._check_outside_head(receipt, self._outside_head)
        for result in report.results:
            if result.check is not Check.CHAIN:
                self._weaken(result)
        if report.status is not Status.VERIFIED:
            self._unverified += 1
        self._previous = receipt
        self._count += 1
        if self._progress is not None and self._count % 256 == 0:
            self._progress(self._count)

    def _check_place(self, header: ExportHeader, receipt: Receipt) -> None:
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

    def _check_link(self, receipt: Receipt) -> None:
        """Check a receipt that holds in itself against the one before it."""
        self._check_statement_is_new(receipt)
        previous = self._previous
        expected = 0 if previous is None else previous.seq + 1
        if receipt.seq > expected:
            raise VerificationError(
                f"seq {expected} is missing before it", check=Check.CHAIN, finding=Finding.DELETED
            )
        if receipt.seq < expected:
            raise VerificationError(
                f"seq {receipt.seq} was there already",
                check=Check.CHAIN,
                finding=Finding.INSERTED,
            )
        if previous is None:
            return
        if receipt.previous_hash != previous.receipt_hash:
            raise VerificationError(
                "it does not follow the receipt before it",
                check=Check.CHAIN,
                finding=Finding.INSERTED,
            )
        if receipt.t_ns <= previous.t_ns:
            raise VerificationError(
                "t_ns does not increase", check=Check.CHAIN, finding=Finding.TIMESTAMP_CHANGED
            )

    def _check_statement_is_new(self, receipt: Receipt) -> None:
        """Refuse a statement that was linked already, so that one signature counts once.

        Looked for among the last 65,536 receipts, to keep memory constant: a ledger that links an
        older one again would have to keep a signature for longer than any flush does.
        """
        statement = hashlib.sha256(receipt.statement).digest()
        if statement in self._statements:
            raise VerificationError(
                "its statement was linked before", check=Check.CHAIN, finding=Finding.INSERTED
            )
        if len(self._statements) == _STATEMENTS_REMEMBERED:
            del self._statements[next(iter(self._statements))]
        self._statements[statement] = None

    def _finish(self, header: ExportHeader, footer: ExportFooter) -> list[CheckResult]:
        last = self._previous
        if footer.count != self._count:
            raise self._error(
                f"the footer counts {footer.count} receipts, {self._count} are there",
                Check.TRUNCATION,
                Finding.TRUNCATED if footer.count > self._count else Finding.INSERTED,
            )
        if footer.digest != self._digest.digest():
            raise self._error(
                "bytes that nothing signs were changed (header or evidence)",
                Check.FILE_DIGEST,
                Finding.FILE_CHANGED,
            )
        results = [CheckResult(Check.FILE_DIGEST, Outcome.HOLDS, "SHA-256")]
        own = self._own_checkpoint(header, footer)
        earlier = self._earlier(header, footer, own)
        results.append(
            CheckResult(Check.CONSISTENCY, Outcome.HOLDS, f"{len(earlier)} earlier checkpoints")
            if earlier
            else CheckResult(Check.CONSISTENCY, Outcome.NOT_CHECKED, "no earlier checkpoint")
        )
        head = self._own_head(header, footer, own, last)
        results.append(
            CheckResult(Check.HEAD, Outcome.HOLDS, f"seq {head.seq}, kid {head.kid}")
            if head is not None
            else CheckResult(Check.HEAD, Outcome.NOT_CHECKED, "the export carries none")
        )
        results.append(self._truncation(header, own, earlier, head))
        self._settle_revoked(header, own, earlier)
        return results

    def _own_checkpoint(self, header: ExportHeader, footer: ExportFooter) -> Checkpoint | None:
        if footer.checkpoint is None:
            return None
        own = self._verifier.open_checkpoint(footer.checkpoint, header.origin)
        if own.size != header.tree_size:
            raise self._error(
                "the header names another tree size than the checkpoint",
                Check.CHECKPOINT_SIGNATURE,
                Finding.FILE_CHANGED,
            )
        return own

    def _earlier(
        self, header: ExportHeader, footer: ExportFooter, own: Checkpoint | None
    ) -> dict[int, Checkpoint]:
        """Check that the export's checkpoint extends every earlier one it carries.

        One that a revoked key signed later than what its revocation names shows nothing, and is
        passed over.
        """
        earlier: dict[int, Checkpoint] = {}
        for proof in footer.consistency:
            try:
                old = self._verifier.open_checkpoint(proof.checkpoint, header.origin)
            except VerificationError as error:
                if error.finding == Finding.CAME_LATER:
                    continue
                raise
            self._check_extends(header, old, own, proof.hashes)
            earlier[old.size] = old
        return earlier

    def _settle_revoked(
        self, header: ExportHeader, own: Checkpoint | None, earlier: dict[int, Checkpoint]
    ) -> None:
        """Check that the checkpoints which revocations name place what revoked keys signed."""
        known = [*earlier.values(), *([own] if own is not None else [])]
        self._trees = {(header.origin, each.size): each.root for each in known}
        for (found, named), receipt in (self._verifier.unsettled or {}).items():
            if not is_shown(found, named, self._trees):
                error = not_placed(found, named, Check.KEY_VALIDITY)
                error.line = self._line_number
                error.receipt = receipt
                raise error

    def _check_extends(
        self,
        header: ExportHeader,
        old: Checkpoint,
        own: Checkpoint | None,
        hashes: tuple[bytes, ...],
    ) -> None:
        try:
            if own is None:
                raise InvalidProofError("the export has no checkpoint of its own")
            verify_consistency(
                old.size, own.size, list(hashes), old.root, own.root,
                hasher=SUITES[header.suite].tree,
            )  # fmt: skip
        except InvalidProofError as error:
            raise self._error(
                f"the tree head does not extend the earlier one of size {old.size}",
                Check.CONSISTENCY,
                Finding.HEAD_NOT_EXTENDING,
            ) from error

    def _own_head(
        self,
        header: ExportHeader,
        footer: ExportFooter,
        own: Checkpoint | None,
        last: Receipt | None,
    ) -> Head | None:
        if footer.head is None:
            return None
        head = self._verifier.open_head(footer.head)
        if head.ledger_uid != header.ledger_uid or head.origin != header.origin:
            raise self._error("the head is of another ledger", Check.HEAD, Finding.FOREIGN_LEDGER)
        if own is None or (head.size, head.root) != (own.size, own.root):
            raise self._error(
                "the head names another tree than the checkpoint",
                Check.HEAD,
                Finding.HEAD_NOT_EXTENDING,
            )
        self._check_reaches(head, last, "the export's own head")
        return head

    def _check_outside_head(self, receipt: Receipt, head: Head) -> None:
        if head.ledger_uid != receipt.ledger_uid:
            raise self._error(
                "the head given is of another ledger", Check.TRUNCATION, Finding.FOREIGN_LEDGER
            )
        if head.receipt_hash != receipt.receipt_hash:
            raise self._error(
                f"seq {head.seq} is another receipt than the head given names",
                Check.TRUNCATION,
                Finding.HEAD_NOT_EXTENDING,
            )

    def _check_reaches(self, head: Head, last: Receipt | None, what: str) -> None:
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

    def _truncation(
        self,
        header: ExportHeader,
        own: Checkpoint | None,
        earlier: dict[int, Checkpoint],
        head: Head | None,
    ) -> CheckResult:
        proven = []
        if self._outside_head is not None:
            if self._outside_head.ledger_uid != header.ledger_uid:
                raise self._error(
                    "the head given is of another ledger",
                    Check.TRUNCATION,
                    Finding.FOREIGN_LEDGER,
                )
            self._check_reaches(self._outside_head, self._previous, "the head given")
            proven.append(f"reaches the head given, seq {self._outside_head.seq}")
        if self._outside_checkpoint is not None:
            outside = self._verifier.open_checkpoint(self._outside_checkpoint, header.origin)
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
        known = own if outside.size == own.size else earlier.get(outside.size)
        if known is None:
            return f"the export has no consistency proof from size {outside.size}; export again"
        if known.root != outside.root:
            raise self._error(
                f"the export's tree is not the one the checkpoint of size {outside.size} signs",
                Check.CONSISTENCY,
                Finding.HEAD_NOT_EXTENDING,
            )
        return ""

    def _header(self, line: bytes) -> ExportHeader:
        self._line_number = 1
        self._digest.update(line)
        try:
            return parse_header(line)
        except ReceiptFormatError as error:
            raise self._error(str(error), Check.FORMAT, Finding.FORMAT) from error

    def _footer(self, line: bytes) -> ExportFooter:
        try:
            return parse_footer(line)
        except ReceiptFormatError as error:
            raise self._error(str(error), Check.FORMAT, Finding.FORMAT) from error

    def _weaken(self, result: CheckResult) -> None:
        """Keep the weakest outcome of a check over all receipts."""
        known = self._weakest.get(result.check)
        if known is None or result.outcome is Outcome.NOT_CHECKED is not known.outcome:
            self._weakest[result.check] = result

    def _named(self, error: VerificationError, line: bytes) -> VerificationError:
        error.line = self._line_number
        error.receipt = error.receipt or claimed_name(line)
        return error

    def _error(self, message: str, check: Check, finding: Finding) -> VerificationError:
        last = "" if self._previous is None else self._previous.name
        return VerificationError(
            message, check=check, finding=finding, line=self._line_number, receipt=last
        )


def _keys_result(key_events: int, carries_keys: bool) -> CheckResult:
    if key_events:
        detail = f"{key_events} events from the pinned genesis on"
        return CheckResult(Check.KEY_LEDGER, Outcome.HOLDS, detail)
    why = "the part that is here needs a pin" if carries_keys else "the keys were given as they are"
    return CheckResult(Check.KEY_LEDGER, Outcome.NOT_CHECKED, why)


def parse_header(line: bytes) -> ExportHeader:
    """Read the first line of an export, with its LF; raises ReceiptFormatError."""
    members = _members(line, "export", _HEADER_MEMBERS)
    try:
        header = ExportHeader(
            ledger=members["ledger"],
            ledger_uid=bytes.fromhex(members["ledgerUid"]),
            suite=members["suite"],
            origin=members["origin"],
            tree_size=int(members["treeSize"]),
            created_at_ns=int(members["createdAtNs"]),
        )
        names.parse_ledger_name(header.ledger)
        names.check_uid(header.ledger_uid, "export.ledgerUid")
        if header.encode() + b"\n" != line or header.suite not in SUITES:
            raise ReceiptFormatError("export", "is not the canonical text of a header")
    except (TypeError, ValueError, IdentifierError) as error:
        raise ReceiptFormatError("export", "has a member that is not of its form") from error
    return header


def parse_footer(line: bytes) -> ExportFooter:
    """Read the last line of an export, with its LF; raises ReceiptFormatError."""
    members = _members(line, "footer", _FOOTER_MEMBERS)
    try:
        footer = ExportFooter(
            count=int(members["count"]),
            digest=bytes.fromhex(members["digest"]),
            head=None if members["head"] is None else binascii.a2b_base64(members["head"]),
            checkpoint=None if members["checkpoint"] is None else members["checkpoint"].encode(),
            consistency=tuple(
                ConsistencyProof(
                    item["checkpoint"].encode(),
                    tuple(binascii.a2b_base64(step) for step in item["hashes"]),
                )
                for item in members["consistency"][:MAX_CONSISTENCY_PROOFS]
            ),
        )
        canonical = footer.encode() + b"\n" == line
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReceiptFormatError("footer", "has a member that is not of its form") from error
    if not canonical:
        raise ReceiptFormatError("footer", "is not the canonical text of a footer")
    return footer


def _members(line: bytes, name: str, expected: frozenset[str]) -> dict[str, Any]:
    try:
        value = jcs.parse(line.removesuffix(b"\n"), max_fields=1 << 16)
    except InvalidJSONError as error:
        raise ReceiptFormatError(name, str(error)) from error
    members = value.get(name) if isinstance(value, dict) else None
    if not isinstance(members, dict) or members.keys() != expected or members["v"] != "1":
        raise ReceiptFormatError(name, "does not have the members it must")
    return members


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
