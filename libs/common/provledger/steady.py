"""A clock for how long something has lasted, where somebody was promised that it does not last.

It never steps, whoever sets the clock of the machine, and goes on while the machine is suspended,
where there is such a clock. What it counts from is another moment after each boot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

steady_ns: Final[Callable[[], int]] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)
"""Nanoseconds since some moment."""


def steady_s() -> float:
    """Seconds since the same moment."""
    return steady_ns() / 1_000_000_000
