"""A client that holds back what the service would refuse anyway. Pure: no clock, no randomness.

A refusal costs the service a good part of what an answer costs, so callers that send on at twice
what it can do take from those it lets in. Following "Client-side throttling" in Site Reliability
Engineering (Beyer et al. 2016, ch. 21): of the calls of the last seconds, so many are let through
as were accepted, and a fifth more, which is how it is noticed that there is room again. The others
are refused here, as the service would have, without being sent.

Differently from there, a call counts when its answer is there: in a service that is slow and
refuses nobody, nothing is held back. A bound on the calls in flight, where one is given, holds even
then: more would wait in the connection, for nobody's good.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import ResourceExhaustedError, StatusError
from provledger.names import tenant_of
from provledger.rpc.errors import MESSAGE_TOO_LARGE, PEER_CANCELLED

THROTTLED: Final = "THROTTLED"

HEADROOM: Final = 1.2
"""Calls let through for each one accepted."""
CLEAR_HEADROOM: Final = 4.0
"""The same once nothing was refused for `CLEAR_S`: a service that had to refuse all calls, and has
room again, hears from everybody within seconds."""
CLEAR_S: Final = 1.0
HALF_LIFE_S: Final = 1.0
"""After so long, what was counted counts half."""
FREE_CALLS: Final = 5.0
"""So many calls more are let through: one refusal silences nobody."""
MAX_TENANTS: Final = 1000
_MIN_RETRY_S: Final = 0.05


class Throttle:
    """Of one tenant at one service. Times are seconds of any one monotonic clock.

    max_in_flight: calls let through that have not ended; 0 for any number.
    """

    __slots__ = (
        *("_accepted", "_asked", "_counted_s", "_in_flight"),
        *("_max_in_flight", "_refused_s", "_retry_s"),
    )

    def __init__(self, max_in_flight: int = 0) -> None:
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._asked = 0.0
        self._accepted = 0.0
        self._counted_s = 0.0
        self._refused_s = float("-inf")
        self._retry_s = _MIN_RETRY_S

    def check(self, now_s: float, draw: float) -> None:
        """Let a call through, which will be told of by `ended`, or not; `draw` is uniform over 0 to
        1.

        Raises:
            ResourceExhaustedError: THROTTLED, with the delay that the service gave last.
        """
        self._fade(now_s)
        if self._max_in_flight and self._in_flight >= self._max_in_flight:
            raise ResourceExhaustedError(
                THROTTLED, "not sent: too many calls are in flight", retry_delay_s=self._retry_s
            )
        clear = now_s - self._refused_s > CLEAR_S
        headroom = CLEAR_HEADROOM if clear else HEADROOM
        over = self._asked - headroom * self._accepted - FREE_CALLS
        if over > 0.0 and draw < over / (self._asked + 1.0):
            self._asked += 1.0
            raise ResourceExhaustedError(
                THROTTLED,
                "not sent: the service refused too many of the calls before",
                retry_delay_s=self._retry_s,
            )
        self._in_flight += 1

    def ended(self, now_s: float, error: StatusError | None) -> None:
        """Count a call that was let through, by how it ended; None for an answer, or none."""
        self._fade(now_s)
        self._in_flight -= 1
        self._asked += 1.0
        if error is None or not is_refusal(error):
            self._accepted += 1.0
            return
        self._refused_s = now_s
        if error.retry_delay_s is not None:
            self._retry_s = max(_MIN_RETRY_S, error.retry_delay_s)

    def _fade(self, now_s: float) -> None:
        keep = 0.5 ** (max(0.0, now_s - self._counted_s) / HALF_LIFE_S)
        self._asked *= keep
        self._accepted *= keep
        self._counted_s = now_s


class Throttles:
    """One for each tenant that appends; those not used for the longest time are forgotten."""

    def __init__(self, max_in_flight: int = 0) -> None:
        self._max_in_flight = max_in_flight
        self._of: OrderedDict[str, Throttle] = OrderedDict()

    def of_request(self, request: object) -> Throttle | None:
        """The one that a request is for; None for what is not throttled."""
        if isinstance(request, ledger_pb2.AppendRequest | ledger_pb2.AppendBatchRequest):
            return self.of(tenant_of(request.ledger))
        return None

    def of(self, tenant: str) -> Throttle:
        """The one of a tenant."""
        found = self._of.get(tenant)
        if found is None:
            found = self._of[tenant] = Throttle(self._max_in_flight)
            if len(self._of) > MAX_TENANTS:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(tenant)
        return found


def is_refusal(error: StatusError) -> bool:
    """Whether the service had no room for a call, and would have had for fewer.

    gRPC cancels calls of which too many wait for the service to look at them.
    """
    if error.code == "RESOURCE_EXHAUSTED":
        return error.reason not in (MESSAGE_TOO_LARGE, THROTTLED)
    return error.reason == PEER_CANCELLED
