"""Asks the log what it holds of a ledger, before the first append of this process to it.

A database restored from an older backup would go on from an older head and fork the chain. The log
remembers more than the database then, and the append is refused with nothing written
(design §5, "Anchor"). Until the log has answered once for a ledger, appends to it are refused as
UNAVAILABLE; after that the log may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from ledger_svc.chain import LedgerInfo
from ledger_svc.lag import Lag
from ledger_svc.storage import Storage
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import FailedPreconditionError, StatusError, UnavailableError
from provledger.rpc.channel import call

log = logs.get(__name__)

LEDGER_BEHIND_ANCHOR: Final = "LEDGER_BEHIND_ANCHOR"
_ASK_AGAIN_S: Final = 0.25
_AWAY: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"})


class StateStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLedgerState: Callable[..., Awaitable[anchor_pb2.GetLedgerStateResponse]]


class Guard:
    """Remembers for which ledgers the log was asked, and what came of it."""

    def __init__(self, storage: Storage, anchor: Any, lag: Lag, *, timeout_s: float) -> None:
        self._lag = lag
        self._storage = storage
        self._anchor: StateStub = anchor
        self._timeout_s = timeout_s
        self._confirmed: set[bytes] = set()
        self._refusals: dict[bytes, tuple[float, StatusError]] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}

    def trust(self, ledger: LedgerInfo) -> None:
        """Take a ledger as confirmed: this process has just made it."""
        self._lag.watch(ledger.log_name)
        self._confirmed.add(ledger.uid)

    async def check(self, ledger: LedgerInfo) -> None:
        """Return at once for a ledger that was confirmed; otherwise ask.

        Raises:
            FailedPreconditionError: LEDGER_BEHIND_ANCHOR, with what to do about it; or
                LOG_NOT_FOUND.
            UnavailableError: ANCHOR_NOT_ASKED, while the anchor has not answered; ANCHOR_OVERDUE,
                while anchoring is later than a fail-closed policy allows.
        """
        if ledger.uid in self._confirmed:
            self._lag.check(ledger.log_name, ledger.tenant_name)
            return
        async with self._locks.setdefault(ledger.uid, asyncio.Lock()):
            if ledger.uid in self._confirmed:
                self._lag.check(ledger.log_name, ledger.tenant_name)
                return
            asked_s, refusal = self._refusals.get(ledger.uid, (float("-inf"), None))
            if refusal is not None and time.monotonic() - asked_s < _ASK_AGAIN_S:
                raise refusal
            try:
                await self._ask(ledger)
            except StatusError as error:
                self._refusals[ledger.uid] = (time.monotonic(), error)
                raise
            self._refusals.pop(ledger.uid, None)
            self._confirmed.add(ledger.uid)
        self._locks.pop(ledger.uid, None)
        self._lag.check(ledger.log_name, ledger.tenant_name)

    async def _ask(self, ledger: LedgerInfo) -> None:
        request = anchor_pb2.GetLedgerStateRequest(log=ledger.log_name, ledger_uid=ledger.uid)
        try:
            held = await call(
                self._anchor.GetLedgerState, request, timeout_s=min(self._timeout_s, 5.0)
            )
            await self._lag.ask(ledger.log_name)
        except StatusError as error:
            if error.code == "NOT_FOUND":
                raise FailedPreconditionError(
                    "LOG_NOT_FOUND",
                    f"{ledger.name} goes to {ledger.log_name}, which this anchor service does not "
                    "have: it is another one, or it lost its data",
                    metadata={"ledger": ledger.name, "log": ledger.log_name},
                ) from error
            if error.code not in _AWAY:
                raise
            raise UnavailableError(
                "ANCHOR_NOT_ASKED",
                f"{ledger.name}: the anchor must be asked once, after a start, whether the log "
                "holds more than the database does, and it does not answer",
                metadata={"ledger": ledger.name},
                retry_delay_s=error.retry_delay_s or 0.5,
            ) from error
        await compare(self._storage, ledger, held)


async def compare(
    storage: Storage, ledger: LedgerInfo, held: anchor_pb2.GetLedgerStateResponse
) -> None:
    """Check that the database holds at least what the log holds.

    Raises:
        FailedPreconditionError: LEDGER_BEHIND_ANCHOR.
    """
    if held.seq < 0:
        return
    stored_hash = await storage.receipt_hash_at(ledger.uid, held.seq)
    if stored_hash == held.receipt_hash:
        return
    head_seq = (await storage.get_head(ledger.uid)).head.seq
    what = (
        f"ends at receipt {head_seq}, but the log holds receipts up to {held.seq}"
        if stored_hash is None
        else f"has another receipt {held.seq} than the log"
    )
    log.error("ledger.behind_anchor", ledger=ledger.name, head_seq=head_seq, logged_seq=held.seq)
    raise FailedPreconditionError(
        LEDGER_BEHIND_ANCHOR,
        f"{ledger.name} {what}: this database is older than what was published. Nothing is "
        "written. Restore a newer backup, or the database itself, and start again",
        metadata={
            "ledger": ledger.name,
            "headSeq": str(head_seq),
            "loggedSeq": str(held.seq),
        },
    )
