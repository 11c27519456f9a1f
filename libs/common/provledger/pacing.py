"""How fast items arrive, and how many of them a batch should wait for.

Pure: time comes in as seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from typing import Final

TARGET_SHARE: Final = 0.6
"""A target is what arrives in this part of the budget. More than half, so that an estimate a little
too low still asks for half; less than all, so that the usual unevenness of arrivals fits in."""

_MEMORY_S: Final = 0.5
# A quiet spell of this many time constants leaves nothing worth the exponential.
_FORGOTTEN: Final = 40.0


class ArrivalRate:
    """Items a second of late: a count that fades with a time constant of half a second."""

    __slots__ = ("_at_s", "_faded")

    def __init__(self) -> None:
        self._faded = 0.0
        self._at_s = -math.inf

    def add(self, count: int, now_s: float) -> None:
        """Count items that arrive now."""
        self._faded = self._at(now_s) + count
        self._at_s = now_s

    def per_s(self, now_s: float) -> float:
        """Items a second as of now; low in the first half second, when little is known."""
        return self._at(now_s) / _MEMORY_S

    def _at(self, now_s: float) -> float:
        age = max(0.0, now_s - self._at_s) / _MEMORY_S
        return self._faded * math.exp(-age) if age < _FORGOTTEN else 0.0


def target_items(rate_per_s: float, budget_s: float, max_items: int) -> int:
    """How many items a batch waits for: 1 to `max_items`, and 1 without a budget."""
    return max(1, min(max_items, math.ceil(rate_per_s * budget_s * TARGET_SHARE)))
