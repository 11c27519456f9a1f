"""Reading a receipt in its canonical spelling: quickly, and checked at the end.

One comparison does what looking at every member would: what was read is written again, and text
that comes out as it went in has no second spelling, no member that is unknown or there twice, and
no loose base64. msgspec reads and writes, by the types below, whose members stand in the order of
canonical text; it writes strings and integers as RFC 8785 does. What writing would not show is
looked at here: ranges and lengths, hex and decimal text, and the payload, whose text it hands on.
"""

from __future__ import annotations

from typing import Final

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from provledger import jcs, names
from provledger._receipt_strict import MAX_DEPTH, MAX_EVIDENCE, MAX_HASHES, MAX_PROOFS
from provledger._receipt_values import (
    SCHEMA,
    Evidence,
    Opening,
    Proof,
    Receipt,
    WitnessSignature,
)
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE, MAX_FIELDS
from provledger.errors import InputError

_SMALL_INT_END: Final = 2**32
_INT64_END: Final = 2**63
_UID_CHARS: Final = 32
_HASH_CHARS: Final = 64
_only_32 = frozenset((32,)).issuperset


class _Signature(msgspec.Struct, gc=False):
    body: bytes
    index: int
    path: tuple[bytes, ...]
    sig: bytes


class _Opening(msgspec.Struct, gc=False, kw_only=True):
    digests: tuple[bytes, ...] | UnsetType = UNSET
    disclosures: tuple[str, ...] | UnsetType = UNSET
    profile: str
    secret: bytes | UnsetType = UNSET
    size: int


class _Evidence(msgspec.Struct, gc=False):
    acknowledged_at: str = msgspec.field(name="acknowledgedAtNs")
    evidence: bytes
    kind: str
    sink: str


class _Proof(msgspec.Struct, gc=False):
    checkpoint: str
    evidence: tuple[_Evidence, ...]
    hashes: tuple[bytes, ...]
    kind: str
    log_index: str = msgspec.field(name="logIndex")
    origin: str


class _Text(msgspec.Struct, gc=False):
    commitment: _Opening
    fields_mask: tuple[str, ...] | None
    id: str
    kid: str
    ledger: str
    ledger_uid: str = msgspec.field(name="ledgerUid")
    payload: msgspec.Raw
    payload_hash: str = msgspec.field(name="payloadHash")
    previous_hash: str | None = msgspec.field(name="previousHash")
    proofs: tuple[_Proof, ...]
    receipt_hash: str = msgspec.field(name="receiptHash")
    receipt_type: str = msgspec.field(name="receiptType")
    schema: str
    seq: str
    signature: _Signature
    statement: bytes
    suite: str
    t_ns: str
    timestamp_iso: str


_read: Final = msgspec.json.Decoder(_Text).decode
_write: Final = msgspec.json.Encoder().encode


def read_canonical(data: bytes) -> Receipt | None:
    """Read canonical text; None for any other, and where unsure: the strict reader judges both."""
    # So few commas part no more fields than a payload may have; more may all stand in one text.
    if data.count(b",") >= MAX_FIELDS:
        return None
    try:
        text = _read(data)
        return _take(text) if _write(text) == data else None
    except (ValueError, InputError, RecursionError):
        return None


def _take(text: _Text) -> Receipt:
    """Make a receipt of text that is canonical but for its payload; raises ValueError."""
    signature = text.signature
    previous = text.previous_hash
    # One conversion for all hex.
    digits = text.ledger_uid + text.payload_hash + text.receipt_hash + (previous or "")
    raw = bytes.fromhex(digits)
    if not (
        text.schema == SCHEMA
        and raw.hex() == digits
        and len(text.ledger_uid) == _UID_CHARS
        and len(text.payload_hash) == len(text.receipt_hash) == _HASH_CHARS
        and (previous is None or len(previous) == _HASH_CHARS)
        and 0 <= signature.index < _SMALL_INT_END
        and len(text.proofs) <= MAX_PROOFS
    ):
        raise ValueError
    opening = _take_opening(text.commitment)
    payload, value = _take_payload(bytes(text.payload), opening)
    receipt = Receipt(
        name=text.id,
        receipt_type=text.receipt_type,
        ledger=text.ledger,
        ledger_uid=raw[:16],
        suite=text.suite,
        seq=_take_decimal(text.seq),
        t_ns=_take_decimal(text.t_ns),
        timestamp_iso=text.timestamp_iso,
        previous_hash=None if previous is None else raw[80:],
        payload_hash=raw[16:48],
        receipt_hash=raw[48:80],
        kid=names.check_kid(text.kid),
        statement=text.statement,
        payload=payload,
        signature=WitnessSignature(
            signature.body, signature.sig, signature.index, _take_hashes(signature.path)
        ),
        commitment=opening,
        fields_mask=text.fields_mask,
        proofs=tuple([_take_proof(proof) for proof in text.proofs]),
    )
    if value is not None:
        receipt.remember_payload(value)
    return receipt


def _take_payload(text: bytes, opening: Opening) -> tuple[bytes | None, jcs.JSONValue]:
    """Return the payload's bytes and, where `jcs.parse` would make it of them, its value."""
    value = orjson.loads(text)
    if opening.secret is None:
        if value is not None or text != b"null":
            raise ValueError
        return None, None
    if opening.profile == BLOB_PROFILE:
        blob: bytes = msgspec.json.decode(text, type=bytes)
        if _write(blob) != text:
            raise ValueError
        return blob, None
    written = jcs.canonical_part(value)
    if written is None:
        value, written = None, jcs.encode(value, max_depth=MAX_DEPTH)
    if written != text:
        raise ValueError
    return text, value


def _take_opening(opening: _Opening) -> Opening:
    if opening.profile not in (FIELDS_PROFILE, BLOB_PROFILE) or not (
        0 <= opening.size < _SMALL_INT_END
    ):
        raise ValueError
    secret, digests, shown = opening.secret, opening.digests, opening.disclosures
    if secret is not UNSET:
        if digests is not UNSET or shown is not UNSET:
            raise ValueError
        return Opening(opening.profile, opening.size, secret)
    if digests is UNSET or shown is UNSET or opening.profile != FIELDS_PROFILE:
        raise ValueError
    return Opening(opening.profile, opening.size, None, shown, _take_hashes(digests))


def _take_proof(proof: _Proof) -> Proof:
    if proof.kind != "inclusion" or len(proof.evidence) > MAX_EVIDENCE:
        raise ValueError
    return Proof(
        proof.origin,
        _take_decimal(proof.log_index),
        _take_hashes(proof.hashes),
        proof.checkpoint.encode(),
        tuple([_take_evidence(item) for item in proof.evidence]) if proof.evidence else (),
    )


def _take_evidence(item: _Evidence) -> Evidence:
    return Evidence(item.sink, item.kind, _take_decimal(item.acknowledged_at), item.evidence)


def _take_decimal(text: str) -> int:
    number = int(text)
    if not 0 <= number < _INT64_END or str(number) != text:
        raise ValueError
    return number


def _take_hashes(hashes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if (hashes and not _only_32(map(len, hashes))) or len(hashes) > MAX_HASHES:
        raise ValueError
    return hashes
