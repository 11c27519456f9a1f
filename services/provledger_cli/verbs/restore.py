"""`provledger restore`: a data directory out of a backup, which signs nothing until confirmed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.options import DataDirOption, JSONOption

if TYPE_CHECKING:
    from provledger_cli.backups.restore import Restored


def restore(
    file: Annotated[
        Path,
        typer.Argument(
            envvar="PROVLEDGER_RESTORE_FILE",
            help="A backup, as `provledger backup` writes it.",
            show_default=False,
        ),
    ],
    database_url: Annotated[
        str,
        typer.Option(
            "--database-url",
            envvar="PROVLEDGER_DATABASE_URL",
            help="For a PostgreSQL backup: the database to restore into. Its schemas keys, anchor "
            "and ledger must not be there yet.",
            show_default=False,
        ),
    ] = "",
    sink: Annotated[
        list[str] | None,
        typer.Option(
            "--sink",
            envvar="PROVLEDGER_RESTORE_SINK",
            metavar="URI",
            help="Where the sinks are now, instead of those in the backup. Repeatable.",
            show_default=False,
        ),
    ] = None,
    accept_unconfirmed: Annotated[
        bool,
        typer.Option(
            "--accept-unconfirmed",
            envvar="PROVLEDGER_RESTORE_ACCEPT",
            help="No sink is left that remembers this log: go on all the same, on your word that "
            "nothing was signed after this backup. A sink that knows better still stops it.",
        ),
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JSONOption = False,
) -> None:
    """Restore a backup into a data directory that is not there yet.

    The whole file is checked before anything is written, and every log is recomputed before the
    directory gets its name: a damaged backup leaves nothing behind. The restored services refuse
    to sign and to append until the sinks have confirmed that they hold nothing later than the
    backup. What to do if they do not is in docs/runbooks/stale-restore.md.

    Exit code 0: restored. 1: the backup is damaged. 2: it could not be done.

    Example: provledger restore backup.tar.gz --data-dir ./ledger
    """
    from provledger_cli.backups import restore as work

    output.use_json(as_json)
    started_s = time.monotonic()
    directory = DataDir.at(data_dir)
    # Through the environment several sinks come in one text.
    sinks = tuple(part for text in sink or () for part in text.split())
    with output.progress("", counted=False) as bar:
        task = bar.add_task("restoring", total=None, done=0)
        restored = work.restore(
            file,
            directory,
            database_url=database_url,
            sinks=sinks,
            accepted=accept_unconfirmed,
            on_progress=lambda what: bar.update(task, description=what),
        )
    if as_json:
        output.document(_document(directory, restored, time.monotonic() - started_s))
    else:
        _show(directory, restored)


def _document(directory: DataDir, restored: Restored, seconds: float) -> dict[str, Any]:
    return {
        "data_dir": str(directory.path),
        **restored.manifest.about,
        "checked": [
            {"origin": each.origin, "tree_size": each.size, "ledgers": each.ledgers}
            for each in restored.checked
        ],
        "missing_private_keys": list(restored.missing_keys),
        "unknown_kids": list(restored.unknown_kids),
        "accepted_unconfirmed": restored.accepted,
        "seconds": round(seconds, 3),
    }


def _show(directory: DataDir, restored: Restored) -> None:
    rows = [
        ("data directory", str(directory.path)),
        *[("log", f"{each.origin}, {each.size:,} entries recomputed") for each in restored.checked],
        ("missing keys", ", ".join(restored.missing_keys)),
    ]
    output.show(output.card("Restored", rows))
    if restored.missing_keys:
        output.show(
            f"Put these private keys into {output.literal(directory.keys)} (mode 0600) first."
        )
    if restored.unknown_kids:
        output.show(
            "The registry lacks keys that signed receipts: "
            f"{output.literal(', '.join(restored.unknown_kids))}. "
            "They do not verify until `provledger keys rebuild` has brought them back."
        )
    path = output.literal(directory.path)
    output.show(
        "Nothing is signed until the sinks confirm that they hold nothing later. Try next:\n"
        f"  provledger up --data-dir {path}\n"
        f"  provledger status --data-dir {path}"
    )
