"""How fast items arrive, and how many of them a batch should wait for.

Pure: time comes in as seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from typing import Final

CROWD_FROM: Final = 12
"""Fewer callers than this at once, and none of them waits for another."""
CROWD_SHARE: Final = 0.6
"""A batch waits for this part of a crowd: the rest is on its way to or from us."""

TARGET_SHARE: Final = 0.6
"""A target is what arrives in this part of the budget. More than half, so that an estimate a little
too low still asks for half; less than all, so that the usual unevenness of arrivals fits in."""

_OVERLAP_WINDOW: Final = 100
_SIGNING_WAIT_S: Final = 0.5
"""Seconds that a signature may wait for those before it; a third of what key adapters allow."""
_SIGNING_AT_FIRST: Final = 4
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


class Crowd:
    """How many callers at once there were of late: the most, fading by a tenth each batch.

    Callers that send one item after the other come back as soon as they are answered. Where many
    do, waiting for them costs each of them little and shares a flush's cost among all.
    """

    __slots__ = ("_size",)

    def __init__(self) -> None:
        self._size = 0.0

    def see(self, callers: int) -> None:
        """Take note of the callers that are in a batch or wait for one, as the batch begins."""
        self._size = max(float(callers), self._size * 0.9)

    def target(self, max_items: int) -> int:
        """How many callers the next batch waits for: 1 to `max_items`, and 1 without a crowd."""
        if self._size < CROWD_FROM:
            return 1
        return min(max_items, self.share())

    def share(self) -> int:
        """How many callers may be waited for, however few there are: at least 1."""
        return max(1, math.ceil(self._size * CROWD_SHARE))


class Overlap:
    """How many flushes may overlap: as many as begin while the quickest of late took its way.

    Only waiting overlaps. What a distant database or key takes is in the quickest flush too; what a
    busy machine adds is not, and flushes that share work are better merged than run side by side.
    """

    __slots__ = ("_earlier_s", "_least_s", "_seen")

    def __init__(self) -> None:
        self._least_s = self._earlier_s = math.inf
        self._seen = 0

    def see(self, flush_s: float) -> None:
        """Take note of how long a flush took."""
        self._least_s = min(self._least_s, flush_s)
        self._seen += 1
        if self._seen >= _OVERLAP_WINDOW:
            self._earlier_s, self._least_s, self._seen = self._least_s, math.inf, 0

    def most(self, budget_s: float, most: int) -> int:
        """How many at once, 1 to `most`, where batches begin a target's time apart."""
        least_s = min(self._least_s, self._earlier_s)
        spacing_s = budget_s * TARGET_SHARE
        if spacing_s <= 0 or math.isinf(least_s):
            return 1
        return max(1, min(most, math.ceil(least_s / spacing_s)))


class Signing:
    """How many signatures to wait for at once: no more than one key makes in `_SIGNING_WAIT_S`.

    A key that is bound to a rate serves who asked first, and refuses at once whoever would wait too
    long. So it is asked for few at a time, and what arrives meanwhile shares the next ones.
    """

    __slots__ = ("_most",)

    def __init__(self) -> None:
        self._most = _SIGNING_AT_FIRST

    def see(self, waited_s: float, at_once: int) -> None:
        """Take note of a signature that took so long, the last of so many at once."""
        fit = int(_SIGNING_WAIT_S * at_once / max(waited_s, 1e-6))
        self._most = max(1, min(self._most + 1, fit))

    def failed(self) -> None:
        """Take note of one that was not made."""
        self._most = 1

    def most(self, most: int) -> int:
        """How many at once, 1 to `most`."""
        return min(self._most, most)


def target_items(rate_per_s: float, budget_s: float, max_items: int) -> int:
    """How many items a batch waits for: 1 to `max_items`, and 1 without a budget."""
    return max(1, min(max_items, math.ceil(rate_per_s * budget_s * TARGET_SHARE)))
