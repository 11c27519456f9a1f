"""Ed25519 verification: two libraries, one answer, which is OpenSSL's."""

from __future__ import annotations

import hashlib

import nacl.bindings
import nacl.exceptions
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from provledger import _ed25519

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key()
# RFC 8032 §5.1: the order of the base point.
ORDER = 2**252 + 27742317777372353535851937790883648493


@given(st.binary(max_size=2048))
def test_signature_of_any_message_verifies(message: bytes) -> None:
    _ed25519.verify(PUBLIC, KEY.sign(message), message)
    _ed25519.verify_raw(PUBLIC.public_bytes_raw(), KEY.sign(message), message)


@given(st.binary(max_size=64), st.integers(0, 511))
def test_signature_with_any_bit_flipped_is_refused(message: bytes, bit: int) -> None:
    signature = bytearray(KEY.sign(message))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignature):
        _ed25519.verify(PUBLIC, bytes(signature), message)
    with pytest.raises(InvalidSignature):
        _ed25519.verify_raw(PUBLIC.public_bytes_raw(), bytes(signature), message)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_never_reaches_libsodium(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        _ed25519.verify_raw((PUBLIC.public_bytes_raw() * 2)[:length], KEY.sign(b"x"), b"x")


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 128])
def test_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidSignature):
        _ed25519.verify(PUBLIC, (KEY.sign(b"x") * 2)[:length], b"x")


def test_message_that_begins_with_its_own_signature_gains_nothing() -> None:
    """libsodium is given signature and message as one text; where they meet must not matter."""
    inner = KEY.sign(b"x")
    with pytest.raises(InvalidSignature):
        _ed25519.verify(PUBLIC, inner, inner + b"x")


def test_second_spelling_of_s_is_refused() -> None:
    signature = KEY.sign(b"x")
    s = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(InvalidSignature):
        _ed25519.verify(PUBLIC, signature[:32] + s.to_bytes(32, "little"), b"x")


def test_where_libsodium_is_stricter_openssl_has_the_last_word() -> None:
    """R is the neutral point here: libsodium refuses it, OpenSSL does not."""
    message = b"made by hand"
    scalar = bytearray(hashlib.sha512(SEED).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    r = (1).to_bytes(32, "little")
    h = hashlib.sha512(r + PUBLIC.public_bytes_raw() + message).digest()
    s = int.from_bytes(h, "little") * int.from_bytes(scalar, "little") % ORDER
    signature = r + s.to_bytes(32, "little")

    with pytest.raises(nacl.exceptions.BadSignatureError):
        nacl.bindings.crypto_sign_open(signature + message, PUBLIC.public_bytes_raw())
    PUBLIC.verify(signature, message)
    _ed25519.verify(PUBLIC, signature, message)
    _ed25519.verify_raw(PUBLIC.public_bytes_raw(), signature, message)
