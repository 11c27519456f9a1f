"""A token bucket, as providers use to limit calls."""

from __future__ import annotations

import threading
import time


class TokenBucket:
    """`rate_per_s` calls a second, `burst` of them at once; for many threads."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = self._tokens = burst
        self._filled_s = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a token if there is one."""
        with self._lock:
            now_s = time.monotonic()
            earned = (now_s - self._filled_s) * self._rate_per_s
            self._tokens = min(self._burst, self._tokens + earned)
            self._filled_s = now_s
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
