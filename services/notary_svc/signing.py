"""The keys of a cosigner, and cosignatures made with them (c2sp.org/tlog-cosignature).

Two files of PKCS#8 in PEM: `ed25519.pem` and `ml-dsa-44.pem`. They are made at the first start,
readable by their owner only, and are a cosigner's identity: whoever has them can cosign in its
name, and whoever loses them has to be trusted anew. They are used for nothing else.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from provledger import note
from provledger.settings import ConfigError

ED25519_FILE: Final = "ed25519.pem"
ML_DSA_FILE: Final = "ml-dsa-44.pem"
_RAW: Final = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


@dataclass(frozen=True, slots=True)
class _Key:
    verifier: note.VerifierKey
    vkey: str
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that was just made, and where it belongs. The key itself is never shown."""

    path: Path
    vkey: str
    private_key: Any = field(repr=False)


class Cosigner:
    """Signs checkpoints under one name, by Ed25519 (0x04) and ML-DSA-44 (0x06)."""

    def __init__(self, name: str, private_keys: list[Any]) -> None:
        if not note.is_key_name(name) or len(name.encode()) > 255:
            raise ConfigError("name: must be 1 to 255 bytes without spaces and plus signs")
        self.name = name
        self._keys = [_key(name, private_key) for private_key in private_keys]

    @classmethod
    def open(cls, name: str, directory: Path) -> Cosigner:
        """The cosigner whose keys are in a directory; keys that are missing are made.

        Raises:
            ConfigError: a key cannot be read or made, or others could read it.
        """
        cosigner, made = cls.load(name, directory)
        for each in made:
            write_key(each)
        return cosigner

    @classmethod
    def load(cls, name: str, directory: Path) -> tuple[Cosigner, list[MadeKey]]:
        """The cosigner of a directory, and those of its keys that were missing and are not written.

        Raises:
            ConfigError: a key cannot be read, or others could read it.
        """
        kinds: list[tuple[str, Callable[[], Any]]] = [
            (ED25519_FILE, ed25519.Ed25519PrivateKey.generate)
        ]
        try:
            from cryptography.hazmat.primitives.asymmetric import mldsa

            kinds.append((ML_DSA_FILE, mldsa.MLDSA44PrivateKey.generate))
        except ImportError:  # an older cryptography: Ed25519 is what every client knows
            pass
        keys, made = [], []
        for file, generate in kinds:
            path = directory / file
            try:
                found = _read_key(path)
                key = generate() if found is None else found
            except UnsupportedAlgorithm:
                continue
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(f"key file {path}: {error}") from error
            keys.append(key)
            if found is None:
                made.append((path, key))
        cosigner = cls(name, keys)
        return cosigner, [MadeKey(path, _key(name, key).vkey, key) for path, key in made]

    @property
    def vkeys(self) -> list[str]:
        """What others trust us by (c2sp.org/signed-note)."""
        return [key.vkey for key in self._keys]

    @property
    def public_keys(self) -> set[bytes]:
        """Our public keys, as vkeys hold them; no log may have one of them."""
        return {key.verifier.public_key for key in self._keys}

    @property
    def names(self) -> set[tuple[str, bytes]]:
        """Name and key id of our signature lines."""
        return {(self.name, key.verifier.note_key_id) for key in self._keys}

    def cosign(self, text: bytes, timestamp_unix_s: int) -> list[bytes]:
        """Signature lines for the body of a checkpoint, at a time that is not 0.

        Raises:
            NoteError: the body cannot be cosigned, such as one with an origin beyond 255 bytes.
        """
        lines = []
        for key in self._keys:
            if key.verifier.type == note.COSIGNATURE_ED25519:
                message = note.cosignature_message(text, timestamp_unix_s)
            else:
                message = note.subtree_message(self.name, timestamp_unix_s, text)
            blob = struct.pack(">Q", timestamp_unix_s) + key.sign(message)
            lines.append(note.signature_line(self.name, key.verifier.note_key_id, blob))
        return lines


def _key(name: str, private_key: Any) -> _Key:
    ed = isinstance(private_key, ed25519.Ed25519PrivateKey)
    kind = note.COSIGNATURE_ED25519 if ed else note.COSIGNATURE_ML_DSA_44
    vkey = note.format_vkey(name, kind, private_key.public_key().public_bytes(*_RAW))
    return _Key(note.parse_vkey(vkey), vkey, private_key.sign)


def _read_key(path: Path) -> Any:
    """The private key in a file, None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError(f"key file {path} is open to others; run: chmod 600 {path}")
        return serialization.load_pem_private_key(file.read(16 * 1024), None)


def write_key(made: MadeKey) -> None:
    """Write a key that was made, durably, where none is; raises ConfigError."""
    pem = made.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(made.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(made.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"key file {made.path}: {error}") from error
