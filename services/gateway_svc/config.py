"""Settings of the gateway: environment `PROVLEDGER_GATEWAY_*`, or table `[gateway]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from provledger.http.settings import HTTPSettings
from provledger.rpc.settings import check_endpoints
from provledger.rpc.tls import TLSSettings
from provledger.settings import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(HTTPSettings):
    """Everything the gateway can be told."""

    data_dir: Path | None = field(
        default=None,
        metadata={
            "doc": "The anchor's data_dir, or a mount or copy of it, whose logs are served. "
            "Reading it is enough. Exactly one of this, tile_store and anchor_endpoint is needed."
        },
    )
    tile_store: str = field(
        default="",
        metadata={
            "doc": "The anchor's tile_store, if its tiles are in a bucket: "
            "s3://bucket/prefix[?endpoint=https://host][&region=NAME]."
        },
    )
    anchor_endpoint: str | None = field(
        default=None,
        metadata={
            "doc": "host:port of the anchor, if neither its disk nor a bucket can be read: logs "
            "are asked for by ListLogs, GetCheckpoint and GetTile."
        },
    )
    cache_mib: int = field(
        default=64,
        metadata={
            "doc": "Most memory for tiles from a bucket or the anchor, which never change.",
            "unit": "MiB",
            "min": 0,
            "max": 65_536,
        },
    )
    checkpoint_poll_ms: int = field(
        default=200,
        metadata={
            "doc": "How old a checkpoint from a bucket or the anchor may be before it is asked "
            "for again, once for all who want it.",
            "unit": "milliseconds",
            "min": 0,
            "max": 60_000,
        },
    )
    redirect_s: int = field(
        default=0,
        metadata={
            "doc": "With tile_store: send readers of full tiles to the store, with a presigned "
            "URL that holds this long. 0 passes them through instead.",
            "unit": "seconds",
            "min": 0,
            "max": 604_800,
        },
    )
    redirect_endpoint: str = field(
        default="",
        metadata={"doc": "URL of the store as readers reach it, if it is not that of tile_store."},
    )
    gzip_cache_mib: int = field(
        default=32,
        metadata={
            "doc": "Most memory for entry bundles as gzip, made once for who accepts it. 0 sends "
            "them as they are.",
            "unit": "MiB",
            "min": 0,
            "max": 65_536,
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

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be dialled."""
        check_endpoints(
            "gateway", anchor_endpoint=self.anchor_endpoint, keys_endpoint=self.keys_endpoint
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
