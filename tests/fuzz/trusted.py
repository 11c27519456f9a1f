"""What the targets trust: keys and a chain made here, so that fuzzers get past signatures."""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provledger import cose_receipt, merkle
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.timestamp import Authority
from tests.support.chain import ORIGIN, Chain, key_set, private_key, sample_chain

__all__ = [
    "AUTHORITY",
    "CHAIN",
    "COSE_ENTRY",
    "COSE_KEYS",
    "COSE_RECEIPTS",
    "KEYS",
    "ORIGIN",
    "VKEY",
]

CHAIN: Final[Chain] = sample_chain()
KEYS: Final = key_set()
VKEY: Final = KEYS.for_purpose(KeyPurpose.CHECKPOINT)[0].vkey(ORIGIN)


def _authority() -> Authority:
    """A timestamp authority that signed nothing, with a key that is the same in every run."""
    key = ec.derive_private_key(0x1234567, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzz")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, (certificate,), ())


AUTHORITY: Final = _authority()


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
