"""Copies the WAL of a SQLite database back, and keeps it short while somebody always reads.

SQLite by itself copies it back in whichever commit makes it longer than so many pages: that commit,
and all that wait behind it, take tens of milliseconds longer. So `WalCopier` does it in a thread of
its own, beside the commits, which it does not hold up (https://www.sqlite.org/wal.html,
"Checkpointing"); the engine's own limit is left for what it cannot keep up with.

SQLite begins the file anew when all of it is copied back and nobody reads from it at that moment
(there, "Avoiding Excessively Large WAL Files"). With readers that
overlap there is no such moment: the file grows for as long as they go on, and every read looks
through more of it. A checkpoint that lets no writer in while it waits makes one: reads that begin
meanwhile need the WAL no longer once the older ones have ended.

It is made (`WalKeeper`) by the one thread that writes, between two transactions, so that it waits
for none of ours; appends wait for it, less long than a write may take anyway. One that does not
work is tried again after a pause of ten times as long: what it can cost is a tenth of the time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Final

from sqlalchemy.engine import Connection, Engine

from provledger import logs
from provledger.db.engine import BUSY_TIMEOUT_S, WAL_LIMIT_BYTES, is_sqlite

log = logs.get(__name__)

_WAIT_S: Final = 0.5
"""How long readers are waited for, for each `WAL_LIMIT_BYTES` that the file has."""
_LONGEST_WAIT_S: Final = 2.0
_PAUSE_FACTOR: Final = 10
_COPY_FROM: Final = 2000
"""Rows written until the WAL is copied back, some 10 MiB of usual receipts; or as many new pages,
where rows are larger than those. Pages that change with each commit, those of indexes, are copied
once for many."""
_COMMIT_ROWS: Final = 8
"""A commit writes about as many pages as so many rows in it: heads, indexes, its signature."""
_MOST_PASSES: Final = 4
"""Each copies what was written during the one before, until nothing is left, so that the WAL may
begin anew with the next commit."""
_WAIT_FOR_COPY_S: Final = 2.0


class WalKeeper:
    """Belongs to the writing thread of a database; does nothing on PostgreSQL."""

    def __init__(self, engine: Engine, *, limit_bytes: int = WAL_LIMIT_BYTES) -> None:
        self._path = f"{engine.url.database}-wal" if is_sqlite(engine) else ""
        self._limit_bytes = limit_bytes
        self._not_before_s = 0.0

    def shorten(self, connection: Connection) -> None:
        """Begin the WAL anew if it is too long; never raises. `connection` is in no transaction."""
        if not self._path:
            return
        size_bytes = self._size_bytes()
        begun_s = time.monotonic()
        if size_bytes < self._limit_bytes or begun_s < self._not_before_s:
            return
        wait_s = min(_WAIT_S * size_bytes / self._limit_bytes, _LONGEST_WAIT_S)
        done = _truncate(connection, wait_s)
        took_s = time.monotonic() - begun_s
        if not done:
            self._not_before_s = begun_s + took_s * (1 + _PAUSE_FACTOR)
        log.debug("db.wal_shortened", done=done, size_bytes=size_bytes, took_s=took_s)

    def _size_bytes(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            # Not made yet, or taken away: the next statement says so.
            return 0


class WalCopier:
    """Belongs to the writing thread of a database; does nothing on PostgreSQL."""

    def __init__(self, engine: Engine, *, copy_from: int = _COPY_FROM) -> None:
        self._engine = engine if is_sqlite(engine) else None
        self._copy_from = copy_from
        self._changes = 0
        self._pages: int | None = None
        self._written = 0
        self._copying: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="db-wal")

    def follow(self, connection: Connection) -> None:
        """Before a transaction on `connection`: have what those before wrote copied, if it is time.

        Where more is written than can be copied meanwhile, this waits for a while: the WAL would
        grow without end. Never raises.
        """
        if self._engine is None:
            return
        try:
            self._count(connection)
            if self._written < self._copy_from:
                return
            if self._copying is not None and not self._copying.done():
                wait((self._copying,), timeout=_WAIT_FOR_COPY_S)
                return
            self._written = 0
            self._copying = self._pool.submit(self._copy, self._engine)
        except Exception as error:
            # No thread to be had: SQLite does it, later.
            log.debug("db.wal_not_copied", exc_info=error)

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()

    def _count(self, connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        # Of this connection: another one begins at 0.
        rows = raw.total_changes - self._changes
        self._changes = raw.total_changes
        # How much is in the WAL, SQLite does not tell. What is appended makes the file longer.
        pages = int(raw.execute("PRAGMA page_count").fetchone()[0])
        grown = 0 if self._pages is None else pages - self._pages
        self._pages = pages
        self._written += max(0, rows, grown) + _COMMIT_ROWS

    @staticmethod
    def _copy(engine: Engine) -> None:
        try:
            connection = engine.connect()
            raw: Any = connection.connection.driver_connection
            # Each time another one, closed for good: the file may be replaced by another meanwhile.
            connection.detach()
            with connection:
                before = -1
                for _ in range(_MOST_PASSES):
                    written = _copy_once(raw)
                    if written == before:
                        return
                    before = written
        except Exception as error:
            # A disk that is full or broken; the next transaction meets it too, and says so.
            log.warning("db.wal_not_copied", exc_info=error)


def _copy_once(raw: Any) -> int:
    """Copy what is in the WAL now, as far as readers let it be; how many pages that is in all."""
    _, written, _ = raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(written)


def _truncate(connection: Connection, wait_s: float) -> bool:
    """Copy all of the WAL back and cut it off; False if readers, or anything else, prevent it."""
    try:
        # Past SQLAlchemy, which would begin a transaction.
        raw: Any = connection.connection.driver_connection
        try:
            raw.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
            busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            with suppress(sqlite3.Error):
                raw.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    except Exception as error:
        # A disk that is full or broken; the next transaction meets it too, and says so.
        log.warning("db.wal_not_shortened", exc_info=error)
        return False
    return not busy
