"""What database errors mean to a caller."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from provledger.db.errors import as_storage_error, is_connection_lost

KINDS = (REFUSES, ANSWERS, UNREACHED, TLS) = ("refuses", "answers", "reached", "TLS")


class DriverError(Exception):
    def __init__(self, message: str = "row (s3cret)", /, **attributes: object) -> None:
        super().__init__(message)
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
        ({"sqlstate": "25P04"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),  # transaction_timeout
        ({"sqlstate": "57014"}, "UNAVAILABLE", "DATABASE_TIMEOUT"),
        ({"sqlstate": "53100"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53200"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53400"}, "UNAVAILABLE", "DATABASE_FULL"),
        ({"sqlstate": "53300"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "58030"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),  # io_error
        ({"sqlstate": "57000"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "28P01"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
        ({"sqlstate": "3D000"}, "UNAVAILABLE", "DATABASE_UNAVAILABLE"),
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


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('FATAL:  role "s3cret" does not exist', REFUSES),
        ('FATAL:  role "s3cret" is not permitted to log in', REFUSES),
        ('FATAL:  database "s3cret" does not exist', REFUSES),
        ('FATAL:  password authentication failed for user "s3cret"', REFUSES),
        ('FATAL:  Peer authentication failed for user "s3cret"', REFUSES),
        (
            'FATAL:  permission denied for database "s3cret"\nDETAIL:  User does not have ...',
            REFUSES,
        ),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "s3cret", no encryption', REFUSES),
        ("fe_sendauth: no password supplied", REFUSES),
        ("FATAL:  the database system is starting up", ANSWERS),
        ("FATAL:  sorry, too many clients already", ANSWERS),
        ("Connection refused\n\tIs the server running on that host?", UNREACHED),
        ("FATAL:  Passwort-Authentifizierung für Benutzer »s3cret« fehlgeschlagen", ANSWERS),
        ("FATALE:  il ruolo s3cret non esiste", ANSWERS),
        ('ВАЖНО:  пользователь "s3cret" не прошёл проверку подлинности', ANSWERS),
        ("치명적오류:  s3cret", ANSWERS),
        ("ERROR:  no such user", ANSWERS),  # a pooler's
        ("No such file or directory", UNREACHED),
        ("SSL error: certificate verify failed", TLS),
        ('server certificate for "s3cret" (and 2 other names) does not match host name "h"', TLS),
        ('root certificate file "/s3cret" does not exist', TLS),
        ('could not read certificate file "/s3cret": no start line', TLS),
        ('could not load private key file "/s3cret": unsupported', TLS),
        ("server does not support SSL, but SSL was required", TLS),
        ("SSL error: tlsv13 alert certificate required", TLS),
        ("FATAL:  connection requires a valid client certificate", ANSWERS),
        ("SSL error: unexpected eof while reading", UNREACHED),
        ("SSL SYSCALL error: EOF detected", UNREACHED),
        ("could not receive data from server: Connection reset by peer", UNREACHED),
    ],
)
def test_a_server_that_refuses_is_told_from_one_that_is_not_reached(said: str, kind: str) -> None:
    text = f'connection failed: connection to server at "h", port 5432 failed: {said}'
    error = as_storage_error(sa.exc.OperationalError("SQL", None, DriverError(text)))
    assert error is not None
    assert (error.code, error.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
    assert [word for word in KINDS if word in error.message] == [kind]
    assert "s3cret" not in error.message


@pytest.mark.parametrize(
    ("needs", "used", "kind"),
    [(True, True, REFUSES), (False, True, ANSWERS), (False, False, UNREACHED)],
)
def test_a_server_that_asked_for_a_password_was_reached_whatever_it_says(
    needs: bool, used: bool, kind: str
) -> None:
    """As psycopg leaves it behind: the one thing of a connection not made that is no text."""
    pgconn = SimpleNamespace(needs_password=needs, used_password=used)
    error = as_storage_error(wrapped(pgconn=pgconn))
    assert error is not None
    assert [word for word in KINDS if word in error.message] == [kind]


def test_a_session_that_is_lost_is_not_one_that_did_not_begin() -> None:
    pgconn = SimpleNamespace(needs_password=False, used_password=True)
    error = as_storage_error(wrapped(pgconn=pgconn, lost=True))
    assert error is not None
    assert "reached" in error.message


def test_connection_is_given_up_when_it_or_the_server_is_gone() -> None:
    assert is_connection_lost(wrapped(lost=True))
    assert is_connection_lost(wrapped(sqlstate="57P01"))
    assert not is_connection_lost(wrapped(sqlstate="40001"))
    assert not is_connection_lost(wrapped(sqlstate="57014"))
