"""What the targets trust: keys and a chain made here, so that fuzzers get past signatures."""

from __future__ import annotations

from typing import Final

from provledger import cose_receipt, merkle
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.timestamp import Authority
from tests.fuzz.stamping import MESSAGE, STAMPS
from tests.support.chain import ORIGIN, Chain, key_set, private_key, sample_chain

__all__ = [
    "AUTHORITY",
    "CHAIN",
    "COSE_ENTRY",
    "COSE_KEYS",
    "COSE_RECEIPTS",
    "KEYS",
    "MESSAGE",
    "ORIGIN",
    "STAMP",
    "STAMP_EVIDENCE",
    "TSA_CHAIN_PEM",
    "TSA_PEM",
    "VKEY",
]

CHAIN: Final[Chain] = sample_chain()
KEYS: Final = key_set()
VKEY: Final = KEYS.for_purpose(KeyPurpose.CHECKPOINT)[0].vkey(ORIGIN)


# `tests.fuzz.stamping` makes these; the certificates are for a century.
TSA_PEM: Final = (STAMPS / "tsa.pem").read_bytes()
TSA_CHAIN_PEM: Final = (STAMPS / "ca.pem").read_bytes()
AUTHORITY: Final = Authority.from_pem(TSA_PEM, TSA_CHAIN_PEM)
STAMP: Final = (STAMPS / "message.tsr").read_bytes()
STAMP_EVIDENCE: Final = (STAMPS / "evidence.json").read_bytes()

COSE_ENTRY: Final = b"entry 3"
_COSE_KEY: Final = private_key("receipt-1")
COSE_KEYS: Final = KeySet(
    [
        VerificationKey.from_public_key(
            _COSE_KEY.public_key(), kid="receipt-1", purpose=KeyPurpose.RECEIPT
        )
    ]
)


def _cose_receipt(size: int) -> bytes:
    """A COSE receipt for `COSE_ENTRY`, the fourth of so many entries."""
    leaves = merkle.leaf_hashes([f"entry {number}".encode() for number in range(size)])
    protected = cose_receipt.protected_header(Algorithm.ED25519, "receipt-1", ORIGIN, size)
    root = merkle.root_of_hashes(leaves)
    signature = _COSE_KEY.sign(cose_receipt.signed_bytes(protected, root))
    path = tuple(merkle.inclusion_proof(leaves, 3))
    return cose_receipt.encode_cose_receipt(protected, signature, size, 3, path)


COSE_RECEIPTS: Final = [_cose_receipt(size) for size in (4, 7, 300)]
