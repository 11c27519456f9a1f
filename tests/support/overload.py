"""The ledger's gate and turns around a pretended service, in pretended time.

What is real: `Gate` and `Turns`. What is not: a flush takes `fixed_s` of waiting (a signature, a
disk) and, for each draft, `per_call_s` of the one processor, and the clock jumps from event to
event. Calls that run at once share the processor in short slices, as in an event loop that is
never blocked for long. Nothing depends on the machine.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ledger_svc.gate import Gate
from ledger_svc.tools import Flushed
from ledger_svc.turns import Turns
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import ResourceExhaustedError

_IN_FLIGHT = 2
_ONE_MORE_FROM = 256
_FLUSH_ITEMS = 1000
_SLICE_S = 0.0005


def request_of(tenant: str, size_bytes: int = 1200) -> bytes:
    """A raw request of about so many bytes that names a tenant's ledger."""
    request = ledger_pb2.AppendRequest(ledger=f"tenants/{tenant}/ledgers/main")
    request.draft.mutation.new_state = bytes(size_bytes)
    return request.SerializeToString()


_Ledger = tuple[str, int]
"""A tenant and the number of one of its ledgers."""


@dataclass(slots=True)
class Seen:
    """What happened to the calls of one tenant."""

    answered_s: list[tuple[float, float]] = field(default_factory=list)
    """When each was answered, and how long that took."""
    refusals: list[ResourceExhaustedError] = field(default_factory=list)

    def rate(self, from_s: float, to_s: float) -> float:
        """Answers a second."""
        return sum(from_s <= at_s < to_s for at_s, _ in self.answered_s) / (to_s - from_s)

    def p95_s(self, from_s: float) -> float:
        """95 of 100 were answered within this."""
        took = sorted(took_s for at_s, took_s in self.answered_s if at_s >= from_s)
        return took[int(len(took) * 0.95)]


@dataclass(slots=True)
class _Call:
    place: AbstractContextManager[None]
    came_s: float
    size_bytes: int
    drafts: int
    answered: Callable[[], None]


class Simulation:
    """One run; give it arrivals, then run it."""

    def __init__(
        self, *, per_call_s: float, fixed_s: float = 0.001, fair: bool = True, **options: Any
    ) -> None:
        self.now_s = 0.0
        self.per_call_s = per_call_s
        self.fixed_s = fixed_s
        settings: dict[str, Any] = {
            "max_bytes": 64 * 1024 * 1024,
            "target_s": 0.03,
            "small_calls": 2048,
            "small_by_time": True,
            "tenant_streams": 8,
            **options,
        }
        self.gate = Gate(clock=lambda: self.now_s, **settings)
        self.turns = Turns(clock=lambda: self.now_s)
        self._fair = fair
        self.seen: dict[str, Seen] = {}
        self.most_bytes = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._queues: dict[_Ledger, deque[_Call]] = {}
        self._flushing: dict[_Ledger, int] = {}
        self._asked: set[_Ledger] = set()
        self._jobs: deque[tuple[float, Callable[[], None]]] = deque()

    def at(self, time_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), do))

    def arrivals(
        self,
        tenant: str,
        rate_per_s: float,
        until_s: float,
        *,
        seed: int,
        size_bytes: int = 1200,
        ledgers: int = 1,
    ) -> None:
        """Poisson arrivals of single calls, each to one of the tenant's ledgers."""
        rng = random.Random(seed)
        data = request_of(tenant, size_bytes)
        time_s = rng.expovariate(rate_per_s)
        while time_s < until_s:
            ledger = (tenant, rng.randrange(ledgers))
            self.at(time_s, lambda ledger=ledger: self._arrive(ledger, data))  # type: ignore[misc]
            time_s += rng.expovariate(rate_per_s)

    def crowd(self, tenant: str, flight: int, from_s: float, until_s: float) -> None:
        """So many callers, each of whom sends one single call after the other."""
        data = request_of(tenant)

        def send() -> None:
            if self.now_s < until_s:
                self._arrive((tenant, 0), data, answered=send)

        for _ in range(flight):
            self.at(from_s, send)

    def burst(self, tenant: str, at_s: float, *, calls: int, drafts: int) -> None:
        """Batches that come all at once."""
        data = request_of(tenant, 1200 * drafts)
        for _ in range(calls):
            self.at(at_s, lambda: self._arrive((tenant, 0), data, drafts=drafts))

    def pace(self, at_s: float, per_call_s: float) -> None:
        """From then on, a draft takes so much of the processor."""
        self.at(at_s, lambda: setattr(self, "per_call_s", per_call_s))

    def run(self) -> dict[str, Seen]:
        while self._events:
            self.now_s, _, do = heapq.heappop(self._events)
            do()
        return self.seen

    def _arrive(
        self,
        ledger: _Ledger,
        data: bytes,
        *,
        drafts: int = 1,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        seen = self.seen.setdefault(ledger[0], Seen())
        place = self.gate.call(data)
        try:
            place.__enter__()
        except ResourceExhaustedError as error:
            seen.refusals.append(error)
            return
        self.most_bytes = max(self.most_bytes, self.gate.in_work_bytes)
        self._queues.setdefault(ledger, deque()).append(
            _Call(place, self.now_s, len(data), drafts, answered)
        )
        self._pump(ledger)

    def _pump(self, ledger: _Ledger) -> None:
        more = self._flushing.get(ledger, 0) - _IN_FLIGHT
        waiting = sum(call.drafts for call in self._queues.get(ledger, ()))
        busy = more > 0 or (more == 0 and waiting < _ONE_MORE_FROM)
        if self._queues.get(ledger) and not busy and ledger not in self._asked:
            self._asked.add(ledger)
            self.turns.ask(self._who(ledger), lambda: self._flush(ledger))

    def _who(self, ledger: _Ledger) -> str:
        # Without fairness, every ledger is a tenant to the turns.
        return ledger[0] if self._fair else str(ledger)

    def _flush(self, ledger: _Ledger) -> None:
        self._asked.discard(ledger)
        turn = self.turns.of(self._who(ledger))
        queue = self._queues[ledger]
        most = turn.most_items() or _FLUSH_ITEMS
        calls: list[_Call] = []
        drafts = 0
        while queue and (not calls or drafts + queue[0].drafts <= most):
            calls.append(queue.popleft())
            drafts += calls[-1].drafts
        turn.took(drafts)
        started_s, alone = self.now_s, self.turns.running == 1
        self._flushing[ledger] = self._flushing.get(ledger, 0) + 1

        def worked() -> None:
            self.at(self.now_s + self.fixed_s, done)

        def done() -> None:
            self._done(ledger, calls, started_s, alone)

        self._jobs.append((self.per_call_s * drafts, worked))
        if len(self._jobs) == 1:
            self._work()
        self._pump(ledger)

    def _work(self) -> None:
        """Give the first job a slice of the processor, then put it behind the others."""
        slice_s = min(_SLICE_S, self._jobs[0][0])

        def worked() -> None:
            left_s, then = self._jobs.popleft()
            if left_s > slice_s:
                self._jobs.append((left_s - slice_s, then))
            else:
                then()
            if self._jobs:
                self._work()

        self.at(self.now_s + slice_s, worked)

    def _done(self, ledger: _Ledger, calls: list[_Call], started_s: float, alone: bool) -> None:
        self._flushing[ledger] -= 1
        size_bytes = sum(call.size_bytes for call in calls)
        waited_s = started_s - calls[0].came_s
        took_s = self.now_s - started_s
        drafts = sum(call.drafts for call in calls)
        self.gate.flushed(Flushed(waited_s, drafts, size_bytes, took_s, alone))
        for call in calls:
            call.place.__exit__(None, None, None)
            self.seen[ledger[0]].answered_s.append((self.now_s, self.now_s - call.came_s))
            call.answered()
        self.turns.of(self._who(ledger)).end()
        self._pump(ledger)
