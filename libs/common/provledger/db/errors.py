"""What an error of the database means to a caller.

    connection lost, server starting or stopping, read-only,
    its files cannot be read or written                         UNAVAILABLE  DATABASE_UNAVAILABLE
    the server refuses the role, its password or the database   UNAVAILABLE  DATABASE_UNAVAILABLE
    the server answers, and begins no session                   UNAVAILABLE  DATABASE_UNAVAILABLE
    TLS to the server cannot be set up                          UNAVAILABLE  DATABASE_UNAVAILABLE
    statement took too long                                     UNAVAILABLE  DATABASE_TIMEOUT
    disk or memory full                                         UNAVAILABLE  DATABASE_FULL
    lock not granted, deadlock, serialisation failure           ABORTED      TRANSACTION_CONFLICT
    file or page damaged                                        DATA_LOSS    DATABASE_CORRUPT

Everything else (a violated constraint, a wrong statement) is left as it is: it is for the storage
that asked, or a fault of ours. Messages of the database may quote rows and are not repeated.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from provledger.errors import AbortedError, DataLossError, StatusError, UnavailableError

RETRY_DELAY_S: Final = 0.5


class LockNotGrantedError(AbortedError):
    """Whoever has a lock kept it for longer than `lock_timeout` (PostgreSQL)."""


# SQLSTATE classes and codes: PostgreSQL documentation, appendix A.
_PG_CONFLICT: Final = frozenset({"40000", "40001", "40P01"})
_PG_NO_LOCK: Final = "55P03"
# Too many connections is a lack of resources that has nothing to do with disk or memory.
_PG_UNAVAILABLE: Final = frozenset({"25006", "25P03", "25P04", "53300"})
_PG_FULL_CLASS: Final = "53"
# Connection exceptions; an operator's intervention; errors of the system around PostgreSQL, such
# as EIO on one of its files.
_PG_UNAVAILABLE_CLASSES: Final = ("08", "57", "58")
# Invalid authorization; no such database.
_PG_REFUSED: Final = ("28", "3D")
# libpq gives no SQLSTATE for a connection that was not made: only its text, in the language of the
# server, and whether a password was asked for. What is refused is told apart in English.
_PG_REFUSAL: Final = re.compile(
    r"""FATAL:\s+(?:
        (?:role|database)\ .*\ (?:does\ not\ exist|is\ not\ permitted\ to\ log\ in)
        | .*\bauthentication\ failed\ for\ user\b
        | (?:permission\ denied\ for\ database|no\ pg_hba.conf\ entry|pg_hba.conf\ rejects)\b
    ) | fe_sendauth:\ no\ password\ supplied""",
    re.VERBOSE,
)
# What a server says begins with its severity, in its language, which libpq parts from the rest by a
# colon and two blanks in any (`pqBuildErrorMessage3`). It puts one blank into what it says itself.
_PG_ANSWER: Final = re.compile(r"(?:^|:\s)[^\s:]+(?:\ [^\s:]+){0,2}:\ \ \S", re.MULTILINE)
# What libpq says of TLS, by its function `pqsecure_open_client` and those that it calls. An end of
# the connection in the middle of it is no mistake in it.
_PG_TLS: Final = re.compile(
    r"""\bSSL\ error:\ (?!unexpected\ eof)
    | \bserver\ does\ not\ support\ SSL\b | \bverified\ SSL\ connection\b
    | \bserver\ certificate\ for\ " | \bserver's\ certificate\b
    | \bcertificate\ file\ " | \bprivate\ key\ file\b | \bcertificate\ present,\ but\b
    | \bsystem\ root\ certificate\b | \bSSL\ certificate\b""",
    re.VERBOSE,
)
_PG_CORRUPT: Final = frozenset({"XX001", "XX002"})
_PG_TIMEOUT: Final = "57014"

_SQLITE_CONFLICT: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
)
_SQLITE_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM})
_SQLITE_UNAVAILABLE: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
_SQLITE_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def as_storage_error(exc: BaseException) -> StatusError | None:
    """The typed error for a database failure, or None where `exc` is not one of those above."""
    if isinstance(exc, PoolTimeoutError):
        return _unavailable("DATABASE_UNAVAILABLE", "no database connection is free")
    if not isinstance(exc, DBAPIError):
        return None
    sqlstate = getattr(exc.orig, "sqlstate", None)
    if sqlstate is not None:
        return _from_sqlstate(str(sqlstate), lost=exc.connection_invalidated)
    sqlite_code = getattr(exc.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return _from_sqlite(int(sqlite_code))
    # One that was made and is lost needs no word of how it began.
    if not exc.connection_invalidated and (not_made := _not_made(exc.orig)) is not None:
        return not_made
    if exc.connection_invalidated or isinstance(exc, OperationalError):
        return _unavailable("DATABASE_UNAVAILABLE", "the database cannot be reached")
    return None


def _not_made(error: BaseException | None) -> UnavailableError | None:
    """The error for a connection to PostgreSQL to which the server, or a pooler, did answer, or
    with which TLS could not be set up."""
    connection = getattr(error, "pgconn", None)
    text = str(error)
    if getattr(connection, "needs_password", False) or _PG_REFUSAL.search(text):
        return _refused()
    if getattr(connection, "used_password", False) or _PG_ANSWER.search(text):
        return _unavailable(
            "DATABASE_UNAVAILABLE",
            "the database server answers, but begins no session: it starts, stops, has no "
            "connection free, or does not take this role, its password or the database; its log "
            "says which",
        )
    if _PG_TLS.search(text):
        return _unavailable(
            "DATABASE_UNAVAILABLE",
            "TLS to the database server cannot be set up: it speaks none, or its certificate, its "
            "name or a file of ours (sslrootcert, sslcert, sslkey) is not what it must be",
        )
    return None


def is_connection_lost(exc: BaseException) -> bool:
    """Whether the connection on which `exc` happened must not be used again."""
    error = as_storage_error(exc)
    if isinstance(exc, DBAPIError) and exc.connection_invalidated:
        return True
    return error is not None and error.reason in ("DATABASE_UNAVAILABLE", "DATABASE_CORRUPT")


def _from_sqlstate(sqlstate: str, *, lost: bool) -> StatusError | None:
    if sqlstate == _PG_NO_LOCK:
        return LockNotGrantedError("TRANSACTION_CONFLICT", "a lock is held by somebody else")
    if sqlstate in _PG_CONFLICT:
        return AbortedError("TRANSACTION_CONFLICT", "a concurrent transaction was in the way")
    if sqlstate == _PG_TIMEOUT:
        return _unavailable("DATABASE_TIMEOUT", "the database took too long")
    if sqlstate.startswith(_PG_REFUSED):
        return _refused()
    if sqlstate in _PG_CORRUPT:
        return DataLossError("DATABASE_CORRUPT", "the database reports damaged data")
    if lost or sqlstate in _PG_UNAVAILABLE or sqlstate.startswith(_PG_UNAVAILABLE_CLASSES):
        return _unavailable("DATABASE_UNAVAILABLE", "the database cannot be reached or used")
    if sqlstate.startswith(_PG_FULL_CLASS):
        return _unavailable("DATABASE_FULL", "the database is out of disk or memory")
    return None


def _from_sqlite(code: int) -> StatusError | None:
    primary = code & 0xFF  # extended codes keep the primary one in the low byte
    if primary in _SQLITE_CONFLICT:
        return AbortedError("TRANSACTION_CONFLICT", "the database file is locked by another writer")
    if primary in _SQLITE_FULL:
        return _unavailable("DATABASE_FULL", "the database is out of disk or memory")
    if primary in _SQLITE_CORRUPT:
        return DataLossError("DATABASE_CORRUPT", "the database file is damaged")
    if primary in _SQLITE_UNAVAILABLE:
        return _unavailable("DATABASE_UNAVAILABLE", "the database file cannot be used")
    return None


def _refused() -> UnavailableError:
    return _unavailable(
        "DATABASE_UNAVAILABLE",
        "the database server refuses this role, its password or the database that it asks for",
    )


def _unavailable(reason: str, message: str) -> UnavailableError:
    return UnavailableError(reason, message, retry_delay_s=RETRY_DELAY_S)
