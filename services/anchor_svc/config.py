"""Settings of the anchor service: environment `PROVLEDGER_ANCHOR_*`, or table `[anchor]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from provledger.rpc.settings import ServerSettings, check_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """Everything the anchor service can be told."""

    database_url: str = field(
        metadata={"doc": "SQLAlchemy URL of the logs' database: sqlite or postgresql+psycopg."}
    )
    data_dir: Path = field(
        metadata={
            "doc": "Directory for the tiles of the logs, in the layout of c2sp.org/tlog-tiles: "
            "logs/{uid}/tile/... Back it up together with the database."
        }
    )
    tile_store: str = field(
        default="",
        metadata={
            "doc": "Where the tiles of the logs are kept instead of data_dir: "
            "s3://bucket/prefix[?endpoint=https://host][&region=NAME], below it logs/{uid}/... "
            "The bucket should be private and keep versions. data_dir is needed all the same."
        },
    )
    keys_endpoint: str = field(
        metadata={"doc": "host:port of the keys service, which says what keys are active."}
    )
    key_dir: Path = field(metadata={"doc": "Directory where the paths of `local:` keys begin."})
    origin_prefix: str = field(
        default="provledger.local",
        metadata={
            "doc": "What the origin of a new log begins with: the URL, without scheme, under "
            "which the log can be read. The log's uid follows. An existing log keeps its own."
        },
    )
    suite: Literal["blake3", "blake3-all", "fips"] = field(
        default="blake3",
        metadata={
            "doc": "Suite of a new log. With blake3-all, no outside tool can check the tree; "
            "blake3 and fips build the same SHA-256 tree."
        },
    )
    sinks: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "URIs of the sinks that published checkpoints go to: file:///directory[?git=1], "
            "https://host/prefix?protocol=tlog-witness&vkey=KEY, "
            "https://host/path?protocol=rfc3161&cert=FILE&chain=FILE, "
            "s3://bucket/prefix?mode=COMPLIANCE. Those of the policy come on top."
        },
    )
    policy: Path | None = field(
        default=None,
        metadata={
            "doc": "Policy file (c2sp.org/tlog-policy with our sinks): what makes a checkpoint "
            "anchored, within what time, and what happens otherwise. Without one, every sink must "
            "hold it."
        },
    )
    publish_interval_ms: int = field(
        default=1000,
        metadata={
            "doc": "Least time between two published checkpoints, and the longest that a signed "
            "one waits to be published.",
            "unit": "milliseconds",
            "min": 1,
            "max": 3_600_000,
        },
    )
    sink_deadline_ms: int = field(
        default=10_000,
        metadata={
            "doc": "How long a sink may take for one checkpoint, or to prove itself before the "
            "first. Whatever is set, one request to a cosigner or timestamp authority is given up "
            "after 10 s, a bucket that says nothing after 8 s, and one step of git after 30 s.",
            "unit": "milliseconds",
            "min": 10,
            "max": 600_000,
        },
    )
    wait_for_sinks: bool = field(
        default=False,
        metadata={
            "doc": "Whether each start signs nothing until sinks that remember (directories, "
            "buckets, cosigners) say that nothing later was anchored: without `policy` one of "
            "them, else as many that no others could have met it. As after `provledger restore`, "
            "and for copies that were put back in another way. Otherwise those are asked as well, "
            "and one that does not answer within 3 s is not waited for."
        },
    )
    max_batch_leaves: int = field(
        default=1000,
        metadata={
            "doc": "Most entries in one flush; a submission is never split.",
            "unit": "entries",
            "min": 1,
            "max": 100_000,
        },
    )
    max_own_logs: int = field(
        default=100,
        metadata={
            "doc": "Most tenants with a log of their own. Each log costs a writer, its own "
            "connections to the sinks, and some tasks; and the event by which a checkpoint key "
            "is rotated names them all. Any caller of CreateLedger may ask for one, except for the "
            "places that own_log_tenants of the ledger keeps.",
            "unit": "logs",
            "min": 0,
            "max": 1000,
        },
    )
    batch_budget_ms: float = field(
        default=8.0,
        metadata={
            "doc": "Longest that an entry waits for others to fill its batch. A batch waits for "
            "what arrives in 0.6 of this at the rate of late, so at low load for nothing, and not "
            "at all once it holds an entry that a caller waits for; 0 switches waiting off.",
            "unit": "milliseconds",
            "min": 0,
            "max": 60_000,
        },
    )
    batch_leaves: int = field(
        default=0,
        metadata={
            "doc": "Entries that every batch waits for, at most for batch_budget_ms, instead of a "
            "number that follows the arrival rate; 0 for the latter.",
            "unit": "entries",
            "min": 0,
            "max": 100_000,
        },
    )
    max_queued_leaves: int = field(
        default=20_000,
        metadata={
            "doc": "Most entries waiting for a flush; more are told to come back.",
            "unit": "entries",
            "min": 1000,
        },
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be dialled."""
        check_endpoints("anchor", keys_endpoint=self.keys_endpoint)

    def sink_uris(self) -> tuple[str, ...]:
        """The sinks, each once; a space parts them as well as a comma."""
        return tuple(dict.fromkeys(uri for text in self.sinks for uri in text.split()))
