"""The lines of an export as values; see `provledger.export`, which draws one.

Header and footer are read by types (msgspec), so that what does not belong there is refused where
it stands and never built: a few kilobytes, packed, can be a line of millions of empty arrays. That
the text is canonical is told by writing it again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from provledger import jcs, names
from provledger.errors import InputError, ReceiptFormatError
from provledger.hashing import SUITES
from provledger.receipt import MAX_RECEIPT_BYTES, NEWER, Receipt

FOOTER_PREFIX = b'{"footer":'
KEY_LEDGER_PREFIX = b'{"keyLedger":'
MAX_CONSISTENCY_PROOFS = 4096

_VERSION: Final = "1"
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of the head's envelope, of which an ML-DSA signature is most: some 7 KiB."""
_MAX_FOOTER_COMMAS: Final = 128 * MAX_CONSISTENCY_PROOFS
"""A proof has some 64 hashes at most, each with a comma."""
_INT63_MAX: Final = 2**63 - 1


class _Header(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    created_at: str = msgspec.field(name="createdAtNs")
    ledger: str
    ledger_uid: str = msgspec.field(name="ledgerUid")
    origin: str
    suite: str
    tree_size: str = msgspec.field(name="treeSize")
    v: str


class _HeaderLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    export: _Header


class _Consistency(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    checkpoint: str
    hashes: tuple[bytes, ...]


class _Footer(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    checkpoint: str | None
    consistency: tuple[_Consistency, ...]
    count: str
    digest: str
    head: bytes | None
    v: str


class _FooterLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    footer: _Footer


_Line = TypeVar("_Line", _HeaderLine, _FooterLine)
_header_line: Final = msgspec.json.Decoder(_HeaderLine)
_footer_line: Final = msgspec.json.Decoder(_FooterLine)


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
            "v": _VERSION,
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
            "v": _VERSION,
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
        """Write the next receipt; they must come in chain order, from seq 0.

        Raises:
            ReceiptFormatError: it is longer than any reader takes (`MAX_RECEIPT_BYTES`).
        """
        line = receipt.encode()
        if len(line) > MAX_RECEIPT_BYTES:
            raise ReceiptFormatError("receipt", f"is longer than {MAX_RECEIPT_BYTES} bytes")
        self._line(line)
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


def is_export(first_line: bytes) -> bool:
    """Say whether a file that begins with this line means to be an export."""
    return first_line.startswith(b'{"export":')


def parse_header(line: bytes) -> ExportHeader:
    """Read the first line of an export, with its LF; raises ReceiptFormatError."""
    members = _read(_header_line, line, "export").export
    _check_version(members.v, "export")
    try:
        header = ExportHeader(
            ledger=members.ledger,
            ledger_uid=bytes.fromhex(members.ledger_uid),
            suite=members.suite,
            origin=members.origin,
            tree_size=_int63(members.tree_size),
            created_at_ns=_int63(members.created_at),
        )
        names.parse_ledger_name(header.ledger)
        names.check_uid(header.ledger_uid, "export.ledgerUid")
        canonical = header.encode() + b"\n" == line
    except (ValueError, InputError) as error:
        raise ReceiptFormatError("export", "has a member that is not of its form") from error
    if not canonical or header.suite not in SUITES:
        raise ReceiptFormatError("export", "is not the canonical text of a header")
    return header


def parse_footer(line: bytes) -> ExportFooter:
    """Read the last line of an export, with its LF; raises ReceiptFormatError."""
    if line.count(b",") > _MAX_FOOTER_COMMAS:
        raise ReceiptFormatError("footer", "holds more than a footer can")
    members = _read(_footer_line, line, "footer").footer
    _check_version(members.v, "footer")
    if len(members.consistency) > MAX_CONSISTENCY_PROOFS:
        raise ReceiptFormatError("footer", f"has more than {MAX_CONSISTENCY_PROOFS} proofs")
    if members.head is not None and len(members.head) > MAX_HEAD_BYTES:
        raise ReceiptFormatError("footer", f"has a head of more than {MAX_HEAD_BYTES} bytes")
    try:
        footer = ExportFooter(
            count=_int63(members.count),
            digest=bytes.fromhex(members.digest),
            head=members.head,
            checkpoint=None if members.checkpoint is None else members.checkpoint.encode(),
            consistency=tuple(
                ConsistencyProof(item.checkpoint.encode(), item.hashes)
                for item in members.consistency
            ),
        )
        canonical = footer.encode() + b"\n" == line
    except (ValueError, InputError) as error:
        raise ReceiptFormatError("footer", "has a member that is not of its form") from error
    if not canonical:
        raise ReceiptFormatError("footer", "is not the canonical text of a footer")
    return footer


def _read(decoder: msgspec.json.Decoder[_Line], line: bytes, name: str) -> _Line:
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        # Its message may repeat what stands there, of any length.
        raise ReceiptFormatError(name, "does not have the members it must, each of its form") from (
            error
        )
    except (ValueError, RecursionError) as error:
        raise ReceiptFormatError(name, "is not JSON") from error


def _check_version(version: str, name: str) -> None:
    if version != _VERSION:
        raise ReceiptFormatError(name, f"is not of version {_VERSION}: {NEWER}")


def _int63(text: str) -> int:
    """A number from 0 to 2^63-1; that it has one spelling is told by writing it again."""
    number = int(text) if len(text) <= len(str(_INT63_MAX)) else -1
    if not 0 <= number <= _INT63_MAX:
        raise ValueError("is not a number from 0 to 2^63-1")
    return number


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
