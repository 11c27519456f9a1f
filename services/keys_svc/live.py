"""The registry as the service's RPCs see it: stored, and announced to whoever watches.

A change made here is announced at once; one made by another replica when the next poll notices
it. What a watcher is sent has been compared with the database just before, so that a replica cut
off from its database never prolongs a lease with what it remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from keys_svc.registry import Registry
from keys_svc.storage import Decision, Storage
from provledger import logs

log = logs.get(__name__)


class LiveRegistry:
    """The stored registry with change notices. Belongs to one event loop."""

    def __init__(self, storage: Storage, *, poll_interval_s: float) -> None:
        self._storage = storage
        self._poll_interval_s = poll_interval_s
        self._announced_revision = -1
        # Set when something changes, and then replaced: each waiter holds the one it waits for.
        self._change = asyncio.Event()

    async def load(self) -> Registry:
        """Return what is stored now."""
        registry = await self._storage.load()
        self._announce(registry)
        return registry

    async def update(self, decide: Decision) -> Registry:
        """Store what `decide` makes of the registry; return it once durable and announced."""
        registry = await self._storage.update(decide)
        self._announce(registry)
        return registry

    async def snapshots(self, heartbeat_s: float) -> AsyncIterator[Registry]:
        """Yield the registry now, at every change and after every `heartbeat_s` without one."""
        while True:
            before = self._announced_revision
            registry = await self.load()
            yield registry
            # Other tasks ran while we read and while the receiver took its time: what they
            # announced is not missed. What was announced before we read is not waited for: a
            # database that lags behind it does so at the next look, too.
            if self._announced_revision <= max(before, registry.revision):
                try:
                    await asyncio.wait_for(self._change.wait(), heartbeat_s)
                except TimeoutError:
                    pass

    async def poll(self) -> None:
        """Look for changes by other replicas, for ever."""
        failing = False
        while True:
            await asyncio.sleep(self._poll_interval_s)
            try:
                await self.load()
            except Exception as error:  # nothing here is a reason to end the service
                # Once for each outage: RPCs report it to their callers all the time.
                if not failing:
                    log.warning("keys.poll_failed", exc_info=error)
                failing = True
            else:
                failing = False

    def _announce(self, registry: Registry) -> None:
        # Reads overtake each other: one that is older than what was announced says nothing new.
        if registry.revision > self._announced_revision:
            self._announced_revision = registry.revision
            self._change.set()
            self._change = asyncio.Event()
