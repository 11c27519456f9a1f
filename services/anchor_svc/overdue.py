"""Whether what was published is anchored in the time that the policy allows.

`fail-open` marks and alarms. `fail-closed` is for the ledger to act on: it asks the anchor, and
stops acknowledging (`ledger_svc.lag`). Internal logging goes on in both, and catches up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from anchor_svc.quorum import Quorum
from anchor_svc.state import LogIdentity, LogState
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
    """Looks once in a while. Belongs to one event loop."""

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        quorum: Quorum,
        *,
        clock: Callable[[], int],
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._within_s = quorum.policy.within_s if quorum.policy is not None else None
        self._clock = clock

    async def run(self) -> None:
        """Look for as long as the service runs; returns at once if the policy has no limit."""
        while self._within_s is not None:
            try:
                await self.look()
            except StatusError as error:
                log.warning("anchor.overdue_not_known", exc_info=error)
            await asyncio.sleep(min(_LONGEST_S, self._within_s / 4))

    async def look(self) -> None:
        """Look once, and say so if it changed. Raises StatusError."""
        if self._within_s is None:
            return
        above = max(0, self._state.anchored_size)
        since_ns = await self._storage.oldest_published(self._log.uid, above)
        overdue = since_ns is not None and self._clock() - since_ns > self._within_s * _NS
        if overdue != self._state.overdue:
            _overdue.set(int(overdue))
            say = log.error if overdue else log.warning
            say(
                "anchor.overdue" if overdue else "anchor.in_time_again",
                log=self._log.name,
                anchored_size=above,
                within_s=self._within_s,
            )
            self._state.set_overdue(overdue)
