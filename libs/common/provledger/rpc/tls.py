"""Mutual TLS from three files: our certificate chain, its key, and the CA of everybody else.

A server always demands a client certificate, a channel always presents one. The files are
checked here, since gRPC itself only says at the first handshake that something is wrong. Where
they are replaced, a server shows the new ones at its next handshake (`server_credentials`), and
channels go over to them (`provledger.rpc.renewing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from provledger import telemetry
from provledger.renewal import Renewed
from provledger.settings import ConfigError

_ends_at: Final = telemetry.gauge(
    "provledger.tls.certificate_ends_at",
    unit="s",
    doc="When the certificate in use ends, Unix seconds, by where it is shown.",
)


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """Paths of PEM files: certificate chain (own first), its private key, trusted CAs.

    Text is taken for a path.
    """

    cert: Path
    key: Path
    ca: Path

    def __post_init__(self) -> None:
        """Have paths, whatever was given."""
        for name in ("cert", "key", "ca"):
            object.__setattr__(self, name, Path(getattr(self, name)))

    @classmethod
    def from_paths(cls, cert: Path | None, key: Path | None, ca: Path | None) -> TLSSettings | None:
        """All three, or None where none is set.

        Raises:
            ConfigError: only some are set.
        """
        if cert is None and key is None and ca is None:
            return None
        if cert is None or key is None or ca is None:
            names = {"tls_cert": cert, "tls_key": key, "tls_ca": ca}
            missing = ", ".join(name for name, path in names.items() if path is None)
            raise ConfigError(f"TLS needs a certificate, a key and a CA; set {missing} as well")
        return cls(cert, key, ca)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files held, as PEM, and the last second of the certificate, since 1970."""

    cert: bytes
    key: bytes
    ca: bytes
    ends_s: float


def show_end(by: str, ends_s: float) -> None:
    """Have the metric say when a certificate ends that `server`, `channel` or `http` shows."""
    _ends_at.set(ends_s, {"shown_by": by})


def end_of(cert: Path) -> float:
    """Last second, since 1970, of the first certificate in a PEM file; raises ConfigError."""
    return _certificates(cert, _read(cert))[0].not_valid_after_utc.timestamp()


def renewed(tls: TLSSettings) -> Renewed[Loaded]:
    """What the files hold, read again when they are replaced.

    Raises:
        ConfigError: a file that cannot be read or used, or a key of another certificate.
    """
    return Renewed((tls.cert, tls.key, tls.ca), lambda: load(tls))


def server_credentials(files: Renewed[Loaded]) -> grpc.ServerCredentials:
    """Credentials of a server that demands client certificates of the CA; each handshake is made
    with what the files hold then.

    A connection keeps those that it was made with, until `connection_age_s`.
    """
    shown = files.look()
    show_end("server", shown.ends_s)

    def fetch() -> Any:
        """Asked by gRPC before each handshake, in a thread of its own; None changes nothing."""
        nonlocal shown
        newest = files.look()
        if newest is shown:
            return None
        shown = newest
        show_end("server", shown.ends_s)
        return _configuration(shown)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown), fetch, require_client_authentication=True
    )


def _configuration(loaded: Loaded) -> Any:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.cert)], loaded.ca)


def channel_credentials(loaded: Loaded) -> grpc.ChannelCredentials:
    """Credentials of a client that presents that certificate and trusts only that CA."""
    return grpc.ssl_channel_credentials(loaded.ca, loaded.key, loaded.cert)


def load(tls: TLSSettings) -> Loaded:
    """Read and check the files.

    Raises:
        ConfigError: as `renewed`.
    """
    cert, key, ca = _read(tls.cert), _read(tls.key), _read(tls.ca)
    leaf = _certificates(tls.cert, cert)[0]
    _certificates(tls.ca, ca)
    _check_kind(tls.cert, leaf)
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The message of the library is not repeated: it is about key material.
        raise ConfigError(f"{tls.key}: not an unencrypted PEM private key") from error
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise ConfigError(f"{tls.key} is not the private key of the certificate in {tls.cert}")
    return Loaded(cert, key, ca, leaf.not_valid_after_utc.timestamp())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"{path}: holds no readable PEM certificate") from error


def _check_kind(path: Path, leaf: x509.Certificate) -> None:
    """Check that gRPC's TLS (BoringSSL) makes connections with keys like this one.

    With any other it starts, and no handshake succeeds.
    """
    try:
        key = leaf.public_key()
    except (UnsupportedAlgorithm, ValueError):
        key = None
    if isinstance(key, rsa.RSAPublicKey):
        return
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    ):
        return
    raise ConfigError(
        f"{path}: gRPC makes no TLS connection with a key of this kind; use ECDSA with P-256 or "
        "P-384, or RSA"
    )
