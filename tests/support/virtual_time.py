"""An event loop whose clock jumps to the next timer instead of waiting for it.

What is measured on it is arithmetic: a run of an hour takes as long as its callbacks do, and comes
out alike on every machine. For code without threads and sockets.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class _JumpingSelector(selectors.DefaultSelector):
    """Reports what is ready at once, and tells `jump` how long it was to wait."""

    jump: Callable[[float], None] = staticmethod(lambda seconds: None)

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing will ever happen: a test waits for what nobody does")
        if not ready:
            self.jump(timeout or 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0 and moves only when nothing else is left to do."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        self._now_s = 0.0
        selector.jump = self._jump

    def time(self) -> float:
        return self._now_s

    def _jump(self, seconds: float) -> None:
        self._now_s += max(0.0, seconds)


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run a coroutine function in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
