"""Settings that a service has which listens for HTTP: where, with what certificate, its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPSettings:
    """Settings of a listener; a service's own settings class derives from it."""

    host: str = field(
        default="127.0.0.1",
        metadata={"doc": "Address to listen on. Anything but loopback needs TLS."},
    )
    port: int = field(
        default=0,
        metadata={"doc": "Port to listen on; 0 lets the system choose.", "min": 0, "max": 65535},
    )
    tls_cert: Path | None = field(
        default=None, metadata={"doc": "PEM file: our certificate chain, as browsers see it."}
    )
    tls_key: Path | None = field(
        default=None, metadata={"doc": "PEM file: private key of our certificate."}
    )
    max_connections: int = field(
        default=1024,
        metadata={
            "doc": "Most connections, and most requests, at once; more get 503.",
            "unit": "connections",
            "min": 1,
        },
    )
    header_timeout_s: float = field(
        default=10.0,
        metadata={
            "doc": "How long a connection may take to send the head of a request.",
            "unit": "seconds",
            "min": 0.05,
            "max": 600,
        },
    )
    request_timeout_s: float = field(
        default=30.0,
        metadata={
            "doc": "How long one request may take, its answer included.",
            "unit": "seconds",
            "min": 0.05,
            "max": 3600,
        },
    )
    drain_delay_s: float = field(
        default=0.0,
        metadata={
            "doc": "How long we go on serving after the signal to end, while /readyz says 503, so "
            "that a load balancer notices.",
            "unit": "seconds",
            "min": 0,
            "max": 600,
        },
    )
    grace_s: int = field(
        default=10,
        metadata={
            "doc": "How long a drain waits for requests in flight.",
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
