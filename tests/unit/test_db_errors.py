"""What database errors mean to a caller."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa

from provledger.db.errors import as_storage_error, is_connection_lost


class DriverError(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("row (s3cret)")
        vars(self).update(attributes)


def wrapped(*, lost: bool = False, **attributes: Any) -> sa.exc.DBAPIError:
    return sa.exc.OperationalError(
        "SQL", None, DriverError(**attributes), connection_invalidated=lost
    )


@pytest.mark.parametrize(
    ("attributes", "code", "reason"),
    [
        ({"sqlstate": "40001"}, "ABORTED", "TRANSACTION_CONFLICT"),
        ({"sqlstate": "40P01"}, "ABORTED", "TRANSACTION_CONFLICT"),
        ({"sqlstate": "55P03"}, "ABORTED", "TRANSACTION_CONFLICT"),
        ({"sqlstate": "57P01"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "08006"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "25006"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "57014"}, "UNAVAILABLE", "DATABASE_TIMEOUT"),
        ({"sqlstate": "53100"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53200"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53400"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53300"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "58030"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),  # io_error
        ({"sqlstate": "57000"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "XX001"}, "DATA_LOSS", "DATABASE_CORRUPT"),
        ({"sqlite_errorcode": sqlite3.SQLITE_BUSY}, "ABORTED", "TRANSACTION_CONFLICT"),
        ({"sqlite_errorcode": 517}, "ABORTED", "TRANSACTION_CONFLICT"),  # BUSY_SNAPSHOT
        ({"sqlite_errorcode": sqlite3.SQLITE_FULL}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlite_errorcode": sqlite3.SQLITE_NOMEM}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlite_errorcode": sqlite3.SQLITE_PROTOCOL}, "ABORTED", "TRANSACTION_CONFLICT"),
        ({"sqlite_errorcode": 1034}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),  # IOERR_FSYNC
        ({"sqlite_errorcode": sqlite3.SQLITE_CORRUPT}, "DATA_LOSS", "DATABASE_CORRUPT"),
        ({}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
    ],
)
def test_failures_are_told_apart(attributes: dict[str, Any], code: str, reason: str) -> None:
    error = as_storage_error(wrapped(**attributes))
    assert error is not None
    assert (error.code, error.reason) == (code, reason)
    assert "s3cret" not in error.message
    assert (error.retry_delay_s is not None) == (code == "UNAVAILABLE")


@pytest.mark.parametrize(
    "exc",
    [
        wrapped(sqlstate="23505"),
        wrapped(sqlite_errorcode=sqlite3.SQLITE_CONSTRAINT),
        wrapped(sqlite_errorcode=sqlite3.SQLITE_ERROR),
        ValueError("x"),
    ],
)
def test_constraints_and_faults_of_ours_are_left_alone(exc: Exception) -> None:
    assert as_storage_error(exc) is None
    assert not is_connection_lost(exc)


def test_connection_is_given_up_when_it_or_the_server_is_gone() -> None:
    assert is_connection_lost(wrapped(lost=True))
    assert is_connection_lost(wrapped(sqlstate="57P01"))
    assert not is_connection_lost(wrapped(sqlstate="40001"))
    assert not is_connection_lost(wrapped(sqlstate="57014"))
