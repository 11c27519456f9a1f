"""Whether what was published, or had to be, is anchored in the time that the policy allows.

`fail-open` marks and alarms. `fail-closed` is for the ledger to act on: it asks the anchor, and
stops acknowledging (`ledger_svc.lag`). Internal logging goes on in both, and catches up.

What is stored says when by the machine's clock, which may be set back; then all of it lies ahead,
and would be overdue only once the clock has come there again. So it is late as well that we have
seen waiting for too long ourselves (`_Seen`), and late once is late until the sinks hold more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anchor_svc.state import LogIdentity, LogState, Promise
from anchor_svc.storage import Storage
from provledger import logs, telemetry
from provledger.steady import steady_ns

log = logs.get(__name__)

_LONGEST_S: Final = 1.0
_NS: Final = 1_000_000_000
# How finely what waits is told apart, in parts of what the policy allows.
_STEPS: Final = 16
_overdue = telemetry.gauge(
    "anchor.overdue", doc="1 while anchoring is later than the policy allows"
)


class _Seen:
    """For how long we have seen wait what one promise is about, by a clock that never steps.

    A restart forgets it. since_ns: when we first saw the promise itself, by that clock. told: the
    anchored size at which it was overdue; None if it was not.
    """

    def __init__(self, promise: Promise, since_ns: int) -> None:
        self.promise = promise
        self.since_ns = since_ns
        self.told: int | None = None
        # Published sizes above the anchored one, and when each was seen first, in rising order.
        self._marks: list[tuple[int, int]] = []

    def age_ns(self, published: int, above: int, now_ns: int, within_ns: int) -> int:
        """How long ago something published above a size was seen first, or up to a 16th of
        `within_ns` earlier; 0 if nothing is."""
        marks = [mark for mark in self._marks if mark[0] > above]
        newest, at_ns = marks[-1] if marks else (above, now_ns - within_ns)
        if published > newest and now_ns - at_ns >= within_ns // _STEPS:
            marks.append((published, now_ns))
        # Of those that are late, the newest says it of all. So they are never many.
        while len(marks) > 1 and now_ns - marks[1][1] > within_ns:
            del marks[0]
        self._marks = marks
        return now_ns - marks[0][1] if marks else 0


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
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        """`publish_interval_s` is what a head may wait to be published, where nothing is wrong.

        clock: Unix nanoseconds. steady: nanoseconds since some moment, of a clock that never steps.
        """
        self._log = identity
        self._storage = storage
        self._state = state
        self._clock = clock
        self._steady = steady
        self._interval_ns = int(publish_interval_s * _NS)
        # Tenants whose alarm is on. A promise is made anew when its policy is set.
        self._alarms: set[str] = set()
        # By tenant, of the promises there are.
        self._seen: dict[str, _Seen] = {}
        # What is published while something above it is not, and when that was seen first.
        self._held_up: tuple[int, int] | None = None

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
        self._seen = {one.tenant: self._seen[one.tenant] for one in promises}

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
        seen = self._seen.get(promise.tenant)
        if seen is None or seen.promise is not promise:
            seen = self._seen[promise.tenant] = _Seen(promise, self._steady())
        if within_s is not None:
            overdue = await self._is_late(seen, above, int(within_s * _NS))
        seen.told = above if overdue else None
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

    async def _is_late(self, seen: _Seen, above: int, within_ns: int) -> bool:
        """Whether what is above a size has waited for too long, by either clock.

        It waits since it was published, or since it had to be: while publication fails, nothing
        gets to any sink.
        """
        published_ns = await self._storage.oldest_published(self._log.uid, above)
        published = self._state.published_size
        intended_ns = await self._storage.oldest_intended(self._log.uid, published)
        waiting_ns = [] if published_ns is None else [published_ns]
        now_ns = self._steady()
        ages_ns = [seen.age_ns(published, above, now_ns, within_ns)]
        if intended_ns is None:
            self._held_up = None
        else:
            waiting_ns.append(intended_ns + self._interval_ns)
            if self._held_up is None or self._held_up[0] != published:
                self._held_up = (published, now_ns)
            # A promise that was made meanwhile is younger than that.
            ages_ns.append(now_ns - max(self._held_up[1] + self._interval_ns, seen.since_ns))
        if not waiting_ns:
            return False
        # Sinks that the policy names first had nothing to hold before it was set.
        ages_ns.append(self._clock() - max(min(waiting_ns), seen.promise.since_ns))
        return seen.told == above or max(ages_ns) > within_ns

    def _alarm(self, tenant: str, *, on: bool) -> None:
        if on != (tenant in self._alarms):
            _overdue.set(int(on), {"tenant": tenant, "log": self._log.name})
            self._alarms ^= {tenant}
