"""Answers of unary calls that nobody takes: how many bytes of them there may be, and whose.

An answer that is made stays in memory, once as bytes and once in gRPC, until its reader's HTTP/2
window had room for it; for a reader who gives none, until the connection ends. So it is counted
until then, apart from work and from what streams hold (`unread`). Tenants share as in
`overload.may_enter`. Whoever holds too much is refused before work is done for him; a read also
after that, since only then its size is known, unless nothing else is held for its tenant.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from ledger_svc.gate import OVERLOADED, refuse
from ledger_svc.unread import Unread
from provledger import telemetry
from provledger.names import tenant_of
from provledger.rpc.interceptors import Answered, Done
from provledger.rpc.peek import first_string

_SMALL_BYTES: Final = 64 * 1024
"""Answers to appends of no more are not counted; their number is bounded by that of calls."""
_RETRY_S: Final = 0.5

_untaken_bytes = telemetry.gauge(
    "provledger.ledger.untaken_bytes",
    unit="By",
    doc="Bytes of answers of unary calls that were not taken yet.",
)


class Untaken:
    """The account of all unary calls; for one event loop. max_bytes: of all tenants together."""

    def __init__(self, max_bytes: int) -> None:
        self._account = Unread(max_bytes, _untaken_bytes)

    @property
    def size_bytes(self) -> int:
        """Bytes that are held now."""
        return self._account.size_bytes

    def check(self, tenant: str) -> None:
        """Refuse a tenant that takes too little of what it asks for.

        Raises:
            ResourceExhaustedError: OVERLOADED, and when to come back.
        """
        if not self._account.fits(tenant, 0):
            raise _refusal()

    def hold(self, tenant: str, size_bytes: int) -> Callable[[], None]:
        """Count an answer, until what is returned is called.

        Raises:
            ResourceExhaustedError: OVERLOADED, if there is no room beside others of the tenant.
        """
        if self._account.held(tenant) and not self._account.fits(tenant, size_bytes):
            raise _refusal()
        return self._count(tenant, size_bytes)

    def around(
        self, gate: Callable[[bytes], AbstractContextManager[object]]
    ) -> Callable[[bytes], AbstractContextManager[Answered]]:
        """A gate for appends, whose answers are not refused once they are recorded."""

        return lambda data: _Appending(self, gate(data), tenant_of(first_string(data)))

    def _count(self, tenant: str, size_bytes: int) -> Callable[[], None]:
        self._account.add(tenant, size_bytes)
        return lambda: self._account.add(tenant, -size_bytes)


class _Appending:
    """An append in work, whose answer is counted if it is large."""

    __slots__ = ("_place", "_tenant", "_untaken")

    def __init__(
        self, untaken: Untaken, place: AbstractContextManager[object], tenant: str
    ) -> None:
        self._untaken = untaken
        self._place = place
        self._tenant = tenant

    def __enter__(self) -> Answered:
        self._untaken.check(self._tenant)
        self._place.__enter__()
        return self._answered

    def __exit__(self, *raised: Any) -> bool | None:
        return self._place.__exit__(*raised)

    def _answered(self, size_bytes: int) -> Done | None:
        if size_bytes <= _SMALL_BYTES:
            return None
        taken = self._untaken._count(self._tenant, size_bytes)
        return lambda _: taken()


def _refusal() -> Exception:
    return refuse(
        OVERLOADED, "too many answers of the tenant's calls wait to be taken; read them", _RETRY_S
    )
