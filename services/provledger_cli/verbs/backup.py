"""`provledger backup`: one moment of an installation, in one file, while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from provledger_cli import output
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.options import DataDirOption, JSONOption


def backup(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            envvar="PROVLEDGER_BACKUP_OUT",
            help="File to write; .gz at its end compresses. It must not be there yet.",
            show_default=False,
        ),
    ],
    include_keys: Annotated[
        bool,
        typer.Option(
            "--include-keys",
            envvar="PROVLEDGER_BACKUP_KEYS",
            help="Put the private keys of the data directory in as well: whoever has the file can "
            "then sign in your name. Keys that lie elsewhere are named, and left out.",
        ),
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JSONOption = False,
) -> None:
    """Back up databases, tiles and configuration of a data directory, without stopping anything.

    All services are taken at one moment at which they agree. What is there is checked first, as
    `restore` will: databases are whole, and every log is recomputed. The file is read again before
    it gets its name. Private keys stay out unless asked for; payloads, salts and the key of
    imported lines are in it, so keep it as closed as the data directory itself. Sinks are not in
    it: they are what a restored copy is compared with. What an operator has put into the databases
    himself is left out, and told: tables, columns and views beside those of the services in
    PostgreSQL, views and triggers in SQLite. An anchor that keeps its tiles in a bucket
    is not backed up by this: that is refused, and names the bucket.

    Exit code 0: backed up. 1: what is there is damaged, and there is no backup. 2: it could not be
    done.

    Example: provledger backup --out backup.tar.gz --data-dir ./ledger
    """
    from provledger_cli.backups import backup as work
    from provledger_cli.embedded import config as configs

    output.use_json(as_json)
    started_s = time.monotonic()
    directory = DataDir.at(data_dir)
    config = configs.load(directory)
    if config is None:
        raise CommandError(
            f"{directory.path} is not a data directory", hint="name one with --data-dir"
        )
    with output.progress("", counted=False) as bar:
        task = bar.add_task("backing up", total=None, done=0)
        manifest = work.write(
            out,
            directory,
            config,
            with_keys=include_keys,
            on_progress=lambda what: bar.update(task, description=what),
        )
    for other in manifest.about["databaseLeftOut"]:
        output.say(f"not of a service, and so left out: {escape(other)}")
    size = out.stat().st_size
    if as_json:
        output.document(
            {
                "file": str(out),
                "bytes": size,
                "files": manifest.count,
                **manifest.about,
                "seconds": round(time.monotonic() - started_s, 3),
            }
        )
        return
    logs = manifest.about["logs"]
    rows = [
        ("file", f"{out}, {size:,} bytes, {manifest.count:,} files, read again"),
        *[("log", f"{log['origin']}, tree size {log['size']:,}") for log in logs],
        ("database", str(manifest.about["database"])),
        ("private keys", "in it" if include_keys else "not in it: keep them elsewhere"),
        ("keys left out", ", ".join(manifest.about["privateKeysLeftOut"])),
    ]
    output.show(output.card("Backup", rows))
