"""Counts the ledgers, before one that is not stored is said not to exist.

A database that is older than the log may lack whole ledgers, whose names nobody can ask the log
for. But the log knows how many it has (docs/adr/0037). One that may have been put back as well
(`HELD`), or knows that its own database was, does not say so.

Nor does one that nobody has told of it yet: at a plain start, an anchor waits for its sinks for
seconds only, and hears later what they hold. So it is asked again once in a while. An anchor that
is away then changes nothing of what it has said before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from ledger_svc.storage import Storage
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import FailedPreconditionError, StatusError, UnavailableError
from provledger.rpc.channel import call
from provledger.rpc.errors import copied

log = logs.get(__name__)

ANCHOR_NOT_ASKED: Final = "ANCHOR_NOT_ASKED"
LEDGER_BEHIND_ANCHOR: Final = "LEDGER_BEHIND_ANCHOR"
HELD: Final = frozenset(
    {
        "RESTORED_BEHIND",
        "RESTORE_NOT_CONFIRMED",
        "START_NOT_CONFIRMED",
        "DATABASE_BEHIND",
        "HISTORY_CHANGED",
        "LOG_ROW_LOST",
    }
)
"""Why a log does not say what it has: its sinks hold more, or have yet to say that they do not; or
its database is not the one any more that it has signed from, and ours may be as old."""
_ASK_AGAIN_S: Final = 0.25
RECOUNT_S: Final = 30.0
"""How long it is good for that no ledger was missing, while the anchor can be asked."""
_RECOUNT_TIMEOUT_S: Final = 1.0
_SHARED_LOG: Final = "logs/-"


class LogStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLog: Callable[..., Awaitable[anchor_pb2.GetLogResponse]]


class Census:
    """Remembers whether the database has all ledgers that the logs have.

    anchor_is_shared: other ledger services use the same anchor, so that its number says nothing.
    """

    def __init__(
        self,
        storage: Storage,
        anchor: Any,
        *,
        timeout_s: float,
        anchor_is_shared: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._anchor: LogStub = anchor
        self._timeout_s = min(timeout_s, 5.0)
        self._anchor_is_shared = anchor_is_shared
        # The storage's generation in which no ledger was missing.
        self._all_known: int | None = None
        self._clock = clock
        self._recount_at_s = 0.0
        self._missing: tuple[float, StatusError] | None = None
        # The count under way, of which generation, for all who want one.
        self._counting: tuple[int, asyncio.Task[StatusError | None]] | None = None

    async def check(self) -> None:
        """Return if no ledger is missing; ask if need be.

        Raises:
            FailedPreconditionError: LEDGER_BEHIND_ANCHOR, the logs have more ledgers;
                RESTORED_BEHIND of a log itself.
            DataLossError: DATABASE_BEHIND and the like, of a log.
            UnavailableError: ANCHOR_NOT_ASKED, while the anchor does not say how many it has;
                RESTORE_NOT_CONFIRMED or START_NOT_CONFIRMED, while a log waits for its sinks.
        """
        if self._anchor_is_shared:
            return
        now_s, generation = self._clock(), self._storage.generation
        known = self._all_known == generation
        if known and now_s < self._recount_at_s:
            return
        if self._missing is not None and now_s - self._missing[0] < _ASK_AGAIN_S:
            raise copied(self._missing[1])
        if self._counting is None or self._counting[0] != generation:
            work = self._recount(generation, now_s, known=known)
            self._counting = (generation, asyncio.create_task(work))
        # Whoever gives up waiting leaves the count to the others. Cut short, one that takes longer
        # than lists wait would never be made, or count as made.
        error = await asyncio.shield(self._counting[1])
        if error is not None:
            raise copied(error)

    async def _recount(self, generation: int, began_s: float, *, known: bool) -> StatusError | None:
        """Count, and remember what came of it; what `check` raises, if anything."""
        try:
            await self._count(
                min(self._timeout_s, _RECOUNT_TIMEOUT_S) if known else self._timeout_s
            )
        except StatusError as error:
            if known and error.reason == ANCHOR_NOT_ASKED:
                return None
            self._all_known = None
            self._missing = (self._clock(), copied(error))
            return error
        else:
            self._all_known, self._missing = generation, None
            return None
        finally:
            self._recount_at_s = began_s + RECOUNT_S
            if self._counting is not None and self._counting[0] == generation:
                self._counting = None

    async def _count(self, timeout_s: float) -> None:
        request = anchor_pb2.GetLogRequest(name=_SHARED_LOG, count_ledgers=True)
        try:
            answer = await call(self._anchor.GetLog, request, timeout_s=timeout_s)
        except StatusError as error:
            if error.reason in HELD:
                raise
            raise UnavailableError(
                ANCHOR_NOT_ASKED,
                "the anchor must be asked once whether its logs have ledgers that the database "
                "does not have, and it does not answer. Until then none is said not to exist",
                retry_delay_s=error.retry_delay_s or 0.5,
            ) from error
        held = answer.ledger_count
        stored, logged = await self._storage.count_ledgers()
        if held <= logged:
            return
        if held <= stored:
            # Stored, then logged, then known to be: a relay that ended in between left this behind.
            raise UnavailableError(
                ANCHOR_NOT_ASKED,
                f"the logs hold {held} ledgers, of which the database knows {logged} to be there: "
                "the relay has to catch up before one is said not to exist",
                retry_delay_s=0.5,
            )
        log.error("ledger.ledgers_missing", logged=held, stored=stored)
        raise FailedPreconditionError(
            LEDGER_BEHIND_ANCHOR,
            f"the logs hold {held} ledgers, but this database has only {stored}: it is "
            "older than what was published, and one that it does not have may exist. Restore a "
            "newer backup, or the database itself, and start again; if other ledger services "
            "use the same anchor service, say so (anchor_is_shared)",
            metadata={"logged": str(held), "stored": str(stored)},
        )
