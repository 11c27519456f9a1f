"""Room for server streams, which last, so that idle readers do not take the places of calls.

What all of them may have is a part of the server's places: a fourth, or half where there are few,
as three services of ours with three replicas each need nine. Half of that is for callers who have
next to none: a service of ours holds one watch for each of its replicas, and what others hold must
not keep it out. Of the other half, a caller may hold three times what is still free.

Callers are told apart by their principal, and where everybody is anonymous, by their connection.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from provledger.errors import ResourceExhaustedError
from provledger.rpc import auth
from provledger.rpc.watches import Behaviour

_SHARE: Final = 3
_CALLERS: Final = 64
"""It takes so many who are at fault together to keep out another one; fewer of less than 512."""
_FEW: Final = 4
"""Three replicas, one of which is being replaced."""
_PART: Final = 4
_LEAST: Final = 64
"""Watches that there are at least, as long as half of the places are left to calls."""
_AGAIN_S: Final = 5.0


def most_watches(places: int) -> int:
    """So many of a server's places may be watches at once."""
    return max(1, places // _PART, min(_LEAST, places // 2))


class WatchRoom:
    """The server streams of one server; for one event loop. most: at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept_free = most // 2
        self._few = max(_FEW, self._kept_free // _CALLERS)
        self._held_by: Counter[str] = Counter()
        self._held = 0

    def bounding(self, inner: Behaviour) -> Behaviour:
        """`inner`, a server stream as coroutine, which has room or raises.

        What it returns raises ResourceExhaustedError: TOO_MANY_WATCHES.
        """

        async def run(request: Any, context: Any) -> Any:
            principal = auth.current_principal()
            caller = context.peer() if principal == auth.ANONYMOUS else principal
            if not self._has_room_for(caller):
                raise ResourceExhaustedError(
                    "TOO_MANY_WATCHES",
                    "as many watches are open as may be, or the caller has its share of them; "
                    "end one, or try again later",
                    retry_delay_s=_AGAIN_S,
                )
            self._count(caller, 1)
            try:
                return await inner(request, context)
            finally:
                self._count(caller, -1)

        return run

    def _has_room_for(self, caller: str) -> bool:
        held = self._held_by[caller]
        free = self._most - self._held
        if held < self._few:
            return free > 0
        return held < _SHARE * (free - self._kept_free)

    def _count(self, caller: str, watches: int) -> None:
        self._held += watches
        self._held_by[caller] += watches
        if not self._held_by[caller]:
            del self._held_by[caller]
