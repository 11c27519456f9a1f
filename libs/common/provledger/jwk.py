"""One public key: as an object, as a JWK, as a thumbprint, and verifying with it.

Follows RFC 7517 (JWK), RFC 7518 §6.2 (EC keys), RFC 8037 §2 (Ed25519 keys), RFC 9964 (ML-DSA keys)
and RFC 7638 (thumbprints). Signatures are what the key management services give::

    ed25519      64 bytes (RFC 8032)
    ecdsa-p256   ASN.1 DER over SHA-256 (RFC 3279 §2.2.3), not the raw pair of JOSE
    ecdsa-p384   the same over SHA-384
    ml-dsa-44    2,420 bytes, pure, with an empty context (FIPS 204 §5.2); experimental
    ml-dsa-65    3,309 bytes; experimental

Left to others: purposes, epochs and sets of keys (`provledger.keyset`), private keys
(`provledger.kms`). Nothing here accepts a JWK with a private member.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from provledger import _ed25519
from provledger.errors import InvalidSignatureError, KeyFormatError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import mldsa

PublicKey: TypeAlias = (
    "Ed25519PublicKey | ec.EllipticCurvePublicKey | mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey"
)

# Built once: constructing it for each call costs as much as a hash.
_ECDSA_SHA256: Final = ec.ECDSA(hashes.SHA256())
_ECDSA_SHA384: Final = ec.ECDSA(hashes.SHA384())

# RFC 7518 §6.2.2, §6.3.2, §6.4.1, RFC 8037 §2 and the AKP keys of ML-DSA: what must never be here.
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

# RFC 8032 §5.1.3 works modulo this prime. A point whose y is not reduced has two spellings.
_ED25519_P: Final = 2**255 - 19
# The y coordinates of the eight points of small order: under such a "key" anyone can sign anything.
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _ED25519_P - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


class Algorithm(StrEnum):
    """How a key signs."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"

    @property
    def jose(self) -> str:
        """The `alg` of its JWK (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9964)."""
        return _JOSE[self]

    @property
    def experimental(self) -> bool:
        """Whether it may still change or go: the post-quantum ones."""
        return self in _ML_DSA_BYTES


_JOSE: Final = {
    Algorithm.ED25519: "EdDSA",
    Algorithm.ECDSA_P256: "ES256",
    Algorithm.ECDSA_P384: "ES384",
    Algorithm.ML_DSA_44: "ML-DSA-44",
    Algorithm.ML_DSA_65: "ML-DSA-65",
}
_CURVES: Final[dict[Algorithm, tuple[str, ec.EllipticCurve, int]]] = {
    Algorithm.ECDSA_P256: ("P-256", ec.SECP256R1(), 32),
    Algorithm.ECDSA_P384: ("P-384", ec.SECP384R1(), 48),
}
"""Name in a JWK, curve, bytes of a coordinate."""
_ML_DSA_BYTES: Final = {Algorithm.ML_DSA_44: 1312, Algorithm.ML_DSA_65: 1952}
"""Bytes of a public key (FIPS 204 §4, table 2)."""

_USE: Final = "use Ed25519, P-256 or P-384"


class UnsupportedKeyError(KeyFormatError):
    """A well-formed JWK of a type or curve we do not verify with (RFC 7517 §5: to be ignored)."""


def algorithm_of(public_key: PublicKey) -> Algorithm:
    """Return the algorithm of `public_key`; raises UnsupportedKeyError for any other kind."""
    if isinstance(public_key, Ed25519PublicKey):
        return Algorithm.ED25519
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        for algorithm, (_, curve, _) in _CURVES.items():
            if public_key.curve.name == curve.name:
                return algorithm
        raise UnsupportedKeyError(f"curve {public_key.curve.name} is not supported; {_USE}")
    for algorithm in _ML_DSA_BYTES:
        kind = ml_dsa_type(algorithm, "PublicKey")
        if kind is not None and isinstance(public_key, kind):
            return algorithm
    raise UnsupportedKeyError(f"keys of type {type(public_key).__name__} are not supported; {_USE}")


def ml_dsa_type(algorithm: Algorithm, kind: str) -> Any:
    """The class of ML-DSA keys in `cryptography`; None for others, or where that is too old.

    `kind` is `PublicKey` or `PrivateKey`.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa
    except ImportError:
        return None
    return getattr(mldsa, f"{algorithm.jose.replace('-', '')}{kind}", None)


def public_key_from_jwk(jwk: Mapping[str, Any]) -> PublicKey:
    """Return the public key in `jwk`, loaded once per distinct key and then shared.

    Raises UnsupportedKeyError for a key type or curve we do not know, KeyFormatError for everything
    else that is wrong: private members, loose base64, a point off the curve or of small order, and
    `alg`, `use` or `key_ops` that do not allow verifying.
    """
    private = sorted(PRIVATE_MEMBERS & jwk.keys())
    if private:
        raise KeyFormatError(
            f"the JWK holds private member(s) {', '.join(private)}; give the public key only"
        )
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if (kty, crv) == ("OKP", "Ed25519"):
        algorithm = Algorithm.ED25519
        material = _coordinate(jwk, "x")
    elif kty == "EC" and (named := _by_curve(crv)) is not None:
        algorithm, length = named
        material = b"\x04" + _coordinate(jwk, "x", length) + _coordinate(jwk, "y", length)
    elif kty == "AKP" and (found := _by_alg(jwk.get("alg"))) is not None:
        algorithm = found
        material = _coordinate(jwk, "pub", _ML_DSA_BYTES[algorithm])
    elif isinstance(kty, str) and isinstance(crv, str | None):
        raise UnsupportedKeyError(
            f"key type {kty[:32]!r}, curve {(crv or '')[:32]!r} is not supported; "
            "use OKP with Ed25519, or EC with P-256 or P-384"
        )
    else:
        raise KeyFormatError("the JWK needs the text members kty and crv")
    _check_usage(jwk, algorithm)
    return _load(algorithm, material)


def jwk_from_public_key(public_key: PublicKey) -> dict[str, str]:
    """Return the JWK members that RFC 7638 §3.2 requires, and no others."""
    algorithm = algorithm_of(public_key)
    if algorithm is Algorithm.ED25519:
        return {"crv": "Ed25519", "kty": "OKP", "x": _b64url(raw_public_bytes(public_key))}
    if algorithm in _ML_DSA_BYTES:
        # RFC 9964: `alg` is a required member here, since it is what tells the kinds apart.
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"alg": algorithm.jose, "kty": "AKP", "pub": _b64url(raw)}
    crv, _, length = _CURVES[algorithm]
    point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    x, y = point[1 : 1 + length], point[1 + length :]
    return {"crv": crv, "kty": "EC", "x": _b64url(x), "y": _b64url(y)}


def thumbprint(jwk: Mapping[str, Any]) -> bytes:
    """Return the RFC 7638 §3 thumbprint of `jwk` with SHA-256: 32 bytes.

    Covers the key itself only: `kid`, `alg` and everything else are left out. Raises as
    `public_key_from_jwk` does, so that a thumbprint is never of something unusable.
    """
    return thumbprint_of(public_key_from_jwk(jwk))


def thumbprint_of(public_key: PublicKey) -> bytes:
    """Return the RFC 7638 thumbprint of a loaded key: 32 bytes."""
    return _hash_members(jwk_from_public_key(public_key))


def raw_public_bytes(public_key: PublicKey) -> bytes:
    """Return what a note key holds: 32 bytes for Ed25519, a DER SubjectPublicKeyInfo for ECDSA."""
    if isinstance(public_key, Ed25519PublicKey):
        return public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify_signature(public_key: PublicKey, signature: bytes, message: bytes) -> None:
    """Verify `signature` over `message`; raises InvalidSignatureError when it does not hold."""
    try:
        if isinstance(public_key, Ed25519PublicKey):
            _ed25519.verify(public_key, signature, message)
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, message, ecdsa_for(public_key))
        else:
            public_key.verify(signature, message)
    except InvalidSignature:
        raise InvalidSignatureError("the signature does not verify under this key") from None


def ecdsa_for(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> ec.ECDSA:
    """ECDSA with the hash that goes with the curve (RFC 7518 §3.4)."""
    return _ECDSA_SHA256 if key.key_size == 256 else _ECDSA_SHA384


def _by_curve(crv: object) -> tuple[Algorithm, int] | None:
    """The algorithm of a curve's name, and the bytes of a coordinate."""
    for algorithm, (name, _, length) in _CURVES.items():
        if crv == name:
            return algorithm, length
    return None


def _by_alg(alg: object) -> Algorithm | None:
    """The ML-DSA algorithm of a JWK's `alg`, which RFC 9964 requires."""
    return next((each for each in _ML_DSA_BYTES if each.jose == alg), None)


def _hash_members(members: Mapping[str, str]) -> bytes:
    # RFC 7638 §3.3: members sorted, no white space. All values are base64url or plain ASCII names.
    text = ",".join(f'"{name}":"{members[name]}"' for name in sorted(members))
    return hashlib.sha256(f"{{{text}}}".encode("ascii")).digest()


def _coordinate(jwk: Mapping[str, Any], name: str, length: int = 32) -> bytes:
    """Decode a member of so many bytes, in its only accepted spelling."""
    characters = -(-length * 4 // 3)
    text = jwk.get(name)
    if not isinstance(text, str) or _BASE64URL.fullmatch(text) is None:
        raise KeyFormatError(f"JWK member {name}: must be unpadded base64url text")
    raw = (
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) == characters else b""
    )
    # Re-encoding catches spellings with stray trailing bits, which decode to the same bytes.
    if len(raw) != length or _b64url(raw) != text:
        raise KeyFormatError(
            f"JWK member {name}: must be exactly {length} bytes ({characters} characters)"
        )
    return raw


def _check_usage(jwk: Mapping[str, Any], algorithm: Algorithm) -> None:
    if jwk.get("alg", algorithm.jose) != algorithm.jose:
        raise KeyFormatError(f"JWK member alg: must be {algorithm.jose} for this key")
    if jwk.get("use", "sig") != "sig":
        raise KeyFormatError("JWK member use: must be sig; this key is not meant for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or operations != ["verify"]:
        raise KeyFormatError('JWK member key_ops: must be ["verify"] for a public key')


@lru_cache(maxsize=4096)
def _load(algorithm: Algorithm, material: bytes) -> PublicKey:
    # Loading a key costs about as much as one verification with it, hence the cache.
    try:
        if algorithm is Algorithm.ED25519:
            _check_ed25519_point(material)
            return Ed25519PublicKey.from_public_bytes(material)
        if algorithm in _CURVES:
            curve = _CURVES[algorithm][1]
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, material)
        kind = ml_dsa_type(algorithm, "PublicKey")
        if kind is None:
            raise UnsupportedAlgorithm(algorithm)
        loaded: PublicKey = kind.from_public_bytes(material)
        return loaded
    except ValueError:
        raise KeyFormatError("the JWK is not a point on its curve") from None
    except UnsupportedAlgorithm:
        raise UnsupportedKeyError(f"this installation cannot verify {algorithm.jose}") from None


def _check_ed25519_point(raw: bytes) -> None:
    """Refuse unreduced and small-order points, which the library loads without a word."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _ED25519_P or y in _SMALL_ORDER_Y:
        raise KeyFormatError("the JWK is a point that must not be used as an Ed25519 key")


def _b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
