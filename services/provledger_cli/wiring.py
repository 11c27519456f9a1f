"""Which verbs a command line gets: the one that is asked for, since each takes time to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

_NONE: Mapping[str, str] = MappingProxyType({})


class _Verb(TyperCommand):
    """A verb that takes no empty value: `--pin "$PIN"` asks for something, also where PIN is unset.

    By the empty text many options mean that they were not given, and what was asked for would be
    left out without a word. A variable that is empty is one that is not set, as everywhere.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the arguments apart.

        Raises:
            typer.BadParameter: one is empty.
        """
        # As given: of an empty path, what they become is the working directory.
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        rest = super().parse_args(ctx, args)
        parameters: list[Any] = self.params  # typer's own copy of click has no types to name
        for parameter in parameters:
            value = given.get(parameter.name)
            if value is None:
                value = parameter.value_from_envvar(ctx)
            # Repeated ones are a list, which a variable of blanks leaves without a member.
            if value == "" or (isinstance(value, (list, tuple)) and (not value or "" in value)):
                raise typer.BadParameter(
                    "It is empty: give it a value, or leave it out.", ctx=ctx, param=parameter
                )
        return rest


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
            made = getattr(import_module(f"provledger_cli.verbs.{module}"), function)
            app.command(verb, cls=_Verb)(made)
    for group, module in groups.items():
        if group == first or not known:
            made = import_module(f"provledger_cli.{module}").application(arguments[1:])
            app.add_typer(made, name=group)
    return app
