"""The logs of this process: the default one, which ledgers share, and those of single tenants.

A log costs a writer, its sinks and a few tasks; that is why they are shared unless somebody asks.

The log of a tenant whose stored bytes do not fit together is *damaged*: it is not opened, whoever
asks for it hears why, and the others go on. Listings and a metric tell of it; health does not: it
is of the service, and would take the others away. The shared one stops the service.

A disk that cannot read one of a tenant's files closes that log likewise; it is tried again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from anchor_svc.openlog import OpenLog
from anchor_svc.publishedlogs import Lost
from anchor_svc.recovery import BEHIND, BehindPublishedError, check_released
from anchor_svc.storage import DEFAULT_ALIAS, FencedError, LogRow
from anchor_svc.submission import check_suite
from anchor_svc.tilefiles import DISK_UNAVAILABLE, disk_unavailable
from provledger import logs, telemetry
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    StatusError,
    UnavailableError,
)
from provledger.retry import RetryPolicy

log = logs.get(__name__)

CreateRow = Callable[[str, str], Awaitable[LogRow]]
"""Makes the log of a tenant (`tenants/{tenant}`) and suite, or finds it."""

_OPENING: Final = 8
"""Logs of tenants that are opened at once: each waits a moment for sinks that do not answer."""

_AGAIN: Final = RetryPolicy(attempts=1_000_000, base_s=2.0, cap_s=60.0, budget_s=float("inf"))
"""When logs are tried again whose disk could not be used."""

_logs = telemetry.gauge("anchor.logs", doc="Logs of this process, by state: serving or damaged")


@dataclass(frozen=True, slots=True)
class DamagedLog:
    """A log of a tenant that is kept closed, and what whoever asks for it hears.

    error: DataLossError, or UnavailableError while its disk cannot be used. signed_size: of the
    newest checkpoint in the database, 0 without any. published: one that the database has
    forgotten, as it was found and not verified; empty where none was.
    """

    row: LogRow
    error: StatusError
    signed_size: int = 0
    published: bytes = b""


class OpenLogs:
    """Logs by uid. Belongs to one event loop.

    make: a log that is not opened yet. list_rows: those of all logs there are, open or not.
    count_ledgers: how many ledgers have entries in any log. signed_size: as of `DamagedLog`, by the
    log's uid. max_logs: how many tenants may have one of their own. check_lost: raises why there
    may be logs without a row (`lostlogs`); lost: those that are known.
    """

    def __init__(
        self,
        make: Callable[[LogRow], OpenLog],
        create_row: CreateRow,
        list_rows: Callable[[], Awaitable[Sequence[LogRow]]],
        count_ledgers: Callable[[], Awaitable[int]],
        signed_size: Callable[[bytes], Awaitable[int]],
        *,
        max_logs: int,
        check_lost: Callable[[], None] = lambda: None,
        lost: Callable[[], list[Lost]] = list,
    ) -> None:
        self._make = make
        self._create_row = create_row
        self._list_rows = list_rows
        self._count_ledgers = count_ledgers
        self._signed_size = signed_size
        self._max_logs = max_logs
        self._check_lost = check_lost
        self._lost = lost
        self._by_uid: dict[bytes, OpenLog] = {}
        self._by_alias: dict[str, OpenLog] = {}
        self._damaged: dict[bytes, DamagedLog] = {}
        self._lock = asyncio.Lock()
        self._added = asyncio.Event()

    def all(self) -> list[OpenLog]:
        """Every log of this process."""
        return list(self._by_uid.values())

    def damaged(self) -> list[DamagedLog]:
        """Every log that was found damaged at the start, or unusable, and is still closed."""
        return list(self._damaged.values())

    def lost(self) -> list[Lost]:
        """Every log that was published and has no row, as far as that is known."""
        return self._lost()

    def check_held(self) -> None:
        """Raise why a log of ours may not sign, if one may not, or is lost: what is about all of
        them waits."""
        for opened in self._by_uid.values():
            opened.state.check_held()
        self._check_lost()

    async def ledger_count(self) -> int:
        """How many ledgers have entries in any log, for whoever would deny one that is missing.

        Raises:
            FailedPreconditionError, UnavailableError: a log is held, or lost, or may be. It may be
                older than what was published of it, and lack ledgers.
            DataLossError: the database is older than what was released or published of a log. Not
                of which one, where that is a tenant's and closed, or lost: others hear this, too.
        """
        self.check_held()
        for damaged in self._damaged.values():
            if damaged.error.reason in BEHIND:
                raise _closed_as_behind(damaged.error.reason)
        released = {uid: opened.state.view for uid, opened in self._by_uid.items()}
        count = await self._count_ledgers()
        rows = {row.log_uid: row for row in await self._list_rows()}
        for uid, view in released.items():
            check_released(rows.get(uid), view)
        return count

    @property
    def default(self) -> OpenLog:
        """The log that `logs/-` means."""
        return self._by_alias[DEFAULT_ALIAS]

    def get(self, uid: bytes | None) -> OpenLog | None:
        """The log of a uid, or the default one; None if there is none.

        Raises:
            DataLossError: it is damaged.
            UnavailableError: DISK_UNAVAILABLE, it is closed until its disk can be used.
        """
        if uid in self._damaged:
            raise self._damaged[uid].error
        return self.default if uid is None else self._by_uid.get(uid)

    async def open_all(self, rows: Iterable[LogRow]) -> None:
        """Open all logs at the start: the shared one, then some of those of tenants at a time.

        Raises as `open_stored`, the first of several; logs that are open by then stay so until
        `close`.
        """
        rows = list(rows)
        for row in rows:
            if row.alias == DEFAULT_ALIAS:
                await self.open_stored(row)
        waiting = iter([row for row in rows if row.alias != DEFAULT_ALIAS])

        async def open_in_turn() -> None:
            for row in waiting:
                await self.open_stored(row)

        tasks = [asyncio.create_task(open_in_turn()) for _ in range(min(_OPENING, len(rows)))]
        try:
            # Not a group: what one raises is known by its type, to the start as to everybody.
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def open_stored(self, row: LogRow) -> None:
        """Open a log at the start; one of a tenant that is damaged, or whose disk cannot be used,
        is kept closed.

        Raises:
            DataLossError: the shared log is damaged.
            StatusError: the database cannot be used, or the disk of the shared log.
        """
        try:
            await self.open(row)
        except (DataLossError, UnavailableError, OSError) as error:
            told = disk_unavailable() if isinstance(error, OSError) else error
            of_log = isinstance(told, DataLossError) or told.reason == DISK_UNAVAILABLE
            if row.alias == DEFAULT_ALIAS or not of_log:
                raise
            if told is not error:
                log.error("anchor.disk_failed", exc_info=error, log=row.log_uid.hex())
            await self._keep_closed(row, told)

    async def _keep_closed(self, row: LogRow, error: StatusError) -> None:
        name = f"logs/{row.log_uid.hex()}"
        log.error(
            "anchor.log_damaged",
            log=name,
            tenant=row.alias,
            reason=error.reason,
            message=error.message,
        )
        told = type(error)(
            error.reason,
            f"{name}: {error.message}",
            metadata={**error.metadata, "log": name},
            retry_delay_s=error.retry_delay_s,
        )
        published = error.published if isinstance(error, BehindPublishedError) else b""
        try:
            signed_size = await self._signed_size(row.log_uid)
        except DataLossError:
            # What is damaged may be this: it is one log's all the same.
            signed_size = 0
        self._damaged[row.log_uid] = DamagedLog(row, told, signed_size, published)
        self._count()

    async def open(self, row: LogRow) -> OpenLog:
        """Open a log; raises as `OpenLog.open`."""
        opened = self._make(row)
        try:
            await opened.open()
        except BaseException:
            await opened.close()
            raise
        self._by_uid[row.log_uid] = self._by_alias[row.alias] = opened
        self._added.set()
        self._count()
        log.info(
            "anchor.open",
            log=row.log_uid.hex(),
            origin=row.origin,
            tenant=row.tenant,
            size=opened.state.signed_size,
        )
        return opened

    async def create(
        self, tenant: str, suite_name: str, kept_for: Collection[str] = ()
    ) -> tuple[OpenLog, bool]:
        """The log of a tenant, made if there is none; (the log, whether this call made it).

        kept_for: tenants whose places it must not take (`tenants/{tenant}`).

        Raises:
            FailedPreconditionError: SUITE_MISMATCH, it has a log with another tree; TOO_MANY_LOGS;
                another log is held or lost, so that this one may be there and was not restored.
            DataLossError: it has one that is damaged, or the database went back.
            UnavailableError: the database, the disk or the keys cannot be used; WRITER_FENCED,
                another process writes to the logs.
        """
        async with self._lock:
            found = self._by_alias.get(tenant)
            if found is not None:
                check_suite(suite_name, found.identity.suite)
                return found, False
            for damaged in self._damaged.values():
                if damaged.row.alias == tenant:
                    raise damaged.error
            self.check_held()
            await self._check_few(tenant, kept_for)
            try:
                # As in `_try`: a successor may have the log already.
                await self.default.committer.check_ours()
                row = await self._create_row(tenant, suite_name)
                check_suite(suite_name, row.suite)
                return await self.open(row), True
            except FencedError as error:
                raise UnavailableError(
                    "WRITER_FENCED", "another process writes to this log now; ask that one"
                ) from error
            except OSError as error:
                # Its row is there; the next call, or the next start, opens it.
                log.error("anchor.disk_failed", exc_info=error, tenant=tenant)
                raise disk_unavailable() from error

    async def _check_few(self, tenant: str, kept_for: Collection[str]) -> None:
        # Not the open ones: a log that could not be opened is there, and the next start opens it.
        aliases = {row.alias for row in await self._list_rows()} - {DEFAULT_ALIAS}
        others = aliases.union(kept_for) - {tenant}
        if tenant not in aliases and len(others) >= self._max_logs:
            kept = ", or a place that is kept for one" if len(others) > len(aliases) else ""
            raise FailedPreconditionError(
                "TOO_MANY_LOGS", f"{self._max_logs} tenants have logs of their own already{kept}"
            )

    async def run(self) -> None:
        """Run what logs have to have running, also of those that are made meanwhile.

        Raises:
            ExceptionGroup: of FencedError, if another process has taken one of them over.
        """
        running: set[bytes] = set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._open_again())
            while True:
                self._added.clear()
                for uid, opened in self._by_uid.items():
                    if uid not in running:
                        running.add(uid)
                        for work in opened.background:
                            group.create_task(_run(work))
                await self._added.wait()

    async def _open_again(self) -> None:
        """Try those that are closed for their disk, until each is open or found damaged.

        Raises:
            FencedError: another process has taken the shared log over.
        """
        delays = _AGAIN.delays(random.Random())  # noqa: S311 - jitter, not a secret
        while waiting := [
            each.row for each in self.damaged() if isinstance(each.error, UnavailableError)
        ]:
            await asyncio.sleep(next(delays, _AGAIN.cap_s))
            for row in waiting:
                try:
                    await self._try(row)
                except FencedError:
                    raise
                except Exception as error:
                    log.warning("anchor.log_not_opened", exc_info=error, log=row.log_uid.hex())

    async def _try(self, row: LogRow) -> None:
        # A successor opens the shared log first: what is his by then must not be taken back.
        await self.default.committer.check_ours()
        try:
            await self.open(row)
        except DataLossError as error:
            await self._keep_closed(row, error)
        else:
            del self._damaged[row.log_uid]
            self._count()

    def _count(self) -> None:
        _logs.set(len(self._by_uid), {"state": "serving"})
        _logs.set(len(self._damaged), {"state": "damaged"})

    async def close(self) -> None:
        """Finish what waits in each log, and release files and sinks.

        Raises the last of what they raise, once all are closed: what one does is no reason to lose
        what waits in the others.
        """
        async with AsyncExitStack() as closing:
            for opened in reversed(self._by_uid.values()):
                closing.push_async_callback(opened.close)


def _closed_as_behind(reason: str) -> DataLossError:
    return DataLossError(
        reason,
        "a log of this anchor is closed, since its database is not the one that belongs to what "
        "was published, and may lack ledgers; the anchor's log says which (anchor.log_damaged)",
    )


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
