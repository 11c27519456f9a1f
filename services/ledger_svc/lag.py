"""Stops appends while anchoring is later than a fail-closed policy allows.

docs/runbooks/anchor-outage.md says what to do then.

The policy is the anchor's, which says whether it is kept. An anchor that says nothing for longer
than the policy allows has broken it as well: nothing can have been anchored that it knows of.
Without a policy, or with one that fails open, nothing is ever refused here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import StatusError, UnavailableError
from provledger.rpc.channel import call
from provledger.steady import steady_s

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
        self, anchor: Any, *, timeout_s: float, monotonic: Callable[[], float] = steady_s
    ) -> None:
        self._anchor: LogStub = anchor
        self._timeout_s = min(timeout_s, 5.0)
        self._monotonic = monotonic
        # By log, then by tenant: those with a policy of their own, and "" for all others; None for
        # a policy that does not fail closed.
        self._promises: dict[str, dict[str, _Promise | None]] = {}

    def watch(self, log_name: str) -> None:
        """Have a log asked for from now on."""
        self._promises.setdefault(log_name, {})

    def check(self, log_name: str, tenant: str = "") -> None:
        """Return at once; UnavailableError ANCHOR_OVERDUE while a promise is broken.

        tenant: `tenants/{tenant}` for whom something is to be appended.
        """
        promises = self._promises.get(log_name, {})
        promise = promises[tenant] if tenant in promises else promises.get("")
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
        request = anchor_pb2.GetLogRequest(name=log_name, with_tenants=True)
        response = await call(self._anchor.GetLog, request, timeout_s=self._timeout_s)
        said = {own.tenant: own.policy for own in response.log.tenants}
        said[""] = response.log.policy
        before, now_s = self._promises.get(log_name, {}), self._monotonic()
        promises = {
            tenant: _Promise(policy.within_s, policy.overdue, now_s) if policy.fail_closed else None
            for tenant, policy in said.items()
        }
        for tenant in before.keys() | promises.keys():
            was, now = before.get(tenant), promises.get(tenant)
            if (was is not None and was.overdue) != (now is not None and now.overdue):
                overdue = now is not None and now.overdue
                log.warning("append.anchoring", log=log_name, tenant=tenant, overdue=overdue)
        self._promises[log_name] = promises

    async def run(self) -> None:
        """Go on asking, for the life of the service."""
        while True:
            for log_name in list(self._promises):
                try:
                    await self.ask(log_name)
                except StatusError as error:
                    log.debug("anchor.not_asked", log=log_name, reason=error.reason)
            await asyncio.sleep(_POLL_S)
