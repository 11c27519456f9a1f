"""Settings of the keys service: environment `PROVLEDGER_KEYS_*`, or table `[keys]` of a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from provledger.rpc.settings import ServerSettings

# A lease shorter than this would end between two heartbeats on a busy machine.
MIN_LEASE_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """Everything the keys service can be told."""

    database_url: str = field(
        metadata={"doc": "SQLAlchemy URL of the registry's database: sqlite or postgresql+psycopg."}
    )
    drain_window_s: float = field(
        default=120.0,
        metadata={
            "doc": "How long the signatures of a replaced key still count, and five minutes more, "
            "by which clocks may be ahead. At least twice the lease, so that every signing service "
            "has moved on before it ends.",
            "unit": "seconds",
            "min": 1,
            "max": 86_400,
        },
    )
    lease_ms: int = field(
        default=30_000,
        metadata={
            "doc": "How long signing services may go on with what they last heard.",
            "unit": "milliseconds",
            "min": MIN_LEASE_MS,
            "max": 600_000,
        },
    )
    poll_interval_s: float = field(
        default=1.0,
        metadata={
            "doc": "How often the database is asked for changes by other replicas.",
            "unit": "seconds",
            "min": 0.01,
            "max": 60,
        },
    )
