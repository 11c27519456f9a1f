"""One connection of a client that may be slow on purpose.

Uvicorn bounds the head of a request in bytes (h11) and the time between two requests, but not the
time that a head may take, nor that of a body which nobody reads. Here both end the connection.
What a client can still hold is one connection with one unread answer in the kernel's buffers; how
many of those there may be is `max_connections`.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that waits for the next request for `patience_s`, and not a moment longer."""

    patience_s: ClassVar[float] = 10.0
    _waiting_task: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait_if_idle()

    def data_received(self, data: bytes) -> None:
        """Stop waiting if that made a request; what it did not make does not buy time."""
        super().data_received(data)
        if not self._is_idle():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._wait_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_if_idle(self) -> None:
        if self._is_idle() and self._waiting_task is None:
            self._waiting_task = self.loop.call_later(self.patience_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting_task is not None:
            self._waiting_task.cancel()
            self._waiting_task = None


def patient(seconds: float) -> type[Any]:
    """The protocol with its patience."""
    return type("Patient", (PatientProtocol,), {"patience_s": seconds})
