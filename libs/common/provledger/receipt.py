"""Receipts v0.2: what a caller holds, as a value and as JSON (design §4).

The JSON form has exactly these members (docs/formats/receipt.md draws a whole one)::

    schema "v0.2" · id · receiptType · t_ns · timestamp_iso · previousHash · payloadHash ·
    receiptHash · payload · signature {body, sig, index, path} · suite · ledger · ledgerUid · seq ·
    kid · statement · commitment {profile, size, secret | disclosures + digests} · fields_mask ·
    proofs [{kind, origin, logIndex, hashes, checkpoint, evidence}]

Hashes and uids are lower-case hex, since people compare them; other bytes are standard base64
(RFC 4648 §4). `t_ns`, `seq`, `logIndex` and `acknowledgedAtNs` are decimal strings, since JSON
numbers stop at 2^53. `payload` is the JSON value itself, or base64 text where the commitment is
`blob-v1`. Written out, a receipt is RFC 8785 text in one line.

Receipts v0.1 have the first nine names only. They are read, and reported unverified: their hash
preimage is not ours to guess. Nothing here checks a signature or a hash; see `provledger.verify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from provledger import _json_structure, jcs
from provledger._receipt_canonical import read_canonical
from provledger._receipt_strict import MAX_DEPTH, V01_MEMBERS, read_members
from provledger._receipt_values import (
    SCHEMA,
    Evidence,
    LegacyReceipt,
    Opening,
    Proof,
    Receipt,
    WitnessSignature,
)
from provledger.disclosure import MAX_FIELDS
from provledger.errors import InvalidJSONError, ReceiptFormatError

__all__ = [
    "MAX_RECEIPT_BYTES",
    "NEWER",
    "SCHEMA",
    "Evidence",
    "LegacyReceipt",
    "Opening",
    "Proof",
    "Receipt",
    "WitnessSignature",
    "parse_canonical_receipt",
    "parse_receipt",
]

MAX_RECEIPT_BYTES: Final = 8 * 1024 * 1024
NEWER: Final = "it was changed, or is of a newer version than this one reads"
_MAX_FIELDS: Final = MAX_FIELDS + 64


def parse_receipt(source: bytes | str | Mapping[str, Any]) -> Receipt | LegacyReceipt:
    """Read a receipt from its JSON text or value.

    Raises:
        ReceiptFormatError: if a member is missing, unknown, or not of its form; `field` says which.
    """
    if type(source) is bytes and len(source) <= MAX_RECEIPT_BYTES:
        receipt = read_canonical(source)
        if receipt is not None:
            return receipt
    return _read_strictly(source)


def _read_strictly(source: bytes | str | Mapping[str, Any]) -> Receipt | LegacyReceipt:
    value = _parse_json(source)
    if "schema" not in value and value.keys() <= V01_MEMBERS and "id" in value:
        return LegacyReceipt(str(value["id"]), dict(value))
    if value.get("schema") != SCHEMA:
        raise ReceiptFormatError("schema", f"is not {SCHEMA!r}: {NEWER}")
    return read_members(value)


def parse_canonical_receipt(line: bytes) -> Receipt:
    """Read one receipt v0.2 that must be in the one canonical spelling, as exports hold them.

    Raises:
        ReceiptFormatError: also if a single byte differs from what writing it again gives.
    """
    receipt = read_canonical(line) if len(line) <= MAX_RECEIPT_BYTES else None
    if receipt is not None:
        return receipt
    # The quick reader does not say no: it leaves whatever it is unsure of to the strict one, which
    # names what is wrong. Where nothing is, what was read is written again and tells the spelling.
    read = _read_strictly(line)
    if not isinstance(read, Receipt):
        raise ReceiptFormatError("schema", f"is not {SCHEMA!r}: {NEWER}")
    if read.encode() != line:
        raise ReceiptFormatError("receipt", "is not in its canonical spelling")
    return read


def _parse_json(source: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    if len(data) > MAX_RECEIPT_BYTES:
        raise ReceiptFormatError("receipt", f"is longer than {MAX_RECEIPT_BYTES} bytes")
    if _json_structure.is_above(data):
        raise ReceiptFormatError("receipt", "has more values than any payload may have")
    try:
        value = jcs.parse(data, max_depth=MAX_DEPTH, max_fields=_MAX_FIELDS)
    except InvalidJSONError as error:
        raise ReceiptFormatError("receipt", str(error)) from error
    if not isinstance(value, dict):
        raise ReceiptFormatError("receipt", "is not a JSON object")
    return value
