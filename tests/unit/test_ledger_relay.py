"""Runs in the log, and the entries that wait in memory for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def response(*runs: tuple[int, int, int]) -> anchor_pb2.SubmitLeavesResponse:
    return anchor_pb2.SubmitLeavesResponse(
        runs=[
            anchor_pb2.LeafRun(start_seq=seq, start_index=index, count=count)
            for seq, index, count in runs
        ]
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
