"""The gate for reads: how many are in work at a time, and whose.

Reads take turns at the threads that read from the database, so what bounds them is a number: of
calls that were let in and whose answers were not taken yet, those that wait for an anchor among
them. Shares are those of appends (`overload.may_enter`): a tenant may hold three times what is
still free. The bytes of answers are counted besides (`untaken`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger_svc import overload
from ledger_svc.gate import OVERLOADED, refuse
from ledger_svc.untaken import Untaken
from provledger.names import tenant_of
from provledger.rpc.interceptors import Answered, Done
from provledger.rpc.peek import first_string

RPCS: Final = (
    *("GetLedger", "ListLedgers", "GetReceipt", "ListReceipts"),
    *("GetHead", "VerifyRange"),
)
_RETRY_S: Final = 0.25


class ReadingGate:
    """Lets reads in; for one event loop.

    max_calls: of all tenants together. untaken: the account of their answers. refusal: what
    whoever is kept out is told.
    """

    def __init__(
        self,
        max_calls: int,
        untaken: Untaken,
        refusal: str = "too many reads are in work; try again later",
    ) -> None:
        self._max_calls = max_calls
        self._untaken = untaken
        self._refusal = refusal
        self._held: dict[str, int] = {}
        self._total = 0

    @property
    def in_work(self) -> int:
        """Calls let in whose answers were not taken yet."""
        return self._total

    @property
    def tenants(self) -> int:
        """How many tenants are remembered: those with calls in work."""
        return len(self._held)

    @contextmanager
    def call(self, data: bytes) -> Iterator[Answered]:
        """Hold a place for a call, given its raw request.

        Raises:
            ResourceExhaustedError: OVERLOADED, and when to come back.
        """
        tenant = tenant_of(first_string(data))
        held = self._held.get(tenant, 0)
        if not overload.may_enter(held, self._total, self._max_calls):
            raise refuse(OVERLOADED, self._refusal, _RETRY_S)
        self._untaken.check(tenant)
        self._held[tenant] = held + 1
        self._total += 1
        is_answered = False

        def answered(size_bytes: int) -> Done:
            nonlocal is_answered
            taken = self._untaken.hold(tenant, size_bytes)
            is_answered = True

            def done(_: object) -> None:
                taken()
                self._leave(tenant)

            return done

        try:
            yield answered
        finally:
            if not is_answered:
                self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        self._total -= 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
