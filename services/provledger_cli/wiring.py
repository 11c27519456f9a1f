"""Which verbs a command line gets: the one that is asked for, since each takes time to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import typer

_NONE: Mapping[str, str] = MappingProxyType({})


def _no_options() -> None:
    # Without options of its own a command line with one verb would leave out that verb's name.
    pass


def command_line(
    name: str,
    description: str,
    arguments: Sequence[str],
    verbs: Mapping[str, str],
    *,
    groups: Mapping[str, str] = _NONE,
    options: Callable[..., None] = _no_options,
) -> typer.Typer:
    """A command line, or a group of one, with its verbs and groups.

    Only what the arguments begin with is loaded. If they begin with none of them, as where help is
    asked for or a verb is mistyped, all is: help lists it, and the error suggests one.

    verbs: each verb's function by its name, as `module:function` below `provledger_cli.verbs`.
    groups: the module below `provledger_cli` whose `application` makes each group.
    options: a function whose parameters are the options before the verb.
    """
    app = typer.Typer(
        name=name,
        help=description,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    first = arguments[0] if arguments else ""
    known = first in verbs or first in groups
    for verb, place in verbs.items():
        if verb == first or not known:
            module, _, function = place.partition(":")
            app.command(verb)(getattr(import_module(f"provledger_cli.verbs.{module}"), function))
    for group, module in groups.items():
        if group == first or not known:
            made = import_module(f"provledger_cli.{module}").application(arguments[1:])
            app.add_typer(made, name=group)
    return app
