"""`keys`, on its own and as `provledger keys`: wires its verbs."""

from __future__ import annotations

import typer

from provledger_cli import failures
from provledger_cli.verbs.keys_init import init
from provledger_cli.verbs.keys_jwks import jwks
from provledger_cli.verbs.keys_list import list_
from provledger_cli.verbs.keys_rebuild import rebuild
from provledger_cli.verbs.keys_revoke import revoke
from provledger_cli.verbs.keys_rotate import rotate
from provledger_cli.verbs.keys_show import show

app = typer.Typer(
    name="keys",
    help="Look at, rotate and revoke the keys that sign. Exit codes: 0 done, 1 it does not hold, "
    "2 could not tell.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("list")(list_)
app.command("show")(show)
app.command("jwks")(jwks)
app.command("init")(init)
app.command("rotate")(rotate)
app.command("revoke")(revoke)
app.command("rebuild")(rebuild)


def main() -> None:
    """Entry point of the command `keys`."""
    failures.run(app, fips_module="provledger_cli.keys_main")


if __name__ == "__main__":
    main()
