"""Drafts that are recorded in their order, or not: those of one stream, and those of one call.

Flushes of a ledger run side by side and commit one after the other. Behind one that fails for the
moment, with the witness away or the database, the next may well succeed; and whoever sends again
what failed would have it behind what he had sent later. So what stands behind it in its order is
refused for the same reason, unless it is in the chain already: all of it comes again, in order.

A draft that is refused for good holds up nothing.
"""

from __future__ import annotations

from typing import Final, TypeGuard

from provledger.errors import StatusError
from provledger.rpc.errors import MESSAGE_TOO_LARGE

_FOR_THE_MOMENT: Final = frozenset(
    {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}
)


class Order:
    """One order of drafts; `failed` is why one of them was refused for the moment, else None."""

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed: StatusError | None = None

    def fail(self, error: object) -> None:
        """Take note of what became of one of them, if it is a failure for the moment."""
        if self.failed is None and is_for_the_moment(error):
            self.failed = error


def is_for_the_moment(outcome: object) -> TypeGuard[StatusError]:
    """Whether an outcome is an error after which the same draft may be sent again."""
    if not isinstance(outcome, StatusError) or outcome.code not in _FOR_THE_MOMENT:
        return False
    return outcome.reason != MESSAGE_TOO_LARGE
