"""Whether what was published, or had to be, is anchored in the time that the policy allows.

`fail-open` marks and alarms. `fail-closed` is for the ledger to act on: it asks the anchor, and
stops acknowledging (`ledger_svc.lag`). Internal logging goes on in both, and catches up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anchor_svc.state import LogIdentity, LogState, Promise
from anchor_svc.storage import Storage
from provledger import logs, telemetry

log = logs.get(__name__)

_LONGEST_S: Final = 1.0
_NS: Final = 1_000_000_000
_overdue = telemetry.gauge(
    "anchor.overdue", doc="1 while anchoring is later than the policy allows"
)


class Overdue:
    """Looks once in a while, for each promise. Belongs to one event loop."""

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        *,
        clock: Callable[[], int],
        publish_interval_s: float = 0.0,
    ) -> None:
        """`publish_interval_s` is what a head may wait to be published, where nothing is wrong."""
        self._log = identity
        self._storage = storage
        self._state = state
        self._clock = clock
        self._interval_ns = int(publish_interval_s * _NS)
        # Tenants whose alarm is on. A promise is made anew when its policy is set.
        self._alarms: set[str] = set()

    async def run(self) -> None:
        """Look for as long as the service runs."""
        while True:
            try:
                await self.look()
            except Exception as error:
                # It is an alarm: whatever keeps it from looking must not end the service.
                log.warning("anchor.overdue_not_known", exc_info=error)
            await asyncio.sleep(self._pause_s())

    async def look(self) -> None:
        """Look once, and say so if it changed. Raises StatusError."""
        promises = list(self._state.promises.values())
        for promise in promises:
            await self._look_at(promise)
        for tenant in self._alarms - {promise.tenant for promise in promises}:
            self._alarm(tenant, on=False)

    def _pause_s(self) -> float:
        limits = [
            promise.policy.within_s
            for promise in self._state.promises.values()
            if promise.policy is not None and promise.policy.within_s is not None
        ]
        return min([_LONGEST_S, *(limit / 4 for limit in limits)])

    async def _look_at(self, promise: Promise) -> None:
        within_s = None if promise.policy is None else promise.policy.within_s
        overdue, above = False, max(0, promise.anchored_size)
        if within_s is not None:
            waiting_ns = await self._waiting_since_ns(above)
            if waiting_ns is not None:
                # Sinks that the policy names first had nothing to hold before it was set.
                since_ns = max(waiting_ns, promise.since_ns)
                overdue = self._clock() - since_ns > within_s * _NS
        self._alarm(promise.tenant, on=overdue)
        if overdue != promise.overdue:
            say = log.error if overdue else log.warning
            say(
                "anchor.overdue" if overdue else "anchor.in_time_again",
                log=self._log.name,
                tenant=promise.tenant,
                anchored_size=above,
                within_s=within_s,
            )
            self._state.set_overdue(promise, overdue=overdue)

    async def _waiting_since_ns(self, above: int) -> int | None:
        """Since when there has been something above a size for the sinks to hold.

        That is since it was published, or since it had to be: while publication fails, nothing
        gets to any sink.
        """
        published_ns = await self._storage.oldest_published(self._log.uid, above)
        intended_ns = await self._storage.oldest_intended(self._log.uid, self._state.published_size)
        if intended_ns is None:
            return published_ns
        due_ns = intended_ns + self._interval_ns
        return due_ns if published_ns is None else min(published_ns, due_ns)

    def _alarm(self, tenant: str, *, on: bool) -> None:
        if on != (tenant in self._alarms):
            _overdue.set(int(on), {"tenant": tenant, "log": self._log.name})
            self._alarms ^= {tenant}
