"""Keys in local files: `local:<path>[?passphrase-file=<path>]`, for development and small set-ups.

A file holds one private key as PKCS#8 in PEM (RFC 5958, RFC 7468 §10, §11), encrypted under the
passphrase file's first line if one is given. Relative paths begin in the service's key directory.

Trust: whoever reads the file can sign as this key, backdated too; the file system is all that
guards it. So a file we own must be closed to everybody else, and a file that root owns (a mounted
secret) may at most be readable by our group. Backups of the directory hold the keys as well.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from provledger.errors import KeyFormatError
from provledger.fips import policy
from provledger.jwk import Algorithm, PublicKey, algorithm_of, ecdsa_for, ml_dsa_type
from provledger.kms.base import Capabilities
from provledger.kms.errors import (
    KMSConfigError,
    KMSKeyExistsError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSUnavailableError,
    bare,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import mldsa

PrivateKey: TypeAlias = (
    "Ed25519PrivateKey | ec.EllipticCurvePrivateKey | mldsa.MLDSA44PrivateKey "
    "| mldsa.MLDSA65PrivateKey"
)

_SCHEME: Final = "local:"
_PASSPHRASE_FILE: Final = "passphrase-file="
_MAX_FILE_BYTES: Final = 64 * 1024
_SCRATCH_BYTES: Final = 8
_SCRATCH_RE: Final = re.compile(r"\.(.+)\.[0-9a-f]{16}")
_SCRATCH_AGE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """A private key held in this process's memory."""

    uri: str
    algorithm: Algorithm
    public_key: PublicKey
    _private_key: PrivateKey = field(repr=False, compare=False)

    async def sign(self, message: bytes) -> bytes:
        """Return the signature over `message`. Takes less than a millisecond: no thread is used."""
        if isinstance(self._private_key, ec.EllipticCurvePrivateKey):
            return self._private_key.sign(message, ecdsa_for(self._private_key))
        return self._private_key.sign(message)

    async def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class LocalProvider:
    """The files below (or, by absolute path, beside) `key_dir`."""

    key_dir: Path

    @property
    def capabilities(self) -> Capabilities:
        """All algorithms, and new keys."""
        return Capabilities(algorithms=frozenset(Algorithm), can_create_keys=True)

    def check_uri(self, uri: str) -> None:
        """Raise KMSConfigError unless `uri` is a `local:` URI; touches no file."""
        self._paths(uri)

    async def open_signer(self, uri: str) -> LocalSigner:
        """Read the key file; raises KMSKeyNotFoundError, KMSPermissionError, KMSConfigError."""
        path, passphrase_path = self._paths(uri)
        # Decrypting is slow on purpose, and disks may be: neither on the event loop.
        return await asyncio.to_thread(_open, uri, path, passphrase_path)

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        """Make a key file; raises KMSKeyExistsError, KMSPermissionError, KMSConfigError."""
        path, passphrase_path = self._paths(uri)

        def create() -> PublicKey:
            passphrase = _read_passphrase(passphrase_path) if passphrase_path else None
            return create_key(path, algorithm, passphrase=passphrase)

        return await asyncio.to_thread(create)

    def _paths(self, uri: str) -> tuple[Path, Path | None]:
        """Return the paths of key and passphrase file."""
        if not uri.startswith(_SCHEME):
            raise KMSConfigError(f"key URI {bare(uri)!r}: must look like local:witness-1.pem")
        text, question, query = uri.removeprefix(_SCHEME).partition("?")
        if question and not query.startswith(_PASSPHRASE_FILE):
            raise KMSConfigError(
                f"key URI {bare(uri)!r}: after ? only passphrase-file=<path> is known"
            )
        passphrase_path = query.removeprefix(_PASSPHRASE_FILE)
        if question and not passphrase_path:
            raise KMSConfigError(f"key URI {uri!r}: passphrase-file has no path")
        return self._path(uri, text), self._path(uri, passphrase_path) if question else None

    def _path(self, uri: str, text: str) -> Path:
        path = Path(text)
        # The URI comes from the registry: a relative one stays inside the key directory.
        if not path.name or ".." in path.parts:
            raise KMSConfigError(f"key URI {uri!r}: the path must name a file, without ..")
        return path if path.is_absolute() else self.key_dir / path


def create_key(
    path: Path, algorithm: Algorithm = Algorithm.ED25519, *, passphrase: bytes | None = None
) -> PublicKey:
    """Make a private key in a new file of mode 0600, durably, and return its public half.

    Never replaces a file and never leaves half of one. Raises KMSKeyExistsError,
    KMSPermissionError or KMSUnavailableError (disk full and the like).
    """
    private_key = _generate(algorithm)
    _write_new(path, private_key, passphrase)
    return private_key.public_key()


def store_key(path: Path, key: LocalSigner) -> None:
    """Put a key that was read elsewhere into a new file, unencrypted; raises as `create_key`."""
    _write_new(path, key._private_key, None)


def _write_new(path: Path, private_key: PrivateKey, passphrase: bytes | None) -> None:
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    # Written beside the target under a name of its own and then linked: link(2) does not replace.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(_SCRATCH_BYTES)}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        _remove_scratch(path)
        _fsync_directory(path.parent)
    except FileExistsError:
        _remove_scratch(path)
        raise _exists(path) from None
    except PermissionError:
        raise KMSPermissionError(f"key file {path}: its directory is not writable by us") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.exists():
            # Whoever made it meanwhile has removed our scratch file with all others.
            raise _exists(path) from None
        raise KMSUnavailableError(f"key file {path}: {error.strerror}") from None


def _exists(path: Path) -> KMSKeyExistsError:
    return KMSKeyExistsError(f"key file {path} exists already and is kept as it is")


def _remove_scratch(path: Path) -> None:
    """Remove what was left by whoever was killed while making this file, which is there now."""
    # The key is made in any case, and a directory need not let itself be listed.
    with suppress(OSError):
        for each in path.parent.iterdir():
            if _made_for(each) == path.name:
                each.unlink(missing_ok=True)


def remove_scratch(directory: Path) -> None:
    """Remove what was left in a directory by whoever was killed while making a key file.

    Each holds a private key, which may have been moved elsewhere since. One that may still be
    written is left: it is not linked to its name yet, and young. Raises OSError.
    """
    for each in directory.iterdir():
        if not _made_for(each):
            continue
        with suppress(FileNotFoundError):
            status = each.lstat()
            age_s = time.time() - status.st_mtime
            if status.st_nlink > 1 or age_s > _SCRATCH_AGE_S:
                each.unlink()


def _made_for(path: Path) -> str:
    """The name of the file that a scratch file was to become; "" for any other file."""
    match = _SCRATCH_RE.fullmatch(path.name)
    return match[1] if match else ""


def key_in_memory(uri: str, algorithm: Algorithm) -> LocalSigner:
    """Make a key that no file ever holds; `uri` is what errors call it.

    In FIPS mode the provider makes it, in a process of its own: call it from a thread.
    """
    private_key = _generate(algorithm)
    return LocalSigner(uri, algorithm, private_key.public_key(), private_key)


def _generate(algorithm: Algorithm) -> PrivateKey:
    if policy.active():
        from provledger.fips import keygen

        if algorithm not in keygen.ALGORITHMS:
            raise KMSConfigError(f"a {algorithm} key is not made in FIPS mode; use P-256 or P-384")
        return keygen.generate(algorithm)
    if algorithm is Algorithm.ED25519:
        return Ed25519PrivateKey.generate()
    if not algorithm.experimental:
        return ec.generate_private_key(
            ec.SECP256R1() if algorithm is Algorithm.ECDSA_P256 else ec.SECP384R1()
        )
    made = ml_dsa_type(algorithm, "PrivateKey")
    try:
        private_key: PrivateKey = made.generate()
    except (AttributeError, UnsupportedAlgorithm):
        raise KMSConfigError(
            f"a {algorithm} key cannot be made here: the package cryptography is too old for it"
        ) from None
    return private_key


def _open(uri: str, path: Path, passphrase_path: Path | None) -> LocalSigner:
    pem = _read_private(path)
    passphrase = _read_passphrase(passphrase_path) if passphrase_path else None
    return _read(uri, f"key file {path}", pem, passphrase)


def read_pem(name: str, pem: bytes) -> LocalSigner:
    """Read an unencrypted key that stands in no file; raises KMSConfigError, calling it `name`."""
    return _read(name, name, pem, None)


def _read(uri: str, name: str, pem: bytes, passphrase: bytes | None) -> LocalSigner:
    try:
        private_key = load_pem_private_key(pem, passphrase)
    # The library's messages can quote the input, so none of them is passed on.
    except TypeError:
        raise KMSConfigError(
            f"{name}: is not encrypted but a passphrase file is given"
            if passphrase
            else f"{name}: is encrypted; add ?passphrase-file=<path> to its URI"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KMSConfigError(
            f"{name}: is not a private key in PKCS#8 PEM, or its passphrase is wrong"
        ) from None
    opened: Any = private_key
    try:
        # Other kinds of keys have a public half as well; it is what tells the kinds apart.
        algorithm = algorithm_of(opened.public_key())
    except (KeyFormatError, AttributeError):
        raise KMSConfigError(f"{name}: must hold an Ed25519, P-256 or P-384 key") from None
    return LocalSigner(uri, algorithm, opened.public_key(), opened)


def _read_passphrase(path: Path) -> bytes:
    passphrase = _read_private(path).split(b"\n", 1)[0].rstrip(b"\r")
    if not passphrase:
        raise KMSConfigError(f"passphrase file {path}: its first line is empty")
    return passphrase


def _read_private(path: Path) -> bytes:
    """Read a small secret file, refusing one that others could read or change."""
    try:
        # O_NONBLOCK: opening a named pipe must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            _check_private(path, os.fstat(descriptor))
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KMSKeyNotFoundError(f"key file {path} does not exist") from None
    except PermissionError:
        raise KMSPermissionError(f"key file {path} is not readable by us") from None
    except OSError as error:
        raise KMSUnavailableError(f"key file {path}: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise KMSConfigError(f"key file {path}: longer than {_MAX_FILE_BYTES} bytes")
    return data


def _check_private(path: Path, status: os.stat_result) -> None:
    # Checked on the open file, so that it cannot be exchanged between check and use.
    if not stat.S_ISREG(status.st_mode):
        raise KMSConfigError(f"key file {path} is not a regular file")
    ours = status.st_uid == os.geteuid()
    if not ours and status.st_uid != 0:
        raise KMSPermissionError(f"key file {path} belongs to another user; chown it to ours")
    # A mounted secret belongs to root and reaches us through our group: 0440 is its closest mode.
    if stat.S_IMODE(status.st_mode) & (0o077 if ours else 0o037):
        raise KMSPermissionError(
            f"key file {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"run: chmod 600 {path}"
        )


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
