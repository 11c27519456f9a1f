"""Timing single calls and telling their distribution."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final


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


def each(
    function: Callable[[Any], object],
    arguments: Iterable[Any],
    before: Callable[[], object] | None = None,
) -> list[float]:
    """Time one call for each argument, in seconds, with the garbage collector at rest.

    before: called before each, which does not count.
    """
    clock = time.perf_counter
    durations = []
    gc.collect()
    gc.disable()
    try:
        for argument in arguments:
            if before is not None:
                before()
            start = clock()
            function(argument)
            durations.append(clock() - start)
    finally:
        gc.enable()
    return durations


@contextmanager
def at_rest() -> Iterator[None]:
    """What was made so far is not looked through for cycles again and again meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def bounded_caches() -> list[Any]:
    """Functions of the library that keep what they found for the whole process: keys, names.

    What is kept without a bound are parts of the library itself, such as the one for Ed25519.
    """
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "provledger"]
    cached = {
        id(function): function
        for module in modules
        for function in vars(module).values()
        if isinstance(function, _CACHED)
    }
    return [one for one in cached.values() if one.cache_parameters()["maxsize"] is not None]


def empty_caches() -> None:
    """Forget what the library keeps for the whole process."""
    for function in bounded_caches():
        function.cache_clear()


_CACHED: Final = type(lru_cache(maxsize=1)(gc.isenabled))
