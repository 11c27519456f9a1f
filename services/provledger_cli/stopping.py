"""SIGINT and SIGTERM for work that is to end in order: first its source, then what is left."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

GRACE_S: Final = 5.0
"""How long what was begun may take to end once a signal has come."""


async def run_until_signal(
    work: Coroutine[Any, Any, None], stop: Callable[[], None], *, grace_s: float = GRACE_S
) -> bool:
    """Run it to its end; whether a signal came.

    The first signal calls `stop`, which should end the work soon. At the second one, or after
    `grace_s`, it is cancelled.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work)
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            task.cancel()
            return
        stop()
        loop.call_later(grace_s, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        task.cancel()
    if not (signals and task.cancelled()):
        task.result()
    return signals > 0
