"""`provledger anchor`: wires its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer

from provledger_cli.wiring import command_line

_VERBS: Final = {
    "status": "anchor_status:status",
    "sinks": "anchor_sinks:sinks",
    "retry": "anchor_retry:retry",
    "policy": "anchor_policy:policy",
}


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The group, with what the arguments ask for; all verbs if they ask for none."""
    return command_line(
        "anchor",
        "Look after the logs' way to places outside our reach. Exit codes: 0 all is well, "
        "1 something is not, 2 could not tell.",
        arguments,
        _VERBS,
    )
