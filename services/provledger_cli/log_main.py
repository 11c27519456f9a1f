"""`provledger log`: wires its verbs."""

from __future__ import annotations

import typer

from provledger_cli.verbs.log_fsck import fsck
from provledger_cli.verbs.log_split_view import split_view

app = typer.Typer(
    name="log",
    help="Look after the Merkle logs. Exit codes: 0 it holds, 1 it does not hold, "
    "2 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    pass


app.command("fsck")(fsck)
app.command("split-view")(split_view)
