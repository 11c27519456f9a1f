"""`provledger`: wires the verbs, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from provledger_cli import failures, output
from provledger_cli.wiring import command_line

_VERBS: Final = {
    "up": "up:up",
    "down": "down:down",
    "status": "status:status",
    "import": "import_:import_",
    "append": "append:append",
    "get": "get:get",
    "list": "list_:list_",
    "export": "export:export",
    "verify": "verify:verify",
    "load": "load:load",
    "notary": "notary:notary",
    "monitor": "monitor:monitor",
    "refresh": "refresh:refresh",
    "backup": "backup:backup",
    "restore": "restore:restore",
}
_GROUPS: Final = {
    "keys": "keys_main",
    "fips": "verbs.fips",
    "log": "log_main",
    "anchor": "anchor_main",
}


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line, with what the arguments ask for; all verbs if they ask for none."""
    return command_line(
        "provledger",
        "Signed receipts for every change: hash-chained, logged, anchored, verifiable "
        "offline. Exit codes: 0 it holds, 1 it does not hold, 2 could not tell.",
        arguments,
        _VERBS,
        groups=_GROUPS,
        options=_options,
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        output.show(f"provledger {version('provledger')}")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _run() -> None:
    application(sys.argv[1:])()


def main() -> None:
    """Entry point of the command `provledger`."""
    # `fips status` must be able to say why FIPS mode cannot be had.
    failures.run(_run, fips_module="" if sys.argv[1:2] == ["fips"] else "provledger_cli")


if __name__ == "__main__":
    main()
