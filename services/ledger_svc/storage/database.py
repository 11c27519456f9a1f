"""`Database`: the ledger's storage in SQLAlchemy Core, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ledger_svc.chain import BatchRow, Head, HeadState, LedgerInfo, Linked, Stored
from ledger_svc.patience import patiently
from ledger_svc.storage import (
    D,
    Decide,
    FoundRequests,
    ListQuery,
    LogEntries,
    LogRun,
    Page,
    PageBounds,
    Unlogged,
    Verified,
    appends,
    lookups,
    quick,
    relays,
    verification,
)
from ledger_svc.storage.sql import Sql
from ledger_svc.storage.tables import SCHEMA
from ledger_svc.verify_turns import VerifyTurns
from provledger.db import (
    Continuity,
    LockLimits,
    Presence,
    Readers,
    Writer,
    begin_write,
    check_durable,
    is_sqlite,
    migrate,
    open_engine,
)

P = ParamSpec("P")
R = TypeVar("R")


_LIMITS: Final = LockLimits(wait_s=0.25, idle_s=10.0)
"""Of the writing connections: all ledgers wait for whoever waits for the head of one, which another
replica holds for milliseconds unless it was halted."""
_LOOKUP_THREADS: Final = 2
_VERIFY_THREADS: Final = 2


class Database:
    """Implements `ledger_svc.storage.Storage`: one writing thread, a few reading ones.

    What is one statement needs no transaction around it: on PostgreSQL it has threads of its own,
    whose connections commit by themselves, and takes one round trip to the server. Verification
    computes for seconds, which no lookup of an append should wait for: it has its own threads, too,
    at which tenants take turns.
    """

    def __init__(self, engine: Engine, *, reader_threads: int = 4) -> None:
        self._engine = engine
        self._sql = Sql(is_sqlite=is_sqlite(engine))
        self._presence = Presence()
        self._continuity = known = Continuity()
        self._writer = Writer(
            engine, name="ledger-writer", continuity=known, pinned="heads", limits=_LIMITS
        )
        self._readers = Readers(
            engine, threads=reader_threads, name="ledger-reader", continuity=known
        )
        self._verifiers = Readers(
            engine, threads=_VERIFY_THREADS, name="ledger-verify", continuity=known
        )
        self._verify_turns = VerifyTurns(_VERIFY_THREADS)
        self._quick: Writer | None = None
        self._lookups = self._readers
        if not self._sql.is_sqlite:
            self._quick = Writer(
                engine,
                name="ledger-quick",
                autocommit=True,
                continuity=known,
                pinned="heads",
                limits=_LIMITS,
            )
            self._lookups = Readers(
                engine,
                threads=_LOOKUP_THREADS,
                name="ledger-lookup",
                autocommit=True,
                continuity=known,
            )

    @classmethod
    def open(cls, url: str, *, reader_threads: int = 4) -> Database:
        """A database by its URL; nothing is connected yet."""
        threads = reader_threads + _LOOKUP_THREADS + _VERIFY_THREADS
        engine = open_engine(url, SCHEMA, pool_size=threads + 3)
        return cls(engine, reader_threads=reader_threads)

    @property
    def generation(self) -> int:
        """Moves on when a connection was lost, or another server is reached."""
        return self._continuity.generation

    def migrate(self) -> None:
        """Look whether commits are durable, and bring the schema up to date; blocking.

        On SQLite, a process that is alone ends the leases of those before it: one that was killed
        gave none back, and nothing would go to a log until it ran out.
        """
        check_durable(self._engine)
        migrate(self._engine, "ledger_svc.migrations", SCHEMA)
        file = self._engine.url.database
        if self._sql.is_sqlite and file:
            self._presence.begin(Path(f"{file}.users.lock"), self._end_leases)

    def _end_leases(self) -> None:
        # What cannot be written now, as on a full disk, runs out by itself.
        with suppress(DBAPIError), begin_write(self._engine) as connection:
            relays.end_leases(connection, self._sql)

    async def close(self) -> None:
        """End the threads and connections."""
        await self._writer.close()
        if self._quick is not None:
            await self._quick.close()
            await self._lookups.close()
        await self._verifiers.close()
        await self._readers.close()
        self._engine.dispose()
        self._presence.end()

    async def _read(
        self, fn: Callable[Concatenate[Connection, Sql, P], R], *args: P.args, **_: P.kwargs
    ) -> R:
        return await self._readers.run(fn, self._sql, *args)

    async def _look_up(
        self, fn: Callable[Concatenate[Connection, Sql, P], R], *args: P.args, **_: P.kwargs
    ) -> R:
        """As `_read`, for functions of one statement."""
        return await self._lookups.run(fn, self._sql, *args)

    async def _write(
        self, fn: Callable[Concatenate[Connection, Sql, P], R], *args: P.args, **_: P.kwargs
    ) -> R:
        # Everything written here may be repeated: it is keyed, or compared before it is set.
        return await patiently(lambda: self._writer.run(fn, self._sql, *args, idempotent=True))

    # --- ledgers

    async def insert_ledger(
        self, ledger: LedgerInfo, linked: Linked, check: Callable[[int], None] = lambda _: None
    ) -> LedgerInfo:
        """Store a ledger with its genesis; the one that is there if another was faster.

        check: called with the database's time, Unix nanoseconds, in the writing thread before it is
            stored, which what it raises prevents.
        """
        await self._write(appends.insert_ledger, ledger, linked, check)
        stored = await self.get_ledger(ledger.tenant, ledger.ledger)
        return ledger if stored is None else stored

    async def get_ledger(self, tenant: str, ledger: str) -> LedgerInfo | None:
        """A ledger by its ids."""
        return await self._look_up(lookups.get_ledger, tenant, ledger)

    async def list_ledgers(
        self, tenant: str, after: tuple[str, str], limit: int
    ) -> list[tuple[LedgerInfo, HeadState]]:
        """Ledgers behind `after`, of one tenant or ("") of all."""
        return await self._read(lookups.list_ledgers, tenant, after, limit)

    async def get_head(self, ledger_uid: bytes) -> HeadState:
        """The head of a ledger that exists."""
        return await self._look_up(lookups.get_head, ledger_uid)

    # --- appends

    async def find_requests(self, ledger_uid: bytes, request_ids: Sequence[str]) -> FoundRequests:
        """Where those of the request ids are that are in the chain."""
        return await self._look_up(lookups.find_requests, ledger_uid, request_ids)

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
        """Run `decide` under the lock of the head and store what it links; durable on return."""
        run: Callable[..., D] = appends.append
        if self._quick is not None and last is not None and len(request_ids) <= quick.MAX_ROWS:
            attempt: Callable[..., D | None] = quick.append
            decided = await self._quick.run(
                attempt, self._sql, ledger_uid, last, clock, decide, idempotent=True
            )
            if decided is not None:
                return decided
        return await self._writer.run(
            run, self._sql, ledger_uid, request_ids, known_seq, decide, idempotent=True
        )

    # --- reads

    async def get_receipt(self, ledger_uid: bytes, receipt_id: bytes) -> Stored | None:
        """A receipt by its id."""
        return await self._look_up(lookups.get_receipt, ledger_uid, receipt_id)

    async def get_rows(self, ledger_uid: bytes, seqs: Sequence[int], *, full: bool) -> list[Stored]:
        """Receipts by seq, in order."""
        return await self._read(lookups.get_rows, ledger_uid, seqs, full)

    async def find_page(
        self, ledger_uid: bytes, query: ListQuery, after_seq: int, bounds: PageBounds, *, full: bool
    ) -> Page:
        """The first receipts behind `after_seq` that fit."""
        return await self._read(lookups.find_page, ledger_uid, query, after_seq, bounds, full)

    async def get_batches(
        self, ledger_uid: bytes, batch_seqs: Sequence[int]
    ) -> dict[int, BatchRow]:
        """Signed batches by their seq."""
        return await self._look_up(lookups.get_batches, ledger_uid, batch_seqs)

    async def verify_range(self, ledger: LedgerInfo, start_seq: int, end_seq: int) -> Verified:
        """Recompute stored rows; ends soon after the caller has given up."""
        given_up = threading.Event()
        async with self._verify_turns.turn(ledger.tenant):
            try:
                return await self._verifiers.run(
                    verification.verify_range,
                    self._sql,
                    ledger,
                    start_seq,
                    end_seq,
                    given_up.is_set,
                )
            finally:
                given_up.set()

    # --- the log

    async def log_runs(self, ledger_uid: bytes, first_seq: int, last_seq: int) -> list[LogRun]:
        """Runs that overlap a range of seqs, in order."""
        return await self._look_up(lookups.log_runs, ledger_uid, first_seq, last_seq)

    async def count_ledgers(self) -> tuple[int, int]:
        """How many ledgers can be found by name, and how many of them are known to be in a log."""
        return await self._look_up(lookups.count_ledgers)

    async def find_unlogged(self, owner: str) -> list[Unlogged]:
        """All ledgers with receipts that are not logged and that are not read-only."""
        return await self._read(relays.find_unlogged, owner)

    async def acquire_lease(self, ledger_uid: bytes, owner: str, ttl_s: float) -> HeadState | None:
        """Take or renew the lease of a ledger's relay; None if another holds it."""
        return await self._write(relays.acquire_lease, ledger_uid, owner, ttl_s)

    async def release_lease(self, ledger_uid: bytes, owner: str) -> None:
        """Give the lease up, if it is still ours."""
        await self._write(relays.release_lease, ledger_uid, owner)

    async def entries_for_log(
        self, ledger: LedgerInfo, start_seq: int, limit: int, max_bytes: int
    ) -> LogEntries:
        """Rebuild entry bytes from `start_seq` on."""
        return await self._read(relays.entries_for_log, ledger, start_seq, limit, max_bytes)

    async def record_runs(
        self,
        ledger_uid: bytes,
        runs: Sequence[LogRun],
        old_logged_seq: int,
        owner: str,
        lease_ttl_s: float,
    ) -> bool:
        """Store what the log took, and renew the lease; False if `logged_seq` has moved."""
        return await self._write(
            relays.record_runs, ledger_uid, runs, old_logged_seq, owner, lease_ttl_s
        )

    async def replace_runs(
        self, ledger_uid: bytes, runs: Sequence[LogRun], logged_seq: int
    ) -> bool:
        """Store others from the start of the first one to `logged_seq`; False if that has moved."""
        return await self._write(relays.replace_runs, ledger_uid, runs, logged_seq)

    async def latch(self, ledger_uid: bytes, reason: str) -> None:
        """Make a ledger read-only, for good."""
        await self._write(relays.latch, ledger_uid, reason)

    async def receipt_hash_at(self, ledger_uid: bytes, seq: int) -> bytes | None:
        """The stored receipt hash of a seq."""
        return await self._read(lookups.receipt_hash_at, ledger_uid, seq)
