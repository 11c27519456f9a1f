"""What is kept in memory, within a bound, and fetched once for all who want it at the same time.

So are failures: who waits for an answer that does not come is not made to wait for another one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from provledger import telemetry
from provledger.errors import DeadlineExceededError, StatusError, UnavailableError
from provledger.rpc.errors import copied

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_OVERHEAD_BYTES = 512
"""Counted for each item besides its bytes: small ones are not free."""

FAILED_MAX_AGE_S: Final = 1.0
"""How long nobody is asked again who did not answer, at most."""

_hits = telemetry.counter("gateway.cache_requests", doc="Questions to our caches, by outcome")
_size = telemetry.gauge("gateway.cache_bytes", unit="By", doc="Bytes in our caches")


class Kept(Generic[K, V]):
    """Immutable things, the least recently used going first. Belongs to one event loop.

    max_age_s: how long one is kept at most. It may have been damaged where it came from, and be
        whole there again.
    """

    def __init__(
        self,
        name: str,
        max_bytes: int,
        *,
        max_age_s: float = float("inf"),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._items: OrderedDict[K, tuple[V, int, float]] = OrderedDict()
        self.bytes = 0

    def get(self, key: K) -> V | None:
        """What is kept under a key."""
        found = self._items.get(key)
        if found is not None and self._monotonic() - found[2] >= self._max_age_s:
            found = None
        _hits.add(1, {"cache": self._name, "hit": found is not None})
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep something of `size` bytes; what there is no room for is not kept."""
        old = self._items.pop(key, None)
        if old is not None:
            self.bytes -= old[1]
        cost = size + _OVERHEAD_BYTES
        if cost <= self._max_bytes:
            self._items[key] = (value, cost, self._monotonic())
            self.bytes += cost
            while self.bytes > self._max_bytes:
                _, (_, freed, _) = self._items.popitem(last=False)
                self.bytes -= freed
        _size.set(self.bytes, {"cache": self._name})


class Once(Generic[K, V]):
    """Work that is under way is not begun a second time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[V]] = {}

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The result of `work`, of the one that runs already if there is one.

        Who gives up does not take it away from the others.
        """
        task = self._running.get(key)
        if task is None:
            # Begun here and now: what it works on may be gone when the task has its first turn.
            task = asyncio.ensure_future(_awaited(work()))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        self._running.pop(key, None)
        # Taken, so that an error that nobody waits for any more is not reported as forgotten.
        if not task.cancelled():
            task.exception()


async def _awaited(result: Awaitable[V]) -> V:
    return await result


class Failure:
    """How the last attempt failed: for all who asked before its end, and a moment longer.

    max_age_s: how old an answer may be; a failure may be no older, nor than `FAILED_MAX_AGE_S`.
    """

    def __init__(self, max_age_s: float, monotonic: Callable[[], float]) -> None:
        self._max_age_s = min(max_age_s, FAILED_MAX_AGE_S)
        self._monotonic = monotonic
        self._last: tuple[float, StatusError] | None = None

    def check(self, asked_s: float) -> None:
        """Refuse who asked at that time, if he would only hear the same. Raises StatusError."""
        if self._last is not None and asked_s - self._last[0] < self._max_age_s:
            raise copied(self._last[1])

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Make an attempt, and remember how it failed, or that it did not."""
        try:
            yield
        except StatusError as error:
            self._last = (self._monotonic(), copied(error))
            raise
        self._last = None


@contextmanager
def in_time(reason: str, peer: str) -> Iterator[None]:
    """Ask somebody who has a deadline of ours. Past it he is away, and no reader was too slow.

    Raises:
        UnavailableError: he let it pass; with that reason.
    """
    try:
        yield
    except DeadlineExceededError as error:
        message = f"{peer} does not answer in time"
        raise UnavailableError(reason, message, retry_delay_s=1.0) from error
