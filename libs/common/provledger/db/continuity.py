"""Notices when a database may have become another one under a running service.

A server is replaced by a lagging standby, or goes back to a point in time; a schema is restored in
place; a file is put back. Each of these cuts the connections, or is found by whoever connects anew.
So connections belong to a *generation*, which ends when one of them is lost, or when a new one
reaches another server: those of before are closed at their next use. What was found out about the
content of the database in one generation is to be found out again in the next.

What a connection pooler hides between a service and its server is not noticed here.
"""

from __future__ import annotations

import os
import threading

import sqlalchemy as sa
from sqlalchemy.engine import Connection

_STARTED = sa.text("SELECT CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) AS text)")


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
        """A connection was made to a server; the generation it belongs to."""
        with self._lock:
            if self._server not in (None, server):
                self._generation += 1
            self._server = server
            return self._generation


def identify(connection: Connection) -> str:
    """Which server, or file, a connection has reached: no two that run at a time say the same.

    Raises:
        SQLAlchemyError: it was lost already.
    """
    if connection.dialect.name != "sqlite":
        with connection.begin():
            return str(connection.execute(_STARTED).scalar_one())
    try:
        found = os.stat(str(connection.engine.url.database))
    except OSError:
        # The next statement says what is wrong.
        return ""
    return f"{found.st_dev}:{found.st_ino}"
