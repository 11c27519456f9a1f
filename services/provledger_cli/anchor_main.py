"""`provledger anchor`: wires its verbs."""

from __future__ import annotations

import typer

from provledger_cli.verbs.anchor_policy import policy
from provledger_cli.verbs.anchor_retry import retry
from provledger_cli.verbs.anchor_sinks import sinks
from provledger_cli.verbs.anchor_status import status

app = typer.Typer(
    name="anchor",
    help="Look after the logs' way to places outside our reach. Exit codes: 0 all is well, "
    "1 something is not, 2 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("status")(status)
app.command("sinks")(sinks)
app.command("retry")(retry)
app.command("policy")(policy)
