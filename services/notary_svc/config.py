"""Settings of the notary: environment `PROVLEDGER_NOTARY_*`, or table `[notary]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the notary can be told."""

    name: str = field(
        metadata={
            "doc": "Name of the cosigner's keys: a URL without scheme that is yours, such as "
            "notary.example.org. Never change it."
        }
    )
    data_dir: Path = field(
        metadata={
            "doc": "Directory of the keys and, unless database_url says otherwise, of the database."
        }
    )
    logs: Path = field(
        metadata={
            "doc": "Policy file (c2sp.org/tlog-policy); its `log` lines are the logs that are "
            "cosigned, several for one origin if it has several keys. Ends in `quorum none`."
        }
    )
    database_url: str | None = field(
        default=None, metadata={"doc": "SQLAlchemy URL instead of SQLite in data_dir."}
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"doc": "Address to listen on. Anything but loopback needs TLS."},
    )
    port: int = field(
        default=0,
        metadata={"doc": "Port to listen on; 0 lets the system choose.", "min": 0, "max": 65535},
    )
    tls_cert: Path | None = field(
        default=None, metadata={"doc": "PEM file: our certificate chain."}
    )
    tls_key: Path | None = field(
        default=None, metadata={"doc": "PEM file: private key of our certificate."}
    )
    max_connections: int = field(
        default=256,
        metadata={"doc": "Most requests at once; more get 503.", "unit": "requests", "min": 1},
    )
    ready_file: Path | None = field(
        default=None,
        metadata={"doc": "File to write port and pid to, as JSON, once the notary serves."},
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata={"doc": "Least severe level that is logged."}
    )
    log_format: Literal["auto", "json", "human"] = field(
        default="auto",
        metadata={"doc": "JSON lines, readable lines, or readable only on a terminal."},
    )
