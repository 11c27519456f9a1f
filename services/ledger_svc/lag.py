"""Stops appends while anchoring is later than a fail-closed policy allows.

docs/runbooks/anchor-outage.md says what to do then.

The policy is the anchor's, which says whether it is kept. An anchor that says nothing for longer
than the policy allows has broken it as well: nothing can have been anchored that it knows of.
Without a policy, or with one that fails open, nothing is ever refused here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import StatusError, UnavailableError
from provledger.rpc.channel import call

log = logs.get(__name__)

ANCHOR_OVERDUE: Final = "ANCHOR_OVERDUE"
_POLL_S: Final = 1.0


class LogStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLog: Callable[..., Awaitable[anchor_pb2.GetLogResponse]]


@dataclass(frozen=True, slots=True)
class _Promise:
    within_s: int
    overdue: bool
    answered_s: float


class Lag:
    """What the anchor last said of the logs that this process appends to."""

    def __init__(
        self, anchor: Any, *, timeout_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._anchor: LogStub = anchor
        self._timeout_s = min(timeout_s, 5.0)
        self._monotonic = monotonic
        # By log; None for one without a policy that fails closed.
        self._promises: dict[str, _Promise | None] = {}

    def watch(self, log_name: str) -> None:
        """Have a log asked for from now on."""
        self._promises.setdefault(log_name, None)

    def check(self, log_name: str) -> None:
        """Return at once; UnavailableError ANCHOR_OVERDUE while a promise is broken."""
        promise = self._promises.get(log_name)
        if promise is None:
            return
        silent_s = self._monotonic() - promise.answered_s
        if promise.overdue or silent_s > promise.within_s:
            raise UnavailableError(
                ANCHOR_OVERDUE,
                f"receipts are to be anchored within {promise.within_s} s, and are not: nothing is "
                "acknowledged until the sinks have caught up",
                metadata={"log": log_name},
                retry_delay_s=_POLL_S,
            )

    async def ask(self, log_name: str) -> None:
        """Ask the anchor; raises StatusError if it does not answer."""
        request = anchor_pb2.GetLogRequest(name=log_name)
        response = await call(self._anchor.GetLog, request, timeout_s=self._timeout_s)
        policy = response.log.policy
        before = self._promises.get(log_name)
        promise = None
        if policy.fail_closed:
            promise = _Promise(policy.within_s, policy.overdue, self._monotonic())
        if (before is not None and before.overdue) != (promise is not None and promise.overdue):
            log.warning("append.anchoring", log=log_name, overdue=policy.overdue)
        self._promises[log_name] = promise

    async def run(self) -> None:
        """Go on asking, for the life of the service."""
        while True:
            for log_name in list(self._promises):
                try:
                    await self.ask(log_name)
                except StatusError as error:
                    log.debug("anchor.not_asked", log=log_name, reason=error.reason)
            await asyncio.sleep(_POLL_S)
