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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from provledger.errors import ResourceExhaustedError

_IDLE_PART: Final = 4
_SHARE: Final = 3
"""A caller may have this many times the idle places that are free; three quarters, if alone."""
_RETRY_S: Final = 1.0


def present_task(context: Any) -> Any:
    """The call with grpc.aio, which serves each in a task of its own; it ends when the answer is
    sent or the call is cancelled."""
    return asyncio.current_task()


class Places:
    """The calls of one listener; for one event loop.

    most: at once. call_of: given a servicer context, what is `done` when its call is.
    """

    def __init__(self, most: int, call_of: Callable[[Any], Any] = present_task) -> None:
        self._call_of = call_of
        self._most_idle = max(1, most // _IDLE_PART)
        # Idle calls, and calls that were idle at their end: to be told of each end would cost each
        # call a turn of the event loop.
        self._resting: set[Any] = set()
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

    def rest(self, context: Any = None) -> None:
        """A call is shown to us, or answered; without `context` that of the present task."""
        call = self._call_of(context)
        if call is not None and not call.done():
            self._resting.add(call)

    def work(self, context: Any = None) -> None:
        """A call is begun."""
        self._resting.discard(self._call_of(context))

    def gone(self, call: Any) -> None:
        """A call is over; of those of which this is not said, it is found out."""
        self._resting.discard(call)

    def _forget_ended(self) -> None:
        self._resting = {call for call in self._resting if call is not None and not call.done()}
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

    def answered(self, principal: str, context: Any = None) -> None:
        """Hold an idle place for a call, until its answer is taken."""
        self._count(principal, 1)
        call = self._call_of(context)
        if call is not None:
            call.add_done_callback(lambda _: self._count(principal, -1))

    def _count(self, principal: str, calls: int) -> None:
        self._idle += calls
        self._idle_of[principal] += calls
        if not self._idle_of[principal]:
            del self._idle_of[principal]
