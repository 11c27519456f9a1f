"""Reading a receipt's JSON members one by one, naming the first that is wrong.

For receipts in any spelling; see `provledger._receipt_canonical` for the usual one.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from provledger import jcs, names
from provledger._receipt_values import Evidence, Opening, Proof, Receipt, WitnessSignature, b64
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE, MAX_FIELDS
from provledger.errors import IdentifierError, InvalidJSONError, ReceiptFormatError

MAX_PROOFS: Final = 16
MAX_EVIDENCE: Final = 64
"""For each proof."""
MAX_HASHES: Final = 2 * MAX_FIELDS
MAX_DEPTH: Final = 68
"""A payload sits one level deep in its receipt, among some two dozen members."""

V01_MEMBERS: Final = frozenset(
    "id receiptType t_ns timestamp_iso previousHash payloadHash receiptHash payload "
    "signature".split()
)
_MEMBERS = V01_MEMBERS | frozenset(
    "schema suite ledger ledgerUid seq kid statement commitment fields_mask proofs".split()
)
_PROOF_MEMBERS = {"kind", "origin", "logIndex", "hashes", "checkpoint", "evidence"}
_EVIDENCE_MEMBERS = {"sink", "kind", "acknowledgedAtNs", "evidence"}
# 32 bytes: 43 characters of which the last holds four bits, so its low two are zero, and one `=`.
_HASH_CHARS = 44
_HASHES_RE = re.compile(r"(?:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)*")
_SURROGATE_RE = re.compile("[\ud800-\udfff]")
_DECIMAL_RE = re.compile(r"0|[1-9][0-9]{0,18}")


def read_members(value: Mapping[str, Any]) -> Receipt:
    """Read a receipt v0.2 from its members.

    Raises:
        ReceiptFormatError: if a member is missing, unknown, or not of its form; `field` says which.
    """
    _exact(value, _MEMBERS, "receipt")
    commitment = read_opening(value["commitment"])
    mask = value["fields_mask"]
    if mask is not None and not (isinstance(mask, list) and all(map(_is_text, mask))):
        raise ReceiptFormatError("fields_mask", "is neither null nor a list of pointers")
    return Receipt(
        name=_text(value, "id"),
        receipt_type=_text(value, "receiptType"),
        ledger=_text(value, "ledger"),
        ledger_uid=_hex(value, "ledgerUid", 16),
        suite=_text(value, "suite"),
        seq=_decimal(value, "seq"),
        t_ns=_decimal(value, "t_ns"),
        timestamp_iso=_text(value, "timestamp_iso"),
        previous_hash=None if value["previousHash"] is None else _hex(value, "previousHash", 32),
        payload_hash=_hex(value, "payloadHash", 32),
        receipt_hash=_hex(value, "receiptHash", 32),
        kid=_kid(value),
        statement=_bytes(value, "statement"),
        payload=read_payload(value["payload"], commitment),
        signature=_signature(value["signature"]),
        commitment=commitment,
        fields_mask=None if mask is None else tuple(mask),
        proofs=_proofs(value["proofs"]),
    )


def read_payload(value: Any, commitment: Opening) -> bytes | None:
    """Return the payload's bytes: JSON as RFC 8785 text, base64 decoded; None where masked."""
    if commitment.secret is None:
        if value is not None:
            raise ReceiptFormatError("payload", "must be null where fields are masked")
        return None
    if commitment.profile == BLOB_PROFILE:
        return _base64(value, "payload")
    try:
        return jcs.encode(value, max_depth=MAX_DEPTH)
    except InvalidJSONError as error:
        raise ReceiptFormatError("payload", error.message) from error


def _signature(value: Any) -> WitnessSignature:
    members = _exact(value, {"body", "sig", "index", "path"}, "signature")
    return WitnessSignature(
        body=_base64(members["body"], "signature.body"),
        sig=_base64(members["sig"], "signature.sig"),
        index=_small_int(members["index"], "signature.index"),
        path=_hashes(members["path"], "signature.path"),
    )


def read_opening(value: Any) -> Opening:
    """Read the member `commitment`."""
    if isinstance(value, dict) and "secret" in value:
        members = _exact(value, {"profile", "size", "secret"}, "commitment")
        secret: bytes | None = _base64(members["secret"], "commitment.secret")
        disclosures: tuple[str, ...] = ()
        digests: tuple[bytes, ...] = ()
    else:
        members = _exact(value, {"profile", "size", "disclosures", "digests"}, "commitment")
        secret = None
        shown = members["disclosures"]
        if not isinstance(shown, list) or not all(map(_is_text, shown)):
            raise ReceiptFormatError("commitment.disclosures", "is not a list of text")
        disclosures = tuple(shown)
        digests = _hashes(members["digests"], "commitment.digests")
    profile = members["profile"]
    if profile not in (FIELDS_PROFILE, BLOB_PROFILE):
        raise ReceiptFormatError("commitment.profile", "is not one we know")
    if secret is None and profile != FIELDS_PROFILE:
        raise ReceiptFormatError("commitment.secret", "is required for blob-v1")
    size = _small_int(members["size"], "commitment.size")
    return Opening(profile, size, secret, disclosures, digests)


def _proofs(value: Any) -> tuple[Proof, ...]:
    if not isinstance(value, list) or len(value) > MAX_PROOFS:
        raise ReceiptFormatError("proofs", "is not a list of at most 16")
    return tuple(_proof(item, f"proofs[{index}]") for index, item in enumerate(value))


def _proof(value: Any, field: str) -> Proof:
    members = _exact(value, _PROOF_MEMBERS, field)
    if members["kind"] != "inclusion":
        raise ReceiptFormatError(f"{field}.kind", "is not one we know")
    evidence = members["evidence"]
    if not isinstance(evidence, list) or len(evidence) > MAX_EVIDENCE:
        raise ReceiptFormatError(f"{field}.evidence", "is not a list of at most 64")
    checkpoint = _text(members, "checkpoint", f"{field}.checkpoint")
    return Proof(
        origin=_text(members, "origin", f"{field}.origin"),
        log_index=_decimal(members, "logIndex", f"{field}.logIndex"),
        hashes=_hashes(members["hashes"], f"{field}.hashes"),
        checkpoint=checkpoint.encode(),
        evidence=tuple(
            read_evidence(item, f"{field}.evidence[{index}]") for index, item in enumerate(evidence)
        ),
    )


def read_evidence(value: Any, field: str) -> Evidence:
    """Read one element of a proof's `evidence`."""
    members = _exact(value, _EVIDENCE_MEMBERS, field)
    return Evidence(
        sink=_text(members, "sink", f"{field}.sink"),
        kind=_text(members, "kind", f"{field}.kind"),
        acknowledged_at_ns=_decimal(members, "acknowledgedAtNs", f"{field}.acknowledgedAtNs"),
        evidence=_base64(members["evidence"], f"{field}.evidence"),
    )


def _exact(value: Any, members: set[str] | frozenset[str], field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ReceiptFormatError(field, "is not an object")
    names_found = set(value)
    if names_found != members:
        odd = sorted(ascii(name).strip("'") for name in names_found ^ members)[:3]
        raise ReceiptFormatError(field, f"has missing or unknown members: {', '.join(odd)}")
    return value


def _text(value: Mapping[str, Any], name: str, field: str = "") -> str:
    text: Any = value[name]
    if not _is_text(text):
        raise ReceiptFormatError(field or name, "is not text")
    return str(text)


def _is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can write; other readers of JSON let surrogates in."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not _SURROGATE_RE.search(value)


def _kid(value: Mapping[str, Any]) -> str:
    try:
        return names.check_kid(_text(value, "kid"))
    except IdentifierError as error:
        raise ReceiptFormatError("kid", error.message) from error


def _decimal(value: Mapping[str, Any], name: str, field: str = "") -> int:
    text = _text(value, name, field)
    # int() would also take signs, spaces, underscores and other scripts' digits.
    if _DECIMAL_RE.fullmatch(text) is None or int(text) > 2**63 - 1:
        raise ReceiptFormatError(field or name, "is not a decimal number below 2^63")
    return int(text)


def _small_int(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ReceiptFormatError(field, "is not an integer from 0 to 2^32-1")
    return value


def _hex(value: Mapping[str, Any], name: str, length: int) -> bytes:
    text = _text(value, name)
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise ReceiptFormatError(name, "is not hex") from error
    if len(data) != length or data.hex() != text:
        raise ReceiptFormatError(name, f"is not {length} bytes of lower-case hex")
    return data


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    return _base64(value[name], name)


def _base64(value: Any, field: str) -> bytes:
    if not isinstance(value, str):
        raise ReceiptFormatError(field, "is not base64 text")
    try:
        data = binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
    except ValueError as error:
        raise ReceiptFormatError(field, "is not standard base64") from error
    # Strict mode still lets non-zero trailing bits pass: two spellings of one value.
    if b64(data) != value:
        raise ReceiptFormatError(field, "is not canonical base64")
    return data


def _hashes(value: Any, field: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_HASHES:
        raise ReceiptFormatError(field, "is not a list of hashes")
    # One look at all of them: the two dozen hashes of a receipt are most of its parsing.
    if not (
        all(type(item) is str and len(item) == _HASH_CHARS for item in value)
        and _HASHES_RE.fullmatch("".join(value))
    ):
        raise ReceiptFormatError(field, "holds one that is not canonical base64 of 32 bytes")
    return tuple(map(binascii.a2b_base64, value))
