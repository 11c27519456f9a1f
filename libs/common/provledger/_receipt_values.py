"""Receipts as values, and written out as JSON; see `provledger.receipt`, which draws one."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from provledger.disclosure import FIELDS_PROFILE

SCHEMA: Final = "v0.2"


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

    `payload` is None where a fields mask hides it.
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
    # No part of the value: a copy with another payload begins without it.
    _payload_read: Any = field(default=None, init=False, repr=False, compare=False)

    @property
    def payload_read(self) -> Any:
        """The payload as `jcs.parse` would read it, where a reader left it; None otherwise."""
        return self._payload_read

    def remember_payload(self, value: Any) -> None:
        """Leave what `jcs.parse` would make of the payload, so that it is parsed once."""
        object.__setattr__(self, "_payload_read", value)

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
            "statement": b64(self.statement),
            "payload": self._payload_value(),
            "signature": {
                "body": b64(self.signature.body),
                "sig": b64(self.signature.sig),
                "index": self.signature.index,
                "path": [b64(step) for step in self.signature.path],
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
        return b64(self.payload)


@dataclass(frozen=True, slots=True)
class LegacyReceipt:
    """A receipt v0.1: its nine members, as they were read."""

    name: str
    members: Mapping[str, Any]


def _opening_value(opening: Opening) -> dict[str, Any]:
    value: dict[str, Any] = {"profile": opening.profile, "size": opening.size}
    if opening.secret is None:
        value["disclosures"] = list(opening.disclosures)
        value["digests"] = [b64(digest) for digest in opening.digests]
    else:
        value["secret"] = b64(opening.secret)
    return value


def _proof_value(proof: Proof) -> dict[str, Any]:
    return {
        "kind": proof.kind,
        "origin": proof.origin,
        "logIndex": str(proof.log_index),
        "hashes": [b64(step) for step in proof.hashes],
        "checkpoint": proof.checkpoint.decode(),
        "evidence": [
            {
                "sink": item.sink,
                "kind": item.kind,
                "acknowledgedAtNs": str(item.acknowledged_at_ns),
                "evidence": b64(item.evidence),
            }
            for item in proof.evidence
        ],
    }


def b64(data: bytes) -> str:
    """Standard base64 (RFC 4648 §4)."""
    return b2a_base64(data, newline=False).decode("ascii")
