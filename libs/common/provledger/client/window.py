"""How much of a stream may be without an answer, in drafts and in bytes of them."""

from __future__ import annotations

import asyncio
from collections import deque


class Window:
    """Drafts and bytes that are held, in order; for one event loop.

    An empty window takes any draft, so that one that is larger than it goes through alone.
    """

    def __init__(self, drafts: int, size_bytes: int) -> None:
        self._drafts = drafts
        self._bytes = size_bytes
        # Oldest first.
        self._sizes: deque[int] = deque()
        self._held_bytes = 0
        self._released = asyncio.Event()

    async def acquire(self, size_bytes: int) -> None:
        """Wait until one more draft fits; for one waiter at a time."""
        while not self._fits(size_bytes):
            self._released.clear()
            await self._released.wait()
        self._sizes.append(size_bytes)
        self._held_bytes += size_bytes

    def release(self) -> None:
        """Take out the oldest draft."""
        self._held_bytes -= self._sizes.popleft()
        self._released.set()

    def _fits(self, size_bytes: int) -> bool:
        if not self._sizes:
            return True
        return len(self._sizes) < self._drafts and self._held_bytes + size_bytes <= self._bytes
