"""Settings of the witness service: environment `PROVLEDGER_WITNESS_*`, or table `[witness]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from provledger.rpc.settings import ServerSettings, check_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """Everything the witness service can be told."""

    keys_endpoint: str = field(
        metadata={"doc": "host:port of the keys service, which says what key is active."}
    )
    key_dir: Path = field(metadata={"doc": "Directory where the paths of `local:` keys begin."})
    max_batch_items: int = field(
        default=1000,
        metadata={"doc": "Most drafts in one call.", "unit": "drafts", "min": 1, "max": 1000},
    )
    max_signed_statements: int = field(
        default=4096,
        metadata={
            "doc": "Most statements under one signature; a call's own are never split.",
            "unit": "statements",
            "min": 1,
            "max": 65_536,
        },
    )
    max_waiting_statements: int = field(
        default=20_000,
        metadata={
            "doc": "Most statements in work or waiting to be signed; further calls are told to "
            "come back.",
            "unit": "statements",
            "min": 1000,
        },
    )
    signatures_in_flight: int = field(
        default=1,
        metadata={
            "doc": "Signatures asked for at once, for each suite. More helps with a key service "
            "that answers slowly but takes many requests.",
            "unit": "signatures",
            "min": 1,
            "max": 64,
        },
    )
    signing_token_s: float = field(
        default=0.0,
        metadata={
            "doc": "How long a signing token lasts: a key in memory, certified by the active key, "
            "that keeps appends going while a key service is slow, throttled or away. 0: none. "
            "docs/trust.md says what it costs.",
            "unit": "seconds",
            "min": 0,
            "max": 300,
        },
    )
    signing_token_uses: int = field(
        default=20_000,
        metadata={
            "doc": "Most signatures by one signing token.",
            "unit": "signatures",
            "min": 100,
            "max": 65_536,
        },
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be dialled."""
        check_endpoints("witness", keys_endpoint=self.keys_endpoint)
