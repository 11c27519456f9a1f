"""Quotas: how many drafts a second a tenant may send, at any time or while others are there.

- A tenant's *own* quota bounds it at any time.
- Its *shared* quota bounds it while others are there who send less than theirs. Alone, and among
  tenants who all send more, nobody gains from cores that idle; beside one who sends little, only
  cores that idle at times keep his answers as quick as they are without a neighbour.

Who sends more than its shared quota was refused by it, or has sent more than five seconds' worth
faster than that. What is let in while a shared quota does not hold is no debt: whoever used all of
the service waits for a moment, and not for minutes, once somebody else comes.

Only tenants whose buckets are not full, and those who were there a moment ago, are remembered.
Times are seconds of any one monotonic clock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from provledger.key_events import TENANT as SYSTEM_TENANT
from provledger.settings import ConfigError, env_name

ANY_TENANT: Final = "*"
_FORGET_ABOVE: Final = 1000
_THERE_FOR_S: Final = 5.0
"""How long a tenant is there after its last draft, and sends more after it was last seen to. One
who sends a draft each second or two is there all the time."""
_AT_ONCE_S: Final = 5.0
"""So many seconds' worth at once are not yet more than the quota: a batch now and then."""
_SHORT: Final = 0.1
"""Below this part of a second's worth a bucket is about to keep its tenant waiting."""


class Quota:
    """A tenant's rate in drafts a second: a token bucket that may go into debt, since how much a
    call brings is known only once it was read.

    at_once_s: how many seconds' worth it holds.
    """

    __slots__ = ("_filled_s", "_most", "_tokens", "rate_per_s")

    def __init__(self, rate_per_s: float, now_s: float, at_once_s: float = 1.0) -> None:
        self.rate_per_s = rate_per_s
        self._most = self._tokens = rate_per_s * at_once_s
        self._filled_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until the tenant may send again; 0.0 if it may now."""
        self._fill(now_s)
        if self._tokens > 0.0:
            return 0.0
        return (1.0 - self._tokens) / self.rate_per_s

    def charge(self, drafts: int, now_s: float) -> None:
        """Account drafts, into debt if need be."""
        self._fill(now_s)
        self._tokens -= drafts

    def spend(self, drafts: int, now_s: float) -> None:
        """Account drafts as far as there is something left, which makes no debt larger."""
        self._fill(now_s)
        self._tokens = max(self._tokens - drafts, min(self._tokens, 0.0))

    def forgive(self) -> None:
        """Drop the debt."""
        self._tokens = max(self._tokens, 0.0)

    def is_short(self, now_s: float) -> bool:
        """Whether next to nothing is left."""
        self._fill(now_s)
        return self._tokens < _SHORT * self.rate_per_s

    def is_full(self, now_s: float) -> bool:
        """Whether it holds all it can, and so may be forgotten."""
        self._fill(now_s)
        return self._tokens >= self._most

    def _fill(self, now_s: float) -> None:
        earned = max(0.0, now_s - self._filled_s) * self.rate_per_s
        self._tokens = min(self._most, self._tokens + earned)
        self._filled_s = now_s


class Quotas:
    """The quotas of all tenants; for one event loop.

    own, shared: drafts a second by tenant, `*` for those not named; a tenant without one has none.
    """

    def __init__(
        self,
        own: Mapping[str, float],
        shared: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = _Buckets(own)
        self._shared = _Shared(shared) if shared else None
        self._clock = clock

    @property
    def tenants(self) -> frozenset[str]:
        """Tenants that are remembered."""
        shared = self._shared.tenants if self._shared is not None else frozenset()
        return self._own.tenants | shared

    def wait_s(self, tenant: str) -> float:
        """How long until a tenant may send again; 0.0 if it may now."""
        now_s = self._clock()
        quota = self._own.of(tenant, now_s)
        wait_s = 0.0 if quota is None else quota.wait_s(now_s)
        if self._shared is not None:
            wait_s = max(wait_s, self._shared.wait_s(tenant, now_s))
        return wait_s

    def holds(self, tenant: str) -> bool:
        """Whether others are there for whose sake a tenant is kept to its shared quota."""
        return self._shared is not None and self._shared.holds(tenant, self._clock())

    def charge(self, tenant: str, drafts: int, *, held: bool = True, appends: bool = True) -> None:
        """Account drafts that were let in, or calls that cost as much.

        held: whether the shared quota held when they were let in; if not, they are no debt.
        appends: whether they are drafts. Of other calls alone, nobody is there: whoever makes them
        has no append that waits.
        """
        now_s = self._clock()
        quota = self._own.of(tenant, now_s)
        if quota is not None:
            quota.charge(drafts, now_s)
        if self._shared is not None:
            self._shared.charge(tenant, drafts, now_s, held=held, appends=appends)

    def bounds(self, tenant: str) -> bool:
        """Whether a tenant sends more than its shared quota, is kept to it, and so has to wait."""
        return self._shared is not None and self._shared.bounds(tenant, self._clock())

    def at_once(self, tenant: str) -> float | None:
        """How many drafts a tenant may send at once; None if there is no bound."""
        now_s = self._clock()
        quota = self._own.of(tenant, now_s)
        bounds = [] if quota is None else [quota.rate_per_s]
        if self._shared is not None and (rate_per_s := self._shared.rate_per_s(tenant, now_s)):
            bounds.append(rate_per_s)
        return min(bounds, default=None)


class _Buckets:
    """A bucket for each tenant that has a rate."""

    def __init__(self, rates_per_s: Mapping[str, float], at_once_s: float = 1.0) -> None:
        self._rates_per_s = dict(rates_per_s)
        self._at_once_s = at_once_s
        self._filled: dict[str, Quota] = {}

    @property
    def tenants(self) -> frozenset[str]:
        return frozenset(self._filled)

    def of(self, tenant: str, now_s: float) -> Quota | None:
        quota = self._filled.get(tenant)
        if quota is not None:
            return quota
        rate_per_s = self._rates_per_s.get(tenant, self._rates_per_s.get(ANY_TENANT))
        if rate_per_s is None:
            return None
        if len(self._filled) >= _FORGET_ABOVE:
            full = [name for name, other in self._filled.items() if other.is_full(now_s)]
            for name in full:
                del self._filled[name]
        quota = self._filled[tenant] = Quota(rate_per_s, now_s, self._at_once_s)
        return quota


class _Shared:
    """Shared quotas, and who is there."""

    def __init__(self, rates_per_s: Mapping[str, float]) -> None:
        self._buckets = _Buckets(rates_per_s)
        self._sent = _Buckets(rates_per_s, _AT_ONCE_S)
        """Empty of who sends more, whether or not its quota holds."""
        self._less: OrderedDict[str, float] = OrderedDict()
        """Tenants who are there and send less than their quota, and when they last did."""
        self._more: OrderedDict[str, float] = OrderedDict()
        """Tenants who send more, and when they were last seen to."""

    @property
    def tenants(self) -> frozenset[str]:
        seen = self._less.keys() | self._more.keys()
        return self._buckets.tenants | self._sent.tenants | seen

    def wait_s(self, tenant: str, now_s: float) -> float:
        quota = self._buckets.of(tenant, now_s)
        if quota is None or not self.holds(tenant, now_s):
            return 0.0
        wait_s = quota.wait_s(now_s)
        if wait_s > 0.0:
            self._sends_more(tenant, now_s)
        return wait_s

    def charge(self, tenant: str, drafts: int, now_s: float, *, held: bool, appends: bool) -> None:
        _forget_before(self._less, now_s - _THERE_FOR_S)
        _forget_before(self._more, now_s - _THERE_FOR_S)
        quota, sent = self._buckets.of(tenant, now_s), self._sent.of(tenant, now_s)
        if quota is not None and sent is not None:
            if held:
                quota.charge(drafts, now_s)
            else:
                quota.spend(drafts, now_s)
            if not self.holds(tenant, now_s):
                quota.forgive()
            sent.spend(drafts, now_s)
            if sent.wait_s(now_s) > 0.0:
                self._sends_more(tenant, now_s)
        if appends and tenant not in self._more and tenant != SYSTEM_TENANT:
            # Of the system's key events there are few, and nobody waits for them.
            _note(self._less, tenant, now_s)

    def holds(self, tenant: str, now_s: float) -> bool:
        _forget_before(self._less, now_s - _THERE_FOR_S)
        return len(self._less) > (tenant in self._less)

    def bounds(self, tenant: str, now_s: float) -> bool:
        _forget_before(self._more, now_s - _THERE_FOR_S)
        if tenant not in self._more or not self.holds(tenant, now_s):
            return False
        quota = self._buckets.of(tenant, now_s)
        return quota is not None and quota.is_short(now_s)

    def rate_per_s(self, tenant: str, now_s: float) -> float | None:
        """The rate of a tenant whose quota holds now."""
        quota = self._buckets.of(tenant, now_s)
        return quota.rate_per_s if quota is not None and self.holds(tenant, now_s) else None

    def _sends_more(self, tenant: str, now_s: float) -> None:
        self._less.pop(tenant, None)
        _note(self._more, tenant, now_s)


def _note(seen: OrderedDict[str, float], tenant: str, now_s: float) -> None:
    """Have a tenant stand last, as seen now."""
    seen[tenant] = now_s
    seen.move_to_end(tenant)


def _forget_before(seen: OrderedDict[str, float], past_s: float) -> None:
    while seen and next(iter(seen.values())) < past_s:
        seen.popitem(last=False)


def parse_quotas(name: str, setting: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """The quotas of the setting `name`, `{"acme": ("500",), "*": ("2000",)}`, in drafts a second.

    Raises:
        ConfigError: one is not a positive number.
    """
    quotas: dict[str, float] = {}
    for tenant, values in setting.items():
        try:
            (text,) = values
            quotas[tenant] = float(text)
        except ValueError:
            quotas[tenant] = 0.0
        if not 0.0 < quotas[tenant] < float("inf"):
            raise ConfigError(
                f"{env_name('ledger', name)}: one positive number of drafts a second for each "
                "tenant, or for *"
            )
    return quotas
