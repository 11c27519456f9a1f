"""The gate: what may come in, decided on the raw bytes of a call, before they are parsed.

Everything from here to the answer counts as in work, in bytes and in units (`overload`). Unary
calls that do not fit are refused at once, as RESOURCE_EXHAUSTED with the delay after which what
is ahead of them will be done. Streams are not refused drafts for want of room: they are read no
further until there is some, which their senders feel as flow control. So it is with the quota, as
long as the wait is short: behind a long one, a sender would take the stream for broken.

Small calls are bounded by their number as well, and have what is let in by time for themselves, so
that a flood of them keeps out no batch. With grpc.aio they are bounded by their number alone: it
takes as much of the processor to refuse one as to answer it, and would save no time for anybody.

The tenant is read from the first field of the request, which is a hint: fields may come in any
order, and twice. It decides whose share is used; whose quota is used is decided once more when the
ledger is known (`Gate.admit`), where that is another tenant's. Whether there is such a tenant, and
its ledger, is looked at later. Only tenants with work here, or with less than their full quota
left, are remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final

from ledger_svc import overload
from ledger_svc.fairness import FairQueue
from ledger_svc.overload import Drain, Limiter
from ledger_svc.quotas import Quotas
from ledger_svc.tools import Flushed
from provledger import telemetry
from provledger.errors import ResourceExhaustedError
from provledger.names import tenant_of
from provledger.rpc.peek import first_string

OVERLOADED: Final = "OVERLOADED"
QUOTA_EXCEEDED: Final = "QUOTA_EXCEEDED"
TOO_MANY_STREAMS: Final = "TOO_MANY_STREAMS"

_FREE_CALLS: Final = 2
"""A tenant may always have so many calls in work: one is recorded while the next is read."""
MAX_SILENT_STREAMS: Final = 512
"""Streams on which nothing has come yet: of a listener's calls, two connections' worth. Three
quarters of them are one caller's, if it is alone."""
_ANY_NUMBER: Final = 1_000_000
_NO_ROOM_FOR_STREAM_S: Final = 1.0
MAX_QUOTA_WAIT_S: Final = 5.0
"""How long drafts of a stream wait for their tenant's quota; the stream ends before those that had
to wait longer."""

_hinted: ContextVar[tuple[str, bool]] = ContextVar("hinted_tenant", default=("", True))
"""The tenant whose quota was looked at when the call that is being served came in, and whether its
shared quota held then."""

_refusals = telemetry.counter(
    "provledger.ledger.refusals", unit="{call}", doc="Calls kept out by the gate, by reason."
)
_in_work_units = telemetry.level(
    "provledger.ledger.in_work", unit="{unit}", doc="Work let in and not answered yet."
)
_in_work_bytes = telemetry.level(
    "provledger.ledger.in_work_bytes", unit="By", doc="Bytes of drafts let in, not answered yet."
)
_limit_units = telemetry.level(
    "provledger.ledger.work_limit", unit="{unit}", doc="Work that is let in at present."
)


class _Held:
    """What one tenant has in work."""

    __slots__ = ("calls", "size_bytes", "small_calls", "small_units", "streams", "units")

    def __init__(self) -> None:
        self.calls = 0
        self.small_calls = 0
        self.small_units = 0
        self.units = 0
        """Without those of small calls."""
        self.size_bytes = 0
        self.streams = 0


class Gate:
    """Lets work in; for one event loop.

    max_bytes: of drafts in work, all tenants together. target_s: how long drafts may wait for
    their flush, see `Limiter`. small_calls: most small unary calls in work, all tenants together.
    small_by_time: whether they are also kept out for the time that they would wait.
    tenant_streams: most streams of one tenant. quotas, shared_quotas: drafts a second by tenant
    (`Quotas`).
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        target_s: float,
        small_calls: int,
        small_by_time: bool,
        tenant_streams: int,
        quotas: Mapping[str, float] | None = None,
        shared_quotas: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_small_calls = small_calls
        self._small_by_time = small_by_time
        self._tenant_streams = tenant_streams
        self._quotas = Quotas(quotas or {}, shared_quotas or {}, clock)
        self._clock = clock
        self._limiter = Limiter(target_s)
        self._drain = Drain()
        self._held: dict[str, _Held] = {}
        self._units = 0
        self._small_calls = 0
        self._small_units = 0
        self._bytes = 0
        self._silent_streams = 0
        self._silent_of: Counter[str] = Counter()
        self._waiting: FairQueue[tuple[int, asyncio.Future[None]]] = FairQueue()
        _in_work_units.watch(self, lambda gate: gate._units)
        _in_work_bytes.watch(self, lambda gate: gate._bytes)
        _limit_units.watch(self, lambda gate: gate._limiter.limit)

    @property
    def in_work_bytes(self) -> int:
        """Bytes let in and not answered yet."""
        return self._bytes

    @property
    def in_work_units(self) -> int:
        """Units let in and not answered yet."""
        return self._units

    @property
    def tenants(self) -> int:
        """How many tenants are remembered."""
        return len(self._held.keys() | self._quotas.tenants)

    # --- unary calls

    def call(self, data: bytes) -> AbstractContextManager[None]:
        """Hold a place for a call, given its raw request.

        Entering it raises ResourceExhaustedError: OVERLOADED or QUOTA_EXCEEDED, and when to come
        back.
        """
        return _Place(self, data)

    def _overloaded(self, tenant: str, units: int, small: bool) -> ResourceExhaustedError:
        if not small and self._units_full(tenant):
            self._limiter.refused()
        self._drain.turned_away(units, self._clock())
        return refuse(
            OVERLOADED,
            "more is being worked on than can be answered in time; try again later",
            self._drain.retry_delay_s(self._units),
        )

    # --- streams

    @contextmanager
    def silent_stream(self, principal: str) -> Iterator[None]:
        """Hold a place for a stream whose tenant is not known yet, since nothing has come on it.

        Places are shared by callers, who are known before anything comes.

        Raises:
            ResourceExhaustedError: TOO_MANY_STREAMS.
        """
        held = self._silent_of[principal]
        if not overload.may_enter(held, self._silent_streams, MAX_SILENT_STREAMS):
            raise refuse(
                TOO_MANY_STREAMS,
                "too many streams are open on which nothing was sent; try again later",
                _NO_ROOM_FOR_STREAM_S,
            )
        self._count_silent(principal, 1)
        try:
            yield
        finally:
            self._count_silent(principal, -1)

    def _count_silent(self, principal: str, streams: int) -> None:
        self._silent_streams += streams
        self._silent_of[principal] += streams
        if not self._silent_of[principal]:
            del self._silent_of[principal]

    @contextmanager
    def stream(self, tenant: str) -> Iterator[None]:
        """Hold a place for a stream.

        Raises:
            ResourceExhaustedError: TOO_MANY_STREAMS.
        """
        held = self._hold(tenant)
        if held.streams >= self._tenant_streams:
            raise refuse(
                TOO_MANY_STREAMS,
                f"the tenant has {self._tenant_streams} streams open already",
                _NO_ROOM_FOR_STREAM_S,
            )
        held.streams += 1
        try:
            yield
        finally:
            held.streams -= 1
            self._forget(tenant, held)

    async def enter(self, tenant: str, drafts: int, size_bytes: int) -> None:
        """Wait for a place for drafts of a stream; it is held until `leave`. Whoever gives up
        meanwhile has used up his quota all the same.

        Raises:
            ResourceExhaustedError: QUOTA_EXCEEDED, and when to come back; no place is held.
        """
        await self._wait_for_quota(tenant, drafts)
        if tenant not in self._waiting.tenants and self._fits(tenant, size_bytes):
            self._enter(tenant, overload.units_of(size_bytes), size_bytes)
        else:
            if self._units_full(tenant):
                self._limiter.refused()
            turn = asyncio.get_running_loop().create_future()
            self._waiting.push(tenant, (size_bytes, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self.leave(tenant, size_bytes)
                raise

    def portion(self, tenant: str) -> int:
        """How many drafts of one of a tenant's streams may enter together: of what its quota has
        at once, an equal part."""
        most = self._quotas.at_once(tenant)
        held = self._held.get(tenant)
        streams = held.streams if held is not None else 1
        return _ANY_NUMBER if most is None else max(1, int(most / max(1, streams)))

    def bounds(self, tenant: str) -> bool:
        """Whether a tenant is kept to its shared quota now, and sends more."""
        return self._quotas.bounds(tenant)

    def leave(self, tenant: str, size_bytes: int) -> None:
        """Give up the place of a draft."""
        self._leave(tenant, overload.units_of(size_bytes), size_bytes)

    def check_quota(self, data: bytes) -> str:
        """Ask the quota of the tenant that a raw request shows, and return that tenant.

        Raises:
            ResourceExhaustedError: QUOTA_EXCEEDED.
        """
        tenant = tenant_of(first_string(data))
        self._check_quota(tenant)
        _hinted.set((tenant, self._quotas.holds(tenant)))
        return tenant

    def admit(self, tenant: str, drafts: int, *, appends: bool = True) -> None:
        """Charge the drafts of a call, or another that costs as much, to the tenant of its ledger,
        once that is known.

        Raises:
            ResourceExhaustedError: QUOTA_EXCEEDED, of a tenant that the raw request did not show.
        """
        hinted, held = _hinted.get()
        if tenant != hinted:
            self._check_quota(tenant)
            held = self._quotas.holds(tenant)
        self._quotas.charge(tenant, drafts, held=held, appends=appends)

    # --- what is told to the gate

    def flushed(self, flush: Flushed) -> None:
        """Take note of a flush."""
        self._limiter.flushed(
            waited_s=flush.waited_s,
            units=flush.drafts + flush.size_bytes / overload.UNIT_BYTES,
            took_s=flush.took_s,
            alone=flush.alone,
            now_s=self._clock(),
        )

    # --- inside

    def _fits(self, tenant: str, size_bytes: int, small: bool = False) -> bool:
        """Whether a tenant may have more in work.

        One that has next to nothing here is kept out by the memory alone, and an idle service
        takes anything: nothing is too large for ever.
        """
        if not self._units:
            return True
        if self._bytes + size_bytes > self._max_bytes:
            return False
        held = self._held.get(tenant)
        if held is None or held.calls < _FREE_CALLS:
            return True
        if small and not overload.may_enter(
            held.small_calls, self._small_calls, self._max_small_calls
        ):
            return False
        full = self._units_full(tenant, small)
        return not full and overload.may_enter(held.size_bytes, self._bytes, self._max_bytes)

    def _units_full(self, tenant: str, small: bool = False) -> bool:
        held = self._held.get(tenant)
        if held is None or held.calls < _FREE_CALLS or (small and not self._small_by_time):
            return False
        if small:
            limit = self._limiter.small_limit
            return not overload.may_enter(held.small_units, self._small_units, limit)
        used = self._units - self._small_units
        return not overload.may_enter(held.units, used, self._limiter.limit)

    def _enter(self, tenant: str, units: int, size_bytes: int, small: bool = False) -> None:
        self._hold(tenant)
        self._count(tenant, 1, units, size_bytes, small)

    def _count(self, tenant: str, calls: int, units: int, size_bytes: int, small: bool) -> None:
        held = self._held[tenant]
        held.calls += calls
        held.size_bytes += size_bytes
        if small:
            held.small_calls += calls
            held.small_units += units
            self._small_calls += calls
            self._small_units += units
        else:
            held.units += units
        self._units += units
        self._bytes += size_bytes

    def _leave(self, tenant: str, units: int, size_bytes: int, small: bool = False) -> None:
        self._count(tenant, -1, -units, -size_bytes, small)
        held = self._held[tenant]
        self._forget(tenant, held)
        self._drain.done(units, self._units, self._clock())
        if not self._units:
            self._limiter.drained()
        self._wake()

    def _wake(self) -> None:
        """Let drafts of streams in as far as there is room again: they enter here and now."""
        while (room := self._waiting.pop(self._may_wake)) is not None:
            tenant, (size_bytes, turn) = room
            if not turn.done():
                units = overload.units_of(size_bytes)
                self._waiting.charge(tenant, units)
                self._enter(tenant, units, size_bytes)
                turn.set_result(None)

    def _may_wake(self, tenant: str, waiting: tuple[int, asyncio.Future[None]]) -> bool:
        return waiting[1].done() or self._fits(tenant, waiting[0])

    def _hold(self, tenant: str) -> _Held:
        held = self._held.get(tenant)
        if held is None:
            held = self._held[tenant] = _Held()
        return held

    def _forget(self, tenant: str, held: _Held) -> None:
        if not held.calls and not held.streams:
            self._held.pop(tenant, None)

    def _check_quota(self, tenant: str) -> None:
        wait_s = self._quotas.wait_s(tenant)
        if wait_s > 0.0:
            raise _quota_used_up(wait_s)

    async def _wait_for_quota(self, tenant: str, drafts: int) -> None:
        wait_s, held = self._quotas.wait_s(tenant), self._quotas.holds(tenant)
        if wait_s > MAX_QUOTA_WAIT_S:
            raise _quota_used_up(wait_s)
        # Before the wait: whoever comes meanwhile waits for these as well, and not with them.
        self._quotas.charge(tenant, drafts, held=held)
        if wait_s > 0.0:
            await asyncio.sleep(wait_s)


class _Place:
    """A unary call in work. A class, as generators take thrice as long to be refused."""

    __slots__ = ("_data", "_gate", "_size_bytes", "_small", "_tenant", "_units")

    def __init__(self, gate: Gate, data: bytes) -> None:
        self._gate = gate
        self._data = data

    def __enter__(self) -> None:
        gate, data, self._data = self._gate, self._data, b""
        self._tenant = tenant = gate.check_quota(data)
        self._size_bytes = size_bytes = len(data)
        self._units = units = overload.units_of(size_bytes)
        self._small = small = size_bytes <= overload.SMALL_CALL_BYTES
        if not gate._fits(tenant, size_bytes, small):
            raise gate._overloaded(tenant, units, small)
        gate._enter(tenant, units, size_bytes, small)

    def __exit__(self, *raised: object) -> None:
        self._gate._leave(self._tenant, self._units, self._size_bytes, self._small)


def refuse(reason: str, message: str, retry_delay_s: float) -> ResourceExhaustedError:
    """The error that a call is refused with, counted."""
    _refusals.add(1, {"reason": reason})
    return ResourceExhaustedError(reason, message, retry_delay_s=retry_delay_s)


def _quota_used_up(wait_s: float) -> ResourceExhaustedError:
    return refuse(QUOTA_EXCEEDED, "the tenant's quota is used up for now", wait_s)
