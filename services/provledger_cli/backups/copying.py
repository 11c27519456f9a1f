"""What goes wrong inside of COPY, which goes past SQLAlchemy, as if it had come through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

_STATEMENT: Final = "COPY of a table"


@contextmanager
def errors() -> Iterator[None]:
    """Raise the driver's errors in the block as SQLAlchemy's, without what they quote."""
    import psycopg  # eighty milliseconds that SQLite's users need not wait for

    try:
        yield
    except psycopg.Error as error:
        raise sa.exc.DBAPIError.instance(
            _STATEMENT, None, error, psycopg.Error, hide_parameters=True
        ) from error
