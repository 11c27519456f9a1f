"""Whether a data directory can be gone on with: whole databases, and logs that hang together.

`restore` asks before anything gets its name; `backup` before it copies, so that nobody keeps for
years what could not be restored.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from provledger import logdirs
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.tlog import fsck as fscks
from provledger_cli.tlog.logfiles import DirFiles
from provledger_cli.tlog.stored import AnchorRows, LedgerRows, open_database

_OURS: Final = re.compile(r"CREATE (?:TABLE|(?:UNIQUE )?INDEX) ")
"""How SQLite begins what it keeps of such a statement, however that was written."""
_OTHER: Final = re.compile(r"CREATE (VIEW|TRIGGER|VIRTUAL TABLE) ")

_SHOWN: Final = 100
"""Of a name, which may be of any length."""


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
    logs = data_dir.tiles / "logs"
    try:
        # The directory first: a log gets its row before that.
        there = logdirs.listed(logs)
        look(anchor)
        fscks.check_known(logs, there, anchor.log_uids())
        return tuple(
            fscks.check_stored(
                anchor,
                uid,
                files(logs / uid.hex()),
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
    """What is wrong with an SQLite database that nobody writes to; "" if nothing is.

    It has to be whole, and to hold nothing but tables and indexes: a view may take for ever to be
    read, and a trigger may write what nobody signed.

    Raises:
        CommandError: it cannot be read.
    """
    with closing(sqlite3.connect(path)) as connection:
        try:
            for kind, name in foreign(connection):
                return f"it holds a {kind}, {name[:_SHOWN]!r}, of which no service has one"
            said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        except sqlite3.OperationalError as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # The second is the driver's, where SQLite quotes a name in what it says.
            said = [str(error)]
    return "" if said == ["ok"] else str(said[0])


def foreign(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """What an SQLite database holds beside tables and indexes: its kind, and its name.

    By the statement, as SQLite itself goes by that: a forged row may call a view a table.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    # A name that is not UTF-8 must not end the look.
    connection.text_factory = lambda data: data.decode(errors="replace")
    rows = connection.execute("SELECT sql, name FROM sqlite_master WHERE sql IS NOT NULL")
    for statement, name in rows.fetchall():
        if not isinstance(statement, str) or _OURS.match(statement) is None:
            found = _OTHER.match(str(statement))
            yield found[1].lower() if found else "statement", str(name)
