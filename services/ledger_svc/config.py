"""Settings of the ledger service: environment `PROVLEDGER_LEDGER_*`, or table `[ledger]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from provledger import names
from provledger.errors import IdentifierError
from provledger.rpc.settings import LARGEST, ServerSettings, check_endpoints
from provledger.settings import ConfigError, env_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """Everything the ledger service can be told."""

    database_url: str = field(
        metadata={"doc": "SQLAlchemy URL of the chains' database: sqlite or postgresql+psycopg."}
    )
    witness_endpoint: str = field(metadata={"doc": "Address of the witness service, host:port."})
    anchor_endpoint: str = field(metadata={"doc": "Address of the anchor service, host:port."})
    keys_endpoint: str | None = field(
        default=None,
        metadata={
            "doc": "Address of the keys service, host:port. With it, a batch whose key was "
            "retired or revoked between signing and commit is signed again, and one that its key "
            "did not sign is refused; without it, the witness is believed."
        },
    )
    log_name: str = field(
        default="logs/-",
        metadata={"doc": "Log that new ledgers go to: logs/{log}, or logs/- for the anchor's own."},
    )
    own_log_tenants: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Ids of tenants whose new ledgers go to a log of the tenant's own even if not "
            "asked for; * for all. Ledgers that share a log show their uids, times and counts to "
            "each other. For each that is named here, a place of the anchor's max_own_logs is kept."
        },
    )
    default_suite: Literal["blake3", "blake3-all", "fips"] = field(
        default="blake3", metadata={"doc": "Suite of ledgers made without saying one."}
    )
    witness_timeout_s: float = field(
        default=10.0,
        metadata={
            "doc": "Limit for one call to the witness, with its retries.",
            "unit": "seconds",
            "min": 0.1,
            "max": 60,
        },
    )
    anchor_timeout_s: float = field(
        default=10.0,
        metadata={
            "doc": "Limit for one call to the anchor.",
            "unit": "seconds",
            "min": 0.1,
            "max": 120,
        },
    )
    # What waits here stands before admission, and before other tenants' calls.
    max_concurrent_streams: int = field(
        default=2048,
        metadata={
            "doc": "Most calls at once on one connection; more wait at their caller, who is not "
            "told that there is too much to do. With `grpc_server` = aio, 256 are enough: of more, "
            "each waits for all.",
            "unit": "calls",
            "min": 1,
            "max": LARGEST,
        },
    )
    listeners: int = field(
        default=8,
        metadata={
            "doc": "Sockets that listen on the port, among which Linux spreads connections. "
            "A call waits to be looked at behind those of its own socket only.",
            "unit": "sockets",
            "min": 1,
            "max": 64,
        },
    )
    flush_items: int = field(
        default=1000,
        metadata={"doc": "Most receipts in one flush.", "unit": "items", "min": 1, "max": 1000},
    )
    flush_bytes: int = field(
        default=6 * 1024 * 1024,
        metadata={
            "doc": "Most bytes of drafts in one flush. The witness's answer, which repeats a new "
            "state in its diff, has to fit into one message of 16 MiB.",
            "unit": "bytes",
            "min": 2 * 1024 * 1024,
            "max": 7 * 1024 * 1024,
        },
    )
    flush_linger_ms: float = field(
        default=5.0,
        metadata={
            "doc": "How long a flush waits for callers who were just answered, while a dozen or "
            "more append one by one; fewer wait for nobody. 0 never waits.",
            "unit": "milliseconds",
            "min": 0,
            "max": 100,
        },
    )
    queue_items: int = field(
        default=20_000,
        metadata={
            "doc": "Most drafts that wait for a flush of one ledger; more are refused.",
            "unit": "items",
            "min": 1000,
        },
    )
    queue_bytes: int = field(
        default=32 * 1024 * 1024,
        metadata={
            "doc": "Most bytes of drafts that wait for a flush of one ledger.",
            "unit": "bytes",
            "min": 16 * 1024 * 1024,
        },
    )
    work_bytes: int = field(
        default=64 * 1024 * 1024,
        metadata={
            "doc": "Most bytes of drafts let in and not answered yet, of all ledgers together; "
            "one tenant has three quarters of it at most. As much again may stand in streams whose "
            "answers were not taken, and as much in answers of other calls.",
            "unit": "bytes",
            "min": 16 * 1024 * 1024,
        },
    )
    queue_target_s: float = field(
        default=0.1,
        metadata={
            "doc": "How long a draft may wait for its flush, beside what a signature and a commit "
            "always take. While drafts wait longer, less work is let in.",
            "unit": "seconds",
            "min": 0.001,
            "max": 10,
        },
    )
    small_calls: int = field(
        default=2048,
        metadata={
            "doc": "Most calls of at most 4 KiB in work, of all tenants together; more are "
            "refused. With `grpc_server` = aio, time does not bound them, since refusing one costs "
            "what answering it does.",
            "unit": "calls",
            "min": 16,
        },
    )
    tenant_quotas: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "doc": "Drafts a second by tenant, * for each of the others: `acme=500;*=50`, in TOML "
            '`{acme = 500, "*" = 50}`; without one there is no quota. A call is taken whole while '
            "anything of a second's worth is left; what it exceeds is waited for afterwards."
        },
    )
    shared_quotas: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={
            "doc": "Drafts a second by tenant, written as in `tenant_quotas`, that bound it only "
            "while others are there (a draft within five seconds) who send less than theirs. So "
            "few that the cores idle at times keep the answers of who sends little quick beside "
            "who sends much, and cost nobody anything who is alone. Without one there is none."
        },
    )
    read_calls: int = field(
        default=1024,
        metadata={
            "doc": "Most reads in work at a time, of all tenants together, those that wait for an "
            "anchor among them; one tenant has three quarters of it at most.",
            "unit": "calls",
            "min": 16,
        },
    )
    anchor_is_shared: bool = field(
        default=False,
        metadata={
            "doc": "Ledgers of other databases go to the same anchor service. Otherwise, if its "
            "logs have ledgers that this database does not have, it was put back to an older one: "
            "none is said not to exist, and none is made."
        },
    )
    tenant_streams: int = field(
        default=64,
        metadata={"doc": "Most AppendStream calls of one tenant.", "unit": "calls", "min": 1},
    )
    stream_bytes: int = field(
        default=2 * 1024 * 1024,
        metadata={
            "doc": "Most bytes of drafts of one stream without an answer; then it is not read "
            "further.",
            "unit": "bytes",
            "min": 1024,
        },
    )
    stream_in_flight: int = field(
        default=512,
        metadata={
            "doc": "Most drafts of one stream without an answer; then it is not read further.",
            "unit": "items",
            "min": 1,
            "max": 10_000,
        },
    )
    # Checkpoints are published once a second: what nobody waits for is in no hurry.
    relay_linger_ms: float = field(
        default=100.0,
        metadata={
            "doc": "How long receipts gather before they are brought to the log, while nobody "
            "waits for one of them to be logged. 0 brings them at once.",
            "unit": "milliseconds",
            "min": 0,
            "max": 1000,
        },
    )
    relay_poll_s: float = field(
        default=0.25,
        metadata={
            "doc": "How often the database is asked for receipts of other replicas that are not "
            "logged yet; less often where its answer takes more than a tenth of that, with pauses "
            "of at most a third of `relay_lease_s`.",
            "unit": "seconds",
            "min": 0.01,
            "max": 60,
        },
    )
    relay_lease_s: float = field(
        default=10.0,
        metadata={
            "doc": "How long a replica alone brings a ledger's entries to the log before another "
            "may take over.",
            "unit": "seconds",
            "min": 1,
            "max": 600,
        },
    )
    relay_memory_bytes: int = field(
        default=16 * 1024 * 1024,
        metadata={
            "doc": "Most bytes of entries kept in memory for the log; what does not fit is read "
            "from the database again.",
            "unit": "bytes",
            "min": 0,
        },
    )
    reader_threads: int = field(
        default=4,
        metadata={"doc": "Threads that read from the database.", "min": 1, "max": 64},
    )

    def __post_init__(self) -> None:
        """Check what names tenants, a log and services.

        A mistaken name would be no tenant's, without a word; and no ledger could be made in what is
        no log, nor with services that cannot be dialled.

        Raises:
            ConfigError: what stands there cannot be the id of a tenant, a log or an endpoint.
        """
        check_endpoints(
            "ledger",
            witness_endpoint=self.witness_endpoint,
            anchor_endpoint=self.anchor_endpoint,
            keys_endpoint=self.keys_endpoint,
        )
        try:
            names.parse_log_name(self.log_name)
        except IdentifierError as error:
            raise ConfigError(f"{env_name('ledger', 'log_name')}: {error.message}") from None
        _check_tenants("own_log_tenants", self.own_log_tenants)
        _check_tenants("tenant_quotas", self.tenant_quotas)
        _check_tenants("shared_quotas", self.shared_quotas)


def _check_tenants(setting: str, ids: Iterable[str]) -> None:
    for number, tenant in enumerate(ids, 1):
        try:
            if tenant != "*":
                names.check_label(tenant, "tenant")
        except IdentifierError as error:
            raise ConfigError(
                f"{env_name('ledger', setting)}: name {number} is no tenant's id, nor *: "
                f"an id {error.message}"
            ) from None
