"""Ends the reading of streams when the service is to end, which they would hold up otherwise.

What was read is answered; its sender hears SERVER_DRAINING behind it, and sends the rest elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import Any

from provledger.errors import UnavailableError


class Draining:
    """The tasks that read streams; for one event loop."""

    def __init__(self) -> None:
        self._reading: set[asyncio.Task[Any]] = set()
        self.begun = False
        """Whether what is cancelled was cancelled by the drain."""

    def begin(self) -> None:
        """Cancel all reading, and whatever is to be read later."""
        self.begun = True
        for task in self._reading:
            task.cancel()

    def ends(self, reading: asyncio.Task[Any]) -> None:
        """Have a task cancelled when the drain begins, at once if it has."""
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        if self.begun:
            reading.cancel()

    def check(self) -> None:
        """Return if there is no drain.

        Raises:
            UnavailableError: SERVER_DRAINING.
        """
        if self.begun:
            raise server_draining()


def server_draining() -> UnavailableError:
    """The error that a stream ends with."""
    return UnavailableError("SERVER_DRAINING", "the server is shutting down", retry_delay_s=0.5)
