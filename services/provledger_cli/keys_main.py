"""`keys`, on its own and as `provledger keys`: wires its verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import typer

from provledger_cli import failures
from provledger_cli.wiring import command_line

_VERBS: Final = {
    "list": "keys_list:list_",
    "show": "keys_show:show",
    "jwks": "keys_jwks:jwks",
    "init": "keys_init:init",
    "rotate": "keys_rotate:rotate",
    "revoke": "keys_revoke:revoke",
    "rebuild": "keys_rebuild:rebuild",
}


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line, with what the arguments ask for; all verbs if they ask for none."""
    return command_line(
        "keys",
        "Look at, rotate and revoke the keys that sign. Exit codes: 0 done, 1 it does not "
        "hold, 2 could not tell.",
        arguments,
        _VERBS,
    )


def _run() -> None:
    application(sys.argv[1:])()


def main() -> None:
    """Entry point of the command `keys`."""
    failures.run(_run, fips_module="provledger_cli.keys_main")


if __name__ == "__main__":
    main()
