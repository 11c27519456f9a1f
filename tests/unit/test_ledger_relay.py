"""Runs in the log, and the entries that wait in memory for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.chain import Head, HeadState, LedgerInfo
from ledger_svc.progress import Progress
from ledger_svc.relay import MAX_CHUNK_ITEMS, Relay, RelayLimits, _Memory, _runs
from ledger_svc.storage import LogRun, Unlogged
from ledger_svc.storage.relays import merge_runs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import InternalError, UnavailableError

UID = bytes(16)


def places(runs: list[LogRun]) -> list[tuple[int, int]]:
    return [
        (run.start_seq + step, run.start_index + step) for run in runs for step in range(run.count)
    ]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=20))
def test_merged_runs_say_the_same_in_fewer(steps: list[tuple[int, int]]) -> None:
    runs, seq, index = [], 0, 1
    for count, gap in steps:
        index += gap
        runs.append(LogRun(seq, index, count))
        seq, index = seq + count, index + count
    merged = merge_runs(runs)
    assert places(merged) == places(runs)
    assert len(merged) == 1 + sum(1 for _, gap in steps[1:] if gap)


def response(*runs: tuple[int, int, int], tree_size: int = 30) -> anchor_pb2.SubmitLeavesResponse:
    return anchor_pb2.SubmitLeavesResponse(
        runs=[
            anchor_pb2.LeafRun(start_seq=seq, start_index=index, count=count)
            for seq, index, count in runs
        ],
        tree_size=tree_size,
    )


def test_places_must_be_those_of_what_was_submitted() -> None:
    assert _runs(response((5, 7, 2), (7, 9, 1)), 5, 3, 0) == [LogRun(5, 7, 3)]
    assert _runs(response((5, 7, 2), (7, 20, 1)), 5, 3, 7) == [LogRun(5, 7, 2), LogRun(7, 20, 1)]
    for runs in (
        (),
        ((5, 7, 2),),
        ((5, 7, 4),),
        ((4, 7, 3),),
        ((5, 7, 1), (7, 9, 2)),
        ((5, 7, 3), (8, 10, 0)),
        ((5, 6, 3),),  # before the end of what it gave last
        ((5, 20, 2), (7, 19, 1)),
        ((5, 20, 2), (7, 21, 1)),
    ):
        with pytest.raises(InternalError):
            _runs(response(*runs), 5, 3, 7)
    with pytest.raises(InternalError):
        _runs(response((5, -1, 3)), 5, 3, 0)


def test_places_lie_in_the_signed_tree() -> None:
    assert _runs(response((5, 7, 3), tree_size=10), 5, 3, 0) == [LogRun(5, 7, 3)]
    for runs, tree_size in ((((5, 7, 3),), 9), (((5, 7, 2), (7, 2**40, 1)), 10)):
        with pytest.raises(InternalError, match="places"):
            _runs(response(*runs, tree_size=tree_size), 5, 3, 0)


def test_memory_gives_back_what_comes_next() -> None:
    memory = _Memory(10_000)
    memory.add(UID, 5, [b"5", b"6"])
    memory.add(UID, 7, [b"7"])
    memory.add(UID, 9, [b"9"])
    assert memory.take(UID, 3) == []
    assert memory.take(UID, 6) == [b"6", b"7"]
    assert memory.take(UID, 8) == []
    assert memory.take(UID, 9) == [b"9"]
    assert memory.take(UID, 10) == []
    memory.add(UID, 10, [b"x"] * 2)
    assert memory.take(UID, 12) == []  # logged by somebody else meanwhile
    assert memory._bytes == 0


def test_memory_is_bounded_and_shared() -> None:
    memory = _Memory(10)
    memory.add(UID, 0, [b"12345678"])
    memory.add(b"other", 0, [b"12345678"])
    assert memory.take(b"other", 0) == []
    memory.forget(UID)
    assert memory.take(UID, 0) == []
    memory.add(b"other", 0, [b"12345678"])
    assert memory.take(b"other", 0) == [b"12345678"]


def test_memory_gives_no_more_than_a_chunk() -> None:
    memory = _Memory(1 << 20)
    for start in range(0, 2400, 600):
        memory.add(UID, start, [b"x"] * 600)
    taken, seq = [], 0
    while chunk := memory.take(UID, seq):
        taken.append(len(chunk))
        seq += len(chunk)
    assert sum(taken) == 2400
    assert max(taken) <= MAX_CHUNK_ITEMS


async def test_search_that_takes_long_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at every ledger there is, which is not to be most of what an idle service does."""
    took_s, now_s = [0.001, 0.3, 60.0, 60.0], [0.0]
    pauses: list[float] = []

    class Searched:
        async def find_unlogged(self, owner: str) -> list[Unlogged]:
            now_s[0] += took_s[len(pauses)]
            if len(pauses) == 3:
                raise UnavailableError("DATABASE_UNAVAILABLE", "it is away")
            return []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)
        if len(pauses) == len(took_s):
            raise asyncio.CancelledError

    storage: Any = Searched()
    limits = RelayLimits(poll_s=0.25, lease_s=12.0)
    unused: Any = None
    relay = Relay(storage, unused, unused, limits, clock=lambda: now_s[0])
    monkeypatch.setattr("ledger_svc.relay.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await relay.run()
    assert pauses[1:3] == [pytest.approx(3.0), 4.0]
    # One that failed says nothing of how long the next one takes.
    assert all(0.18 < pause < 0.32 for pause in (pauses[0], pauses[3]))


LEDGER = LedgerInfo(UID, "acme", "main", "blake3", "logs/-", "provledger.test/log", 1)


class Committing:
    """The database of one ledger, whose lease is given back once `let_go` is set.

    taken: what the lease is asked for; it belongs to another replica if `foreign`.
    """

    def __init__(self, *, foreign: bool = False) -> None:
        self.head_seq = self.logged_seq = -1
        self.foreign = foreign
        self.taken = 0
        self.letting_go, self.let_go = asyncio.Event(), asyncio.Event()

    def commit(self, relay: Relay) -> None:
        self.head_seq += 1
        rows: Any = [SimpleNamespace(seq=self.head_seq)]
        linked: Any = SimpleNamespace(
            rows=rows, entries=[b"entry"], head=Head(self.head_seq, b"", 0)
        )
        relay.committed(LEDGER, linked)

    def _state(self) -> HeadState:
        return HeadState(Head(self.head_seq, b"", 0), self.logged_seq, "")

    async def find_unlogged(self, owner: str) -> list[Unlogged]:
        return []

    async def acquire_lease(self, *_: object) -> HeadState | None:
        self.taken += 1
        if not self.foreign:
            return self._state()
        self.letting_go.set()
        await self.let_go.wait()
        return None

    async def release_lease(self, *_: object) -> None:
        self.letting_go.set()
        await self.let_go.wait()

    async def log_runs(self, *_: object) -> list[LogRun]:
        return []

    async def receipt_hash_at(self, *_: object) -> bytes:
        return bytes(32)

    async def get_head(self, *_: object) -> HeadState:
        return self._state()

    async def record_runs(self, uid: bytes, runs: list[LogRun], *_: object) -> bool:
        self.logged_seq = runs[-1].start_seq + runs[-1].count - 1
        return True

    async def entries_for_log(self, *_: object) -> Any:
        return SimpleNamespace(entries=[], state=self._state())


class Places:
    """A log that takes everything."""

    def __init__(self) -> None:
        self.taken = 0

    async def GetLedgerState(self, request: Any, **_: Any) -> Any:
        return anchor_pb2.GetLedgerStateResponse(seq=self.taken - 1, receipt_hash=bytes(32))

    async def SubmitLeaves(self, request: Any, **_: Any) -> Any:
        count = len(request.entries)
        self.taken += count
        return response((request.start_seq, 1 + request.start_seq, count))


@asynccontextmanager
async def relaying(storage: Any, log: Places) -> AsyncIterator[Relay]:
    """A relay whose search finds nothing, and comes once."""
    unused: Any = None
    progress = Progress(storage, unused)
    relay = Relay(storage, log, progress, RelayLimits(poll_s=600.0, lease_s=0.3))
    running = asyncio.ensure_future(relay.run())
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(20):
            yield relay
    finally:
        storage.let_go.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_is_committed_while_the_lease_is_given_back_is_logged() -> None:
    """Not when the search finds it: somebody may wait for it."""
    storage, log = Committing(), Places()
    async with relaying(storage, log) as relay:
        storage.commit(relay)
        await storage.letting_go.wait()
        assert log.taken == 1
        storage.commit(relay)
        storage.letting_go.clear()
        storage.let_go.set()
        await relay.progress.wait_logged(UID, 1)
        # Nothing came while it gave the lease back again: it is at its end.
        await storage.letting_go.wait()
        await until(lambda: not relay._relays)
        assert (log.taken, storage.taken, relay._memory._bytes) == (2, 2, 0)


async def test_a_relay_that_lost_its_ledger_to_a_replica_is_not_begun_again() -> None:
    storage = Committing(foreign=True)
    async with relaying(storage, Places()) as relay:
        storage.commit(relay)
        await storage.letting_go.wait()
        storage.commit(relay)
        storage.let_go.set()
        await until(lambda: not relay._relays)
        assert (storage.taken, relay._memory._bytes) == (1, 0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a condition of any kind
        await asyncio.sleep(0.001)
