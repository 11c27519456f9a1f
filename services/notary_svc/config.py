"""Settings of the notary: environment `PROVLEDGER_NOTARY_*`, or table `[notary]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from provledger.http.settings import HTTPSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(HTTPSettings):
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
    accept_empty_database: bool = field(
        default=False,
        metadata={
            "doc": "For one start: whether keys that were there before may begin with an empty "
            "database, since nothing was ever cosigned with them. Take it away after that start."
        },
    )
    max_connections: int = field(
        default=256,
        metadata={
            "doc": "Most connections, and most requests, at once; more get 503.",
            "unit": "connections",
            "min": 1,
        },
    )
    drain_delay_s: float = field(
        default=0.0,
        metadata={
            "doc": "How long we go on serving after the signal to end, so that a load balancer "
            "which learns of it elsewhere stops sending.",
            "unit": "seconds",
            "min": 0,
            "max": 600,
        },
    )
