"""Which checkpoints count as anchored, by the evidence there is: for the log and for each tenant.

Sinks bring evidence (`relay`), one row at a time, and policies say when it is enough (`quorum`).
What was stored is looked at here, by a task of its own: a database that cannot be read at that
moment is neither the sink's fault nor a reason to forget it. On a quiet log nothing newer would
ever come, and with `fail-closed` the ledger, which waits for this, lets nothing newer come.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from anchor_svc.state import LogIdentity, LogState, SignedCheckpoint
from anchor_svc.storage import Storage
from provledger import logs, telemetry
from provledger.retry import RetryPolicy

log = logs.get(__name__)

RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.25, cap_s=10.0, budget_s=float("inf"))
_PAGE: Final = 500
_PAGES: Final = 40

_waiting = telemetry.gauge(
    "anchor.evidence.waiting", doc="Checkpoints whose stored evidence could not be looked at yet"
)


class Anchored:
    """Finds out how far promises are kept. Belongs to one event loop."""

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        state: LogState,
        *,
        rng: random.Random,
        retry: RetryPolicy = RETRY,
    ) -> None:
        self._log = identity
        self._storage = storage
        self._state = state
        self._rng = rng
        self._retry = retry
        # Sizes with new evidence that was not looked at yet, and what tells `run` of one.
        self._sizes: set[int] = set()
        self._more = asyncio.Event()

    def look_at(self, size: int) -> None:
        """There is new evidence for a checkpoint; `run` finds out whether it is enough."""
        self._sizes.add(size)
        self._more.set()

    async def run(self) -> None:
        """Look at new evidence, for as long as the service runs, and again until it was done."""
        delays = self._retry.delays(self._rng)
        while True:
            self._more.clear()
            # The newest first: what it says of most promises makes the others needless.
            size = max(self._sizes, default=None)
            if size is None:
                await self._more.wait()
                continue
            # Taken out first: another sink may bring more while we look.
            self._sizes.discard(size)
            try:
                await self._note(size)
            except Exception as error:
                self._sizes.add(size)
                # Quorums read what sinks brought, which is anybody's; the relays go on.
                _waiting.set(len(self._sizes), {"log": self._log.name})
                log.error("anchor.evidence_not_read", exc_info=error, size=size)
                await asyncio.sleep(next(delays, self._retry.cap_s))
                continue
            delays = self._retry.delays(self._rng)
            self._sizes = {each for each in self._sizes if self._behind(each)}
            _waiting.set(len(self._sizes), {"log": self._log.name})

    async def find(self) -> None:
        """Find, for each promise, the newest checkpoint that keeps it, from the newest evidence
        down; not for ever: the next one that is anchored covers whatever is older.

        Raises StatusError.
        """
        after: tuple[int, str] | None = None
        for _ in range(_PAGES):
            missing = [one for one in self._state.promises.values() if one.anchored is None]
            if not missing:
                return
            rows = await self._storage.anchors(self._log.uid, after=after, sink="", limit=_PAGE)
            for size in dict.fromkeys(row.size for row in rows):
                await self._note(size)
            if len(rows) < _PAGE:
                return
            after = (rows[-1].size, rows[-1].sink)

    def _behind(self, size: int) -> bool:
        return any(one.anchored_size < size for one in self._state.promises.values())

    async def _note(self, size: int) -> None:
        """Take a checkpoint as anchored for every promise that enough sinks hold it for."""
        behind = [one for one in self._state.promises.values() if one.anchored_size < size]
        if not behind:
            return
        evidence = await self._storage.evidence(self._log.uid, size)
        # Tenants share quorums, and a quorum may cost signature checks.
        met = {one.quorum: one.quorum.met(evidence) for one in behind}
        if not any(met.values()):
            return
        row = await self._storage.checkpoint(self._log.uid, size)
        if row is None or row.note is None:
            return
        for promise in behind:
            if met[promise.quorum] and promise.anchored_size < size:
                self._state.set_anchored(promise, SignedCheckpoint(row.size, row.root, row.note))
