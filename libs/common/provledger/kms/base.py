"""The interface that every key management adapter has: `Provider`, and the `Signer` it opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from provledger.jwk import Algorithm, PublicKey


class Signer(Protocol):
    """One private key at one exact version, opened for signing.

    Safe for concurrent calls on one event loop. Only `provledger.kms.signing` calls `sign`.
    """

    @property
    def uri(self) -> str:
        """Where the key is, as given to `open_signer`; never an alias that can move."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """How it signs."""
        ...

    @property
    def public_key(self) -> PublicKey:
        """Its public half, fetched once when it was opened."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """Return the signature over the whole `message`: 64 bytes for Ed25519, DER for ECDSA.

        Raises a subclass of KMSError, KMSMessageTooLongError among them. Not verified yet.
        """
        ...

    async def close(self) -> None:
        """Release sessions and connections; signing afterwards is an error."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do with keys, so that callers refuse early and clearly."""

    algorithms: frozenset[Algorithm]
    can_create_keys: bool


class Provider(Protocol):
    """One key management service. URIs are checked for form by each call (KMSConfigError)."""

    @property
    def capabilities(self) -> Capabilities:
        """What it offers."""
        ...

    def check_uri(self, uri: str) -> None:
        """Raise KMSConfigError unless `uri` has the form this provider understands; no I/O."""
        ...

    async def open_signer(self, uri: str) -> Signer:
        """Open an existing key; raises a subclass of KMSError."""
        ...

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        """Make a new key and return its public half; raises KMSKeyExistsError and others."""
        ...
