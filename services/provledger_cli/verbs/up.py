"""`provledger up`: start the services, or whatever of them is down."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.embedded.endpoints import Endpoints
from provledger_cli.failures import CommandError, report
from provledger_cli.options import DataDirOption, JSONOption, finite


def up(
    data_dir: DataDirOption = None,
    database_url: Annotated[
        str,
        typer.Option(
            "--database-url",
            envvar="PROVLEDGER_DATABASE_URL",
            help="PostgreSQL database for all services, as postgresql+psycopg://user@host/name. "
            "Default: SQLite files in the data directory.",
            show_default=False,
        ),
    ] = "",
    sink: Annotated[
        list[str] | None,
        typer.Option(
            "--sink",
            envvar="PROVLEDGER_SINK",
            metavar="URI",
            help="Where checkpoints are anchored, such as file:///mnt/elsewhere. Repeatable. "
            "Default: the directory anchors in the data directory. Sinks inside the data directory "
            "go with it: one that is moved, or a copy, has those at its new place.",
            show_default=False,
        ),
    ] = None,
    fips: Annotated[
        bool,
        typer.Option(
            "--fips",
            envvar="PROVLEDGER_FIPS",
            help="Run everything in FIPS mode, now and from now on (docs/fips.md). "
            "For a new data directory.",
        ),
    ] = False,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground",
            envvar="PROVLEDGER_FOREGROUND",
            help="Stay, say what happens, and stop the services on Ctrl-C.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            envvar="PROVLEDGER_UP_TIMEOUT",
            min=1.0,
            callback=finite,
            help="Seconds to wait until all services answer.",
        ),
    ] = 90.0,
    as_json: JSONOption = False,
) -> None:
    """Start the services on loopback and leave them running.

    Safe to run again: it starts what is down and leaves the rest alone. The first time, it makes
    keys in the data directory; WITNESS_PRIVATE_KEY (PEM, or a path) gives it a witness key that
    is there already. Addresses are written to endpoints.json there; the other commands find them
    by the same --data-dir.

    Example: provledger up --data-dir ./ledger
    """
    from provledger_cli.embedded import given_key, running

    output.use_json(as_json)
    directory = DataDir.at(data_dir)
    # Through the environment several sinks come in one text.
    sinks = [part for text in sink or () for part in text.split()]
    with running.putting_back_url(directory):
        config = running.set_up(directory, database_url, sinks, fips)
        given = given_key.pop(os.environ, fips=config.fips)
        running.resolve_config()
        if foreground:
            asyncio.run(_in_foreground(directory, given, timeout, as_json))
        else:
            _behind(directory, given, timeout, as_json)


def _behind(directory: DataDir, given: str, timeout_s: float, as_json: bool) -> None:
    """Have them run on behind the command's back."""
    from provledger_cli.connect import run_async
    from provledger_cli.embedded import launching, running

    started_s = time.monotonic()
    supervising = running.ensure_supervisor(directory, given)
    try:
        with output.progress("services") as bar:
            task = bar.add_task("starting", total=len(launching.installed()))
            known = run_async(
                running.wait_until_serving(
                    directory,
                    supervising,
                    lambda count: bar.update(task, completed=count),
                    timeout_s=timeout_s,
                )
            )
    except running.PartlyServingError:
        # They are left running: it is through them that it is mended.
        raise
    except CommandError:
        # What did not come up is not left trying behind your back; what ran before goes on.
        supervising.stop()
        raise
    was_there = not supervising.is_ours(known.supervisor_pid)
    _announce(directory, known, as_json, time.monotonic() - started_s, was_there)


async def _in_foreground(directory: DataDir, given: str, timeout_s: float, as_json: bool) -> None:
    """Supervise until a signal comes; what can be mended meanwhile is told, and can be."""
    from provledger_cli.embedded import running
    from provledger_cli.embedded.supervisor import supervise

    supervising = asyncio.create_task(supervise(directory, output.say, given))
    waiting = asyncio.create_task(
        running.wait_until_serving(directory, None, lambda count: None, timeout_s=timeout_s)
    )
    started_s = time.monotonic()
    await asyncio.wait({supervising, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if waiting.done() and not supervising.done():
        try:
            _announce(directory, waiting.result(), as_json, time.monotonic() - started_s, False)
        except running.PartlyServingError as error:
            report(error)
    waiting.cancel()
    await supervising


def _announce(
    directory: DataDir, known: Endpoints, as_json: bool, seconds: float, was_there: bool
) -> None:
    if as_json:
        output.document(_document(directory, known, seconds, was_there))
        return
    rows = [(name, each.endpoint, str(each.pid)) for name, each in known.services.items()]
    title = "Services" if was_there else f"Services, started in {output.seconds(seconds)}"
    output.show(output.table(title, ["service", "endpoint", "pid>"], rows))
    path, sinks = output.literal(directory.path), output.literal(", ".join(known.sinks))
    output.show(f"data directory  {path}\nanchors go to   {sinks}")
    where = f" --data-dir {path}" if directory != DataDir.at(None) else ""
    output.show(
        "Try next:\n"
        f"  provledger import FILE.ndjson --tenant demo{where}\n"
        f"  provledger status --wait 30{where}\n"
        f"  provledger down{where}"
    )


def _document(
    directory: DataDir, known: Endpoints, seconds: float, was_there: bool
) -> dict[str, Any]:
    return {
        "data_dir": str(directory.path),
        "already_running": was_there,
        "seconds": round(seconds, 3),
        "version": known.version,
        "supervisor_pid": known.supervisor_pid,
        "database": known.database,
        "sinks": list(known.sinks),
        "services": {
            name: {"endpoint": service.endpoint, "pid": service.pid, "log": service.log}
            for name, service in known.services.items()
        },
    }
