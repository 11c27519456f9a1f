"""`provledger anchor`: wires its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer

from provledger_cli.wiring import wire

_VERBS: Final = {
    "status": "anchor_status:status",
    "sinks": "anchor_sinks:sinks",
    "retry": "anchor_retry:retry",
    "policy": "anchor_policy:policy",
}


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The group, with what the arguments ask for; all verbs if they ask for none."""
    app = typer.Typer(
        name="anchor",
        help="Look after the logs' way to places outside our reach. Exit codes: 0 all is well, "
        "1 something is not, 2 could not tell.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_group)
    wire(app, arguments, _VERBS)
    return app


def _group() -> None:
    pass
