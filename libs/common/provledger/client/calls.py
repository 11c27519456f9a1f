"""One unary call as the client makes it: a deadline over all, attempts under it, jitter between.

An attempt whose answer was lost (its own deadline passed, the connection broke) says nothing about
what happened at the service. It is repeated all the same, because every write of ours carries a
request id and every read may be repeated: this is where the client differs from the calls
between services (`provledger.rpc.channel`), which leave a lost answer to their caller.

Attempts that an overloaded service would refuse are held back (`provledger.throttle`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from provledger import telemetry
from provledger.errors import DeadlineExceededError, IdentifierError, StatusError
from provledger.retry import RetryPolicy, honour
from provledger.rpc.errors import from_rpc_error, is_retryable
from provledger.throttle import Throttle

R = TypeVar("R")

_rng: Final = random.Random()  # noqa: S311 - jitter, not a secret

PATIENT: Final = RetryPolicy(attempts=10_000, base_s=0.05, cap_s=2.0, budget_s=1e9)
"""Go on until the call's own time is up."""


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How long the client tries.

    timeout_s: for a call with all its attempts, in seconds, unless the call says otherwise.
    attempt_timeout_s: for one attempt, in seconds; then its answer counts as lost.
    retry: the waits between attempts; the timeout ends them, so it allows any number.
    max_in_flight: appends of one tenant under way at a time, from one client; an attempt beyond
        that is THROTTLED. 0 for any number: they wait for the connection.
    max_wait_s: while a single append of this client has waited for so many seconds, to be sent or
        answered, others to the same ledger are refused at once, as RESOURCE_EXHAUSTED: those that
        are let in keep their latency. 0 for the timeout, so that they wait out a service that is
        away. It is for appends that share calls and do not wait for the log.
    """

    timeout_s: float = 60.0
    attempt_timeout_s: float = 20.0
    retry: RetryPolicy = PATIENT
    max_in_flight: int = 0
    max_wait_s: float = 0.0

    def __post_init__(self) -> None:
        """Raise IdentifierError for a time that is no number: no moment would be later than it."""
        for field in ("timeout_s", "attempt_timeout_s", "max_wait_s"):
            _check_time(getattr(self, field), field)

    def within_s(self, timeout_s: float | None) -> float:
        """Seconds for a call that says `timeout_s`, None for what the policy says.

        Infinity is no limit, and nothing is sent where it is not above zero.

        Raises:
            IdentifierError: it is NaN.
        """
        if timeout_s is None:
            return self.timeout_s
        _check_time(timeout_s, "timeout_s")
        return timeout_s


def _check_time(value_s: float, field: str) -> None:
    if math.isnan(value_s):
        raise IdentifierError(field, "must be a number of seconds, not NaN")


DEFAULT_CALL_POLICY: Final = CallPolicy()


def next_wait(error: StatusError, delays: Iterator[float]) -> float | None:
    """Seconds to wait before the next attempt, never less than the service asked for."""
    delay_s = next(delays, None)
    if delay_s is None or error.retry_delay_s is None:
        return delay_s
    return max(delay_s, honour(error.retry_delay_s, _rng))


async def unary(
    method: Callable[..., Awaitable[R]],
    request: Any,
    policy: CallPolicy = DEFAULT_CALL_POLICY,
    *,
    timeout_s: float | None = None,
    attempt_timeout_s: float | None = None,
    throttle: Throttle | None = None,
) -> R:
    """Call a unary method of a stub until it answers; its response.

    throttle: asked before each attempt, and told of its end.

    Raises:
        IdentifierError: `timeout_s` is NaN.
        StatusError: what the service said, or, when time runs out, what the last attempt met. If
            that ran out of time itself, the message says what the attempt before it met.
    """
    deadline_s = time.monotonic() + policy.within_s(timeout_s)
    limit_s = policy.attempt_timeout_s if attempt_timeout_s is None else attempt_timeout_s
    delays = policy.retry.delays(_rng)
    metadata = telemetry.outgoing_metadata()
    error: StatusError | None = None
    while True:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0.0:
            raise error or DeadlineExceededError("DEADLINE_EXCEEDED", "no time left for the call")
        try:
            if throttle is not None:
                throttle.check(time.monotonic(), _rng.random())
            return await _attempt(method, request, min(remaining_s, limit_s), metadata, throttle)
        except StatusError as failed:
            error = with_reason_before(failed, error)
        wait_s = next_wait(error, delays) if is_retryable(error) else None
        # Giving up at once beats waiting for a deadline that will pass during the wait.
        if wait_s is None or time.monotonic() + wait_s >= deadline_s:
            raise error
        await asyncio.sleep(wait_s)


def with_reason_before(error: StatusError, before: StatusError | None) -> StatusError:
    """The last attempt often has too little time left to hear what the ones before heard."""
    if before is None or not isinstance(error, DeadlineExceededError):
        return error
    if isinstance(before, DeadlineExceededError):
        # It says already what was met before it; another reason is the service's own.
        return before if before.reason == error.reason else error
    met = f"the attempt before met {before.reason}: {before.message}"
    return DeadlineExceededError(error.reason, f"{error.message}; {met}", metadata=error.metadata)


async def _attempt(
    method: Callable[..., Awaitable[R]],
    request: Any,
    timeout_s: float,
    metadata: Any,
    throttle: Throttle | None,
) -> R:
    error: StatusError | None = None
    try:
        return await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as exc:
        error = from_rpc_error(exc)
        raise error from None
    finally:
        # However it ended: a call that was cancelled is no longer in flight either.
        if throttle is not None:
            throttle.ended(time.monotonic(), error)


def waits(policy: CallPolicy) -> Iterator[float]:
    """A fresh series of waits, for callers that repeat something of their own."""
    return policy.retry.delays(_rng)
