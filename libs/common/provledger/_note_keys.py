"""Verifier keys of signed notes, and what a signature of each type signs.

====  =============================  ==========================  ==============================
type  public key                     after the key id            signs
====  =============================  ==========================  ==============================
0x01  Ed25519, 32 bytes              64 bytes                    the text
0x02  ECDSA, SPKI DER                DER                         the text, under SHA-256
0x04  Ed25519, 32 bytes              u64 seconds, 64 bytes       `cosignature_message`
0x05  ECDSA, SPKI DER                u64 ms, 04 03, u16, DER     `sth_message`
0x06  ML-DSA-44, 1312 bytes          u64 seconds, 2420 bytes     `subtree_message`
====  =============================  ==========================  ==============================

Follows c2sp.org/signed-note, c2sp.org/tlog-cosignature and c2sp.org/static-ct-api. Other types
are refused. ML-DSA-44 needs a `cryptography` that has it; without one its keys parse, and
checking a signature by them is a NoteError rather than a silent pass.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from provledger import _base64, _ed25519
from provledger._checkpoint_body import parse_checkpoint
from provledger.errors import NoteError
from provledger.hashing import sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import mldsa

ED25519 = 0x01
ECDSA = 0x02
COSIGNATURE_ED25519 = 0x04
RFC6962_STH = 0x05
COSIGNATURE_ML_DSA_44 = 0x06

_TYPES = frozenset((ED25519, ECDSA, COSIGNATURE_ED25519, RFC6962_STH, COSIGNATURE_ML_DSA_44))
_PUBLIC_BYTES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_ML_DSA_44: 1312}
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MAX_TIMESTAMP = 2**63 - 1
_MAX_VKEY_CHARS = 16_384

_ASCII_NAME = re.compile(r"[!-*,-~\x7f]+")
_KEY_ID_HEX = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name.

    `note_key_id` is 4 bytes, `type` one of the constants here, `public_key` as in the table of
    the module's docstring.
    """

    name: str
    note_key_id: bytes
    type: int
    public_key: bytes

    @property
    def is_cosigner(self) -> bool:
        """Whether its signatures are cosignatures, with a timestamp (c2sp.org/tlog-cosignature).

        Not whose key it is: a log may sign its own checkpoints in this way.
        """
        return self.type in (COSIGNATURE_ED25519, COSIGNATURE_ML_DSA_44)


def is_key_name(name: str) -> bool:
    """Whether `name` may name a key: not empty, no Unicode space, no plus, no control character."""
    if not isinstance(name, str) or not name:
        return False
    if name.isascii():
        return _ASCII_NAME.fullmatch(name) is not None
    return not any(
        char == "+" or char < " " or char.isspace() or "\ud800" <= char <= "\udfff" for char in name
    )


def note_key_id(name: str, type: int, public_key: bytes) -> bytes:
    """The four bytes that identify a key beside its name."""
    if type == ECDSA:
        # Older than the specification, and without the name.
        return sha256(public_key)[:4]
    if type == RFC6962_STH:
        public_key = sha256(public_key)  # the log id of RFC 6962 §3.2
    return sha256(b"%b\n%c%b" % (name.encode(), type, public_key))[:4]


def parse_vkey(text: str) -> VerifierKey:
    """Read a verifier key and recompute its key id. Raises NoteError."""
    if not isinstance(text, str):
        raise NoteError("verifier key must be text")
    if len(text) > _MAX_VKEY_CHARS:
        raise NoteError(f"verifier key is longer than {_MAX_VKEY_CHARS} characters")
    return _parse_vkey(text)


@lru_cache(maxsize=1024)
def _parse_vkey(text: str) -> VerifierKey:
    # The base64 part may hold further pluses.
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise NoteError("verifier key is not name+id+key")
    name, id_hex, blob_b64 = parts
    if not is_key_name(name):
        raise NoteError("verifier key has a malformed name")
    if not _KEY_ID_HEX.fullmatch(id_hex):
        raise NoteError("key id is not 8 lower-case hexadecimal digits")
    blob = _base64.decode(blob_b64)
    if not blob:
        raise NoteError("verifier key is not base64")
    kind, public_key = blob[0], blob[1:]
    _load(kind, public_key)
    expected = note_key_id(name, kind, public_key)
    if expected.hex() != id_hex:
        raise NoteError("key id does not belong to this name and key")
    return VerifierKey(name, expected, kind, public_key)


def format_vkey(name: str, type: int, public_key: bytes) -> str:
    """The verifier key of `public_key`, encoded as in the module's table, under `name`."""
    if not is_key_name(name) or type not in _TYPES:
        raise NoteError("verifier key needs a well-formed name and a known type")
    key_id = note_key_id(name, type, public_key)
    return f"{name}+{key_id.hex()}+{_base64.encode(bytes((type,)) + public_key)}"


def cosignature_message(text: bytes, timestamp_unix_s: int) -> bytes:
    """What an Ed25519 cosignature (type 0x04) over the checkpoint `text` signs."""
    return b"cosignature/v1\ntime %d\n%b" % (timestamp_unix_s, text)


def subtree_message(cosigner: str, timestamp_unix_s: int, text: bytes) -> bytes:
    """What an ML-DSA-44 cosignature (type 0x06) over the checkpoint `text` signs.

    It covers the whole tree, from 0 to the checkpoint's size, and no extension line.
    """
    checkpoint = parse_checkpoint(text)
    name, origin = cosigner.encode(), checkpoint.origin.encode()
    if not 1 <= len(name) <= 255 or not 1 <= len(origin) <= 255:
        raise NoteError("cosigner name and origin must be 1 to 255 bytes long")
    return b"".join(
        (
            b"subtree/v1\n\x00",
            struct.pack(">B", len(name)),
            name,
            struct.pack(">QB", timestamp_unix_s, len(origin)),
            origin,
            struct.pack(">QQ", 0, checkpoint.size),
            checkpoint.root,
        )
    )


def sth_message(text: bytes, timestamp_unix_ms: int) -> bytes:
    """What an RFC 6962 §3.5 tree head signature (type 0x05) signs; the origin is not covered."""
    checkpoint = parse_checkpoint(text, exact=True)
    return b"\x00\x01" + struct.pack(">QQ", timestamp_unix_ms, checkpoint.size) + checkpoint.root


def verify_signature(
    key: VerifierKey, text: bytes, signature: bytes
) -> tuple[int | None, int | None]:
    """Check one signature over the note `text`.

    Returns the cosigner's time in Unix seconds and the tree head's in Unix milliseconds, None
    where the type has none. Raises NoteError when the signature does not verify or the text is
    not one that this type can sign.
    """
    public = _load(key.type, key.public_key)
    seconds: int | None = None
    milliseconds: int | None = None
    if key.type == RFC6962_STH:
        milliseconds, signature = _split_sth(signature)
        message = sth_message(text, milliseconds)
    elif key.is_cosigner:
        seconds, signature = _split_timestamp(signature)
        if key.type == COSIGNATURE_ED25519:
            message = cosignature_message(text, seconds)
        else:
            message = subtree_message(key.name, seconds, text)
    else:
        message = text
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(public, ed25519.Ed25519PublicKey):
            _ed25519.verify(public, signature, message)
        elif public is None:
            raise UnsupportedAlgorithm("no ML-DSA-44 here")
        else:
            public.verify(signature, message)
    except InvalidSignature:
        raise NoteError("signature by a known key does not verify") from None
    except UnsupportedAlgorithm:
        raise NoteError(f"this installation cannot check type 0x{key.type:02x}") from None
    return seconds, milliseconds


def _split_timestamp(signature: bytes) -> tuple[int, bytes]:
    if len(signature) < 8:
        raise NoteError("cosignature is too short")
    timestamp = int.from_bytes(signature[:8], "big")
    if timestamp > _MAX_TIMESTAMP:
        raise NoteError("cosignature has a timestamp beyond 2^63-1")
    return timestamp, signature[8:]


def _split_sth(signature: bytes) -> tuple[int, bytes]:
    """u64 ms || SHA-256 (4) || ECDSA (3) || u16 length || DER (RFC 5246 §4.7)."""
    if len(signature) < 12:
        raise NoteError("tree head signature is too short")
    timestamp, algorithms, length = struct.unpack_from(">QHH", signature)
    if algorithms != 0x0403 or length != len(signature) - 12:
        raise NoteError("tree head signature is not ECDSA with SHA-256, or has another length")
    return timestamp, signature[12:]


@lru_cache(maxsize=1024)
def _load(
    kind: int, public_key: bytes
) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | mldsa.MLDSA44PublicKey | None:
    """The key as `cryptography` knows it (loading costs more than verifying), None for an
    ML-DSA-44 key that this installation cannot use. Raises NoteError."""
    if kind not in _TYPES:
        raise NoteError(f"signature type 0x{kind:02x} is not supported")
    size = _PUBLIC_BYTES.get(kind)
    if size is not None and len(public_key) != size:
        raise NoteError(f"a public key of type 0x{kind:02x} has {size} bytes")
    try:
        if size is None:
            return _load_spki(public_key)
        if kind != COSIGNATURE_ML_DSA_44:
            return ed25519.Ed25519PublicKey.from_public_bytes(public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise NoteError("public key cannot be read") from None
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        return mldsa.MLDSA44PublicKey.from_public_bytes(public_key)
    except (ImportError, UnsupportedAlgorithm):
        return None
    except ValueError:
        raise NoteError("public key cannot be read") from None


def _load_spki(der: bytes) -> ec.EllipticCurvePublicKey:
    key = serialization.load_der_public_key(der)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise NoteError("public key is not ECDSA on P-256, P-384 or P-521")
    again = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if again != der:
        raise NoteError("public key is not in its canonical DER form")
    return key
