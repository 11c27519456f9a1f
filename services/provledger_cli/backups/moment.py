"""One moment of all services, while they run: a snapshot of each database, which fit together.

What must fit together at that moment:

    ledger >= anchor          every logged entry has its row, or the ledger would have to be refused
    ledger's logged_seq <= anchor    what counts as logged is in the log
    keys <= ledger            a key event that the registry counts as recorded is in the key ledger

    keys >= ledger, anchor    what signed a receipt or a checkpoint is in the registry

PostgreSQL has all of it in one REPEATABLE READ snapshot. SQLite has a file for each service: read
transactions are opened on keys, anchor and ledger, in this order, so that the first and third hold
by themselves. Whether the second holds is looked up; and the fourth does if the registry, which
counts its changes, has had none when the last one is open. Where a relay or a rotation was in
between, they are opened anew. Services go on meanwhile; nobody is locked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from provledger.db import as_storage_error, is_sqlite
from provledger_cli.backups.contents import SERVICES
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.tlog.stored import open_database

REVISION = sa.text("SELECT version_num FROM alembic_version")

_TRIES: Final = 200
_PAUSE_S: Final = 0.05
_LOGGED = sa.text("SELECT ledger_uid, logged_seq FROM heads WHERE logged_seq >= 0")
_IN_LOGS = sa.text("SELECT ledger_uid, max(seq) AS seq FROM ledgers GROUP BY ledger_uid")
_CHANGES = sa.text("SELECT revision FROM registry")


@contextmanager
def snapshots(data_dir: DataDir, config: Config) -> Iterator[Mapping[str, Connection]]:
    """A connection for each service, inside of a read transaction of one moment.

    Raises:
        CommandError: one cannot be read, or they never agreed.
        StatusError: one cannot be reached.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        with ExitStack() as opened:
            try:
                found = (
                    _one_snapshot(data_dir, config, opened)
                    if config.database_url
                    else _three_snapshots(data_dir, config, opened)
                )
            except sa.exc.SQLAlchemyError as error:
                raise as_storage_error(error) or CommandError(
                    f"a database cannot be read: {type(error).__name__}",
                    hint="have the services been started once?",
                ) from error
            if _fit(found):
                yield found
                return
    raise CommandError(
        "the services were too busy to find a moment in which they agree",
        hint="try again, or stop them with `provledger down` first",
    )


def _three_snapshots(data_dir: DataDir, config: Config, opened: ExitStack) -> dict[str, Connection]:
    found = {}
    for name in SERVICES:
        engine = open_database(data_dir, config, name)
        opened.callback(engine.dispose)
        found[name] = opened.enter_context(engine.connect())
    # The first read fixes what a transaction sees: one right after the other.
    for connection in found.values():
        connection.execute(REVISION).scalar()
    return found


def _one_snapshot(data_dir: DataDir, config: Config, opened: ExitStack) -> dict[str, Connection]:
    """Three connections to PostgreSQL that share one exported snapshot."""
    found: dict[str, Connection] = {}
    snapshot = ""
    for name in SERVICES:
        engine = open_database(data_dir, config, name)
        opened.callback(engine.dispose)
        connection = opened.enter_context(engine.connect())
        connection.execution_options(isolation_level="REPEATABLE READ")
        if snapshot:
            connection.execute(sa.text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        else:
            snapshot = str(connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar())
        # A large database takes longer than a service may.
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        found[name] = connection
    return found


def _fit(connections: Mapping[str, Connection]) -> bool:
    """Whether all that counts as logged is in the logs, and all that signed in the registry."""
    in_logs = {bytes(row.ledger_uid): row.seq for row in connections["anchor"].execute(_IN_LOGS)}
    return _same_registry(connections["keys"]) and all(
        row.logged_seq <= in_logs.get(bytes(row.ledger_uid), -1)
        for row in connections["ledger"].execute(_LOGGED)
    )


def _same_registry(keys: Connection) -> bool:
    """Whether the registry is still as in this snapshot, the oldest of all."""
    if not is_sqlite(keys.engine):
        return True  # there is one for all
    with keys.engine.connect() as now:
        return bool(now.execute(_CHANGES).scalar() == keys.execute(_CHANGES).scalar())
