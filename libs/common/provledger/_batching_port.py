"""What the batcher (`provledger.batching`) shows of itself, and what it asks of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Turns(Protocol):
    """Decides when a batcher may flush. Every turn that comes is ended, once."""

    def ask(self, go: Callable[[], None]) -> None:
        """Call `go` when the turn comes, at once or later, in the same event loop.

        If it raises, the turn is as it left it: ended, or that of the flush that it began.
        """

    def most_items(self) -> int | None:
        """Most items to take in the turn that just came; None for no bound of its own."""

    def took(self, items: int) -> None:
        """Called with what was taken, before anything else is asked for."""

    def end(self) -> None:
        """Called when the flush has ended, or its first part, or nothing was left to be flushed."""


@dataclass(frozen=True, slots=True)
class BatchStats:
    """A batcher's state, for metrics; taken at one moment."""

    queued_items: int
    queued_bytes: int
    flushes_in_flight: int
    flushes: int
    """Flushes finished since the start."""
    items: int
    """Items in those flushes."""
    last_items: int
    """Items of the flush that began last."""
    last_fill: float
    """The same as a part of its target; more than 1 after a queue."""
    last_flush_s: float
    last_target: int
    """Items for which that batch would have waited."""
