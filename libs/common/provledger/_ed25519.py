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
_KEY_BYTES: Final = 32


def verify(public_key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    """Verify `signature` (64 bytes) over `message`.

    Raises `cryptography.exceptions.InvalidSignature` when it does not hold.
    """
    if not _holds(public_key.public_bytes_raw(), signature, message):
        public_key.verify(signature, message)


def verify_raw(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify by a key in its 32 bytes, one that loads; see `verify`."""
    if not _holds(public_key, signature, message):
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)


def _holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether libsodium was asked and says yes."""
    if policy.active() or len(signature) != _SIGNATURE_BYTES or len(public_key) != _KEY_BYTES:
        return False
    sign_open, bad = _libsodium()
    try:
        sign_open(signature + message, public_key)
    except bad:
        return False
    return True


@cache
def _libsodium() -> tuple[Callable[[bytes, bytes], bytes], type[Exception]]:
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    return crypto_sign_open, BadSignatureError
