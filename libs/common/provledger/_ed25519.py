"""Verifying Ed25519 signatures (RFC 8032 §5.1.7) at libsodium's speed and by OpenSSL's word.

libsodium verifies in half of OpenSSL's time, and two verifications are most of what a receipt
costs. It refuses whatever OpenSSL refuses and some more: a signature whose R is a point of small
order, which no honest signer makes. So its yes is final, and after its no OpenSSL is asked: what
counts as a signature is OpenSSL's answer, in FIPS mode and out of it.

In FIPS mode libsodium, which is no part of the module, is not even loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from provledger.fips import policy

_SIGNATURE_BYTES: Final = 64


def verify(public_key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    """Verify `signature` (64 bytes) over `message`.

    Raises `cryptography.exceptions.InvalidSignature` when it does not hold.
    """
    if not policy.active() and len(signature) == _SIGNATURE_BYTES:
        sign_open, bad = _libsodium()
        try:
            sign_open(signature + message, public_key.public_bytes_raw())
        except bad:
            pass
        else:
            return
    public_key.verify(signature, message)


@cache
def _libsodium() -> tuple[Callable[[bytes, bytes], bytes], type[Exception]]:
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    return crypto_sign_open, BadSignatureError
