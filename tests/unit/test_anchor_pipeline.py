"""Flushes that overlap, in virtual time: how long a leaf takes, and in which order things happen.

The batcher and the pipeline are the real ones. The database is a simulator of what they need of it:
writes that take their time, on a few connections at once, in effect one after the other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchor_svc.checkpointing import Planned
from anchor_svc.pipeline import MAX_FLIGHTS, Flight, Pipeline
from anchor_svc.storage import NONE_SIGNED, Flush, Signed
from anchor_svc.tree import EMPTY, Growth
from provledger import telemetry
from provledger.batching import GroupCommit
from provledger.errors import UnavailableError
from tests.support import virtual_time

BUDGET_S = 0.008
SETTLING_S = 2.0
DELAY_S = 0.010


@dataclass
class SimulatedStorage:
    """Writes that take `delay_s(rng)` on their way, and `server_s` one after the other.

    A write takes effect in the middle of its way, as one over a network does. `fails` says before
    which write (1: the first) the database goes away, and whether that one took effect.
    """

    lanes: int
    delay_s: Callable[[random.Random], float]
    server_s: float = 0.0
    fails: tuple[int, bool] | None = None
    size: int = 1
    roots: dict[int, bytes] = field(default_factory=dict)
    notes: dict[int, bytes] = field(default_factory=dict)
    writes: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(5)
        self._lock = asyncio.Lock()
        self._lanes = asyncio.Semaphore(self.lanes)
        self._at_once = 0

    async def commit(
        self, log_uid: bytes, epoch: int, flush: Flush, signed: Signed = NONE_SIGNED
    ) -> Mapping[int, bytes]:
        def effect() -> Mapping[int, bytes]:
            for each in (*flush.earlier, flush):
                if self.roots.get(each.size) != each.root:
                    assert self.size == each.old_size
                    self.size = each.size
                    self.roots[each.size] = each.root
            return self._store(signed)

        return await self._write(effect)

    async def store_notes(self, log_uid: bytes, epoch: int, signed: Signed) -> Mapping[int, bytes]:
        return await self._write(lambda: self._store(signed))

    def _store(self, signed: Signed) -> Mapping[int, bytes]:
        for size, note in signed.notes.items():
            # The head of a signature that leaves the process is stored.
            assert self.roots[size] == note
            assert size not in self.notes
            self.notes[size] = note
        return signed.notes

    async def _write(self, effect: Callable[[], Mapping[int, bytes]]) -> Mapping[int, bytes]:
        async with self._lanes:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                self.writes += 1
                number, delay_s = self.writes, self.delay_s(self._rng)
                await asyncio.sleep(delay_s / 2)
                failed = self.fails is not None and number >= self.fails[0]
                if failed and not (number == self.fails[0] and self.fails[1]):  # type: ignore[index]
                    raise UnavailableError("DATABASE_UNAVAILABLE", "gone")
                async with self._lock:
                    stored = effect()
                    await asyncio.sleep(self.server_s)
                await asyncio.sleep(delay_s / 2)
                if failed:
                    raise UnavailableError("COMMIT_OUTCOME_UNKNOWN", "gone")
                return stored
            finally:
                self._at_once -= 1


@dataclass
class Seen:
    """What came out of a run; latencies and fills without the first seconds."""

    storage: SimulatedStorage
    latencies_s: list[float] = field(default_factory=list)
    fills: list[float] = field(default_factory=list)
    flushes: int = 0
    released: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    most_flights: int = 0

    def latency_ms(self, part: float) -> float:
        """The latency that this part of all leaves did not exceed."""
        return 1000 * sorted(self.latencies_s)[int(part * len(self.latencies_s))]


class Anchor:
    """Batcher, pipeline and the little of a committer that makes flushes of items."""

    def __init__(self, seen: Seen, sign: Callable[[], Awaitable[None]]) -> None:
        clock = asyncio.get_running_loop().time
        self._seen = seen
        self._sign_s = sign
        self._size = 1
        self.pipeline = Pipeline(
            b"uid",
            seen.storage,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            self._sign,
            released=self._released,
            epoch=lambda: 1,
            budget_s=BUDGET_S,
            monotonic=clock,
        )
        self.batcher: GroupCommit[float, int] = GroupCommit(
            self._flush,
            turns=self.pipeline,
            patience=self.pipeline.patience,
            max_in_flight=MAX_FLIGHTS,
            max_unanswered=MAX_FLIGHTS,
            budget_s=BUDGET_S,
            clock=clock,
        )

    async def _sign(self, size: int, root: bytes, span: telemetry.Span | None) -> bytes:
        await self._sign_s()
        return root

    async def _flush(self, items: list[float]) -> Awaitable[Sequence[int | Exception]]:
        seen, stats = self._seen, self.batcher.stats()
        if asyncio.get_running_loop().time() > SETTLING_S:
            seen.fills.append(min(1.0, len(items) / stats.last_target))
        seen.flushes += 1
        old, self._size = self._size, self._size + len(items)
        root = bytes([self._size % 256]) * 32
        flush = Flush(old, self._size, root, (), (), (), 0)
        flight = self.pipeline.launch(Planned(flush, EMPTY, Growth((), ())), None)
        await flight.committed

        async def answer() -> list[int | Exception]:
            return [await flight.released] * len(items)

        return answer()

    def _released(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            assert flight.stored_note == self._seen.storage.notes[flight.size]
        self._seen.released += [flight.size for flight in flights]


def load(
    rate: float,
    *,
    sign_s: Callable[[random.Random], float] = lambda _: DELAY_S,
    key: Callable[[], Callable[[], Awaitable[None]]] | None = None,
    seconds: float = SETTLING_S + 3.0,
    **options: Any,
) -> Seen:
    """Leaves at random at a steady rate. `key` makes what signs, instead of one of `sign_s`."""

    async def main() -> Seen:
        clock = asyncio.get_running_loop().time
        rng = random.Random(11)
        seen = Seen(SimulatedStorage(**options))

        async def sign() -> None:
            await asyncio.sleep(sign_s(rng))

        anchor = Anchor(seen, sign if key is None else key())
        tasks = set()

        async def one() -> None:
            start_s = clock()
            try:
                seen.answered.append(await anchor.batcher.submit(start_s))
            except Exception as error:
                seen.errors.append(error)
            if start_s > SETTLING_S:
                seen.latencies_s.append(clock() - start_s)

        arrivals = random.Random(7)
        while clock() < seconds:
            await asyncio.sleep(arrivals.expovariate(rate))
            seen.most_flights = max(seen.most_flights, len(anchor.pipeline._flights))
            task = asyncio.ensure_future(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await anchor.batcher.close()
        await anchor.pipeline.idle()
        return seen

    return virtual_time.run(main)


def steady(_: random.Random) -> float:
    return DELAY_S


def jittery(rng: random.Random) -> float:
    return rng.uniform(0.8, 1.6) * DELAY_S


@pytest.mark.parametrize("rate", [200, 500, 1000, 2000, 5000])
def test_ten_milliseconds_to_database_and_key_cost_two_of_them_and_a_wait(rate: int) -> None:
    seen = load(rate, lanes=6, delay_s=steady, server_s=0.0007)
    # What is left to 30 ms is for a real machine: threads, and statements that run.
    assert seen.latency_ms(0.95) < 27.5
    assert seen.latency_ms(0.5) < 25
    assert sum(seen.fills) / len(seen.fills) >= 0.85
    # No more writes than the two that a flush took when nothing overlapped.
    assert seen.storage.writes <= 2 * seen.flushes
    assert seen.released == sorted(seen.released)


def test_one_commit_of_ten_milliseconds_at_a_time_takes_notes_along() -> None:
    """A disk that is as slow, with one writer: a leaf waits for the commit that runs, for its own,
    and for the next, which stores its checkpoint. It cannot be less."""
    seen = load(1000, lanes=1, delay_s=lambda _: 0.0, server_s=DELAY_S)
    assert seen.latency_ms(0.5) < 26
    assert seen.latency_ms(0.95) < 30.5
    assert seen.storage.writes <= 1.02 * seen.flushes


def test_flushes_do_not_overlap_where_nothing_has_to_be_waited_for() -> None:
    """A local database: what is left to overlap is work, which is better merged."""
    seen = load(2000, lanes=6, delay_s=lambda _: 0.0, server_s=0.001, sign_s=lambda _: 0.0002)
    assert seen.storage.most_at_once <= 2
    assert seen.latency_ms(0.95) < 9
    assert sum(seen.fills) / len(seen.fills) >= 0.85


def test_slow_key_bounds_what_is_under_way() -> None:
    seen = load(1000, lanes=6, delay_s=lambda _: 0.001, sign_s=lambda _: 0.4)
    assert seen.most_flights <= MAX_FLIGHTS
    assert seen.errors == []
    assert seen.latency_ms(0.95) < 900


class BoundKey:
    """A key that signs so many a second, and refuses whoever would wait longer than 1.5 s."""

    def __init__(self, rate_per_s: float) -> None:
        self._each_s = 1 / rate_per_s
        self._free_s = 0.0

    async def __call__(self) -> None:
        now_s = asyncio.get_running_loop().time()
        at_s = max(now_s, self._free_s)
        if at_s - now_s > 1.5:
            raise UnavailableError("SIGNING_UNAVAILABLE", "too many wait for it already")
        self._free_s = at_s + self._each_s
        await asyncio.sleep(self._free_s - now_s)


@pytest.mark.parametrize("rate_per_s", [3, 5, 20, 100])
def test_a_key_that_is_bound_to_a_rate_gets_fewer_heads_and_refuses_none(rate_per_s: float) -> None:
    seen = load(500, lanes=6, delay_s=lambda _: 0.001, key=lambda: BoundKey(rate_per_s))
    assert seen.errors == []
    assert seen.released == sorted(seen.released)
    # It has something to sign all the time, or nearly.
    assert len(seen.released) >= 0.7 * rate_per_s * (SETTLING_S + 3.0)


def test_who_waits_for_a_key_that_fails_hears_of_it() -> None:
    async def fail() -> None:
        await asyncio.sleep(0.3)
        raise UnavailableError("SIGNING_UNAVAILABLE", "away")

    seen = load(500, lanes=6, delay_s=lambda _: 0.001, key=lambda: fail, seconds=0.6)
    assert len(seen.errors) > 200
    assert seen.answered == []


@pytest.mark.parametrize("rate", [300, 1000])
def test_heads_are_released_in_order_whatever_overtakes(rate: int) -> None:
    seen = load(rate, lanes=6, delay_s=jittery, server_s=0.0005, sign_s=jittery, seconds=4.0)
    assert seen.errors == []
    assert seen.latency_ms(0.95) < 42  # with 12 ms on the average, and 16 at most
    assert seen.released == sorted(seen.released)
    assert len(seen.released) > 50
    assert set(seen.answered) <= set(seen.storage.notes)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.booleans(), st.sampled_from([1, 3, 6]), st.sampled_from([200, 1500]))
def test_what_fails_takes_everything_behind_it_along(
    at: int, took_effect: bool, lanes: int, rate: int
) -> None:
    """And nothing that was answered is lost: its head is stored, with a note, in one tree."""
    seen = load(
        rate, lanes=lanes, delay_s=jittery, sign_s=jittery, fails=(at, took_effect), seconds=0.4
    )
    assert seen.errors or at > seen.storage.writes
    assert all(isinstance(error, UnavailableError) for error in seen.errors)
    assert set(seen.answered) <= set(seen.storage.notes)
    assert set(seen.released) <= set(seen.storage.notes) <= set(seen.storage.roots)
    assert seen.released == sorted(seen.released)
