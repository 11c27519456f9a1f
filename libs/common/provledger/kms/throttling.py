"""How fast one key may be used, learned from the provider's refusals; and who waits for it.

Providers limit signatures a second (AWS KMS per account and region, Google Cloud per project), do
not say how much of it is left, and share it with neighbours whom we cannot see. So the limit is
learned, as TCP learns a path: no limit until the first refusal; then a little less than what went
through in the last second; then slowly more, until it is refused again. A refusal costs one round
trip and one retry, so the rate keeps close below the limit, and looks for more room boldly only
after a while without one. `LearnedRate` is that rule alone, with time as an argument.

`KeyLimiter` makes callers wait their turn: so many calls at once, so many waiting, none beyond its
deadline. Who cannot have a turn in time is told so at once, with the delay after which to come
back. `OutageGate` does the same while the provider is away, so that its callers do not all wait
for the same timeout.

Left to others: what is a refusal (the adapters), retrying (`provledger.kms.remote`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from provledger.kms.errors import KMSThrottledError, KMSUnavailableError

_WINDOW_S: Final = 1.0
_MIN_SPAN_S: Final = 0.02
_MIN_RETRY_DELAY_S: Final = 0.05
_MAX_RETRY_DELAY_S: Final = 5.0


class NoTurnError(KMSThrottledError):
    """It was not the provider that refused a call: there was no turn for it before its deadline."""


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """How a limit is learned.

    floor_per_s: never slower than this many calls a second.
    assumed_per_s: what the provider is taken to serve where we ourselves asked for less than that:
        a neighbour may have used up the quota while we made a call now and then.
    cut, hard_cut: part of the rate that is kept after a refusal, and after another within a second.
    growth_per_s, late_growth_per_s: part by which it grows in a second without a refusal, early
        and after `late_s` seconds.
    forget_s: seconds without a refusal after which there is no limit any more.
    burst_s: a caller that comes late by so many seconds keeps its place in the schedule.
    """

    floor_per_s: float = 1.0
    assumed_per_s: float = 10.0
    cut: float = 0.9
    hard_cut: float = 0.7
    growth_per_s: float = 0.01
    late_growth_per_s: float = 0.1
    late_s: float = 5.0
    forget_s: float = 60.0
    burst_s: float = 0.05


class LearnedRate:
    """Calls a second that a provider lets through, as far as we know. Times are monotonic seconds.

    Ask `reserve` before each call, and tell `succeeded` or `throttled` after it.
    """

    def __init__(self, policy: RatePolicy | None = None) -> None:
        self._policy = policy or RatePolicy()
        self._rate_per_s: float | None = None
        self._next_s = -math.inf
        self._binding = False
        self._grown_s = self._cut_s = -math.inf
        self._successes: deque[float] = deque(maxlen=10_000)

    @property
    def rate_per_s(self) -> float | None:
        """The limit in calls a second; None as long as none is known."""
        return self._rate_per_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds that `reserve` would answer."""
        if self._rate_per_s is None:
            return 0.0
        return max(0.0, self._next_s - now_s)

    def reserve(self, now_s: float) -> float:
        """Take the next place and return the seconds to wait for it."""
        if self._rate_per_s is None:
            return 0.0
        if now_s - self._cut_s > self._policy.forget_s:
            self._rate_per_s = None
            return 0.0
        wait_s = self.wait_s(now_s)
        self._binding = wait_s > 0
        self._next_s = max(self._next_s, now_s - self._policy.burst_s) + 1 / self._rate_per_s
        return wait_s

    def give_back(self) -> None:
        """Give up a place that was reserved: the call is not made, and others need not wait."""
        if self._rate_per_s is not None:
            self._next_s -= 1 / self._rate_per_s

    def succeeded(self, now_s: float) -> None:
        """Note a call that was served; lets the rate grow if it is what holds us back."""
        self._forget_successes(now_s)
        self._successes.append(now_s)
        if self._rate_per_s is not None:
            late = now_s - self._cut_s > self._policy.late_s
            share = self._policy.late_growth_per_s if late else self._policy.growth_per_s
            if self._binding:
                elapsed_s = min(_WINDOW_S, max(0.0, now_s - self._grown_s))
                self._rate_per_s *= 1 + share * elapsed_s
            self._grown_s = now_s

    def throttled(self, started_s: float, now_s: float) -> None:
        """Note a call that was refused; `started_s` is when it was sent."""
        # What was on its way when we slowed down says nothing about the new rate.
        if started_s > self._cut_s:
            self._forget_successes(now_s)
            measured = max(self._policy.assumed_per_s, self._measured(now_s))
            again = now_s - self._cut_s < _WINDOW_S
            known = math.inf if self._rate_per_s is None else self._rate_per_s
            kept = self._policy.hard_cut if again else self._policy.cut
            self._rate_per_s = max(self._policy.floor_per_s, min(known, measured) * kept)
            self._cut_s = self._grown_s = now_s
            self._next_s = now_s + 1 / self._rate_per_s

    def _measured(self, now_s: float) -> float:
        """Successes a second, over the last second or since the first of them."""
        if not self._successes:
            return 0.0
        return len(self._successes) / max(_MIN_SPAN_S, now_s - self._successes[0])

    def _forget_successes(self, now_s: float) -> None:
        while self._successes and self._successes[0] <= now_s - _WINDOW_S:
            self._successes.popleft()


class KeyLimiter:
    """Turns to use one key, in order of arrival; for one event loop.

    max_in_flight: calls at once.
    max_waiting: callers waiting for a turn.
    """

    def __init__(
        self,
        uri: str,
        *,
        max_in_flight: int = 8,
        max_waiting: int = 64,
        rate: LearnedRate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._turns = asyncio.Semaphore(max_in_flight)
        self._clock = clock
        self._waiting = 0
        self.rate = rate or LearnedRate()

    @property
    def waiting(self) -> int:
        """Callers that wait for a turn now."""
        return self._waiting

    @asynccontextmanager
    async def turn(self, deadline_s: float) -> AsyncIterator[None]:
        """Wait for a turn and hold it; `deadline_s` is a time of the clock.

        Raises NoTurnError at once if there is no place to wait or the turn would come too
        late, and at the deadline if the calls in front do not end.
        """
        if self._waiting >= self._max_waiting:
            raise self.too_busy("too many calls wait for it already")
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                    await self._turns.acquire()
            except TimeoutError:
                raise self.too_busy("the calls in front took too long") from None
            try:
                await self._pace(deadline_s)
            except BaseException:
                self._turns.release()
                raise
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    def too_busy(self, why: str, at_least_s: float = _MIN_RETRY_DELAY_S) -> NoTurnError:
        """Return the error for a caller without a turn, with an estimate of when to come back."""
        rate_per_s = self.rate.rate_per_s
        queue_s = self._waiting / rate_per_s if rate_per_s else 0.0
        delay_s = self.rate.wait_s(self._clock()) + queue_s
        limit = "" if rate_per_s is None else f" (it gives about {rate_per_s:.0f} calls a second)"
        return NoTurnError(
            f"key {self._uri}: {why}{limit}; ask the provider for a higher quota if this lasts",
            retry_delay_s=min(_MAX_RETRY_DELAY_S, max(_MIN_RETRY_DELAY_S, at_least_s, delay_s)),
        )

    async def _pace(self, deadline_s: float) -> None:
        now_s = self._clock()
        if now_s + self.rate.wait_s(now_s) > deadline_s:
            raise self.too_busy("over the provider's rate limit")
        wait_s = self.rate.reserve(now_s)
        if wait_s > 0:
            try:
                await asyncio.sleep(wait_s)
            except BaseException:
                self.rate.give_back()
                raise


class OutageGate:
    """Turns callers away for a moment after the provider was found to be away.

    One call after each pause goes through as a probe; the first answer opens the gate for all.
    """

    def __init__(
        self,
        uri: str,
        *,
        base_s: float = 0.2,
        cap_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._uri = uri
        self._base_s = base_s
        self._cap_s = cap_s
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._failures = 0
        self._closed_until_s = -math.inf

    def check(self) -> None:
        """Raise KMSUnavailableError while the gate is shut."""
        if not self._failures:
            return
        now_s = self._clock()
        if now_s < self._closed_until_s:
            raise KMSUnavailableError(
                f"key {self._uri}: its provider did not answer a moment ago; it is tried again soon"
            )
        # This caller is the probe: the others stay away for as long as it may take.
        self._closed_until_s = now_s + self._cap_s

    def answered(self) -> None:
        """Note that the provider is there, whatever it said."""
        self._failures = 0

    def failed(self) -> None:
        """Note that it did not answer in the whole time that a caller had."""
        self._failures = min(self._failures + 1, 10)
        pause_s = min(self._cap_s, self._base_s * 2.0 ** (self._failures - 1))
        self._closed_until_s = self._clock() + pause_s * self._rng.uniform(0.5, 1.0)
