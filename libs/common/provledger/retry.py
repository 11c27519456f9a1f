"""When to try again, and how long to wait first: policy only, no clock and no sleeping.

Full jitter: each wait is uniform between nothing and a ceiling that doubles, so that callers
turned away together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to retry.

    attempts: calls made at most, the first included (1 = never retry).
    base_s, cap_s: ceiling of the first wait, and of any wait, in seconds.
    budget_s: all waits together at most, in seconds.
    """

    attempts: int = 4
    base_s: float = 0.05
    cap_s: float = 1.0
    budget_s: float = 10.0

    def delays(self, rng: random.Random) -> Iterator[float]:
        """Waits in seconds before the second, third, ... attempt; ends when it is enough."""
        spent_s = 0.0
        for retry in range(self.attempts - 1):
            # The exponent is bounded so that a huge `attempts` cannot overflow a float.
            ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(retry, 60))
            delay_s = rng.uniform(0.0, ceiling_s)
            spent_s += delay_s
            if spent_s > self.budget_s:
                return
            yield delay_s


NO_RETRY = RetryPolicy(attempts=1)
"""For calls that must not be repeated."""


def honour(retry_delay_s: float, rng: random.Random) -> float:
    """Wait in seconds for a server that said `retry_delay_s`: never less, up to a quarter more."""
    return retry_delay_s * rng.uniform(1.0, 1.25)
