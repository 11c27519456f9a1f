"""Settings that every service has: where it listens, its certificates, its bounds.

A service's own settings class derives from `ServerSettings`; see `provledger.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from provledger.rpc.endpoint import check_endpoint
from provledger.rpc.tls import TLSSettings
from provledger.settings import ConfigError, env_name

LARGEST: Final = 2**31 - 1
"""Of a number that gRPC is given: its options are C integers of 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings shared by all services."""

    host: str = field(
        default="127.0.0.1",
        metadata={"doc": "Address to listen on. Anything but loopback needs TLS."},
    )
    port: int = field(
        default=0,
        metadata={"doc": "Port to listen on; 0 lets the system choose.", "min": 0, "max": 65535},
    )
    tls_cert: Path | None = field(
        default=None,
        metadata={"doc": "PEM file: our certificate chain, shown to clients and to servers."},
    )
    tls_key: Path | None = field(
        default=None, metadata={"doc": "PEM file: private key of our certificate."}
    )
    tls_ca: Path | None = field(
        default=None, metadata={"doc": "PEM file: CAs whose certificates we accept."}
    )
    allowed_callers: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "doc": "Who may call what: RPC (package.Service/Method), service or * to principals; "
            "* admits any. Empty allows everybody, otherwise what is not listed is refused."
        },
    )
    max_message_bytes: int = field(
        default=16 * 1024 * 1024,
        metadata={
            "doc": "Largest message, either way.",
            "unit": "bytes",
            "min": 65536,
            "max": LARGEST,
        },
    )
    max_concurrent_streams: int = field(
        default=1024,
        metadata={
            "doc": "Most calls at once on one connection.",
            "unit": "calls",
            "min": 1,
            "max": LARGEST,
        },
    )
    max_concurrent_rpcs: int = field(
        default=8192,
        metadata={
            "doc": "Most calls at once in all; more are refused. Watches take at most a quarter of "
            "it, or where that is less than 64, half of it up to 64: with less than 32, services "
            "with three replicas each may be refused theirs.",
            "unit": "calls",
            "min": 1,
            "max": LARGEST,
        },
    )
    grpc_server: Literal["direct", "aio"] = field(
        default="direct",
        metadata={
            "doc": "What serves calls: gRPC's core directly, or grpc.aio, which takes several "
            "times as much processor time for each."
        },
    )
    listeners: int = field(
        default=1,
        metadata={
            "doc": "Sockets that listen on the port, among which Linux spreads connections; "
            "elsewhere there is one.",
            "unit": "sockets",
            "min": 1,
            "max": 64,
        },
    )
    connection_age_s: float = field(
        default=3600.0,
        metadata={
            "doc": "How long a connection takes new calls, a tenth more or less; then its client "
            "makes another one. Calls that are open then have `deadline_s` to end.",
            "unit": "seconds",
            "min": 1,
            "max": 86400,
        },
    )
    deadline_s: float = field(
        default=60.0,
        metadata={
            "doc": "Limit for a unary call whose caller set no deadline, or a later one.",
            "unit": "seconds",
            "min": 0.1,
            "max": 86400,
        },
    )
    grace_s: float = field(
        default=10.0,
        metadata={
            "doc": "How long a drain waits for calls in flight.",
            "unit": "seconds",
            "min": 0,
            "max": 3600,
        },
    )
    ready_file: Path | None = field(
        default=None,
        metadata={"doc": "File to write port and pid to, as JSON, once the service serves."},
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info",
        metadata={
            "doc": "Least severe level that is logged; of other libraries, from warnings on."
        },
    )
    log_format: Literal["auto", "json", "human"] = field(
        default="auto",
        metadata={"doc": "JSON lines, readable lines, or readable only on a terminal."},
    )

    def tls(self) -> TLSSettings | None:
        """The certificate files, or None where none is configured.

        Raises:
            ConfigError: only some of the three are set.
        """
        return TLSSettings.from_paths(self.tls_cert, self.tls_key, self.tls_ca)


def check_endpoints(service: str, **endpoints: str | None) -> None:
    """Check the form of settings of a service that are endpoints, by their names.

    A service that starts with one that cannot be dialled says nothing of it until it is called.

    Raises:
        ConfigError: naming the first that is neither HOST:PORT nor another target of gRPC.
    """
    for setting, endpoint in endpoints.items():
        if endpoint is None:
            continue
        try:
            check_endpoint(endpoint)
        except ConfigError as error:
            raise ConfigError(f"{env_name(service, setting)}: {error}") from None
