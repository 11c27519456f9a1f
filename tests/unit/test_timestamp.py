"""Timestamp tokens: a real one verifies, and whatever is wrong with one is told as such."""

from __future__ import annotations

import ssl

import pytest

from provledger import timestamp
from provledger.errors import KeyFormatError, VerificationError
from tests.fuzz import trusted

VERSION_3 = bytes.fromhex("a003020102")
"""The version of a certificate (RFC 5280 §4.1.2.1), which begins with these bytes in DER."""


def other_version(data: bytes) -> bytes:
    """With a certificate of a version that there is not."""
    assert VERSION_3 in data
    return data.replace(VERSION_3, VERSION_3[:-1] + b"\x2e", 1)


def test_a_real_answer_verifies() -> None:
    stamped = timestamp.verify_token(trusted.STAMP, trusted.MESSAGE, trusted.AUTHORITY, None)
    assert stamped.tzinfo is not None


def test_a_certificate_of_another_version_is_told_as_such() -> None:
    """`InvalidVersion` is no ValueError."""
    with pytest.raises(VerificationError, match="cannot be read"):
        timestamp.verify_token(
            other_version(trusted.STAMP), trusted.MESSAGE, trusted.AUTHORITY, None
        )


def test_an_authority_of_another_version_is_told_as_such() -> None:
    der = ssl.PEM_cert_to_DER_cert(trusted.TSA_PEM.decode())
    pem = ssl.DER_cert_to_PEM_cert(other_version(der)).encode()
    with pytest.raises(KeyFormatError, match="cannot be read"):
        timestamp.Authority.from_pem(pem, trusted.TSA_CHAIN_PEM)
