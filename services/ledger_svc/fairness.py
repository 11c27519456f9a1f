"""Who goes next: start-time fair queueing over tenants (Goyal, Vin and Cheng, 1996).

Every tenant has a tag, how much of the service it has had. Of those that wait, the one with the
smallest goes, and what it takes is added to its tag. One that comes back after a pause starts at
the virtual time, the tag of whoever went last: it goes soon, but has saved up nothing.

So tenants that always wait get equal parts by cost, whatever the size of their turns, to within
one turn of each. The cost is told after the choice, because a batch goes on growing until its turn
comes. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Waiting things by tenant; for each tenant in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._tags: dict[str, float] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def tenants(self) -> frozenset[str]:
        """Tenants that have something waiting."""
        return frozenset(self._waiting)

    def push(self, tenant: str, thing: T) -> None:
        """Put a thing behind the others of its tenant."""
        if tenant not in self._waiting:
            self._waiting[tenant] = deque()
            self._tags[tenant] = max(self._tags.get(tenant, 0.0), self._virtual)
        self._waiting[tenant].append(thing)

    def pop(self, may_go: Callable[[str, T], bool]) -> tuple[str, T] | None:
        """Take the thing whose turn it is; None if there is none.

        may_go: whether a tenant, with the first of its things, may go now.
        """
        able = [tenant for tenant, things in self._waiting.items() if may_go(tenant, things[0])]
        if not able:
            return None
        # The first of equals has waited longest: dictionaries keep their order.
        tenant = min(able, key=self._tags.__getitem__)
        waiting = self._waiting.pop(tenant)
        thing = waiting.popleft()
        if waiting:
            self._waiting[tenant] = waiting
        if self._waiting:
            self._virtual = max(self._virtual, self._tags[tenant])
            # A tag that the virtual time has reached says nothing: only who is ahead is kept.
            for name in [name for name, tag in self._tags.items() if tag <= self._virtual]:
                if name not in self._waiting:
                    del self._tags[name]
        else:
            # Nobody is behind anybody any more.
            self._virtual = max(self._virtual, *self._tags.values())
            self._tags.clear()
        return tenant, thing

    def charge(self, tenant: str, cost: float) -> None:
        """Account what a tenant took, in whatever unit it is that is shared out."""
        self._tags[tenant] = max(self._tags.get(tenant, 0.0), self._virtual) + cost
