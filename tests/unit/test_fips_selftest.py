"""The self-tests hold in any OpenSSL, and each of them can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger import _ed25519
from provledger.fips import selftest
from provledger.fips.errors import FIPSConfigError, FIPSSelfTestError

DOCUMENT = Path(__file__).parents[2] / "docs" / "fips.md"
TESTS = [name for name in selftest.known_tests() if name not in ("ed25519", selftest.PAIRWISE)]


def test_all_hold() -> None:
    assert [result.name for result in selftest.run()] == TESTS
    assert selftest.ed25519_approved()


@pytest.mark.parametrize("name", TESTS)
def test_each_fails_when_its_answer_is_wrong(name: str) -> None:
    with pytest.raises(FIPSSelfTestError) as raised:
        selftest.run(fail=name)
    assert raised.value.test == name


def test_ed25519_that_is_offered_and_wrong_is_an_error_not_an_absence() -> None:
    with pytest.raises(FIPSSelfTestError, match="ed25519"):
        selftest.ed25519_approved(fail="ed25519")


class _OtherKey:
    """A private key of a provider whose verification answers as it is told."""

    def __init__(self, holds: bool) -> None:
        self._real = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(selftest._ED_PRIVATE))
        self._holds = holds

    def from_private_bytes(self, data: bytes) -> _OtherKey:
        return self

    def public_key(self) -> _OtherKey:
        return self

    def sign(self, message: bytes) -> bytes:
        return self._real.sign(message)

    def public_bytes_raw(self) -> bytes:
        return self._real.public_key().public_bytes_raw()

    def verify(self, signature: bytes, message: bytes) -> None:
        if not self._holds:
            raise InvalidSignature


@pytest.mark.parametrize(
    ("holds", "why"), [(False, "does not verify the known"), (True, "over something else")]
)
def test_ed25519_is_verified_by_the_provider_and_by_nobody_else(
    monkeypatch: pytest.MonkeyPatch, holds: bool, why: str
) -> None:
    def asked() -> None:
        raise AssertionError("libsodium was asked")

    monkeypatch.setattr(_ed25519, "_libsodium", asked)
    assert selftest.ed25519_approved()
    monkeypatch.setattr(selftest, "Ed25519PrivateKey", _OtherKey(holds))
    with pytest.raises(FIPSSelfTestError, match=why):
        selftest.ed25519_approved()


def test_test_without_an_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(data: bytes) -> bytes:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(selftest, "sha256", refused)
    with pytest.raises(FIPSSelfTestError, match="sha256: gave no answer"):
        selftest.run()


def test_unknown_test_to_fail_is_refused_with_the_known_ones() -> None:
    selftest.check_fail("")
    selftest.check_fail("pairwise")
    with pytest.raises(FIPSConfigError, match="known are sha256, "):
        selftest.check_fail("sha-256")


def test_every_test_is_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert not [name for name in selftest.known_tests() if f"`{name}`" not in text]
