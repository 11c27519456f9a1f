"""Settings of the gateway: environment `PROVLEDGER_GATEWAY_*`, or table `[gateway]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from provledger.http.settings import HTTPSettings
from provledger.rpc.tls import TLSSettings
from provledger.settings import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(HTTPSettings):
    """Everything the gateway can be told."""

    data_dir: Path = field(
        metadata={
            "doc": "The anchor's data_dir, or a mount or copy of it, whose logs are served. "
            "Reading it is enough."
        },
    )
    keys_endpoint: str | None = field(
        default=None,
        metadata={"doc": "host:port of the keys service, whose JWK Set is served, if any."},
    )
    rpc_tls_cert: Path | None = field(
        default=None, metadata={"doc": "PEM file: our certificate chain, shown to the services."}
    )
    rpc_tls_key: Path | None = field(
        default=None, metadata={"doc": "PEM file: private key of that certificate."}
    )
    rpc_tls_ca: Path | None = field(
        default=None, metadata={"doc": "PEM file: CAs whose certificates we accept of services."}
    )
    rpc_deadline_s: float = field(
        default=5.0,
        metadata={
            "doc": "How long a call to another service may take, retries included.",
            "unit": "seconds",
            "min": 0.05,
            "max": 60,
        },
    )
    checkpoint_max_age_s: int = field(
        default=1,
        metadata={
            "doc": "How long caches may keep a checkpoint.",
            "unit": "seconds",
            "min": 0,
            "max": 10,
        },
    )
    jwks_max_age_s: int = field(
        default=5,
        metadata={
            "doc": "How long we and caches may keep the JWK Set; a revocation is seen that much "
            "later.",
            "unit": "seconds",
            "min": 0,
            "max": 60,
        },
    )

    def rpc_tls(self) -> TLSSettings | None:
        """The certificate files for calls, or None where none is configured.

        Raises:
            ConfigError: only some of the three are set.
        """
        try:
            return TLSSettings.from_paths(self.rpc_tls_cert, self.rpc_tls_key, self.rpc_tls_ca)
        except ConfigError:
            raise ConfigError("rpc_tls_cert, rpc_tls_key and rpc_tls_ca belong together") from None
