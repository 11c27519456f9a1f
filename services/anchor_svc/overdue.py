"""Whether what was published is anchored in the time that the policy allows.

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
from provledger.errors import StatusError

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
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._clock = clock
        # Tenants whose alarm is on. A promise is made anew when its policy is set.
        self._alarms: set[str] = set()

    async def run(self) -> None:
        """Look for as long as the service runs."""
        while True:
            try:
                await self.look()
            except StatusError as error:
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
            published_ns = await self._storage.oldest_published(self._log.uid, above)
            if published_ns is not None:
                # Sinks that the policy names first had nothing to hold before it was set.
                since_ns = max(published_ns, promise.since_ns)
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

    def _alarm(self, tenant: str, *, on: bool) -> None:
        if on != (tenant in self._alarms):
            _overdue.set(int(on), {"tenant": tenant, "log": self._log.name})
            self._alarms ^= {tenant}
