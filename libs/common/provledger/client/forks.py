"""What clients leave behind in a process that is forked under them.

No thread comes along, and one that gRPC has for all its channels of a process is among them: in the
child, neither those that were open answer nor any that are opened there, and no deadline ends it.

Where all were closed before, new ones work as a rule, and nothing is refused. But gRPC may still be
at work in threads of its own, under its own locks: then the child waits for these for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from provledger.errors import FailedPreconditionError

# Whatever has channels now.
_open: weakref.WeakSet[Any] = weakref.WeakSet()
# Set in a child whose parent had some.
_inherited = threading.Event()


def opened(owner: object) -> None:
    """Note that it has channels."""
    _open.add(owner)


def closed(owner: object) -> None:
    """Note that it has none any more."""
    _open.discard(owner)


def is_inherited() -> bool:
    """Whether channels were open when this process, or one that it comes from, was forked."""
    return _inherited.is_set()


def check() -> None:
    """Raise FailedPreconditionError (CLIENT_FORKED) where no channel of this process can work."""
    if _inherited.is_set():
        raise forked_error()


def forked_error() -> FailedPreconditionError:
    """What calls are told that would hang."""
    return FailedPreconditionError(
        "CLIENT_FORKED",
        "a client was open when this process was forked: start processes by spawn or forkserver, "
        "or fork before the first client is used",
    )


def _in_child() -> None:
    if len(_open):
        _inherited.set()


# Where there is no fork there is no such hook.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
