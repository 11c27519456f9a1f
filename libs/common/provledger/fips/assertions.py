"""What must hold in each libcrypto before a service starts, each with its evidence.

A provider that is configured but not active makes OpenSSL go on without it, silently. So nothing is
taken from configuration: the default properties are asked for, MD5 has to be refused, and SHA-256
has to be what OpenSSL gives, not an implementation of Python's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from provledger.fips import libcrypto
from provledger.fips.errors import FIPSAssertionError
from provledger.fips.libcrypto import Loaded


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen in one libcrypto.

    user: whose libcrypto. library: what it calls itself. copy: the provider it loaded.
    provider_name, provider_version: as it says, empty where we cannot ask it (it is linked into
    another library); its copy is then the same file, byte for byte, as that of the others.
    self_test: the provider's own tests were run again at our request, and passed.
    """

    user: str
    library: str
    copy: str
    provider_name: str
    provider_version: str
    self_test: bool


def assert_python(loaded: Loaded) -> Evidence:
    """Assert FIPS mode in `hashlib` and `ssl`; raises FIPSAssertionError."""
    import _hashlib
    import ssl

    if _hashlib.get_fips_mode() != 1:
        raise FIPSAssertionError("Python's hashlib is not in FIPS mode")
    _must_refuse("Python's hashlib", "MD5", lambda: _hashlib.openssl_md5(b""))
    for name in ("sha256", "sha384", "shake_256"):
        # Python falls back to code of its own for what OpenSSL refuses.
        if getattr(hashlib, name) is not getattr(_hashlib, f"openssl_{name}"):
            raise FIPSAssertionError(f"hashlib.{name} is not OpenSSL's")
    return _evidence(loaded, ssl.OPENSSL_VERSION)


def assert_cryptography(loaded: Loaded) -> Evidence:
    """Assert FIPS mode in the `cryptography` package; raises FIPSAssertionError."""
    from cryptography.hazmat.bindings._rust import openssl
    from cryptography.hazmat.primitives import hashes

    library = openssl.openssl_version_text()
    if loaded.path is not None and libcrypto.version(loaded.path) != library:
        # It mapped no copy, and is not the libcrypto whose copy it would share either.
        raise FIPSAssertionError(
            f"the package cryptography ({library}) did not load the FIPS provider"
        )
    if not openssl.is_fips_enabled():
        raise FIPSAssertionError("the OpenSSL of the package cryptography is not in FIPS mode")
    where = "the package cryptography"
    _must_refuse(where, "MD5", lambda: hashes.Hash(hashes.MD5()))  # noqa: S303 - must not work
    _must_refuse(where, "BLAKE2s", lambda: hashes.Hash(hashes.BLAKE2s(32)))
    return _evidence(loaded, library)


def assert_library(loaded: Loaded) -> Evidence:
    """Assert FIPS mode in a libcrypto that is a file of its own; raises FIPSAssertionError."""
    if loaded.path is None:
        raise FIPSAssertionError(f"the libcrypto of {loaded.user} is not to be found")
    return _evidence(loaded, libcrypto.version(loaded.path))


def _evidence(loaded: Loaded, library: str) -> Evidence:
    """Ask the libcrypto itself, where it is a file whose functions can be called."""
    if loaded.path is None:
        return Evidence(loaded.user, library, str(loaded.slot.module), "", "", False)
    if not libcrypto.is_fips_default(loaded.path):
        raise FIPSAssertionError(f"{loaded.path}: does not use the FIPS provider by default")
    if libcrypto.fetches_digest(loaded.path, "MD5"):
        raise FIPSAssertionError(f"{loaded.path}: gives MD5, which FIPS mode must refuse")
    if not libcrypto.fetches_digest(loaded.path, "SHA2-256"):
        raise FIPSAssertionError(f"{loaded.path}: does not give SHA-256")
    libcrypto.self_test(loaded.path)
    info = libcrypto.provider_info(loaded.path)
    if info.status != 1:
        raise FIPSAssertionError(f"{loaded.path}: its FIPS provider is in an error state")
    return Evidence(
        loaded.user, library, str(loaded.slot.module), info.name, info.version, self_test=True
    )


def _must_refuse(where: str, name: str, use: Callable[[], object]) -> None:
    try:
        use()
    except Exception:  # the libraries differ in what they raise, and any refusal will do
        return
    raise FIPSAssertionError(f"{where} gives {name}, which FIPS mode must refuse")
