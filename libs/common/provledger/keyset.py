"""The public keys a verifier trusts: who signed what, when, read from and written to a JWK Set.

A JWK Set (RFC 7517 §5) of ours is the JCS form of this (docs/formats/jwks.md)::

    {"keys":[{"kty":"OKP","crv":"Ed25519","x":"<b64url>","kid":"witness-1","alg":"EdDSA","use":"sig",
      "provledger":{"purpose":"witness","state":"active","epoch":"1",
                    "notBeforeNs":"1735689600000000000",
                    "notAfterNs":"...",            absent while open-ended
                    "revocationReason":"..."}}]}   in state "revoked" only

Trust: a set is worth what its source is worth. Whoever forges it can make any signature verify, and
whoever drops a key from it can make good signatures unverifiable, but nothing worse. It never holds
a private key: a set that does is refused.

Left to others: single keys and thumbprints (`provledger.jwk`), what must be signed by which purpose
(`provledger.verify`), private keys (`provledger.kms`), changes of state (`keys_svc.registry`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from provledger import jcs, names, note
from provledger.errors import (
    IdentifierError,
    InvalidJSONError,
    InvalidSignatureError,
    KeyFormatError,
    UnknownKeyError,
    VerificationError,
)
from provledger.jwk import (
    Algorithm,
    PublicKey,
    UnsupportedKeyError,
    algorithm_of,
    jwk_from_public_key,
    public_key_from_jwk,
    raw_public_bytes,
    thumbprint,
    thumbprint_of,
    verify_signature,
)

__all__ = [
    "Algorithm",
    "KeyPurpose",
    "KeySet",
    "KeyState",
    "PublicKey",
    "VerificationKey",
    "jwk_from_public_key",
    "public_key_from_jwk",
    "thumbprint",
]

MAX_JWKS_BYTES: Final = 15 * 1024 * 1024
"""What a message of gRPC holds. The keys service rotates no key long before (`keys_svc.room`)."""
MAX_KEYS: Final = 8192
MAX_REASON_BYTES: Final = 1024
MAX_CLOCK_AHEAD_NS: Final = 300_000_000_000
"""How far ahead of its neighbours' the clock may be by which signatures are dated, nanoseconds:
what is dated later is not taken, and a key that is replaced counts for at least as long."""

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_HASH = re.compile(r"[0-9a-f]{64}")
_INT64_MAX: Final = 2**63 - 1


class KeyPurpose(StrEnum):
    """What a key may sign. One key has one purpose."""

    WITNESS = "witness"
    CHECKPOINT = "checkpoint"
    HEAD = "head"
    RECEIPT = "receipt"


class KeyState(StrEnum):
    """Where a key stands in its life: pending, active, draining, then retired or revoked."""

    PENDING = "pending"
    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class CoveredCheckpoint:
    """A checkpoint held outside: what it covers stands, though the key was revoked later.

    `size` is its tree size, `root` its root hash, 32 bytes.
    """

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Tree sizes of a log that a checkpoint key signs: from `start` to `end`, both inclusive."""

    origin: str
    start: int
    end: int | None = None

    def holds(self, size: int) -> bool:
        """Whether it signs this size."""
        return self.start <= size and (self.end is None or size <= self.end)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key with all that decides whether its signatures count.

    `thumbprint` is RFC 7638 with SHA-256 (32 bytes); `epoch` counts activations within the purpose,
    from 1; `not_before_ns` and `not_after_ns` are Unix nanoseconds, both inclusive, the latter None
    while open-ended.
    """

    kid: str
    purpose: KeyPurpose
    epoch: int
    state: KeyState
    thumbprint: bytes
    # Determined by the thumbprint, and not every key object can be compared or hashed.
    public_key: PublicKey = field(repr=False, compare=False)
    algorithm: Algorithm
    not_before_ns: int
    not_after_ns: int | None = None
    revocation_reason: str = ""
    covered: tuple[CoveredCheckpoint, ...] = ()
    sizes: tuple[SizeRange, ...] = ()

    @classmethod
    def from_public_key(
        cls,
        public_key: PublicKey,
        *,
        kid: str,
        purpose: KeyPurpose,
        epoch: int = 1,
        state: KeyState = KeyState.ACTIVE,
        not_before_ns: int = 0,
        not_after_ns: int | None = None,
        revocation_reason: str = "",
        covered: tuple[CoveredCheckpoint, ...] = (),
        sizes: tuple[SizeRange, ...] = (),
    ) -> Self:
        """Build a key, working out thumbprint and algorithm; raises KeyFormatError."""
        check_purpose(algorithm_of(public_key), purpose)
        return cls(
            kid=_check_kid(kid),
            purpose=purpose,
            epoch=epoch,
            state=state,
            thumbprint=thumbprint_of(public_key),
            public_key=public_key,
            algorithm=algorithm_of(public_key),
            not_before_ns=not_before_ns,
            not_after_ns=not_after_ns,
            revocation_reason=revocation_reason,
            covered=covered,
            sizes=sizes,
        )

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> Self:
        """Read one element of a JWK Set of ours.

        Raises UnsupportedKeyError for a key type, curve or purpose we do not know, KeyFormatError
        for anything malformed.
        """
        kid = _check_kid(jwk.get("kid"))
        try:
            public_key = public_key_from_jwk(jwk)
            ours = jwk.get("provledger")
            if not isinstance(ours, Mapping):
                raise KeyFormatError("member provledger: missing, so its purpose is unknown")
            return cls.from_public_key(public_key, kid=kid, **_validity(ours))
        except KeyFormatError as error:
            raise type(error)(f"key {kid!r}: {error}") from None

    def to_jwk(self) -> dict[str, Any]:
        """Return the element of a JWK Set, ready for JCS: all integers are decimal strings."""
        ours: dict[str, Any] = {
            "purpose": self.purpose.value,
            "state": self.state.value,
            "epoch": str(self.epoch),
            "notBeforeNs": str(self.not_before_ns),
        }
        if self.not_after_ns is not None:
            ours["notAfterNs"] = str(self.not_after_ns)
        if self.state is KeyState.REVOKED:
            ours["revocationReason"] = self.revocation_reason
        if self.covered:
            ours["after"] = [
                {"origin": each.origin, "size": str(each.size), "root": each.root.hex()}
                for each in self.covered
            ]
        if self.sizes:
            ours["sizes"] = [
                {"origin": each.origin, "from": str(each.start)}
                | ({} if each.end is None else {"to": str(each.end)})
                for each in self.sizes
            ]
        return {
            **jwk_from_public_key(self.public_key),
            "kid": self.kid,
            "alg": self.algorithm.jose,
            "use": "sig",
            "provledger": ours,
        }

    def verify(self, signature: bytes, message: bytes) -> None:
        """Verify `signature` over `message`; raises InvalidSignatureError naming the kid."""
        try:
            verify_signature(self.public_key, signature, message)
        except InvalidSignatureError:
            raise InvalidSignatureError(
                f"the signature does not verify under key {self.kid!r}"
            ) from None

    def check_valid_at(self, time_ns: int, *, check: str = "key validity") -> None:
        """Raise VerificationError unless a signature this key made at `time_ns` counts.

        `time_ns` is the signer's own claim. A revoked key has no claim left: its thief can write
        any time, so only evidence from outside tells good signatures from bad, and none is
        considered here.
        """
        if self.state is KeyState.REVOKED:
            raise VerificationError(
                f"key {self.kid!r} is revoked ({self.revocation_reason})", check=check
            )
        if time_ns < self.not_before_ns:
            raise VerificationError(
                f"key {self.kid!r} was not valid yet: signed at {time_ns} ns, "
                f"valid from {self.not_before_ns} ns",
                check=check,
            )
        if self.not_after_ns is not None and time_ns > self.not_after_ns:
            raise VerificationError(
                f"key {self.kid!r} was no longer valid: signed at {time_ns} ns, "
                f"valid until {self.not_after_ns} ns",
                check=check,
            )

    def vkey(self, origin: str) -> str:
        """Return the C2SP verifier key of this key under the name `origin` (c2sp.org/signed-note).

        Type 0x01 for Ed25519, 0x02 for ECDSA P-256, whose key id leaves the name out. Raises
        NoteError if `origin` cannot be a key name, UnsupportedKeyError for other algorithms.
        """
        return note.format_vkey(
            origin, note_type(self.algorithm), raw_public_bytes(self.public_key)
        )


@dataclass(frozen=True, slots=True, init=False)
class KeySet:
    """Some keys, each kid and each thumbprint once, in the order of (purpose, epoch, kid).

    `ignored` names the kids that were left out because this version does not know their key type,
    curve or purpose (RFC 7517 §5), so that a missing key can be explained.
    """

    keys: tuple[VerificationKey, ...]
    ignored: tuple[str, ...]
    _by_kid: Mapping[str, VerificationKey] = field(repr=False, compare=False)

    def __init__(
        self, keys: Iterable[VerificationKey] = (), *, ignored: Iterable[str] = ()
    ) -> None:
        """Collect `keys`; raises KeyFormatError if a kid or a thumbprint occurs twice."""
        ordered = tuple(sorted(keys, key=lambda key: (key.purpose, key.epoch, key.kid)))
        by_kid: dict[str, VerificationKey] = {}
        by_thumbprint: dict[bytes, str] = {}
        for key in ordered:
            if key.kid in by_kid:
                raise KeyFormatError(f"key {key.kid!r} occurs twice")
            other = by_thumbprint.setdefault(key.thumbprint, key.kid)
            if other != key.kid:
                raise KeyFormatError(f"keys {other!r} and {key.kid!r} are the same key")
            by_kid[key.kid] = key
        object.__setattr__(self, "keys", ordered)
        object.__setattr__(self, "ignored", tuple(ignored))
        object.__setattr__(self, "_by_kid", by_kid)

    @classmethod
    def parse(cls, data: bytes | str | Mapping[str, Any]) -> Self:
        """Read a JWK Set from JSON text or from the parsed document; raises KeyFormatError.

        Refused are duplicate kids and thumbprints, private members, and loose JSON. Members we do
        not know are ignored (RFC 7517 §4).
        """
        document = data if isinstance(data, Mapping) else _parse_json(data)
        elements = document.get("keys")
        if not isinstance(elements, list):
            raise KeyFormatError('a JWK Set is a JSON object with a list member "keys"')
        if len(elements) > MAX_KEYS:
            raise KeyFormatError(f"the JWK Set has more than {MAX_KEYS} keys")
        keys: list[VerificationKey] = []
        ignored: list[str] = []
        for index, element in enumerate(elements):
            if not isinstance(element, Mapping):
                raise KeyFormatError(f"keys[{index}] is not an object")
            try:
                keys.append(VerificationKey.from_jwk(element))
            except UnsupportedKeyError:
                ignored.append(element["kid"])
            except KeyFormatError as error:
                raise KeyFormatError(f"keys[{index}]: {error}") from None
        seen = [key.kid for key in keys] + ignored
        if len(set(seen)) != len(seen):
            duplicate = next(kid for kid in seen if seen.count(kid) > 1)
            raise KeyFormatError(f"key {duplicate!r} occurs twice")
        return cls(keys, ignored=ignored)

    def encode(self) -> bytes:
        """Return the JWK Set as JCS bytes (RFC 8785); `parse` gives the same set back."""
        return jcs.encode({"keys": [key.to_jwk() for key in self.keys]})

    def find(
        self,
        *,
        purpose: KeyPurpose | str,
        kid: str,
        thumbprint: bytes | None = None,
        epoch: int | None = None,
        check: str = "key",
    ) -> VerificationKey:
        """Return the key that a signature names.

        A kid alone is a label: where the signed bytes also carry thumbprint (32 bytes) or epoch,
        give them, and they must agree.

        Raises:
            UnknownKeyError: there is none of that kid.
            VerificationError: it is another one, of another purpose, or of a kind that this version
                does not know.
        """
        key = self._by_kid.get(kid)
        if key is None:
            why = f"key {kid!r} is not in the given key set"
            if kid in self.ignored:
                raise VerificationError(
                    f"{why}, it is of a kind this version does not know", check=check
                )
            raise UnknownKeyError(why, check=check)
        if key.purpose != purpose:
            raise VerificationError(
                f"key {kid!r} has purpose {key.purpose.value}, not {str(purpose)!r}", check=check
            )
        if thumbprint is not None and key.thumbprint != thumbprint:
            raise VerificationError(
                f"key {kid!r} in the given key set is another key: thumbprints differ", check=check
            )
        if epoch is not None and key.epoch != epoch:
            raise VerificationError(
                f"key {kid!r} has epoch {key.epoch}, the signature says {epoch}", check=check
            )
        return key

    def for_purpose(self, purpose: KeyPurpose | str) -> tuple[VerificationKey, ...]:
        """Return all keys of `purpose`, oldest epoch first."""
        return tuple(key for key in self.keys if key.purpose == purpose)

    def __iter__(self) -> Iterator[VerificationKey]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, kid: object) -> bool:
        return kid in self._by_kid


def note_type(algorithm: Algorithm) -> int:
    """Return the signature type of c2sp.org/signed-note for a log that signs with `algorithm`.

    Raises UnsupportedKeyError for one that notes do not know.
    """
    try:
        return _NOTE_TYPES[algorithm]
    except KeyError:
        raise UnsupportedKeyError(
            f"a checkpoint key must be Ed25519 or P-256, which signed notes know, not {algorithm}"
        ) from None


def check_purpose(algorithm: Algorithm, purpose: KeyPurpose) -> None:
    """Raise UnsupportedKeyError for an algorithm that a key of this purpose cannot have."""
    if purpose is KeyPurpose.CHECKPOINT:
        note_type(algorithm)


_NOTE_TYPES: Final = {Algorithm.ED25519: note.ED25519, Algorithm.ECDSA_P256: note.ECDSA}


def _parse_json(data: bytes | str) -> Mapping[str, Any]:
    try:
        raw = data.encode() if isinstance(data, str) else bytes(data)
        if len(raw) > MAX_JWKS_BYTES:
            raise KeyFormatError(f"the JWK Set is longer than {MAX_JWKS_BYTES} bytes")
        # A key has a dozen fields; the default limit is meant for payloads.
        document = jcs.parse(raw, max_fields=64 * MAX_KEYS)
    except InvalidJSONError as error:
        raise KeyFormatError(f"the JWK Set is not strict JSON: {error}") from None
    except UnicodeEncodeError:
        raise KeyFormatError("the JWK Set is not valid Unicode") from None
    if not isinstance(document, Mapping):
        raise KeyFormatError("a JWK Set is a JSON object")
    return document


def _check_kid(kid: object) -> str:
    try:
        return names.check_kid(kid if isinstance(kid, str) else "")
    except IdentifierError as error:
        raise KeyFormatError(str(error)) from None


def _validity(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Read the member `provledger` of a JWK."""
    purpose, state = ours.get("purpose"), ours.get("state")
    if not isinstance(purpose, str):
        raise KeyFormatError("member provledger.purpose: must be text")
    if purpose not in frozenset(KeyPurpose):
        raise UnsupportedKeyError(f"purpose {purpose[:32]!r} is not known to this version")
    if state not in (KeyState.ACTIVE, KeyState.DRAINING, KeyState.RETIRED, KeyState.REVOKED):
        raise KeyFormatError(
            "member provledger.state: must be active, draining, retired or revoked"
        )
    not_after_ns = _decimal(ours, "notAfterNs") if "notAfterNs" in ours else None
    epoch = _decimal(ours, "epoch")
    if epoch < 1:
        raise KeyFormatError("member provledger.epoch: must be 1 or more")
    reason = ours.get("revocationReason", "")
    if not isinstance(reason, str) or len(reason.encode("utf-8", "replace")) > MAX_REASON_BYTES:
        raise KeyFormatError(
            f"member provledger.revocationReason: must be text of at most {MAX_REASON_BYTES} bytes"
        )
    return {
        "purpose": KeyPurpose(purpose),
        "state": KeyState(state),
        "epoch": epoch,
        "not_before_ns": _decimal(ours, "notBeforeNs"),
        "not_after_ns": not_after_ns,
        "revocation_reason": reason,
        "covered": tuple(_covered(each) for each in _objects(ours, "after")),
        "sizes": tuple(_size_range(each) for each in _objects(ours, "sizes")),
    }


def _objects(ours: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    listed = ours.get(name, [])
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise KeyFormatError(f"member provledger.{name}: must be a list of objects")
    return listed


def _covered(each: Mapping[str, Any]) -> CoveredCheckpoint:
    root = each.get("root")
    if not isinstance(root, str) or _HASH.fullmatch(root) is None:
        raise KeyFormatError("member provledger.after: root must be 64 lower-case hex digits")
    return CoveredCheckpoint(_origin(each), _decimal(each, "size"), bytes.fromhex(root))


def _size_range(each: Mapping[str, Any]) -> SizeRange:
    end = _decimal(each, "to") if "to" in each else None
    return SizeRange(_origin(each), _decimal(each, "from"), end)


def _origin(each: Mapping[str, Any]) -> str:
    origin = each.get("origin")
    if not isinstance(origin, str) or not origin or len(origin) > MAX_REASON_BYTES:
        raise KeyFormatError("member provledger: an origin is missing or too long")
    return origin


def _decimal(ours: Mapping[str, Any], name: str) -> int:
    text = ours.get(name)
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None or int(text) > _INT64_MAX:
        raise KeyFormatError(f"member provledger.{name}: must be a decimal string up to 2^63-1")
    return int(text)
