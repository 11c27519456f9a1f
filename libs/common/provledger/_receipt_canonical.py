"""Reading a receipt in its canonical spelling: quickly, and checked at the end.

One comparison does what looking at every member would: text that comes out again as it was read
has no second spelling, no member that is unknown, missing or there twice, and no loose base64,
hex or number. What writing would not show, types and ranges, is looked at here.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any, Final

import orjson

from provledger import names
from provledger._receipt_strict import (
    MAX_EVIDENCE,
    MAX_HASHES,
    MAX_PROOFS,
    read_evidence,
    read_opening,
    read_payload,
)
from provledger._receipt_values import Opening, Proof, Receipt, WitnessSignature
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE, MAX_FIELDS
from provledger.errors import InputError

_SMALL_INT_END: Final = 2**32
_INT64_END: Final = 2**63
_PROFILES: Final = frozenset((FIELDS_PROFILE, BLOB_PROFILE))
_AS_READ: Final = ("id", "receiptType", "ledger", "suite", "timestamp_iso")
_only_text = frozenset((str,)).issuperset
_only_32 = frozenset((32,)).issuperset


def read_canonical(data: bytes) -> Receipt | None:
    """Read canonical text; None for any other, which is for the strict reader to judge."""
    if data.count(b",") >= MAX_FIELDS:
        return None
    try:
        receipt = _take_members(orjson.loads(data))
        return receipt if receipt.encode() == data else None
    except (ValueError, TypeError, KeyError, AttributeError, InputError):
        return None


def _take_members(value: dict[str, Any]) -> Receipt:
    """Take a receipt from its members, checking what writing it again would not show.

    Those are types and ranges: text that is written as it was read, numbers, and lengths.
    """
    texts = [value[name] for name in _AS_READ]
    commitment = _take_opening(value["commitment"])
    mask = value["fields_mask"]
    if mask is not None:
        texts += mask
    proofs = tuple([_take_proof(item, texts) for item in value["proofs"]])
    signature = value["signature"]
    path = _take_hashes(signature["path"])
    index, seq, t_ns = signature["index"], int(value["seq"]), int(value["t_ns"])
    if not (
        _only_text(map(type, texts))
        and type(index) is int
        and 0 <= index < _SMALL_INT_END
        and 0 <= seq < _INT64_END
        and 0 <= t_ns < _INT64_END
        and len(proofs) <= MAX_PROOFS
    ):
        raise ValueError
    previous = value["previousHash"]
    return Receipt(
        name=value["id"],
        receipt_type=value["receiptType"],
        ledger=value["ledger"],
        ledger_uid=_take_hex(value["ledgerUid"], 16),
        suite=value["suite"],
        seq=seq,
        t_ns=t_ns,
        timestamp_iso=value["timestamp_iso"],
        previous_hash=None if previous is None else _take_hex(previous, 32),
        payload_hash=_take_hex(value["payloadHash"], 32),
        receipt_hash=_take_hex(value["receiptHash"], 32),
        kid=names.check_kid(value["kid"]),
        statement=a2b_base64(value["statement"]),
        payload=read_payload(value["payload"], commitment),
        signature=WitnessSignature(
            a2b_base64(signature["body"]), a2b_base64(signature["sig"]), index, path
        ),
        commitment=commitment,
        fields_mask=None if mask is None else tuple(mask),
        proofs=proofs,
    )


def _take_opening(value: dict[str, Any]) -> Opening:
    if "secret" not in value:
        return read_opening(value)
    profile, size = value["profile"], value["size"]
    if profile not in _PROFILES or type(size) is not int or not 0 <= size < _SMALL_INT_END:
        raise ValueError
    return Opening(profile, size, a2b_base64(value["secret"]))


def _take_proof(value: dict[str, Any], texts: list[Any]) -> Proof:
    index = int(value["logIndex"])
    evidence = value["evidence"]
    if value["kind"] != "inclusion" or not 0 <= index < _INT64_END or len(evidence) > MAX_EVIDENCE:
        raise ValueError
    texts.append(value["origin"])
    return Proof(
        origin=value["origin"],
        log_index=index,
        hashes=_take_hashes(value["hashes"]),
        checkpoint=value["checkpoint"].encode(),
        evidence=tuple([read_evidence(item, "evidence") for item in evidence]) if evidence else (),
    )


def _take_hex(text: str, length: int) -> bytes:
    data = bytes.fromhex(text)
    if len(data) != length:
        raise ValueError
    return data


def _take_hashes(items: list[str]) -> tuple[bytes, ...]:
    hashes = tuple(map(a2b_base64, items))
    if not _only_32(map(len, hashes)) or len(hashes) > MAX_HASHES:
        raise ValueError
    return hashes
