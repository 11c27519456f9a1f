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

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from provledger import jcs, names
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE, MAX_FIELDS
from provledger.errors import IdentifierError, InvalidJSONError, ReceiptFormatError

SCHEMA = "v0.2"
MAX_RECEIPT_BYTES = 8 * 1024 * 1024
# A payload sits one level deep in its receipt, among some two dozen members.
_MAX_DEPTH = 68
_MAX_FIELDS = MAX_FIELDS + 64

_V01_MEMBERS = frozenset(
    "id receiptType t_ns timestamp_iso previousHash payloadHash receiptHash payload "
    "signature".split()
)
_MEMBERS = _V01_MEMBERS | frozenset(
    "schema suite ledger ledgerUid seq kid statement commitment fields_mask proofs".split()
)
_PROOF_MEMBERS = {"kind", "origin", "logIndex", "hashes", "checkpoint", "evidence"}
_EVIDENCE_MEMBERS = {"sink", "kind", "acknowledgedAtNs", "evidence"}
# 32 bytes: 43 characters of which the last holds four bits, so its low two are zero, and one `=`.
_HASH_CHARS = 44
_HASHES_RE = re.compile(r"(?:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)*")
_DECIMAL_RE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class WitnessSignature:
    """A signature over a batch of statements; `path` is sorted leaf to root, 32 bytes each."""

    body: bytes
    sig: bytes
    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a payload commitment: the secret, or some disclosures and all digests."""

    profile: str
    size: int
    secret: bytes | None
    disclosures: tuple[str, ...] = ()
    digests: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a sink returned for a checkpoint. `sink` and the time are the operator's word."""

    sink: str
    kind: str
    acknowledged_at_ns: int
    evidence: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """An inclusion proof that stands alone; `hashes` are sorted leaf to root, 32 bytes each."""

    origin: str
    log_index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    evidence: tuple[Evidence, ...] = ()
    kind: str = "inclusion"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt v0.2. Hashes are 32 bytes; `previous_hash` is None at seq 0.

    `payload` is None where a fields mask hides it or it was erased.
    """

    name: str
    receipt_type: str
    ledger: str
    ledger_uid: bytes
    suite: str
    seq: int
    t_ns: int
    timestamp_iso: str
    previous_hash: bytes | None
    payload_hash: bytes
    receipt_hash: bytes
    kid: str
    statement: bytes
    payload: bytes | None
    signature: WitnessSignature
    commitment: Opening
    fields_mask: tuple[str, ...] | None = None
    proofs: tuple[Proof, ...] = ()

    def encode(self) -> bytes:
        """Return the receipt as RFC 8785 text in one line, without a line end."""
        # All names are ASCII, all leaves text or small integers, and the payload is canonical
        # already: here orjson's sorted output is RFC 8785's.
        return orjson.dumps(self._json_value(), option=orjson.OPT_SORT_KEYS)

    def to_json_value(self) -> dict[str, Any]:
        """Return the receipt as a JSON value."""
        value: dict[str, Any] = orjson.loads(self.encode())
        return value

    def _json_value(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "id": self.name,
            "receiptType": self.receipt_type,
            "ledger": self.ledger,
            "ledgerUid": self.ledger_uid.hex(),
            "suite": self.suite,
            "seq": str(self.seq),
            "t_ns": str(self.t_ns),
            "timestamp_iso": self.timestamp_iso,
            "previousHash": None if self.previous_hash is None else self.previous_hash.hex(),
            "payloadHash": self.payload_hash.hex(),
            "receiptHash": self.receipt_hash.hex(),
            "kid": self.kid,
            "statement": _b64(self.statement),
            "payload": self._payload_value(),
            "signature": {
                "body": _b64(self.signature.body),
                "sig": _b64(self.signature.sig),
                "index": self.signature.index,
                "path": [_b64(step) for step in self.signature.path],
            },
            "commitment": _opening_value(self.commitment),
            "fields_mask": None if self.fields_mask is None else list(self.fields_mask),
            "proofs": [_proof_value(proof) for proof in self.proofs],
        }

    def _payload_value(self) -> Any:
        if self.payload is None:
            return None
        if self.commitment.profile == FIELDS_PROFILE:
            return orjson.Fragment(self.payload)
        return _b64(self.payload)


@dataclass(frozen=True, slots=True)
class LegacyReceipt:
    """A receipt v0.1: its nine members, as they were read."""

    name: str
    members: Mapping[str, Any]


def parse_receipt(source: bytes | str | Mapping[str, Any]) -> Receipt | LegacyReceipt:
    """Read a receipt from its JSON text or value.

    Raises:
        ReceiptFormatError: if a member is missing, unknown, or not of its form; `field` says which.
    """
    value = _parse_json(source)
    if "schema" not in value and value.keys() <= _V01_MEMBERS and "id" in value:
        return LegacyReceipt(str(value["id"]), dict(value))
    if value.get("schema") != SCHEMA:
        raise ReceiptFormatError("schema", f"is not {SCHEMA!r}")
    _exact(value, _MEMBERS, "receipt")
    commitment = _opening(value["commitment"])
    mask = value["fields_mask"]
    if mask is not None and not (
        isinstance(mask, list) and all(isinstance(pointer, str) for pointer in mask)
    ):
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
        payload=_payload(value["payload"], commitment),
        signature=_signature(value["signature"]),
        commitment=commitment,
        fields_mask=None if mask is None else tuple(mask),
        proofs=_proofs(value["proofs"]),
    )


def parse_canonical_receipt(line: bytes) -> Receipt:
    """Read one receipt v0.2 that must be in the one canonical spelling, as exports hold them.

    Raises:
        ReceiptFormatError: also if a single byte differs from what writing it again gives.
    """
    receipt = parse_receipt(line)
    if not isinstance(receipt, Receipt):
        raise ReceiptFormatError("schema", f"is not {SCHEMA!r}")
    if receipt.encode() != line:
        raise ReceiptFormatError("receipt", "is not in its canonical spelling")
    return receipt


def _parse_json(source: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    data = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    if len(data) > MAX_RECEIPT_BYTES:
        raise ReceiptFormatError("receipt", f"is longer than {MAX_RECEIPT_BYTES} bytes")
    try:
        value = jcs.parse(data, max_depth=_MAX_DEPTH, max_fields=_MAX_FIELDS)
    except InvalidJSONError as error:
        raise ReceiptFormatError("receipt", str(error)) from error
    if not isinstance(value, dict):
        raise ReceiptFormatError("receipt", "is not a JSON object")
    return value


def _payload(value: Any, commitment: Opening) -> bytes | None:
    if commitment.secret is None:
        if value is not None:
            raise ReceiptFormatError("payload", "must be null where fields are masked")
        return None
    if commitment.profile == BLOB_PROFILE:
        return _base64(value, "payload")
    try:
        return jcs.encode(value)
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


def _opening(value: Any) -> Opening:
    if isinstance(value, dict) and "secret" in value:
        members = _exact(value, {"profile", "size", "secret"}, "commitment")
        secret: bytes | None = _base64(members["secret"], "commitment.secret")
        disclosures: tuple[str, ...] = ()
        digests: tuple[bytes, ...] = ()
    else:
        members = _exact(value, {"profile", "size", "disclosures", "digests"}, "commitment")
        secret = None
        shown = members["disclosures"]
        if not isinstance(shown, list) or not all(isinstance(text, str) for text in shown):
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


def _opening_value(opening: Opening) -> dict[str, Any]:
    value: dict[str, Any] = {"profile": opening.profile, "size": opening.size}
    if opening.secret is None:
        value["disclosures"] = list(opening.disclosures)
        value["digests"] = [_b64(digest) for digest in opening.digests]
    else:
        value["secret"] = _b64(opening.secret)
    return value


def _proofs(value: Any) -> tuple[Proof, ...]:
    if not isinstance(value, list) or len(value) > 16:
        raise ReceiptFormatError("proofs", "is not a list of at most 16")
    return tuple(_proof(item, f"proofs[{index}]") for index, item in enumerate(value))


def _proof(value: Any, field: str) -> Proof:
    members = _exact(value, _PROOF_MEMBERS, field)
    if members["kind"] != "inclusion":
        raise ReceiptFormatError(f"{field}.kind", "is not one we know")
    evidence = members["evidence"]
    if not isinstance(evidence, list) or len(evidence) > 64:
        raise ReceiptFormatError(f"{field}.evidence", "is not a list of at most 64")
    checkpoint = _text(members, "checkpoint", f"{field}.checkpoint")
    return Proof(
        origin=_text(members, "origin", f"{field}.origin"),
        log_index=_decimal(members, "logIndex", f"{field}.logIndex"),
        hashes=_hashes(members["hashes"], f"{field}.hashes"),
        checkpoint=checkpoint.encode(),
        evidence=tuple(
            _evidence(item, f"{field}.evidence[{index}]") for index, item in enumerate(evidence)
        ),
    )


def _evidence(value: Any, field: str) -> Evidence:
    members = _exact(value, _EVIDENCE_MEMBERS, field)
    return Evidence(
        sink=_text(members, "sink", f"{field}.sink"),
        kind=_text(members, "kind", f"{field}.kind"),
        acknowledged_at_ns=_decimal(members, "acknowledgedAtNs", f"{field}.acknowledgedAtNs"),
        evidence=_base64(members["evidence"], f"{field}.evidence"),
    )


def _proof_value(proof: Proof) -> dict[str, Any]:
    return {
        "kind": proof.kind,
        "origin": proof.origin,
        "logIndex": str(proof.log_index),
        "hashes": [_b64(step) for step in proof.hashes],
        "checkpoint": proof.checkpoint.decode(),
        "evidence": [
            {
                "sink": item.sink,
                "kind": item.kind,
                "acknowledgedAtNs": str(item.acknowledged_at_ns),
                "evidence": _b64(item.evidence),
            }
            for item in proof.evidence
        ],
    }


def _exact(value: Any, members: set[str] | frozenset[str], field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ReceiptFormatError(field, "is not an object")
    names_found = set(value)
    if names_found != members:
        odd = sorted(str(name) for name in names_found ^ members)[:3]
        raise ReceiptFormatError(field, f"has missing or unknown members: {', '.join(odd)}")
    return value


def _text(value: Mapping[str, Any], name: str, field: str = "") -> str:
    text = value[name]
    if not isinstance(text, str):
        raise ReceiptFormatError(field or name, "is not text")
    return text


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
    if _b64(data) != value:
        raise ReceiptFormatError(field, "is not canonical base64")
    return data


def _hashes(value: Any, field: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > 2 * MAX_FIELDS:
        raise ReceiptFormatError(field, "is not a list of hashes")
    # One look at all of them: the two dozen hashes of a receipt are most of its parsing.
    if not (
        all(type(item) is str and len(item) == _HASH_CHARS for item in value)
        and _HASHES_RE.fullmatch("".join(value))
    ):
        raise ReceiptFormatError(field, "holds one that is not canonical base64 of 32 bytes")
    return tuple(map(binascii.a2b_base64, value))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
