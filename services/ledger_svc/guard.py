"""Asks the log what it holds of a ledger, before anything is appended or said not to be there.

A database restored from an older backup would go on from an older head and fork the chain, and
deny receipts that were anchored. The log remembers more than the database then: an append is
refused with nothing written (design §5, "Anchor"), and so is whatever would say that a receipt does
not exist: a lookup that finds nothing, the end of a list, a check up to the head. What is found is
answered in any case.

Until the log has answered once for a ledger, the same is refused as UNAVAILABLE; after that the log
may be away for as long as it likes. It is asked again when the database may have become another one
under us (`provledger.db.continuity`): that is looked at once more under the lock of the head, along
with the last receipt that this process knows of, whoever recorded it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

from ledger_svc.census import HELD, LEDGER_BEHIND_ANCHOR, Census
from ledger_svc.chain import (
    EMPTY_HEAD,
    LEDGER_ROLLED_BACK,
    Head,
    LedgerInfo,
    check_not_rolled_back,
)
from ledger_svc.key_registry import Registry
from ledger_svc.lag import Lag
from ledger_svc.storage import Storage
from ledger_svc.tools import UnconfirmedError
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    StatusError,
    UnavailableError,
)
from provledger.rpc.channel import call
from provledger.rpc.errors import copied

log = logs.get(__name__)

_ASK_AGAIN_S: Final = 0.25
_ASKED_ANEW: Final = 3
"""How often the database may become another one while the log is asked."""
_PATIENCE_S: Final = 0.25
"""How long what was found waits for the log to say that there is no more."""
_AWAY: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"})
_STALE: Final = HELD | {LEDGER_BEHIND_ANCHOR, LEDGER_ROLLED_BACK}
"""Reasons that say something of the database, and not only that nobody answers."""


class StateStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLedgerState: Callable[..., Awaitable[anchor_pb2.GetLedgerStateResponse]]


class Guard:
    """Remembers for which ledgers the log was asked, and what came of it."""

    def __init__(
        self,
        storage: Storage,
        anchor: Any,
        lag: Lag,
        census: Census,
        logged_seq: Callable[[bytes], int],
        registry: Registry,
        *,
        timeout_s: float,
    ) -> None:
        self._lag = lag
        self._census = census
        self._logged_seq = logged_seq
        self._registry = registry
        self._storage = storage
        self._anchor: StateStub = anchor
        self._timeout_s = timeout_s
        # By ledger: the storage's generation in which it was confirmed; the last receipt that was
        # committed here, or that the log had. Read from the writing thread, too.
        self._confirmed: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}
        # By ledger: itself, when, and a copy of what was raised; raised again as another copy.
        self._refusals: dict[bytes, tuple[LedgerInfo, float, StatusError]] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}

    def trust(self, ledger: LedgerInfo) -> None:
        """Take a ledger as confirmed: this process has just made it."""
        self._lag.watch(ledger.log_name)
        self._confirmed[ledger.uid] = self._storage.generation

    async def check_new(self, ledger: LedgerInfo) -> None:
        """Return if a ledger that is not stored yet may be made: its log is not held, and anchored
        in time.

        Raises:
            FailedPreconditionError: KEY_REGISTRY_BEHIND.
            FailedPreconditionError, UnavailableError: as `check`.
        """
        await self._registry.check()
        await self._ask(ledger)
        # Its genesis is a receipt like any other, and acknowledged with it.
        self._lag.check(ledger.log_name, ledger.tenant_name)

    def saw(self, ledger_uid: bytes, seq: int) -> None:
        """Take note that there is a receipt `seq`."""
        if seq > self._seen.get(ledger_uid, -1):
            self._seen[ledger_uid] = seq

    def doubt(self, ledger: LedgerInfo) -> None:
        """Have the log asked again."""
        self._confirmed.pop(ledger.uid, None)

    def seen_seq(self, ledger: LedgerInfo) -> int:
        """The last receipt that is known to have been recorded, at least -1. In any thread.

        Raises:
            UnconfirmedError: the database may have become another one since it was confirmed.
        """
        if not self._is_confirmed(ledger):
            raise UnconfirmedError(f"{ledger.name} is not confirmed any more")
        return self._known_seq(ledger)

    def _known_seq(self, ledger: LedgerInfo) -> int:
        return max(self._seen.get(ledger.uid, -1), self._logged_seq(ledger.uid))

    def _is_confirmed(self, ledger: LedgerInfo) -> bool:
        return self._confirmed.get(ledger.uid) == self._storage.generation

    async def check(self, ledger: LedgerInfo) -> None:
        """Return if the ledger may be appended to: it is confirmed, and anchored in time.

        Raises:
            FailedPreconditionError: KEY_REGISTRY_BEHIND.
            FailedPreconditionError, UnavailableError: as `confirm`; also ANCHOR_OVERDUE, while
                anchoring is later than a fail-closed policy allows.
        """
        await self._registry.check()
        if not self._is_confirmed(ledger):
            await self.confirm(ledger)
        self._lag.check(ledger.log_name, ledger.tenant_name)

    async def confirm(self, ledger: LedgerInfo) -> None:
        """Return if the database holds all that the log holds of the ledger; ask if need be.

        Raises:
            FailedPreconditionError: LEDGER_BEHIND_ANCHOR, with what to do about it; RESTORED_BEHIND
                of the log itself; or LOG_NOT_FOUND.
            DataLossError: LEDGER_ROLLED_BACK, something is missing that was acknowledged here;
                DATABASE_BEHIND, HISTORY_CHANGED or LOG_ROW_LOST, the log's own database went back.
            UnavailableError: ANCHOR_NOT_ASKED, while the anchor has not answered;
                RESTORE_NOT_CONFIRMED or START_NOT_CONFIRMED, while it waits for its sinks.
        """
        if self._is_confirmed(ledger):
            return
        async with self._locks.setdefault(ledger.uid, asyncio.Lock()):
            if self._is_confirmed(ledger):
                return
            _, asked_s, refusal = self._refusals.get(ledger.uid, (ledger, float("-inf"), None))
            if refusal is not None and time.monotonic() - asked_s < _ASK_AGAIN_S:
                raise copied(refusal)
            try:
                await self._ask_until_sure(ledger)
            except StatusError as error:
                # What was found out stays known while nobody answers.
                known = refusal if _is_stale(refusal) and not _is_stale(error) else error
                kept = copied(known or error)
                if refusal is None or refusal.reason != kept.reason:
                    log.warning("ledger.not_confirmed", ledger=ledger.name, reason=kept.reason,
                                message=kept.message)  # fmt: skip
                self._refusals[ledger.uid] = (ledger, time.monotonic(), kept)
                raise copied(kept) from error.__cause__
            self._refusals.pop(ledger.uid, None)
        self._locks.pop(ledger.uid, None)

    async def may_end(self, ledger: LedgerInfo) -> bool:
        """Whether it is known, within a moment, that a list of the ledger ends where it does."""
        return await _soon(self.confirm(ledger))

    async def may_end_ledgers(self) -> bool:
        """Whether it is known, within a moment, that a list of ledgers ends where it does."""
        return await _soon(self.check_absent())

    async def ask_again(self, ledgers: Iterable[LedgerInfo]) -> None:
        """Ask for a moment whether those that are too old still are; it may be over.

        Nobody else may ask for long: who appends does, and otherwise what was said once stands.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                for ledger in ledgers:
                    if self.stale_reason(ledger):
                        with suppress(StatusError):
                            await self.confirm(ledger)

    @asynccontextmanager
    async def expecting(self, ledger: LedgerInfo) -> AsyncIterator[None]:
        """What is read of a ledger that this process knows: if none of it is stored any more, what
        is raised says that, and not what of it is missing.

        Raises:
            FailedPreconditionError, UnavailableError: as `confirm`.
        """
        try:
            yield
        except DataLossError:
            await self.look_for(ledger)
            raise

    async def look_for(self, ledger: LedgerInfo) -> None:
        """Have the log asked if a ledger that this process knows is not stored any more.

        Raises:
            FailedPreconditionError, DataLossError, UnavailableError: as `confirm`.
        """
        if await self._storage.get_ledger(ledger.tenant, ledger.ledger) is None:
            # It was stored together with its genesis.
            self.saw(ledger.uid, 0)
            self.doubt(ledger)
            await self.confirm(ledger)

    def stale_reason(self, ledger: LedgerInfo) -> str:
        """Why what is stored is known to be, or suspected of being, too old; "" if it is not."""
        *_, refusal = self._refusals.get(ledger.uid, (None,))
        return refusal.reason if refusal is not None and _is_stale(refusal) else ""

    def refuses_because(self, ledger: LedgerInfo) -> str:
        """As `stale_reason`, or why nothing at all is appended."""
        return self.stale_reason(ledger) or self._registry.stale_reason

    def check_known(self, ledger: LedgerInfo) -> None:
        """Raise what `confirm` last said of the database, without asking."""
        if self.stale_reason(ledger):
            raise copied(self._refusals[ledger.uid][-1])

    async def check_absent(self) -> None:
        """Return if a ledger that is not stored may be said not to exist; ask if need be.

        Raises:
            FailedPreconditionError: LEDGER_BEHIND_ANCHOR and the like. Some ledger is too old here,
                so that another may be missing; or as `Census.check`. Not of which one: it may be of
                another tenant.
            DataLossError, UnavailableError: as `confirm`, likewise, and as `Census.check`.
        """
        for ledger, _, refusal in list(self._refusals.values()):
            if _is_stale(refusal):
                # It may be over, and nobody else may ask for that one.
                try:
                    await self.confirm(ledger)
                except StatusError as error:
                    raise _of_another(error) from None
        await self._census.check()

    async def _ask_until_sure(self, ledger: LedgerInfo) -> None:
        for _ in range(_ASKED_ANEW):
            generation = self._storage.generation
            await self._ask(ledger)
            self._confirmed[ledger.uid] = generation
            if self._is_confirmed(ledger):
                return
        raise UnavailableError(
            "DATABASE_UNAVAILABLE",
            "connections to the database are lost again and again",
            retry_delay_s=0.5,
        )

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
            if error.code not in _AWAY or error.reason in HELD:
                raise
            raise UnavailableError(
                "ANCHOR_NOT_ASKED",
                f"{ledger.name}: the anchor must be asked once, after a start or when connections "
                "to the database were lost, whether the log holds more than the database does, and "
                "it does not answer. Until then nothing is appended, and nothing is said not to be "
                "there",
                metadata={"ledger": ledger.name},
                retry_delay_s=error.retry_delay_s or 0.5,
            ) from error
        known_seq = self._known_seq(ledger)
        await compare(self._storage, ledger, held)
        self.saw(ledger.uid, held.seq)
        if known_seq >= 0:
            # What was acknowledged here, and did not get to the log.
            head = await _head(self._storage, ledger)
            check_not_rolled_back(ledger, head, EMPTY_HEAD, known_seq)


async def _soon(check: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await check
    except (StatusError, TimeoutError):
        return False
    return True


def _of_another(error: StatusError) -> StatusError:
    """What is told of a ledger to whoever asked for another one."""
    return type(error)(
        error.reason,
        "a ledger that this service has is older than its log, or not known not to be, so that "
        "others may be missing; the log of the service says which (ledger.not_confirmed)",
        retry_delay_s=error.retry_delay_s,
    )


def _is_stale(refusal: StatusError | None) -> bool:
    return refusal is not None and refusal.reason in _STALE


async def _head(storage: Storage, ledger: LedgerInfo) -> Head:
    """The head; the empty one if the ledger, which was stored once, is not there at all.

    Raises:
        DataLossError: HEAD_MISSING, of a ledger that is there.
    """
    try:
        return (await storage.get_head(ledger.uid)).head
    except DataLossError:
        if await storage.get_ledger(ledger.tenant, ledger.ledger) is not None:
            raise
        return EMPTY_HEAD


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
    head_seq = (await _head(storage, ledger)).seq
    what = (
        f"ends at receipt {head_seq}, but the log holds receipts up to {held.seq}: this database "
        "is older than what was published"
        if stored_hash is None
        else f"has another receipt {held.seq} than the log: this database is older than what was "
        "published, or somebody else submitted in its name (docs/trust.md)"
    )
    log.error("ledger.behind_anchor", ledger=ledger.name, head_seq=head_seq, logged_seq=held.seq)
    raise FailedPreconditionError(
        LEDGER_BEHIND_ANCHOR,
        f"{ledger.name} {what}. Nothing is written, and nothing is said not to be there. "
        "Restore a newer backup, or the database itself, and start again",
        metadata={
            "ledger": ledger.name,
            "headSeq": str(head_seq),
            "loggedSeq": str(held.seq),
        },
    )
