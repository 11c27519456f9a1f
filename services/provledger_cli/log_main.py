"""`provledger log`: wires its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer

from provledger_cli.wiring import command_line

_VERBS: Final = {"fsck": "log_fsck:fsck", "split-view": "log_split_view:split_view"}


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The group, with what the arguments ask for; all verbs if they ask for none."""
    return command_line(
        "log",
        "Look after the Merkle logs. Exit codes: 0 it holds, 1 it does not hold, 2 could not tell.",
        arguments,
        _VERBS,
    )
