"""Reading a receipt in its canonical spelling: quickly, and checked at the end.

One comparison does what looking at every member would: text that comes out again as it was read
has no second spelling, and no member twice. What writing would not show is looked at here: that the
members are those of a receipt, their types and ranges, and that base64, hex and numbers in text
have no second spelling either.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Any, Final

import orjson

from provledger import jcs, names
from provledger._receipt_strict import (
    MAX_EVIDENCE,
    MAX_HASHES,
    MAX_PROOFS,
    read_evidence,
    read_opening,
    read_payload,
)
from provledger._receipt_values import SCHEMA, Opening, Proof, Receipt, WitnessSignature
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE, MAX_FIELDS
from provledger.errors import InputError

_SMALL_INT_END: Final = 2**32
_INT64_END: Final = 2**63
_PROFILES: Final = frozenset((FIELDS_PROFILE, BLOB_PROFILE))
_UID_CHARS: Final = 32
_HASH_CHARS: Final = 64
# Members in the order of canonical text. As many as these, each of them there: these and no others.
_MEMBERS: Final = itemgetter(
    "commitment", "fields_mask", "id", "kid", "ledger", "ledgerUid", "payload", "payloadHash",
    "previousHash", "proofs", "receiptHash", "receiptType", "schema", "seq", "signature",
    "statement", "suite", "t_ns", "timestamp_iso",
)  # fmt: skip
_SIGNATURE_MEMBERS: Final = itemgetter("body", "index", "path", "sig")
_PROOF_MEMBERS: Final = itemgetter("checkpoint", "evidence", "hashes", "kind", "logIndex", "origin")
_OPENING_MEMBERS: Final = itemgetter("profile", "secret", "size")
_only_text = frozenset((str,)).issuperset
_only_44 = frozenset((44,)).issuperset


def read_canonical(data: bytes) -> Receipt | None:
    """Read canonical text; None for any other, which is for the strict reader to judge."""
    if data.count(b",") >= MAX_FIELDS:
        return None
    try:
        value = orjson.loads(data)
        receipt = _take_members(value)
        # All other names are ASCII, all other leaves text or small integers: with the payload's
        # canonical text in its place, orjson's sorted output is RFC 8785's.
        if receipt.payload is not None and receipt.commitment.profile == FIELDS_PROFILE:
            value["payload"] = orjson.Fragment(receipt.payload)
        return receipt if orjson.dumps(value, option=orjson.OPT_SORT_KEYS) == data else None
    except (ValueError, TypeError, KeyError, AttributeError, InputError):
        return None


def _take_members(value: dict[str, Any]) -> Receipt:
    """Take a receipt from its members; raises one of the errors above for what cannot be one."""
    (
        commitment, mask, name, kid, ledger, ledger_uid, payload, payload_hash, previous, proofs,
        receipt_hash, receipt_type, schema, seq, signature, statement, suite, t_ns, timestamp_iso,
    ) = _MEMBERS(value)  # fmt: skip
    texts = [name, receipt_type, ledger, suite, timestamp_iso]
    if mask is not None:
        texts += _list(mask)
    opening = _take_opening(commitment)
    taken = tuple([_take_proof(item, texts) for item in _list(proofs)])
    if not (
        len(value) == 19 and schema == SCHEMA and _only_text(map(type, texts))
        and len(taken) <= MAX_PROOFS
    ):  # fmt: skip
        raise ValueError
    # One conversion for all hex.
    linked = "" if previous is None else previous
    digits = ledger_uid + payload_hash + receipt_hash + linked
    raw = bytes.fromhex(digits)
    if not (
        raw.hex() == digits and len(ledger_uid) == _UID_CHARS
        and len(payload_hash) == len(receipt_hash) == _HASH_CHARS
        and (previous is None or len(previous) == _HASH_CHARS)
    ):  # fmt: skip
        raise ValueError
    value_read, text = None, None
    if opening.secret is not None and opening.profile == FIELDS_PROFILE:
        value_read, text = payload, jcs.canonical_part(payload)
    receipt = Receipt(
        name=name,
        receipt_type=receipt_type,
        ledger=ledger,
        ledger_uid=raw[:16],
        suite=suite,
        seq=_take_decimal(seq),
        t_ns=_take_decimal(t_ns),
        timestamp_iso=timestamp_iso,
        previous_hash=raw[80:] or None,
        payload_hash=raw[16:48],
        receipt_hash=raw[48:80],
        kid=names.check_kid(kid),
        statement=_take_base64(statement),
        payload=read_payload(payload, opening) if text is None else text,
        signature=_take_signature(signature),
        commitment=opening,
        fields_mask=None if mask is None else tuple(mask),
        proofs=taken,
    )
    if text is not None:
        receipt.remember_payload(value_read)
    return receipt


def _take_opening(value: dict[str, Any]) -> Opening:
    if "secret" not in value:
        return read_opening(value)
    profile, secret, size = _OPENING_MEMBERS(value)
    if len(value) != 3 or profile not in _PROFILES or not _is_index(size):
        raise ValueError
    return Opening(profile, size, _take_base64(secret))


def _take_signature(value: dict[str, Any]) -> WitnessSignature:
    body, index, path, sig = _SIGNATURE_MEMBERS(value)
    if len(value) != 4 or not _is_index(index):
        raise ValueError
    return WitnessSignature(_take_base64(body), _take_base64(sig), index, _take_hashes(path))


def _take_proof(value: dict[str, Any], texts: list[Any]) -> Proof:
    checkpoint, evidence, hashes, kind, log_index, origin = _PROOF_MEMBERS(value)
    if len(value) != 6 or kind != "inclusion" or len(_list(evidence)) > MAX_EVIDENCE:
        raise ValueError
    texts.append(origin)
    return Proof(
        origin=origin,
        log_index=_take_decimal(log_index),
        hashes=_take_hashes(hashes),
        checkpoint=checkpoint.encode(),
        evidence=tuple([read_evidence(item, "evidence") for item in evidence]) if evidence else (),
    )


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < _SMALL_INT_END


def _take_decimal(text: str) -> int:
    number = int(text)
    if not 0 <= number < _INT64_END or str(number) != text:
        raise ValueError
    return number


def _take_base64(text: str) -> bytes:
    data = a2b_base64(text)
    if b2a_base64(data, newline=False) != text.encode():
        raise ValueError
    return data


def _take_hashes(items: list[str]) -> tuple[bytes, ...]:
    """Take hashes of 32 bytes, all in one conversion.

    Their base64 is 43 characters, the last of which ends in two zero bits, and a `=`. With an `A`,
    six zero bits, in place of that it is the base64 of 33 bytes, of which the last one is zero.
    """
    count = len(_list(items))
    if not count:
        return ()
    joined = "".join(items)
    padded = joined.replace("=", "A")
    raw = a2b_base64(padded, strict_mode=True)
    if not (
        count <= MAX_HASHES
        and _only_44(map(len, items))
        and joined[43::44].count("=") == joined.count("=") == count
        and raw[32::33] == bytes(count)
    ):
        raise ValueError
    return _splitter(count)(raw)


@lru_cache(maxsize=256)
def _splitter(count: int) -> Callable[[bytes], tuple[bytes, ...]]:
    return Struct("32sx" * count).unpack
