"""What strangers can make happen as often as they like is told once in a while, with a count."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TELL_EVERY_S: Final = 60.0


class Seldom:
    """How often things happened that are told once in `TELL_EVERY_S`, each.

        if times := seldom.times("full"):
            log.warning("server.full", times=times)

    As many are remembered as there are names: those are ours, not a stranger's.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told_s: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def times(self, name: str) -> int:
        """Count that it happened: how often since it was told last, or 0 if it is not told now."""
        self._untold[name] = self._untold.get(name, 0) + 1
        now_s = self._monotonic()
        if now_s - self._told_s.get(name, float("-inf")) < TELL_EVERY_S:
            return 0
        self._told_s[name] = now_s
        return self._untold.pop(name)
