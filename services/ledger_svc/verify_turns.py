"""Turns at the threads that verify: one tenant's calls do not stand before another's.

A call computes for seconds, or as long as its caller waits. So a tenant has one running at a time,
whatever else it asks for, and the next turn is that of whoever had the least time of them
(`fairness`). More than one would bring a tenant little: threads of one process share a processor.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ledger_svc.fairness import FairQueue


class VerifyTurns:
    """Who may verify; for one event loop.

    most: calls that run at once, of all tenants together. clock: seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._running: set[str] = set()
        # Of tenants that stand in the queue, each once: those that give up are taken out of here,
        # and may be many more than ever get a turn.
        self._waiting: dict[str, OrderedDict[asyncio.Future[None], None]] = {}
        self._queue: FairQueue[None] = FairQueue()

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it."""
        await self._wait(tenant)
        began_s = self._clock()
        try:
            yield
        finally:
            self._queue.charge(tenant, self._clock() - began_s)
            self._end(tenant)

    async def _wait(self, tenant: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        if tenant not in self._waiting:
            self._waiting[tenant] = OrderedDict()
            self._queue.push(tenant, None)
        self._waiting[tenant][turn] = None
        self._start()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._end(tenant)
            elif tenant in self._waiting:
                self._waiting[tenant].pop(turn, None)
            raise

    def _end(self, tenant: str) -> None:
        self._running.discard(tenant)
        self._start()

    def _start(self) -> None:
        while len(self._running) < self._most:
            next_one = self._queue.pop(lambda tenant, _: tenant not in self._running)
            if next_one is None:
                return
            tenant = next_one[0]
            waiting = self._waiting.pop(tenant)
            while waiting:
                turn, _ = waiting.popitem(last=False)
                if not turn.done():
                    self._running.add(tenant)
                    turn.set_result(None)
                    break
            if waiting:
                self._waiting[tenant] = waiting
                self._queue.push(tenant, None)
