"""Which adapter a key URI means: the scheme decides.

========== ============================================== ================
scheme     form                                           extra it needs
========== ============================================== ================
local:     `local:witness-1.pem`, `local:/path/key.pem`   none
aws-kms:   `aws-kms:<key ARN>`                            `aws`
gcp-kms:   `gcp-kms:projects/…/cryptoKeyVersions/N`       `gcp`
pkcs11:    RFC 7512 URI                                   `pkcs11`
========== ============================================== ================

An adapter is imported when one of its URIs is first used, its library when a key is opened. So the
keys service checks URIs of providers that only the signing services have a library for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger.jwk import Algorithm, PublicKey
from provledger.kms.base import Provider, Signer
from provledger.kms.errors import KMSConfigError, KMSNotInstalledError, bare
from provledger.kms.remote import CreatedKey, Wanted, not_installed

MAX_URI_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Adapter:
    """Where an adapter is. Its class takes the key directory."""

    module: str
    name: str
    extra: str = ""

    def load(self, uri: str, key_dir: Path) -> Provider:
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            if not self.extra:
                raise
            raise not_installed(uri, self.extra) from None
        provider: Provider = getattr(module, self.name)(key_dir)
        return provider


_ADAPTERS: Final = {
    "local": _Adapter("provledger.kms.local", "LocalProvider"),
    "aws-kms": _Adapter("provledger.kms.aws", "AWSProvider", "aws"),
    "gcp-kms": _Adapter("provledger.kms.gcp", "GCPProvider", "gcp"),
    "pkcs11": _Adapter("provledger.kms.pkcs11", "PKCS11Provider", "pkcs11"),
}


def is_uri(text: str) -> bool:
    """Whether `text` begins with a scheme of ours, and so is no path."""
    scheme, colon, _ = text.partition(":")
    return bool(colon) and scheme in _ADAPTERS


def provider_for(uri: str, key_dir: Path) -> Provider:
    """Return the provider that `uri` names; raises KMSConfigError, KMSNotInstalledError.

    `key_dir` is where relative `local:` paths begin.
    """
    if len(uri.encode("utf-8", "replace")) > MAX_URI_BYTES or not uri.isprintable():
        raise KMSConfigError(f"key URI: must be printable text of at most {MAX_URI_BYTES} bytes")
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        raise KMSConfigError(f"key URI {bare(uri)!r}: must look like local:witness-1.pem")
    if scheme not in _ADAPTERS:
        known = ", ".join(f"{name}:" for name in sorted(_ADAPTERS))
        raise KMSConfigError(f"key URI {scheme + ':...'!r}: unknown scheme; known are {known}")
    return _ADAPTERS[scheme].load(uri, key_dir)


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
    """Make a key under `uri` and return its public half; raises a subclass of KMSError.

    Only where we choose the name: AWS and Google name keys themselves, see `create_beside`.
    """
    return await provider_for(uri, key_dir).create_key(uri, algorithm)


async def create_beside(
    uri: str, algorithm: Algorithm, key_dir: Path, wanted: Wanted
) -> CreatedKey:
    """Make another key where the one at `uri` is, or find the one made for the same ceremony.

    Raises KMSConfigError where the provider cannot, and other subclasses of KMSError.
    """
    provider = provider_for(uri, key_dir)
    create = getattr(provider, "create_beside", None)
    if create is None:
        raise KMSConfigError(
            f"key {uri}: this provider does not choose names for new keys; give the new key's URI"
        )
    created: CreatedKey = await create(uri, algorithm, wanted)
    return created
