"""Database work in threads of its own, so that the event loop never waits for a disk.

`Writer` is one thread with one pinned connection: writes of a process go through it in order.
`Readers` is a few threads with a connection each. Both take a function of a connection and run it
in a transaction::

    heads = await readers.run(load_heads, ledger_uids)
    await writer.run(insert_batch, entries, idempotent=True)

A function must use the connection it is given, return plain values (no open cursors), and leave
commit and rollback alone. It goes on to its end although the awaiting task is cancelled.

Workers that share a `Continuity` tell each other of lost connections.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from provledger import logs
from provledger.db.continuity import Continuity, identify, pin
from provledger.db.engine import WRITE_OPTION, is_sqlite
from provledger.db.errors import LockNotGrantedError, as_storage_error, is_connection_lost
from provledger.db.wal import WalCopier, WalKeeper
from provledger.errors import AbortedError, StatusError, UnavailableError
from provledger.retry import RetryPolicy

log = logs.get(__name__)

R = TypeVar("R")

RETRY: Final = RetryPolicy(attempts=5, base_s=0.02, cap_s=0.5, budget_s=2.0)
_IDLE_BEFORE_PING_S: Final = 5.0

_LIMIT: Final = sa.text(
    "SELECT set_config('lock_timeout', :lock_ms, false), "
    "set_config('idle_in_transaction_session_timeout', :idle_ms, false)"
)


@dataclass(frozen=True, slots=True)
class LockLimits:
    """How long a connection to PostgreSQL waits for locks, and may keep them, in seconds.

    wait_s: for a lock that another transaction has. idle_s: a transaction that says nothing for so
        long, because its process was halted, is ended by the server, and its locks with it.
    """

    wait_s: float
    idle_s: float


class _Workers:
    """Threads with a pinned connection each, and the transaction around every function."""

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int,
        name: str,
        options: dict[str, Any],
        continuity: Continuity | None,
        pinned: str = "",
        limits: LockLimits | None = None,
    ) -> None:
        self._engine = engine
        self._limits = None if is_sqlite(engine) else limits
        self._continuity = continuity
        self._pinned = pinned
        self._options = options
        self._make_pool = partial(ThreadPoolExecutor, threads, thread_name_prefix=name)
        self._pool = self._make_pool()
        self._has_threads = False
        self._local = threading.local()
        self._connections: set[Connection] = set()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    async def _submit(self, run: Callable[[], R]) -> R:
        """What `run` returns or raises, in a thread.

        Raises:
            UnavailableError: SHUTTING_DOWN; or DATABASE_UNAVAILABLE, where no thread can be
                started. `run` is not called then, nor later.
        """
        # Not the pool's own, which nobody is given where it queues work and then fails to start
        # another thread for it.
        future: Future[R] = Future()
        try:
            self._pool.submit(_fulfil, future, run)
        except RuntimeError as error:
            if "shutdown" in str(error):
                raise UnavailableError("SHUTTING_DOWN", "the storage is closed") from error
            if not self._has_threads:
                # What it has queued goes with it.
                self._pool = self._make_pool()
                raise UnavailableError(
                    "DATABASE_UNAVAILABLE",
                    "no thread can be started for the database",
                    retry_delay_s=0.5,
                ) from error
            # A thread that is there comes to it in its turn.
        self._has_threads = True
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Finish what was submitted, end the threads, close the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._connections:
            with suppress(SQLAlchemyError):
                connection.close()
        self._connections.clear()

    def _transact(
        self, fn: Callable[[Connection], R], *, repeat: Callable[[StatusError, bool], bool]
    ) -> R:
        """Run `fn` in a transaction, again as long as `repeat(error, committing)` says so."""
        delays = RETRY.delays(self._rng)
        # Attempts that hang until a connect timeout must not add up.
        give_up_s = time.monotonic() + RETRY.budget_s
        while True:
            committing = False
            try:
                connection = self._connection()
                with connection.begin():
                    result = fn(connection)
                    committing = True
                self._local.used_s = time.monotonic()
                return result
            except SQLAlchemyError as exc:
                if is_connection_lost(exc):
                    self._drop_connection()
                error = as_storage_error(exc)
                if error is None:
                    raise
                delay_s = next(delays, None) if repeat(error, committing) else None
                if delay_s is None or time.monotonic() > give_up_s:
                    raise _final(error, committing) from exc
                log.debug("db.retry", reason=error.reason, delay_s=delay_s)
                time.sleep(delay_s)

    def _connection(self) -> Connection:
        """This thread's connection, checked if it has been idle, made if there is none."""
        connection = self._present()
        if connection is not None and self._is_stale(connection):
            self._drop_connection()
            connection = None
        if connection is None:
            connection = self._engine.connect().execution_options(**self._options)
            if self._continuity is not None:
                # Until it has told what it reached. Read when it is made already: if it is lost
                # before that, one generation too many is begun, never one too few.
                self._local.generation = self._continuity.generation
            self._local.connection = connection
            self._local.used_s = time.monotonic()
            self._connections.add(connection)
            try:
                self._introduce(connection)
            except SQLAlchemyError:
                # Lost or not: without its pin and its generation it must not be used.
                self._drop_connection()
                raise
        return connection

    def _present(self) -> Connection | None:
        """This thread's connection as it is, if it has one."""
        return cast("Connection | None", getattr(self._local, "connection", None))

    def _introduce(self, connection: Connection) -> None:
        """Find out what a new connection has reached."""
        if self._limits is not None:
            wait_ms, idle_ms = int(self._limits.wait_s * 1000), int(self._limits.idle_s * 1000)
            with connection.begin():
                connection.execute(_LIMIT, {"lock_ms": str(wait_ms), "idle_ms": str(idle_ms)})
        if self._pinned and not is_sqlite(self._engine):
            # Before it is told which server and tables it has reached, which are then compared.
            pin(connection, self._pinned)
        if self._continuity is not None:
            self._local.generation = self._continuity.reached(identify(connection))

    def _is_stale(self, connection: Connection) -> bool:
        """Whether it must not be used again: another one was lost, or a server that we have not
        spoken to for a while has gone away meanwhile."""
        if self._continuity is not None and self._local.generation != self._continuity.generation:
            return True
        idle_s = time.monotonic() - self._local.used_s
        if is_sqlite(self._engine) or idle_s < _IDLE_BEFORE_PING_S:
            return False
        try:
            with connection.begin():
                connection.execute(sa.text("SELECT 1"))
        except SQLAlchemyError:
            return True
        return False

    def _drop_connection(self) -> None:
        connection = self._present()
        self._local.connection = None
        if connection is not None:
            if self._continuity is not None:
                self._continuity.lost(self._local.generation)
            self._connections.discard(connection)
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()


class Writer(_Workers):
    """The one writing thread of a process.

    autocommit: on PostgreSQL, each statement is a transaction of its own, which saves the round
        trips of BEGIN and COMMIT; for functions that write by one statement. pinned: a table that
        connections remember (`continuity.pin`).

    limits: of locks, on PostgreSQL, in place of those of the engine. One that is not granted is not
        tried for again in the thread, for which others wait: that is for the caller, after them.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str = "db-writer",
        autocommit: bool = False,
        continuity: Continuity | None = None,
        pinned: str = "",
        limits: LockLimits | None = None,
    ) -> None:
        options: dict[str, Any] = {WRITE_OPTION: True}
        if autocommit and not is_sqlite(engine):
            options["isolation_level"] = "AUTOCOMMIT"
        super().__init__(
            engine,
            threads=1,
            name=name,
            options=options,
            continuity=continuity,
            pinned=pinned,
            limits=limits,
        )
        self._wal = WalKeeper(engine)
        self._copier = WalCopier(engine)

    async def run(
        self,
        fn: Callable[Concatenate[Connection, ...], R],
        *args: Any,
        idempotent: bool = False,
    ) -> R:
        """`fn(connection, *args)` in a write transaction, which is committed before this returns.

        idempotent: `fn` may run again after an attempt of unknown outcome, because it looks for
        what that attempt may have stored. Conflicts, which store nothing, are always retried a
        few times, so `fn` must in any case not change anything but the database.

        Raises:
            UnavailableError: DATABASE_UNAVAILABLE and the like, nothing stored; or
                COMMIT_OUTCOME_UNKNOWN, if the answer to COMMIT was lost.
            AbortedError: TRANSACTION_CONFLICT, after the retries.
            LockNotGrantedError: one of them, at once where `limits` are given.
            DataLossError: DATABASE_CORRUPT.
            Anything `fn` raises, after a rollback.
        """

        def repeat(error: StatusError, committing: bool) -> bool:
            if isinstance(error, LockNotGrantedError) and self._limits is not None:
                return False
            if isinstance(error, AbortedError):
                return True
            return idempotent and error.reason == "DATABASE_UNAVAILABLE"

        def write() -> R:
            if (connection := self._present()) is not None:
                self._copier.follow(connection)
                self._wal.shorten(connection)
            return self._transact(lambda c: fn(c, *args), repeat=repeat)

        return await self._submit(write)

    async def close(self) -> None:
        """Finish what was submitted, end the threads, close the connections."""
        await super().close()
        await asyncio.to_thread(self._copier.close)


class Readers(_Workers):
    """A few reading threads.

    Each function sees one snapshot for all its statements, on both databases.

    autocommit: on PostgreSQL, each statement has a snapshot of its own, which saves the round trips
        of BEGIN and COMMIT; for functions that read by one statement.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int = 4,
        name: str = "db-reader",
        autocommit: bool = False,
        continuity: Continuity | None = None,
    ) -> None:
        options: dict[str, Any] = {}
        if is_sqlite(engine):
            pass
        elif autocommit:
            options = {"isolation_level": "AUTOCOMMIT", "postgresql_readonly": True}
        else:
            # SQLite's deferred transactions are snapshots already.
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        super().__init__(engine, threads=threads, name=name, options=options, continuity=continuity)

    async def run(self, fn: Callable[Concatenate[Connection, ...], R], *args: Any) -> R:
        """`fn(connection, *args)` in a read transaction; may run more than once.

        Raises:
            UnavailableError, AbortedError, DataLossError: as `Writer.run`.
            Anything `fn` raises.
        """

        def repeat(error: StatusError, committing: bool) -> bool:
            return error.reason in ("DATABASE_UNAVAILABLE", "TRANSACTION_CONFLICT")

        return await self._submit(lambda: self._transact(lambda c: fn(c, *args), repeat=repeat))


def _fulfil(future: Future[R], run: Callable[[], R]) -> None:
    """Call `run` for a future, unless that was cancelled meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = run()
    except BaseException as error:
        future.set_exception(error)
        # Otherwise error, traceback and future keep each other until the next collection.
        del future, run
    else:
        future.set_result(result)


def _final(error: StatusError, committing: bool) -> StatusError:
    """The error to give up with: a lost answer to COMMIT is not a plain failure."""
    if not committing or error.reason != "DATABASE_UNAVAILABLE":
        return error
    return UnavailableError(
        "COMMIT_OUTCOME_UNKNOWN",
        "the connection was lost during COMMIT; whether it happened is unknown until read again",
        retry_delay_s=error.retry_delay_s,
    )
