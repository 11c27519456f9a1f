"""Which adapter a key URI means: the scheme decides.

========== ============================================== =====================
scheme     form                                           in this build
========== ============================================== =====================
local:     `local:witness-1.pem`, `local:/path/key.pem`   yes
aws-kms:   `aws-kms:<key ARN>`                            no, extra `aws`
gcp-kms:   `gcp-kms:projects/…/cryptoKeyVersions/N`       no, extra `gcp`
pkcs11:    RFC 7512 URI                                   no, extra `pkcs11`
========== ============================================== =====================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from provledger.jwk import Algorithm, PublicKey
from provledger.kms.base import Provider, Signer
from provledger.kms.errors import KMSConfigError, KMSNotInstalledError

MAX_URI_BYTES: Final = 1024


def _local(key_dir: Path) -> Provider:
    from provledger.kms.local import LocalProvider

    return LocalProvider(key_dir)


_PROVIDERS: Final[dict[str, Callable[[Path], Provider]]] = {"local": _local}
# Schemes whose meaning is fixed already, so that no other adapter can take them.
_EXTRAS: Final = {"aws-kms": "aws", "gcp-kms": "gcp", "pkcs11": "pkcs11"}


def provider_for(uri: str, key_dir: Path) -> Provider:
    """Return the provider that `uri` names; raises KMSConfigError, KMSNotInstalledError.

    `key_dir` is where relative `local:` paths begin.
    """
    if len(uri.encode("utf-8", "replace")) > MAX_URI_BYTES or not uri.isprintable():
        raise KMSConfigError(f"key URI: must be printable text of at most {MAX_URI_BYTES} bytes")
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        raise KMSConfigError(f"key URI {uri!r}: must look like local:witness-1.pem")
    if scheme in _EXTRAS:
        raise KMSNotInstalledError(
            f"key URI {uri!r}: the adapter for {scheme}: is not in this build "
            f"(it comes with the extra provledger[{_EXTRAS[scheme]}])",
            extra=_EXTRAS[scheme],
        )
    if scheme not in _PROVIDERS:
        known = ", ".join(f"{name}:" for name in sorted({*_PROVIDERS, *_EXTRAS}))
        raise KMSConfigError(f"key URI {uri!r}: unknown scheme; known are {known}")
    return _PROVIDERS[scheme](key_dir)


def check_uri(uri: str) -> None:
    """Raise KMSConfigError unless `uri` has a form that some adapter, in this build or not, knows.

    Makes no I/O: the key registry keeps references to keys it cannot reach itself.
    """
    try:
        provider_for(uri, Path()).check_uri(uri)
    except KMSNotInstalledError:
        return


async def open_signer(uri: str, key_dir: Path) -> Signer:
    """Open the key that `uri` names; raises a subclass of KMSError."""
    return await provider_for(uri, key_dir).open_signer(uri)


async def create_key(uri: str, algorithm: Algorithm, key_dir: Path) -> PublicKey:
    """Make a key under `uri` and return its public half; raises a subclass of KMSError."""
    return await provider_for(uri, key_dir).create_key(uri, algorithm)
