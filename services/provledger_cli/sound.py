"""Whether a data directory can be gone on with: whole databases, and logs that hang together.

`restore` asks before anything gets its name; `backup` before it copies, so that nobody keeps for
years what could not be restored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from provledger_cli import fsck as fscks
from provledger_cli.config import Config
from provledger_cli.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.logfiles import DirFiles
from provledger_cli.stored import AnchorRows, LedgerRows, open_database


class Newest(DirFiles):
    """A log's files without partial ones of earlier sizes, which nobody needs any more."""

    def partial_widths(self, path: str) -> Sequence[int]:
        """See `LogFiles`."""
        return ()


def check_logs(
    data_dir: DataDir,
    config: Config,
    schemas: Mapping[str, str],
    look: Callable[[AnchorRows], None],
    files: type[DirFiles] = DirFiles,
) -> tuple[fscks.Checked, ...]:
    """Recompute each log from its entries, and compare with tiles, heads and ledger rows.

    Services may run meanwhile. schemas: PostgreSQL schemas that have other names than services.
    look: is told of the logs first, and may refuse them. files: which of a log's are looked at.

    Raises:
        LogDamagedError: for the first thing that does not fit.
        CommandError, StatusError: a database cannot be read.
    """
    anchor = AnchorRows(open_database(data_dir, config, "anchor", schemas.get("anchor")))
    rows = LedgerRows(open_database(data_dir, config, "ledger", schemas.get("ledger")))
    try:
        look(anchor)
        return tuple(
            fscks.check_stored(
                anchor,
                uid,
                files(data_dir.tiles / "logs" / uid.hex()),
                rows,
                None,
                lambda done, total: None,
            )
            for uid in anchor.log_uids()
        )
    finally:
        anchor.close()
        rows.close()


def fault(path: Path) -> str:
    """What is wrong with an SQLite database that nobody writes to; "" if it is whole.

    Raises:
        CommandError: it cannot be read.
    """
    with closing(sqlite3.connect(path)) as connection:
        try:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        except sqlite3.OperationalError as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            said = [str(error)]
    return "" if said == ["ok"] else str(said[0])
