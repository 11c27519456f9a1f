"""Another attempt where a row is locked by somebody else, with pauses in which nothing is held.

A lock is held for milliseconds, unless whoever has it was halted. So the writing thread waits for
one a moment only, and comes to what the other ledgers have before it tries again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from provledger.db import LockNotGrantedError
from provledger.retry import RetryPolicy

R = TypeVar("R")

RETRY: Final = RetryPolicy(attempts=5, base_s=0.1, cap_s=0.5, budget_s=2.0)
"""With the waits for the lock between the pauses, it is given up after three seconds at most."""

_rng = random.Random()  # noqa: S311 - jitter, not a secret


async def patiently(attempt: Callable[[], Awaitable[R]]) -> R:
    """What `attempt` returns, which is called again where a lock was not granted.

    Raises:
        LockNotGrantedError: not in any of the attempts.
        Anything else that `attempt` raises.
    """
    delays = RETRY.delays(_rng)
    while True:
        try:
            return await attempt()
        except LockNotGrantedError:
            delay_s = next(delays, None)
            if delay_s is None:
                raise
        await asyncio.sleep(delay_s)
