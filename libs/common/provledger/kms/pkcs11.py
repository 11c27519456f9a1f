"""Keys in PKCS#11 tokens: hardware security modules, smart cards, SoftHSM2.

`pkcs11:token=ledger;object=witness-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin`
(RFC 7512; `kms._pkcs11_uri` says what of it). Needs the extra `pkcs11`, which is python-pkcs11
(docs/adr/0012-pkcs11-binding.md); its C code is loaded when the first such key is opened.

========== ================ ===========================================================
algorithm  mechanism        what goes over, what comes back
========== ================ ===========================================================
ECDSA      CKM_ECDSA        digest made here (SHA-256 for P-256, SHA-384 for P-384); raw
                            r ‖ s, re-encoded as DER (RFC 3279)
Ed25519    CKM_EDDSA        the message; 64 bytes (PKCS#11 v3.1 §6.3.16)
========== ================ ===========================================================

Access the token's user needs: to find and use the private key, and to read its public half, which
must be in the token as an object of the same id or label. A key that can leave the token, or that
wants its PIN for each signature, is warned of or refused when it is opened.

Trust: whoever has the PIN file and reaches the token signs as this key, but does not get the key.
The module's library runs inside our process and sees what is signed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from provledger import logs
from provledger.jwk import Algorithm, PublicKey, raw_public_bytes
from provledger.kms._pkcs11_token import KeyMissingError, Seat, release, shared_token
from provledger.kms._pkcs11_uri import PKCS11URI, beside, parse
from provledger.kms.base import Capabilities
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyExistsError,
    KMSKeyNotFoundError,
    KMSMessageTooLongError,
    KMSUnavailableError,
)
from provledger.kms.remote import (
    CREATING,
    DIGESTS,
    OPENING,
    Caller,
    CreatedKey,
    RemoteSigner,
    Wanted,
    load_library,
)

log = logs.get(__name__)

# Object identifier, curve, bytes of r and of s.
_CURVES: Final[dict[Algorithm, tuple[bytes, ec.EllipticCurve, int]]] = {
    Algorithm.ECDSA_P256: (bytes.fromhex("06082a8648ce3d030107"), ec.SECP256R1(), 32),
    Algorithm.ECDSA_P384: (bytes.fromhex("06052b81040022"), ec.SECP384R1(), 48),
}
# The object identifier of RFC 8410, and the name that PKCS#11 v3.0 allows instead.
_ED25519_PARAMS: Final = (
    bytes.fromhex("06032b6570"),
    bytes.fromhex("130c656477617264733235353139"),
)
_OCTET_STRING: Final = 0x04
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class _Found:
    """A private key in the token and its public half."""

    algorithm: Algorithm
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class PKCS11Provider:
    """Tokens behind PKCS#11 libraries; relative PIN files are below `key_dir`."""

    key_dir: Path

    @property
    def capabilities(self) -> Capabilities:
        """What PKCS#11 has; a token may have less and says so when a key is opened or made."""
        return Capabilities(
            algorithms=frozenset({Algorithm.ED25519, *_CURVES}), can_create_keys=True
        )

    def check_uri(self, uri: str) -> None:
        """Raise KMSConfigError unless `uri` is a PKCS#11 URI that names one key; no I/O."""
        parse(uri, self.key_dir)

    async def open_signer(self, uri: str) -> RemoteSigner:
        """Find the key and check that it may sign.

        Raises:
            KMSNotInstalledError, KMSConfigError, KMSPermissionError, KMSKeyNotFoundError,
            KMSUnavailableError.
        """
        parsed = self._parse(uri)
        token = shared_token(parsed)
        try:
            found = await Caller(uri, OPENING).call(
                lambda _: token.call(lambda seat: _find(seat, parsed))
            )
        except BaseException:
            release(parsed)
            raise

        async def sign_once(message: bytes, timeout_s: float) -> bytes:
            del timeout_s  # the caller keeps the time; a call to the module cannot be cut short
            return await token.call(_signing(parsed, found, message))

        async def give_back() -> None:
            release(parsed)

        return RemoteSigner(
            uri,
            found.algorithm,
            found.public_key,
            sign_once,
            release=give_back,
            protection="PKCS11",
        )

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        """Make a key pair in the token, which never leaves it.

        Raises:
            KMSKeyExistsError and what `open_signer` raises.
        """
        parsed = self._parse(uri)
        if not parsed.object:
            raise KMSConfigError(f"key URI {uri!r}: a new key needs a label (object=)")
        if algorithm not in self.capabilities.algorithms:
            raise KMSConfigError(f"key URI {uri!r}: {algorithm} is not used in PKCS#11 tokens here")
        token, caller = shared_token(parsed), Caller(uri, CREATING)
        try:
            # Found and logged in to first, as often as it takes: that changes nothing.
            await caller.call(lambda _: token.call(lambda seat: None))
            return await caller.call(
                lambda _: token.call(lambda seat: _create(seat, parsed, algorithm)),
                # Its outcome unknown, a second attempt would find the first one's key.
                repeatable=False,
            )
        finally:
            release(parsed)

    async def create_beside(self, uri: str, algorithm: Algorithm, wanted: Wanted) -> CreatedKey:
        """Make a key called after its kid in the token that holds the key at `uri`, or find it.

        Its id (CKA_ID) is the ceremony's: so a key of that name is taken for the one that an
        earlier attempt made only if it is. Raises what `create_key` raises.
        """
        created = beside(parse(uri, self.key_dir), wanted.kid, wanted.ceremony)
        try:
            signer = await self.open_signer(created)
        except KMSKeyNotFoundError:
            return CreatedKey(created, await self.create_key(created, algorithm))
        public_key = signer.public_key
        await signer.close()
        return CreatedKey(created, public_key, found=True)

    def _parse(self, uri: str) -> PKCS11URI:
        parsed = parse(uri, self.key_dir)
        load_library("pkcs11", uri, "pkcs11")
        return parsed


# --- in a thread of the token --------------------------------------------------------------------


def _signing(uri: PKCS11URI, key: _Found, message: bytes) -> Callable[[Seat], bytes]:
    """What signs `message`: the digest is made before, on the caller's thread."""
    from pkcs11 import Mechanism

    if key.algorithm is Algorithm.ED25519:
        return lambda seat: _sign_whole(_private_key(seat, uri, key), uri, message)
    digest, length = DIGESTS[key.algorithm](message), _CURVES[key.algorithm][2]

    def sign(seat: Seat) -> bytes:
        raw = _private_key(seat, uri, key).sign(digest, mechanism=Mechanism.ECDSA)
        if len(raw) != 2 * length:
            raise KMSIntegrityError(f"key {uri.uri}: the token gave {len(raw)} bytes, not r ‖ s")
        return encode_dss_signature(
            int.from_bytes(raw[:length], "big"), int.from_bytes(raw[length:], "big")
        )

    return sign


def _sign_whole(private_key: Any, uri: PKCS11URI, message: bytes) -> bytes:
    """Sign a message that is not hashed before; tokens bound its length as they like."""
    from pkcs11 import DataLenRange, Mechanism

    try:
        return bytes(private_key.sign(message, mechanism=Mechanism.EDDSA))
    except DataLenRange:
        raise KMSMessageTooLongError(
            f"key {uri.uri}: the token does not sign {len(message)} bytes with ed25519; use a "
            "P-256 key for them"
        ) from None


def _private_key(seat: Seat, uri: PKCS11URI, expected: _Found) -> Any:
    """The key's handle in this session, looked up until it is the one we opened."""
    wanted = uri.uri, raw_public_bytes(expected.public_key)
    if wanted not in seat.keys:
        try:
            _find(seat, uri)
        except KeyMissingError as error:
            # It was there a moment ago: the token is away, or another one is in its place.
            raise KMSUnavailableError(str(error)) from None
        if wanted not in seat.keys:
            raise KMSIntegrityError(f"key {uri.uri}: the token holds another key now")
    return seat.keys[wanted]


def _find(seat: Seat, uri: PKCS11URI) -> _Found:
    """Find the one private key that the URI names, check it, and read its public half."""
    from pkcs11 import Attribute, ObjectClass

    keys = _objects(seat, ObjectClass.PRIVATE_KEY, uri.object, uri.id)
    if not keys:
        raise KeyMissingError(
            f"key URI {uri.uri!r}: {uri.token_name} holds no private key of that name, "
            "or the PIN's user may not see it"
        )
    if len(keys) > 1:
        raise KMSConfigError(f"key URI {uri.uri!r}: names {len(keys)} private keys; add id=")
    key = keys[0]
    if _attribute(key, Attribute.SIGN) is False:
        raise KMSConfigError(f"key URI {uri.uri!r}: this key may not sign (CKA_SIGN is false)")
    if _attribute(key, Attribute.ALWAYS_AUTHENTICATE):
        raise KMSConfigError(
            f"key URI {uri.uri!r}: this key wants its PIN for each signature "
            "(CKA_ALWAYS_AUTHENTICATE), which a service cannot give"
        )
    if _attribute(key, Attribute.EXTRACTABLE) or _attribute(key, Attribute.SENSITIVE) is False:
        log.warning("pkcs11.key_can_leave_the_token", uri=uri.uri)
    found = _public_half(seat, uri, key)
    seat.keys[uri.uri, raw_public_bytes(found.public_key)] = key
    return found


def _public_half(seat: Seat, uri: PKCS11URI, key: Any) -> _Found:
    from pkcs11 import Attribute, KeyType, ObjectClass

    key_id, own_label = _attribute(key, Attribute.ID), _attribute(key, Attribute.LABEL)
    others = _objects(
        seat, ObjectClass.PUBLIC_KEY, "" if key_id else own_label or uri.object, key_id or None
    )
    # Ids need not be unique in a token, so the one with our label comes first.
    others.sort(key=lambda other: _attribute(other, Attribute.LABEL) != own_label)
    params = _attribute(key, Attribute.EC_PARAMS)
    # Some tokens keep the point with the private key.
    for candidate in (*others, key):
        point = _attribute(candidate, Attribute.EC_POINT)
        curve = _attribute(candidate, Attribute.EC_PARAMS) or params
        # A public key on another curve belongs to somebody else.
        if point and curve and params in (None, curve):
            return _public_key(uri, key, bytes(curve), bytes(point))
    if _attribute(key, Attribute.KEY_TYPE) not in (KeyType.EC, KeyType.EC_EDWARDS):
        raise KMSConfigError(f"key URI {uri.uri!r}: is no elliptic curve key; use P-256 or Ed25519")
    raise KMSConfigError(
        f"key URI {uri.uri!r}: the token holds no public key with the id or label of this one"
    )


def _public_key(uri: PKCS11URI, key: Any, params: bytes, point: bytes) -> _Found:
    """Decode CKA_EC_POINT, in an OCTET STRING or bare: tokens differ (PKCS#11 v3.1 §6.3.3)."""
    from pkcs11 import Attribute, KeyType

    kind = _attribute(key, Attribute.KEY_TYPE)
    try:
        for algorithm, (identifier, curve, length) in _CURVES.items():
            if kind == KeyType.EC and params == identifier:
                encoded = _unwrapped(point, 1 + 2 * length)
                public_key = ec.EllipticCurvePublicKey.from_encoded_point(curve, encoded)
                return _Found(algorithm, public_key)
        if kind == KeyType.EC_EDWARDS and params in _ED25519_PARAMS:
            raw = _unwrapped(point, 32)
            return _Found(Algorithm.ED25519, Ed25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise KMSConfigError(f"key URI {uri.uri!r}: its public key cannot be read") from None
    raise KMSConfigError(
        f"key URI {uri.uri!r}: has type {getattr(kind, 'name', kind)} on another curve; "
        "use P-256, P-384 or Ed25519"
    )


def _unwrapped(point: bytes, length: int) -> bytes:
    if len(point) == length + 2 and point[0] == _OCTET_STRING and point[1] == length:
        return point[2:]
    return point


def _create(seat: Seat, uri: PKCS11URI, algorithm: Algorithm) -> PublicKey:
    from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

    wanted = [("object", uri.object, None)] + ([("id", "", uri.id)] if uri.id else [])
    for name, label, key_id in wanted:
        if _objects(seat, ObjectClass.PRIVATE_KEY, label, key_id):
            raise KMSKeyExistsError(
                f"key URI {uri.uri!r}: a private key with this {name} is in the token already"
            )
    edwards = algorithm is Algorithm.ED25519
    key_type = KeyType.EC_EDWARDS if edwards else KeyType.EC
    params = _ED25519_PARAMS[1] if edwards else _CURVES[algorithm][0]
    # A session that may write, for as long as it takes.
    session = seat.session.token.open(rw=True)
    try:
        domain = session.create_domain_parameters(
            key_type, {Attribute.EC_PARAMS: params}, local=True
        )
        domain.generate_keypair(
            id=uri.id or secrets.token_bytes(_ID_BYTES),
            label=uri.object,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )
    finally:
        session.close()
    return _find(seat, uri).public_key


def _objects(seat: Seat, object_class: Any, label: str, key_id: bytes | None) -> list[Any]:
    from pkcs11 import Attribute

    attributes: dict[Any, Any] = {Attribute.CLASS: object_class}
    if label:
        attributes[Attribute.LABEL] = label
    if key_id:
        attributes[Attribute.ID] = key_id
    return list(seat.session.get_objects(attributes))


def _attribute(key: Any, attribute: Any) -> Any:
    """An attribute of an object; None where the token does not know or does not tell it."""
    import pkcs11

    try:
        return key[attribute]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
        return None
