"""The places of a listener's calls, and who sits on them without anything to do.

gRPC gives a call its place when its headers have come, and takes it back when its end was sent as
far as the caller's HTTP/2 window lets it. Of a unary call we see nothing before its whole message
is there, and nothing once it is answered: whoever sends none, or takes no answer, keeps a place for
as long as the connection lasts (`connection_age_s`), admitted or not, and gRPC has no way to end
such a call.

So those calls are counted that are idle: shown to us and not begun, or answered and not done. While
they are few, all goes its usual way. When a quarter of the places is taken by idle ones, whose they
are nobody knows, calls are served carefully, which costs one more turn in gRPC: admitted before
anything is read, their message waited for so long and no longer, and idle ones shared by callers,
so that one that is at fault is refused. A refusal has no message, for which a window would be
needed.

Answers are sent and then wait in gRPC, beyond any deadline of ours. So a caller may keep a quarter
of the places before calls are served carefully, and three quarters of a quarter after that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from provledger.errors import ResourceExhaustedError

_IDLE_PART: Final = 4
_SHARE: Final = 3
"""A caller may have this many times the idle places that are free; three quarters, if alone."""
_RETRY_S: Final = 1.0


class Places:
    """The calls of one listener; for one event loop. most: at once."""

    def __init__(self, most: int) -> None:
        self._most_idle = max(1, most // _IDLE_PART)
        # Tasks of idle calls, and of calls that were idle at their end: to be told of each end
        # would cost each call a turn of the event loop.
        self._resting: set[asyncio.Task[Any] | None] = set()
        self._look_at = self._most_idle
        self._idle_of: Counter[str] = Counter()
        self._idle = 0

    @property
    def are_scarce(self) -> bool:
        """Whether a call is to be served carefully."""
        count = len(self._resting)
        if count > self._look_at:
            self._forget_ended()
            count = len(self._resting)
        return count > self._most_idle

    def rest(self) -> None:
        """The call of the present task is shown to us, or answered.

        gRPC serves each call in a task of its own, which ends when the answer is sent or the call
        is cancelled.
        """
        self._resting.add(asyncio.current_task())

    def work(self) -> None:
        """The call of the present task is begun."""
        self._resting.discard(asyncio.current_task())

    def _forget_ended(self) -> None:
        self._resting = {task for task in self._resting if task is not None and not task.done()}
        some = self._most_idle // 8
        self._look_at = max(self._most_idle, len(self._resting) + some)

    @contextmanager
    def silent(self, principal: str) -> Iterator[None]:
        """Hold an idle place for a call of which nothing has come yet.

        Raises:
            ResourceExhaustedError: TOO_MANY_IDLE_CALLS.
        """
        if self._idle_of[principal] >= _SHARE * (self._most_idle - self._idle):
            raise ResourceExhaustedError(
                "TOO_MANY_IDLE_CALLS",
                "too many calls are open on which nothing was sent, or whose answers were not "
                "taken; try again later",
                retry_delay_s=_RETRY_S,
            )
        self._count(principal, 1)
        try:
            yield
        finally:
            self._count(principal, -1)

    def answered(self, principal: str) -> None:
        """Hold an idle place for the call of the present task, until its answer is taken."""
        self._count(principal, 1)
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(lambda _: self._count(principal, -1))

    def _count(self, principal: str, calls: int) -> None:
        self._idle += calls
        self._idle_of[principal] += calls
        if not self._idle_of[principal]:
            del self._idle_of[principal]
