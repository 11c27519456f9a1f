"""The ledger's database: what the service asks of it.

    tables      the schema
    database    `Database`, the implementation in SQLAlchemy Core for SQLite and PostgreSQL
    appends     the transaction of a flush
    quick       the same for a small one, as one statement
    lookups     reads
    relays      leases, and what the log has

The database is not trusted for integrity: whoever can write to it can withhold receipts and read
payloads, but every changed byte of a row is found by `VerifyRange` and by anyone who holds a
receipt, and a chain rewritten as a whole is found by the log. Untrusted operational state are
`heads.lease_owner` and `heads.lease_until_ns` only: a forged lease delays the log, nothing else.

Atomic updates run a pure decision inside of the transaction: `append(..., decide)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from ledger_svc.chain import BatchRow, Head, HeadState, LedgerInfo, Linked, Row, Stored


class Known(NamedTuple):
    """Where a request id is in the chain already, and the bytes of its statement and payload."""

    seq: int
    receipt_id: bytes
    size_bytes: int


class Decided(Protocol):
    """What a decision returns: at least what is to be stored, None for nothing."""

    @property
    def linked(self) -> Linked | None:
        """Rows to insert behind the head that the decision was given."""


D = TypeVar("D", bound=Decided)

Decide = Callable[[HeadState, Mapping[str, Known], int], D]
"""Given the locked head, the request ids that are there, and the database's time in Unix
nanoseconds. May be called more than once; whatever it raises rolls back."""


class RowsRefusedError(Exception):
    """The database refused the data of a flush (not the connection, not the moment)."""


@dataclass(frozen=True, slots=True)
class FoundRequests:
    """Where request ids are, and the head's seq as of which all others are absent."""

    head_seq: int
    known: Mapping[str, Known]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Conditions of a listing, joined by AND; "" stands for any."""

    resource_type: str = ""
    resource_id: str = ""
    actor_id: str = ""
    receipt_type: str = ""
    start_t_ns: int = 0
    end_t_ns: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Receipts that fit a query, in order, all as of one moment.

    `position` is the last seq looked at; `ended` says that there is nothing behind it. `logged_seq`
    is the head's.
    """

    found: Sequence[Stored]
    position: int
    ended: bool
    logged_seq: int


@dataclass(frozen=True, slots=True)
class PageBounds:
    """Most receipts on a page, most rows looked at for it, and, where statements and payloads are
    wanted, the bytes of these after which it is cut short; it holds at least one."""

    receipts: int
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LogRun:
    """Consecutive receipts at consecutive places of the log."""

    start_seq: int
    start_index: int
    count: int


@dataclass(frozen=True, slots=True)
class LogEntries:
    """Entry bytes rebuilt for the log, with the head as of the same moment."""

    entries: Sequence[bytes]
    state: HeadState


@dataclass(frozen=True, slots=True)
class Unlogged:
    """A ledger with receipts that are not logged. is_free: no other owner has its lease."""

    ledger: LedgerInfo
    head_seq: int
    logged_seq: int
    is_free: bool


class Storage(Protocol):
    """Port to the database. All raise the StatusErrors of `provledger.db`: UNAVAILABLE, ABORTED
    after retries, DATA_LOSS for a damaged file."""

    @property
    def generation(self) -> int:
        """Moves on whenever the database may have become another one (`provledger.db.continuity`).

        What was found out about its content before is to be found out again. Safe in any thread.
        """

    def migrate(self) -> None:
        """Bring the schema up to date; blocking."""

    async def close(self) -> None:
        """End the threads and connections."""

    # --- ledgers

    async def insert_ledger(
        self, ledger: LedgerInfo, linked: Linked, check: Callable[[int], None] = lambda _: None
    ) -> LedgerInfo:
        """Store a ledger with its genesis; the one that is there if another was faster.

        check: called with the database's time, Unix nanoseconds, in the writing thread before it is
            stored, which what it raises prevents.
        """

    async def get_ledger(self, tenant: str, ledger: str) -> LedgerInfo | None:
        """A ledger by its ids."""

    async def list_ledgers(
        self, tenant: str, after: tuple[str, str], limit: int
    ) -> list[tuple[LedgerInfo, HeadState]]:
        """Ledgers behind `after` by (tenant, ledger), of one tenant or ("") of all."""

    async def get_head(self, ledger_uid: bytes) -> HeadState:
        """The head of a ledger that exists."""

    # --- appends

    async def find_requests(self, ledger_uid: bytes, request_ids: Sequence[str]) -> FoundRequests:
        """Where those of the request ids are that are in the chain."""

    async def append(
        self,
        ledger_uid: bytes,
        request_ids: Sequence[str],
        known_seq: int,
        decide: Decide[D],
        *,
        last: Head | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> D:
        """Run `decide` under the lock of the head and store what it links; durable on return.

        Request ids are looked up again, unless the head is still at `known_seq`.

        last: the head as the caller knows it. A database may then decide for that one at once, by
            `clock` (Unix nanoseconds) instead of its own time, and store it if the head still is as
            it was and none of the request ids is there.

        Raises:
            RowsRefusedError: the data cannot be stored as it is; nothing was.
            LockNotGrantedError: another replica kept the head locked (`provledger.db`).
        """

    # --- reads

    async def get_receipt(self, ledger_uid: bytes, receipt_id: bytes) -> Stored | None:
        """A receipt by its id."""

    async def get_rows(self, ledger_uid: bytes, seqs: Sequence[int], *, full: bool) -> list[Stored]:
        """Receipts by seq, in order; those that are not there are left out.

        Without `full`, statement, payload and secret are left empty.
        """

    async def find_page(
        self, ledger_uid: bytes, query: ListQuery, after_seq: int, bounds: PageBounds, *, full: bool
    ) -> Page:
        """The first receipts behind `after_seq` that fit. Without `full`, as `get_rows`."""

    async def get_batches(
        self, ledger_uid: bytes, batch_seqs: Sequence[int]
    ) -> dict[int, BatchRow]:
        """Signed batches by their seq."""

    async def verify_range(self, ledger: LedgerInfo, start_seq: int, end_seq: int) -> Verified:
        """Recompute stored rows, see `ledger_svc.audit`.

        Raises:
            DataLossError: naming the first broken seq and its column.
        """

    # --- the log

    async def log_runs(self, ledger_uid: bytes, first_seq: int, last_seq: int) -> list[LogRun]:
        """Runs that overlap a range of seqs, in order."""

    async def count_ledgers(self) -> tuple[int, int]:
        """How many ledgers can be found by name, and how many of them are known to be in a log."""

    async def find_unlogged(self, owner: str) -> list[Unlogged]:
        """All ledgers with receipts that are not logged and that are not read-only."""

    async def acquire_lease(self, ledger_uid: bytes, owner: str, ttl_s: float) -> HeadState | None:
        """Take or renew the lease of a ledger's relay; None if another holds it."""

    async def release_lease(self, ledger_uid: bytes, owner: str) -> None:
        """Give the lease up, if it is still ours."""

    async def entries_for_log(
        self, ledger: LedgerInfo, start_seq: int, limit: int, max_bytes: int
    ) -> LogEntries:
        """Rebuild entry bytes from `start_seq` on.

        Raises:
            DataLossError: a rebuilt entry does not have the receipt hash that is stored.
        """

    async def record_runs(
        self,
        ledger_uid: bytes,
        runs: Sequence[LogRun],
        old_logged_seq: int,
        owner: str,
        lease_ttl_s: float,
    ) -> bool:
        """Store what the log took, and renew the lease; False if `logged_seq` has moved."""

    async def replace_runs(
        self, ledger_uid: bytes, runs: Sequence[LogRun], logged_seq: int
    ) -> bool:
        """Store others from the start of the first one to `logged_seq`; False if that has moved."""

    async def latch(self, ledger_uid: bytes, reason: str) -> None:
        """Make a ledger read-only, for good."""

    async def receipt_hash_at(self, ledger_uid: bytes, seq: int) -> bytes | None:
        """The stored receipt hash of a seq."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was recomputed without finding fault; `receipt_hash` is that of `checked_seq`."""

    checked_seq: int
    checked_count: int
    head_seq: int
    receipt_hash: bytes


__all__ = [
    "Decide",
    "Decided",
    "FoundRequests",
    "Known",
    "ListQuery",
    "LogEntries",
    "LogRun",
    "Row",
    "RowsRefusedError",
    "Scan",
    "Storage",
    "Verified",
]
