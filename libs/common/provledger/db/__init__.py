"""Databases: SQLite files and PostgreSQL schemas, through SQLAlchemy Core.

    engine      open_engine, begin_write
    workers     Writer, Readers: database work in threads, never on the event loop
    wal         keeps the WAL of a SQLite file short under reads that never stop
    continuity  Continuity: notices that a database may have become another one
    migrate     migrate: Alembic, run at start-up
    columns     typed_table: a value of another type than its column's is DataLossError
    durability  check_durable: a server that does not sync is refused, at start-up
    lock        lock_data_dir, Presence: who uses an embedded database
    errors      what a database error means to a caller

A service's storage imports what it needs from here.
"""

from __future__ import annotations

from provledger.db.continuity import Continuity
from provledger.db.durability import check_durable
from provledger.db.engine import begin_write, is_sqlite, open_engine
from provledger.db.errors import LockNotGrantedError, as_storage_error
from provledger.db.lock import DirLock, Presence, lock_data_dir
from provledger.db.migrate import migrate
from provledger.db.workers import LockLimits, Readers, Writer

__all__ = [
    "Continuity",
    "DirLock",
    "LockLimits",
    "LockNotGrantedError",
    "Presence",
    "Readers",
    "Writer",
    "as_storage_error",
    "begin_write",
    "check_durable",
    "is_sqlite",
    "lock_data_dir",
    "migrate",
    "open_engine",
]
