"""Latencies in buckets that grow with their value, as in HdrHistogram (hdrhistogram.org).

A value is known to one part in 64. Below 128 microseconds every one has its own bucket; from there
on each doubling has 64. A histogram is a few hundred counts, whatever it has seen, and histograms
of several processes are added without loss.

    value   0 .. 127     128 .. 255     256 .. 511     ...
    bucket  1 wide       2 wide         4 wide
    index   0 .. 127     128 .. 191     192 .. 255
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PARTS_BITS: Final = 6
_PARTS: Final = 1 << _PARTS_BITS


def index_of(value: int) -> int:
    """The bucket of a value that is not negative."""
    shift = max(0, value.bit_length() - _PARTS_BITS - 1)
    return shift * _PARTS + (value >> shift)


def upper_of(index: int) -> int:
    """The largest value of a bucket."""
    shift = max(0, index // _PARTS - 1)
    return ((index - shift * _PARTS + 1) << shift) - 1


class Histogram:
    """Counts of durations, recorded in seconds and kept in microseconds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self._sum_us = 0
        self._max_us = 0

    def record(self, seconds: float) -> None:
        """Add one duration; a negative one counts as none."""
        value = max(0, round(seconds * 1e6))
        index = index_of(value)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self._sum_us += value
        self._max_us = max(self._max_us, value)

    def add(self, other: Histogram) -> None:
        """Add all that another has seen."""
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self._sum_us += other._sum_us
        self._max_us = max(self._max_us, other._max_us)

    def quantile_ms(self, share: float) -> float:
        """At least `share` of the durations were no longer than this, in milliseconds; 0.0 if
        there are none. No more than one part in 64 too high, and never above the longest."""
        wanted = share * self.count
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                return min(upper_of(index), self._max_us) / 1000
        return 0.0

    @property
    def max_ms(self) -> float:
        """The longest, exactly."""
        return self._max_us / 1000

    @property
    def mean_ms(self) -> float:
        """The mean, exactly; 0.0 if there are none."""
        return self._sum_us / self.count / 1000 if self.count else 0.0

    def summary(self) -> dict[str, float]:
        """What is usually asked, in milliseconds."""
        quantiles = {f"p{name}": self.quantile_ms(share) for name, share in _QUANTILES}
        return {**quantiles, "max": self.max_ms, "mean": round(self.mean_ms, 3)}

    def to_json(self) -> dict[str, object]:
        """All of it, for another process."""
        return {"counts": list(self._counts.items()), "sum": self._sum_us, "max": self._max_us}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Histogram:
        """What `to_json` made."""
        made = cls()
        counts = value["counts"]
        assert isinstance(counts, list)  # noqa: S101 - our own process wrote it
        made._counts = {int(index): int(count) for index, count in counts}
        made.count = sum(made._counts.values())
        made._sum_us = int(str(value["sum"]))
        made._max_us = int(str(value["max"]))
        return made


_QUANTILES: Final = (("50", 0.5), ("90", 0.9), ("95", 0.95), ("99", 0.99), ("999", 0.999))
