"""What the targets trust: keys and a chain made here, so that fuzzers get past signatures."""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provledger.keyset import KeyPurpose
from provledger.timestamp import Authority
from tests.support.chain import ORIGIN, Chain, key_set, sample_chain

__all__ = ["AUTHORITY", "CHAIN", "KEYS", "ORIGIN", "VKEY"]

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
