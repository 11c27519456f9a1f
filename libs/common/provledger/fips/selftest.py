"""Known-answer tests of every primitive that we use, each through the code path that uses it.

They run at every start, before a service is imported, and with `provledger fips status`. They come
on top of the provider's own tests, which it runs when it is loaded: these show that what we call is
what was tested.

Vectors: FIPS 180-4 (SHA-256 and SHA-384 of "abc"), FIPS 202 (SHAKE256 of nothing), RFC 4231 §4.2
(HMAC), NIST SP 800-38A F.2.6 (AES-CBC), RFC 6979 A.2.5 and A.2.6 (ECDSA), RFC 8032 §7.1 (Ed25519).
ECDSA signatures are randomised (the provider has no RFC 6979), so signing is tested by verifying.

`fail` names one test whose answer is falsified, to see what happens then (--fips-fail-kat).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as cryptography_hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from provledger.errors import InvalidSignatureError
from provledger.fips.errors import FIPSConfigError, FIPSSelfTestError
from provledger.hashing import sha256
from provledger.jwk import verify_signature

FAIL_ENV: Final = "PROVLEDGER_FIPS_FAIL_KAT"
"""Name of a test to falsify; `--fips-fail-kat` of a service sets it."""

PAIRWISE: Final = "pairwise"
"""The test of each key that is opened, signing and verifying (`provledger.fips.pairwise`)."""

_ABC_SHA256: Final = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
_ABC_SHA384: Final = (
    "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
    "8086072ba1e7cc2358baeca134c825a7"
)
_EMPTY_SHAKE256: Final = "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f"
_HMAC_KEY: Final = b"\x0b" * 20
_HMAC_DATA: Final = b"Hi There"
_HMAC: Final = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
# Ours, from two implementations: the provider refuses the short salts of the published ones.
_PBKDF2_PASSWORD: Final = b"known-answer test"
_PBKDF2_SALT: Final = bytes(range(16))
_PBKDF2: Final = "c9d3070a4f271ded7a07286e7b4079b117a09c08997d28d683851f5b7a0ff952"
_AES_KEY: Final = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
_AES_IV: Final = "000102030405060708090a0b0c0d0e0f"
_AES_PLAIN: Final = "6bc1bee22e409f96e93d7e117393172a"
_AES_CIPHER: Final = "f58c4c04d6e5f1ba779eabfb5f7bfbd6"
_EC_MESSAGE: Final = b"sample"
_ED_PRIVATE: Final = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
_ED_PUBLIC: Final = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
_ED_MESSAGE: Final = b"\x72"
_ED_SIGNATURE: Final = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@dataclass(frozen=True, slots=True)
class _Curve:
    """A key pair and its signature over `_EC_MESSAGE`."""

    curve: ec.EllipticCurve
    digest: hashes.HashAlgorithm
    private: int
    x: int
    y: int
    r: int
    s: int

    def public_numbers(self) -> ec.EllipticCurvePublicNumbers:
        """The public half."""
        return ec.EllipticCurvePublicNumbers(self.x, self.y, self.curve)


_P256: Final = _Curve(
    ec.SECP256R1(),
    hashes.SHA256(),
    private=0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721,
    x=0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6,
    y=0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299,
    r=0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
    s=0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
)
_P384: Final = _Curve(
    ec.SECP384R1(),
    hashes.SHA384(),
    private=int(
        "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba"
        "9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
        16,
    ),
    x=int(
        "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e"
        "06aae5286b300c64def8f0ea9055866064a254515480bc13",
        16,
    ),
    y=int(
        "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9"
        "f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720",
        16,
    ),
    r=int(
        "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa7"
        "3d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46",
        16,
    ),
    s=int(
        "99ef4aeb15f178cea1fe40db2603138f130e740a19624526"
        "203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
        16,
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A test that passed: its name, and the libcrypto it ran in."""

    name: str
    library: str


def known_tests() -> list[str]:
    """Names that `fail` may have."""
    return [*_TESTS, "ed25519", PAIRWISE]


def check_fail(fail: str) -> None:
    """Raise FIPSConfigError unless `fail` is empty or names a test."""
    if fail and fail not in known_tests():
        raise FIPSConfigError(
            f"--fips-fail-kat: unknown test {fail!r}; known are {', '.join(known_tests())}"
        )


def run(fail: str = "") -> list[Result]:
    """Run all tests but that of Ed25519, which `ed25519_approved` runs.

    Raises:
        FIPSSelfTestError: naming the first test with a wrong answer, or without one.
    """
    results = []
    for name, (library, test) in _TESTS.items():
        try:
            test(fail == name)
        except FIPSSelfTestError:
            raise
        except Exception as error:
            raise FIPSSelfTestError(name, f"gave no answer ({type(error).__name__})") from error
        results.append(Result(name, library))
    return results


def ed25519_approved(fail: str = "") -> bool:
    """Whether the loaded provider offers Ed25519 as approved (FIPS 186-5); it is tested then.

    Everything is fetched with `fips=yes`, so what is not approved is not found.

    Raises:
        FIPSSelfTestError: it offers it, and it gives a wrong answer.
    """
    try:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(_ED_PRIVATE))
        signature = key.sign(_ED_MESSAGE)
    except Exception:  # absent is absent, whatever the library says to it
        return False
    _compare("ed25519", signature, _ED_SIGNATURE, fail == "ed25519")
    public_key = key.public_key()
    _compare("ed25519", public_key.public_bytes_raw(), _ED_PUBLIC, falsify=False)
    # `verify_signature` would ask libsodium: FIPS mode, in which it asks the provider, comes later.
    try:
        public_key.verify(signature, _ED_MESSAGE)
    except InvalidSignature:
        raise FIPSSelfTestError("ed25519", "does not verify the known signature") from None
    try:
        public_key.verify(signature, b"\x73")
    except InvalidSignature:
        return True
    raise FIPSSelfTestError("ed25519", "verifies a signature over something else")


def _compare(name: str, answer: bytes, expected_hex: str, falsify: bool) -> None:
    expected = bytes.fromhex(expected_hex)
    if falsify:
        expected = bytes([expected[0] ^ 1]) + expected[1:]
    if not hmac.compare_digest(answer, expected):
        raise FIPSSelfTestError(name, "the known-answer test gave a wrong answer")


def _sha256(falsify: bool) -> None:
    _compare("sha256", sha256(b"abc"), _ABC_SHA256, falsify)


def _sha384(falsify: bool) -> None:
    _compare("sha384", hashlib.sha384(b"abc").digest(), _ABC_SHA384, falsify)


def _shake256(falsify: bool) -> None:
    _compare("shake256", hashlib.shake_256(b"").digest(32), _EMPTY_SHAKE256, falsify)


def _hmac_sha256(falsify: bool) -> None:
    _compare("hmac-sha256", hmac.digest(_HMAC_KEY, _HMAC_DATA, "sha256"), _HMAC, falsify)


def _sha256_cryptography(falsify: bool) -> None:
    context = hashes.Hash(hashes.SHA256())
    context.update(b"abc")
    _compare("sha256-cryptography", context.finalize(), _ABC_SHA256, falsify)


def _hmac_sha256_cryptography(falsify: bool) -> None:
    context = cryptography_hmac.HMAC(_HMAC_KEY, hashes.SHA256())
    context.update(_HMAC_DATA)
    _compare("hmac-sha256-cryptography", context.finalize(), _HMAC, falsify)


def _pbkdf2(falsify: bool) -> None:
    kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=_PBKDF2_SALT, iterations=1000)
    _compare("pbkdf2-hmac-sha256", kdf.derive(_PBKDF2_PASSWORD), _PBKDF2, falsify)


def _aes256_cbc(falsify: bool) -> None:
    key, iv = bytes.fromhex(_AES_KEY), bytes.fromhex(_AES_IV)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    answer = decryptor.update(bytes.fromhex(_AES_CIPHER)) + decryptor.finalize()
    _compare("aes256-cbc", answer, _AES_PLAIN, falsify)


def _ecdsa_verify(name: str, known: _Curve) -> Callable[[bool], None]:
    def test(falsify: bool) -> None:
        public_key = known.public_numbers().public_key()
        signature = encode_dss_signature(known.r, known.s)
        try:
            verify_signature(public_key, signature, b"falsified" if falsify else _EC_MESSAGE)
        except InvalidSignatureError:
            raise FIPSSelfTestError(name, "does not verify the known signature") from None
        try:
            verify_signature(public_key, signature, b"other")
        except InvalidSignatureError:
            return
        raise FIPSSelfTestError(name, "verifies a signature over something else")

    return test


def _ecdsa_sign(name: str, known: _Curve) -> Callable[[bool], None]:
    def test(falsify: bool) -> None:
        numbers = ec.EllipticCurvePrivateNumbers(known.private, known.public_numbers())
        private_key = numbers.private_key()
        method = ec.ECDSA(known.digest)
        signature = private_key.sign(_EC_MESSAGE, method)
        try:
            message = b"falsified" if falsify else _EC_MESSAGE
            private_key.public_key().verify(signature, message, method)
        except InvalidSignature:
            raise FIPSSelfTestError(name, "signs what does not verify") from None

    return test


_PYTHON: Final = "python"
_CRYPTOGRAPHY: Final = "cryptography"
_TESTS: Final[dict[str, tuple[str, Callable[[bool], None]]]] = {
    "sha256": (_PYTHON, _sha256),
    "sha384": (_PYTHON, _sha384),
    "shake256": (_PYTHON, _shake256),
    "hmac-sha256": (_PYTHON, _hmac_sha256),
    "sha256-cryptography": (_CRYPTOGRAPHY, _sha256_cryptography),
    "hmac-sha256-cryptography": (_CRYPTOGRAPHY, _hmac_sha256_cryptography),
    "pbkdf2-hmac-sha256": (_CRYPTOGRAPHY, _pbkdf2),
    "aes256-cbc": (_CRYPTOGRAPHY, _aes256_cbc),
    "ecdsa-p256-verify": (_CRYPTOGRAPHY, _ecdsa_verify("ecdsa-p256-verify", _P256)),
    "ecdsa-p256-sign": (_CRYPTOGRAPHY, _ecdsa_sign("ecdsa-p256-sign", _P256)),
    "ecdsa-p384-verify": (_CRYPTOGRAPHY, _ecdsa_verify("ecdsa-p384-verify", _P384)),
    "ecdsa-p384-sign": (_CRYPTOGRAPHY, _ecdsa_sign("ecdsa-p384-sign", _P384)),
}
