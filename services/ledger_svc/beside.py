"""Work that is done beside other work, and given up with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

R = TypeVar("R")


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, R]) -> AsyncIterator[asyncio.Task[R]]:
    """Begin work, whose result is awaited in the block or not wanted any more after it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_take)
    try:
        yield task
    finally:
        task.cancel()


def _take(task: asyncio.Task[R]) -> None:
    # So that an error that nobody waited for is not reported as forgotten.
    if not task.cancelled():
        task.exception()
