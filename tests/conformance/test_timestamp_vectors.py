"""RFC 3161: responses that bring their own root (`derived/rfc3161-embedded-root`)."""

from __future__ import annotations

import pytest

from provledger.errors import VerificationError
from provledger.timestamp import Authority, verify_token
from tests.conformance import vectors

NONCE = 0xD1F0FA6DE2BE9891
FOLDER = "derived/rfc3161-embedded-root"


@pytest.fixture
def authority() -> Authority:
    own, chain = vectors.read(f"{FOLDER}/good.pem"), vectors.read(f"{FOLDER}/goodca.pem")
    return Authority.from_pem(own, chain)


@pytest.mark.parametrize("name", ["good_chain", "good_nochain"])
def test_token_of_the_authority_verifies(authority: Authority, name: str) -> None:
    response = vectors.read(f"{FOLDER}/{name}.tsr")
    assert verify_token(response, b"hello", authority, NONCE).tzinfo is not None
    for message, nonce in ((b"hullo", NONCE), (b"hello", NONCE + 1)):
        with pytest.raises(VerificationError):
            verify_token(response, message, authority, nonce)


@pytest.mark.parametrize("name", ["evil_chain", "evil_nochain"])
def test_token_that_brings_its_own_root_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(VerificationError):
        verify_token(vectors.read(f"{FOLDER}/{name}.tsr"), b"hello", authority, None)
