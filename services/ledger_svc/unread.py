"""What streams hold beyond their work: drafts whose answers nobody took yet, all streams together.

The gate counts a draft until it is recorded. From then until its answer is taken, it counts here
alone, so that whoever reads slowly keeps no work of others out. A stream that has nothing here may
always take one message: streams of one tenant never wait for each other's readers without end. So
what is held is `max_bytes` and one message of each stream, at the most.

Tenants share as in `overload.may_enter`: one that fills its part leaves room for the next.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from ledger_svc import overload
from provledger import telemetry

_unread_bytes = telemetry.gauge(
    "provledger.ledger.unread_bytes",
    unit="By",
    doc="Bytes of drafts of streams whose answers were not taken yet.",
)


class Unread:
    """The account of all streams; for one event loop. max_bytes: of all tenants together. gauge:
    where what is held is shown."""

    def __init__(self, max_bytes: int, gauge: telemetry.Gauge = _unread_bytes) -> None:
        self._max_bytes = max_bytes
        self._gauge = gauge
        self._held: Counter[str] = Counter()
        # Of those whom their own window would let go on.
        self._waiting: set[asyncio.Event] = set()
        self.size_bytes = 0
        """Bytes that are held now."""

    def fits(self, tenant: str, size_bytes: int) -> bool:
        """Whether a tenant's streams may hold so much more."""
        used = self.size_bytes + size_bytes
        return used <= self._max_bytes and overload.may_enter(
            self._held[tenant] + size_bytes, used, self._max_bytes
        )

    def held(self, tenant: str) -> int:
        """Bytes that are held for a tenant."""
        return self._held[tenant]

    def add(self, tenant: str, size_bytes: int) -> None:
        """Count a message, or with a negative size, count it no longer."""
        self._held[tenant] += size_bytes
        if not self._held[tenant]:
            del self._held[tenant]
        self.size_bytes += size_bytes
        self._gauge.set(self.size_bytes)
        if size_bytes < 0:
            for waiting in self._waiting:
                waiting.set()
            self._waiting.clear()

    def wake(self, event: asyncio.Event) -> None:
        """Set an event, once, when something is taken."""
        self._waiting.add(event)


class Window:
    """How much of one stream may be without an answer: so many drafts, and bytes of them.

    An empty window takes any message.
    """

    def __init__(self, drafts: int, size_bytes: int, unread: Unread, tenant: str) -> None:
        self._drafts = drafts
        self._bytes = size_bytes
        self._unread = unread
        self._tenant = tenant
        self._held_drafts = 0
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def acquire(self, drafts: int, size_bytes: int) -> None:
        """Wait until so many drafts fit; for one waiter at a time."""
        while not self._fits(drafts, size_bytes):
            await self._changed.wait()
        self._held_drafts += drafts
        self._held_bytes += size_bytes
        self._unread.add(self._tenant, size_bytes)

    def release(self, drafts: int, size_bytes: int) -> None:
        """Take out drafts whose answers were taken."""
        self._held_drafts -= drafts
        self._held_bytes -= size_bytes
        self._unread.add(self._tenant, -size_bytes)
        self._changed.set()

    def close(self) -> None:
        """Take out everything: nobody reads any more."""
        self.release(self._held_drafts, self._held_bytes)

    def _fits(self, drafts: int, size_bytes: int) -> bool:
        self._changed.clear()
        if not self._held_drafts:
            return True
        if self._held_drafts + drafts > self._drafts or self._held_bytes + size_bytes > self._bytes:
            return False
        if self._unread.fits(self._tenant, size_bytes):
            return True
        self._unread.wake(self._changed)
        return False
