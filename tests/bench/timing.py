"""Timing single calls and telling their distribution."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from typing import Any


def percentile(sorted_values: list[float], fraction: float) -> float:
    """Return the value below which `fraction` of the sorted values lie (nearest rank)."""
    return sorted_values[min(len(sorted_values) - 1, int(fraction * len(sorted_values)))]


def summary_ms(seconds: Iterable[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the least of some durations, in milliseconds."""
    values = sorted(seconds)
    return {
        "count": len(values),
        "min_ms": round(values[0] * 1e3, 4),
        "p50_ms": round(percentile(values, 0.50) * 1e3, 4),
        "p95_ms": round(percentile(values, 0.95) * 1e3, 4),
        "p99_ms": round(percentile(values, 0.99) * 1e3, 4),
    }


def each(function: Callable[[Any], object], arguments: Iterable[Any]) -> list[float]:
    """Time one call for each argument, in seconds, with the garbage collector at rest."""
    clock = time.perf_counter
    durations = []
    gc.collect()
    gc.disable()
    try:
        for argument in arguments:
            start = clock()
            function(argument)
            durations.append(clock() - start)
    finally:
        gc.enable()
    return durations
