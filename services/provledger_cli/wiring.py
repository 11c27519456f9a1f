"""Which verbs a command line gets: the one that is asked for, since each takes time to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import typer

_NO_GROUPS: Mapping[str, str] = MappingProxyType({})


def wire(
    app: typer.Typer,
    arguments: Sequence[str],
    verbs: Mapping[str, str],
    groups: Mapping[str, str] = _NO_GROUPS,
) -> None:
    """Give a command line its verbs, and its groups of verbs.

    Only what the arguments begin with is loaded. If they begin with none of them, as where help is
    asked for or a verb is mistyped, all is: help lists it, and the error suggests one.

    verbs: each verb's function by its name, as `module:function` below `provledger_cli.verbs`.
    groups: the module below `provledger_cli` whose `application` makes each group.
    """
    first = arguments[0] if arguments else ""
    known = first in verbs or first in groups
    for name, place in verbs.items():
        if name == first or not known:
            module, _, function = place.partition(":")
            app.command(name)(getattr(import_module(f"provledger_cli.verbs.{module}"), function))
    for name, module in groups.items():
        if name == first or not known:
            group = import_module(f"provledger_cli.{module}").application(arguments[1:])
            app.add_typer(group, name=name)
