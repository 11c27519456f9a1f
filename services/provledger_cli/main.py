"""`provledger`: wires the verbs, nothing else."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from provledger_cli import failures, output
from provledger_cli.anchor_main import app as anchor_app
from provledger_cli.keys_main import app as keys_app
from provledger_cli.log_main import app as log_app
from provledger_cli.verbs.append import append
from provledger_cli.verbs.backup import backup
from provledger_cli.verbs.down import down
from provledger_cli.verbs.export import export
from provledger_cli.verbs.fips import app as fips_app
from provledger_cli.verbs.get import get
from provledger_cli.verbs.import_ import import_
from provledger_cli.verbs.list_ import list_
from provledger_cli.verbs.load import load
from provledger_cli.verbs.monitor import monitor
from provledger_cli.verbs.notary import notary
from provledger_cli.verbs.refresh import refresh
from provledger_cli.verbs.restore import restore
from provledger_cli.verbs.status import status
from provledger_cli.verbs.up import up
from provledger_cli.verbs.verify import verify

app = typer.Typer(
    name="provledger",
    help="Signed receipts for every change: hash-chained, logged, anchored, verifiable offline. "
    "Exit codes: 0 it holds, 1 it does not hold, 2 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.show(f"provledger {version('provledger')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("up")(up)
app.command("down")(down)
app.command("status")(status)
app.command("import")(import_)
app.command("append")(append)
app.command("get")(get)
app.command("list")(list_)
app.command("export")(export)
app.command("verify")(verify)
app.command("load")(load)
app.command("notary")(notary)
app.command("monitor")(monitor)
app.command("refresh")(refresh)
app.command("backup")(backup)
app.command("restore")(restore)
app.add_typer(keys_app, name="keys")
app.add_typer(fips_app, name="fips")
app.add_typer(log_app, name="log")
app.add_typer(anchor_app, name="anchor")


def main() -> None:
    """Entry point of the command `provledger`."""
    # `fips status` must be able to say why FIPS mode cannot be had.
    failures.run(app, fips_module="" if sys.argv[1:2] == ["fips"] else "provledger_cli")


if __name__ == "__main__":
    main()
