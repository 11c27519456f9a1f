"""Notices when a database may have become another one under a running service.

A server is replaced by a lagging standby, or goes back to a point in time; a schema is restored in
place; a file is put back. Each of these cuts the connections, or is found by whoever connects anew.
So connections belong to a *generation*, which ends when one of them is lost, or when a new one
reaches another server, or other tables: those of before are closed at their next use. What was
found out about the content of the database in one generation is to be found out again in the next.

A schema that is put in another one's place cuts no connection. So one that appends remembers the
table that it was made for (`pin`), and whoever appends by it compares that under the lock of a row
(`pinned`); where it is another, the connection counts as lost (`replaced`).

What a connection pooler hides between a service and its server is not noticed here.
"""

from __future__ import annotations

import os
import threading

import sqlalchemy as sa
from sqlalchemy.engine import Connection

_PINNED = "provledger_pinned"
_TABLE = sa.text("SELECT CAST(to_regclass(:name) AS bigint)")

# When the server started, and the files of the schema's tables: those that are restored get new
# ones. So do those that are rewritten (VACUUM FULL), which costs a question too many.
_IDENTITY = sa.text(
    "SELECT CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) AS text) || '/' || "
    "COALESCE((SELECT string_agg(c.oid || ':' || pg_relation_filenode(c.oid), ',' ORDER BY c.oid) "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = current_schema() AND c.relkind = 'r'), '')"
)


class Continuity:
    """The generation of the connections of a process to one database. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._server: str | None = None

    @property
    def generation(self) -> int:
        """Which one it is now, from 0 on."""
        return self._generation

    def lost(self, generation: int) -> None:
        """A connection of `generation` was lost; the others of it are told once."""
        with self._lock:
            if generation == self._generation:
                self._generation += 1

    def reached(self, server: str) -> int:
        """A connection was made to what `identify` says; the generation it belongs to."""
        with self._lock:
            if self._server not in (None, server):
                self._generation += 1
            self._server = server
            return self._generation


def pin(connection: Connection, table: str) -> None:
    """Remember which table a name leads to, for as long as this connection lasts."""
    with connection.begin():
        connection.info[_PINNED] = connection.execute(_TABLE, {"name": table}).scalar_one()


def pinned(connection: Connection) -> int:
    """The `tableoid` of what was pinned; 0 if there was no such table."""
    return connection.info.get(_PINNED) or 0


def replaced() -> sa.exc.DBAPIError:
    """The error of a connection that has come upon another table than it was made for."""
    return sa.exc.DBAPIError(
        None, None, RuntimeError("the tables were replaced"), connection_invalidated=True
    )


def identify(connection: Connection) -> str:
    """Which server and tables, or which file, a connection has reached.

    Raises:
        SQLAlchemyError: it was lost already.
    """
    if connection.dialect.name != "sqlite":
        with connection.begin():
            return str(connection.execute(_IDENTITY).scalar_one())
    try:
        found = os.stat(str(connection.engine.url.database))
    except OSError:
        # The next statement says what is wrong.
        return ""
    return f"{found.st_dev}:{found.st_ino}"
