"""What a commit is worth is for the database server to say; asked once, when a service starts.

    fsync off             refused: a power cut may lose what was acknowledged, or all of it
    synchronous_commit    refused, unless as our sessions set it: something in between undoes it
    search_path,          refused, unless as our sessions begin with them: something in between
    statement_timeout     drops their options, and tables would be made elsewhere
    full_page_writes off  said as an error: safe only where 8 KiB are written whole or not at all
    server_encoding       refused where there are no tables yet, else said as an error, unless it is
                          UTF8, or SQL_ASCII, which keeps the bytes of ours as they are: any other
                          stores only some of what a receipt may say

Whoever runs a server without fsync on purpose (its storage is replicated elsewhere; nothing in it
matters) says so where it was switched off: `provledger.allow_fsync_off = on`, for the server, the
database or the role, or in the options of the URL.

SQLite is set up by `engine`, and has nothing that could weaken it from outside.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from provledger import logs
from provledger.db.engine import SCHEMA_OPTION, STATEMENT_TIMEOUT_S, is_sqlite
from provledger.db.errors import as_storage_error
from provledger.settings import ConfigError

log = logs.get(__name__)

ALLOWED: Final = "provledger.allow_fsync_off"
_SETTINGS: Final = (
    *("fsync", "full_page_writes", "synchronous_commit", "server_encoding", "search_path"),
)
_ENCODINGS: Final = frozenset({"UTF8", "SQL_ASCII"})
_QUERY: Final = sa.text(
    "SELECT "
    + ", ".join(f"current_setting('{name}') AS {name}" for name in _SETTINGS)
    + f", current_setting('{ALLOWED}', true) AS allowed"
    # A number: psycopg reads intervals in one IntervalStyle only.
    + ", date_part('epoch', CAST(current_setting('statement_timeout') AS interval)) AS limit_s"
    + ", to_regclass('alembic_version') IS NOT NULL AS has_tables"
)


def check_durable(engine: Engine) -> None:
    """Refuse a server on which what is committed may be lost, or not be stored; blocking.

    Raises:
        ConfigError: it does not sync, and nobody said that this is wanted; a new database has
            another encoding than UTF-8; or something in between changes our sessions.
        StatusError: the database cannot be reached.
    """
    if is_sqlite(engine):
        return
    try:
        with engine.connect() as connection:
            found = connection.execute(_QUERY).one()
    except sa.exc.SQLAlchemyError as error:
        storage_error = as_storage_error(error)
        if storage_error is None:
            raise
        raise storage_error from error
    if found.synchronous_commit not in ("on", "remote_apply"):
        raise ConfigError(
            f"the database answers with synchronous_commit={found.synchronous_commit}, though it "
            "was set to on: connect without a pooler that resets sessions"
        )
    schema = engine.get_execution_options()[SCHEMA_OPTION]
    if found.search_path != schema or found.limit_s != STATEMENT_TIMEOUT_S:
        raise ConfigError(
            f"the database's sessions begin with search_path={found.search_path} and not with "
            f"{schema}, or without our limits of time: a pooler in between drops their options, "
            "such as PgBouncer with ignore_startup_parameters; connect without it"
        )
    if found.fsync != "on":
        if found.allowed != "on":
            raise ConfigError(
                "the database server runs with fsync=off: a power cut may lose what was "
                f"acknowledged. Switch it on, or say that this is wanted: set {ALLOWED}=on in the "
                "same place"
            )
        log.warning("database.fsync_off")
    if found.full_page_writes != "on":
        log.error("database.full_page_writes_off")
    if found.server_encoding not in _ENCODINGS:
        if not found.has_tables:
            raise ConfigError(
                f"the database has the encoding {found.server_encoding}, which cannot hold every "
                "text: make the database with ENCODING 'UTF8'"
            )
        log.error("database.encoding_not_utf8", encoding=found.server_encoding)
