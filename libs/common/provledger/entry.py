"""Entries: the chain links of a ledger, and the leaf data of its log (design §4).

An entry is the RFC 8785 text of nine strings (`prev` is null at seq 0). It looks like this, in one
line::

    {"ledger":"<uid hex>","payload":"<commitment root hex>","prev":"<receipt hash hex>","seq":"7",
     "signature":"<signature digest hex>","statement":"<statement leaf hash hex>",
     "suite":"blake3","tNs":"1763665200000000000","v":"1"}

    receiptHash = H("provledger/entry/v1\\n" || entry bytes)

The functions below write and read exactly that text and nothing that merely means the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from provledger.errors import ReceiptFormatError
from provledger.hashing import suite as get_suite

ENTRY_CONTEXT = b"provledger/entry/v1\n"
MAX_ENTRY_BYTES = 65_535
"""An entry bundle holds entries of at most this size (c2sp.org/tlog-tiles)."""

_ENTRY_RE = re.compile(
    rb'\{"ledger":"([0-9a-f]{32})","payload":"([0-9a-f]{64})",'
    rb'"prev":(?:"([0-9a-f]{64})"|null),"seq":"(0|[1-9][0-9]{0,18})",'
    rb'"signature":"([0-9a-f]{64})","statement":"([0-9a-f]{64})",'
    rb'"suite":"(blake3|blake3-all|fips)","tNs":"([1-9][0-9]{0,18})","v":"1"\}'
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One chain link. Hashes are 32 bytes, `ledger_uid` is 16, `t_ns` Unix nanoseconds."""

    ledger_uid: bytes
    suite: str
    seq: int
    t_ns: int
    prev: bytes | None
    statement: bytes
    payload: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the entry bytes."""
        return encode_entry(
            self.suite,
            self.ledger_uid.hex(),
            self.seq,
            self.t_ns,
            self.prev,
            self.statement,
            self.payload,
            self.signature.hex(),
        )


def encode_entry(
    suite: str,
    ledger_uid_hex: str,
    seq: int,
    t_ns: int,
    prev: bytes | None,
    statement: bytes,
    payload: bytes,
    signature_hex: str,
) -> bytes:
    """Return the entry bytes; the caller vouches for lengths, for this is the hot path.

    What a whole batch shares is taken as hex, made once.
    """
    previous = "null" if prev is None else f'"{prev.hex()}"'
    return (
        f'{{"ledger":"{ledger_uid_hex}","payload":"{payload.hex()}","prev":{previous},'
        f'"seq":"{seq}","signature":"{signature_hex}","statement":"{statement.hex()}",'
        f'"suite":"{suite}","tNs":"{t_ns}","v":"1"}}'
    ).encode("ascii")


def parse_entry(data: bytes) -> Entry:
    """Read entry bytes.

    Raises:
        ReceiptFormatError: if a single byte differs from the canonical text, or `prev` is null
            anywhere but at seq 0.
    """
    match = _ENTRY_RE.fullmatch(data)
    if match is None:
        raise ReceiptFormatError("entry", "is not the canonical text of an entry, version 1")
    ledger, payload, prev, seq, signature, statement, suite, t_ns = match.groups()
    entry = Entry(
        ledger_uid=bytes.fromhex(ledger.decode()),
        suite=suite.decode(),
        seq=int(seq),
        t_ns=int(t_ns),
        prev=None if prev is None else bytes.fromhex(prev.decode()),
        statement=bytes.fromhex(statement.decode()),
        payload=bytes.fromhex(payload.decode()),
        signature=bytes.fromhex(signature.decode()),
    )
    if (entry.prev is None) != (entry.seq == 0):
        raise ReceiptFormatError("entry.prev", "is null at seq 0 and nowhere else")
    return entry


def receipt_hash(suite: str, entry_bytes: bytes) -> bytes:
    """Return the 32-byte hash of an entry under its ledger's suite."""
    return get_suite(suite).H(ENTRY_CONTEXT + entry_bytes)
