"""The lines of an export as values; see `provledger.export`, which draws one."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from provledger import jcs, names
from provledger.errors import IdentifierError, InvalidJSONError, ReceiptFormatError
from provledger.hashing import SUITES
from provledger.receipt import MAX_RECEIPT_BYTES, Receipt

FOOTER_PREFIX = b'{"footer":'
KEY_LEDGER_PREFIX = b'{"keyLedger":'
MAX_CONSISTENCY_PROOFS = 4096

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
        if not isinstance(header.origin, str):
            raise ReceiptFormatError("export", "has an origin that is no text")
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
