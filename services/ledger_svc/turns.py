"""Turns at what all ledgers of a process share: the witness, the event loop, the writing thread.

Each ledger has a queue of its own, so nobody waits in another's; but a tenant with a hundred busy
ledgers would have a hundred flushes at the witness for one of its neighbour's. So flushes ask
here: a few run at a time, whose are chosen fairly (`fairness`), and a tenant that has none running
need not wait for one of another's to end. While several tenants are busy, flushes are small: what
one stands behind is then a short piece of another's work, and not a thousand receipts. And who
sends much then waits for a few drafts to be together, since a flush of one costs as much as ten
drafts in a larger one, of the cores that all share.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ledger_svc.fairness import FairQueue
from provledger import logs, telemetry
from provledger.key_events import TENANT as SYSTEM_TENANT
from provledger.pacing import ArrivalRate

log = logs.get(__name__)

FLUSHES: Final = 4
"""Flushes that run at once, of all tenants together."""
CONTENDED_FLUSHES: Final = 2
"""Flushes that one tenant has running while others are busy too."""
MOST_FLUSHES: Final = 64
"""As many may run if each is the only one of its tenant."""
CONTENDED_ITEMS: Final = 100
"""Most receipts in a flush while other tenants are busy too."""
_COMMITS: Final = 2
"""Commits handed to the writing thread: one that runs and one that follows without a gap."""
_BUSY_FOR_S: Final = 1.0
GATHER_S: Final = 0.04
"""How long a draft of a tenant who sends much waits for others at most, while tenants share."""
_BOUNDED_PATIENCE: Final = 2.0
"""So many times as long for a tenant who is kept to a quota: his callers wait for that anyway."""
_MUCH_PER_S: Final = 250.0
"""Drafts a second from which on a tenant sends much: with fewer, they would wait for nobody."""

_waiting_flushes = telemetry.gauge(
    "provledger.ledger.waiting_flushes", unit="{flush}", doc="Flushes waiting for their turn."
)


class Turns:
    """Who may flush, and who may commit; for one event loop.

    bounded: whether a tenant is kept to a quota for the sake of others.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        bounded: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._clock = clock
        self.bounded = bounded
        self._asking: FairQueue[Callable[[], None]] = FairQueue()
        self._running: dict[str, int] = {}
        self._total = 0
        self._starting = False
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._rates: dict[str, ArrivalRate] = {}
        self._committing: FairQueue[asyncio.Future[None]] = FairQueue()
        self._commits = 0

    def of(self, tenant: str) -> TenantTurns:
        """The turns of one tenant, as a batcher asks for them."""
        return TenantTurns(self, tenant)

    # --- flushes

    @property
    def running(self) -> int:
        """How many flushes run."""
        return self._total

    def ask(self, tenant: str, go: Callable[[], None]) -> None:
        """Have `go` called when it is this tenant's turn, perhaps before this returns."""
        if tenant != SYSTEM_TENANT:
            # Its key events are few, and nobody waits for them: for one of them, all that is in the
            # queues would go through in small pieces for a second, and look like too much work.
            self._seen[tenant] = self._clock()
            self._seen.move_to_end(tenant)
        self._asking.push(tenant, go)
        self._start()

    def took(self, tenant: str, items: int) -> None:
        """Account what the turn that began is used for."""
        self._asking.charge(tenant, items)
        if tenant in self._seen:
            self._rates.setdefault(tenant, ArrivalRate()).add(items, self._clock())

    def end(self, tenant: str) -> None:
        """End a turn."""
        self._total -= 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        self._start()

    def contended(self, tenant: str) -> bool:
        """Whether other tenants were busy a moment ago."""
        past_s = self._clock() - _BUSY_FOR_S
        while self._seen and next(iter(self._seen.values())) < past_s:
            name, _ = self._seen.popitem(last=False)
            self._rates.pop(name, None)
        return len(self._seen) > (tenant in self._seen)

    def gathers(self, tenant: str) -> bool:
        """Whether a tenant sends much, and others were busy a moment ago."""
        rate = self._rates.get(tenant)
        much = rate is not None and rate.per_s(self._clock()) >= _MUCH_PER_S
        return much and self.contended(tenant)

    def _start(self) -> None:
        if self._starting:
            # A turn that comes to nothing ends within its `go`. Were the next one begun in there,
            # the stack would be as deep as there are such turns in a row.
            return
        self._starting = True
        try:
            while (turn := self._asking.pop(self._may_flush)) is not None:
                self._begin(*turn)
        finally:
            self._starting = False
        _waiting_flushes.set(len(self._asking))

    def _begin(self, tenant: str, go: Callable[[], None]) -> None:
        self._total += 1
        self._running[tenant] = self._running.get(tenant, 0) + 1
        try:
            go()
        except Exception as error:
            # No reason to let the others wait, nor that of whoever asked or ended a turn just now.
            log.error("ledger.turn_failed", tenant=tenant, exc_info=error)

    def _may_flush(self, tenant: str, _: object) -> bool:
        mine = self._running.get(tenant, 0)
        if not mine:
            return self._total < MOST_FLUSHES
        if mine >= CONTENDED_FLUSHES and self.contended(tenant):
            return False
        return self._total < FLUSHES

    # --- commits

    @asynccontextmanager
    async def commit(self, tenant: str, items: int) -> AsyncIterator[None]:
        """Hold a turn at the writing thread."""
        # Through the queue even if it is empty: a turn that nobody waited for must not be held
        # against its tenant once somebody else comes.
        turn = asyncio.get_running_loop().create_future()
        self._committing.push(tenant, turn)
        self._start_commits()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._commit_ended()
            raise
        self._committing.charge(tenant, items)
        try:
            yield
        finally:
            self._commit_ended()

    def _commit_ended(self) -> None:
        self._commits -= 1
        self._start_commits()

    def _start_commits(self) -> None:
        while self._commits < _COMMITS:
            turn = self._committing.pop(lambda *_: True)
            if turn is None:
                return
            if not turn[1].done():
                self._commits += 1
                turn[1].set_result(None)


class TenantTurns:
    """The turns of one tenant: what a batcher knows of them (`provledger.batching.Turns`)."""

    __slots__ = ("_tenant", "_turns")

    def __init__(self, turns: Turns, tenant: str) -> None:
        self._turns = turns
        self._tenant = tenant

    def ask(self, go: Callable[[], None]) -> None:
        """Have `go` called when it is our turn."""
        self._turns.ask(self._tenant, go)

    def most_items(self) -> int | None:
        """Most items to take now; None leaves it to the batcher."""
        return CONTENDED_ITEMS if self._turns.contended(self._tenant) else None

    def patience(self) -> float:
        """How many times `GATHER_S` drafts wait for others."""
        if self._turns.bounded(self._tenant):
            return _BOUNDED_PATIENCE
        return 1.0 if self._turns.gathers(self._tenant) else 0.0

    def kept_waiting_s(self) -> float:
        """How long drafts may wait because their tenant is kept to a quota."""
        return GATHER_S * _BOUNDED_PATIENCE if self._turns.bounded(self._tenant) else 0.0

    def took(self, items: int) -> None:
        """Say how many items the turn is used for."""
        self._turns.took(self._tenant, items)

    def end(self) -> None:
        """End the turn."""
        self._turns.end(self._tenant)
