"""Heads: the signed last entry of a ledger as of a checkpoint of its log (design §4).

Signed is the DSSE PAE of this RFC 8785 text, in one line::

    {"epoch":"1","kid":"head-1","ledger":"<uid hex>","logIndex":"500","origin":"log.example/1",
     "receiptHash":"<hex>","root":"<hex>","seq":"500","signedAtNs":"1763665200000000000",
     "size":"501","v":"1"}

A head obtained elsewhere than from the export it is held against is what shows truncation.
"""

from __future__ import annotations

from dataclasses import dataclass

from provledger import jcs, names
from provledger.errors import IdentifierError, InvalidJSONError, ReceiptFormatError

PAYLOAD_TYPE = "application/vnd.provledger.head.v1+json"

_MEMBERS = frozenset(
    "epoch kid ledger logIndex origin receiptHash root seq signedAtNs size v".split()
)
_MAX_ORIGIN_BYTES = 1024
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Head:
    """A ledger's last entry as of a checkpoint. Hashes are 32 bytes, `ledger_uid` is 16."""

    ledger_uid: bytes
    seq: int
    receipt_hash: bytes
    log_index: int
    origin: str
    size: int
    root: bytes
    kid: str
    epoch: int
    signed_at_ns: int

    def encode(self) -> bytes:
        """Return the head's bytes, to be signed and shipped."""
        return jcs.encode(
            {
                "v": "1",
                "ledger": self.ledger_uid.hex(),
                "seq": str(self.seq),
                "receiptHash": self.receipt_hash.hex(),
                "logIndex": str(self.log_index),
                "origin": self.origin,
                "size": str(self.size),
                "root": self.root.hex(),
                "kid": self.kid,
                "epoch": str(self.epoch),
                "signedAtNs": str(self.signed_at_ns),
            }
        )


def parse_head(data: bytes) -> Head:
    """Read a head.

    Raises:
        ReceiptFormatError: if it is not the canonical text of a head, or its numbers are at odds.
    """
    try:
        value = jcs.parse(data)
    except InvalidJSONError as error:
        raise ReceiptFormatError("head", str(error)) from error
    if not isinstance(value, dict) or value.keys() != _MEMBERS or value["v"] != "1":
        raise ReceiptFormatError("head", "does not have the members of a head, version 1")
    members = {name: text for name, text in value.items() if isinstance(text, str)}
    try:
        head = Head(
            ledger_uid=bytes.fromhex(members["ledger"]),
            seq=int(members["seq"]),
            receipt_hash=bytes.fromhex(members["receiptHash"]),
            log_index=int(members["logIndex"]),
            origin=names.check_text(members["origin"], "origin", max_bytes=_MAX_ORIGIN_BYTES),
            size=int(members["size"]),
            root=bytes.fromhex(members["root"]),
            kid=names.check_kid(members["kid"]),
            epoch=int(members["epoch"]),
            signed_at_ns=int(members["signedAtNs"]),
        )
    except (KeyError, ValueError, IdentifierError) as error:
        raise ReceiptFormatError("head", "has a member that is not of its form") from error
    # Writing it again and comparing refuses every other spelling of the same values.
    if head.encode() != data or len(head.receipt_hash) != 32 or len(head.root) != 32:
        raise ReceiptFormatError("head", "is not the canonical text of a head")
    if (
        not 0 <= head.log_index < head.size <= _INT64_MAX
        or not 0 <= head.seq <= _INT64_MAX
        or not 1 <= head.epoch <= _INT64_MAX
        or not 1 <= head.signed_at_ns <= _INT64_MAX
        or len(head.ledger_uid) != 16
    ):
        raise ReceiptFormatError("head", "has numbers that are at odds with each other")
    return head
