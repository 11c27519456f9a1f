"""Drafts that are recorded in their order, or not: those of one stream, and those of one call.

Flushes of a ledger run side by side and commit one after the other. Behind one that fails for the
moment, with the witness away or the database, the next may well succeed; and whoever sends again
what failed would have it behind what he had sent later. So what stands behind it in its order is
refused for the same reason, unless it is in the chain already: all of it comes again, in order.
What stands before it goes on.

A draft that is refused for good holds up nothing.
"""

from __future__ import annotations

import math
from typing import TypeGuard

from provledger.errors import StatusError
from provledger.rpc.errors import copied, is_retryable


class Order:
    """One order of drafts, which have their places in it from 1 on."""

    __slots__ = ("_failed", "_failed_at", "_last")

    def __init__(self) -> None:
        self._last = 0
        self._failed: StatusError | None = None
        self._failed_at = math.inf

    def next_place(self) -> int:
        """The place of the draft that comes behind all that have theirs."""
        self._last += 1
        return self._last

    def fail(self, outcome: object, place: int | None = None) -> None:
        """Take note of what became of the draft at a place, or of all that have none yet, if it is
        a failure for the moment."""
        if place is None:
            place = self._last + 1
        if place < self._failed_at and is_for_the_moment(outcome):
            self._failed, self._failed_at = outcome, place

    def failure_at(self, place: int | None = None) -> StatusError | None:
        """Why the draft at a place must not be recorded, or whatever comes; None if it may."""
        if self._failed is None or (place is not None and place < self._failed_at):
            return None
        return copied(self._failed)


def is_for_the_moment(outcome: object) -> TypeGuard[StatusError]:
    """Whether an outcome is an error after which the same draft may be sent again."""
    return isinstance(outcome, StatusError) and is_retryable(outcome)
