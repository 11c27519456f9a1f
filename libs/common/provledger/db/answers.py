"""A PostgreSQL connection that waits for no answer for ever.

The server ends statements that take too long (`statement_timeout`), and TCP ends connections whose
other end is gone. Neither helps when the other end is there and says nothing: a proxy that lost its
server, a server that was halted, an answer lost in between. The one writing thread of a service
would wait for it until somebody came and looked.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg import Connection

ANSWER_LIMIT_S: Final = 40.0
"""Longer than any time after which the server itself ends a statement or a wait for a lock."""


class ImpatientConnection(Connection[Any]):
    """A connection that is lost when an answer takes longer than `answer_limit_s`."""

    answer_limit_s: float = ANSWER_LIMIT_S

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait as the base class does; raises OperationalError, the connection closed, in the end.

        psycopg looks after every tenth of a second whether it was interrupted, and tells `gen`.
        """
        return super().wait(self._impatient(gen), *args, **options)

    def _impatient(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        limit_s = time.monotonic() + self.answer_limit_s
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > limit_s:
                    # Whatever the server does with it: nobody will hear of it on this connection.
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"the database did not answer within {self.answer_limit_s:.0f} s"
                    )
                state = gen.send(ready)
        except StopIteration as done:
            return done.value
