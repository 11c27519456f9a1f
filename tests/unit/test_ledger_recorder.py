"""What the log said is stored a moment later, together, in order, and again after trouble."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ledger_svc import recorder as module
from ledger_svc.recorder import LeaseLostError, Recorder
from ledger_svc.storage import LogRun
from provledger.errors import UnavailableError

UID = bytes(16)


class Heads:
    """The one row of a ledger's head that matters here."""

    def __init__(self) -> None:
        self.logged_seq = -1
        self.writes: list[list[LogRun]] = []
        self.error: Exception | None = None

    async def record_runs(
        self, uid: bytes, runs: list[LogRun], old: int, owner: str, lease_s: float
    ) -> bool:
        if self.error is not None:
            raise self.error
        if old != self.logged_seq:
            return False
        self.writes.append(list(runs))
        self.logged_seq = runs[-1].start_seq + runs[-1].count - 1
        return True


def recorder(heads: Any, failed: Any = lambda: None) -> Recorder:
    return Recorder(heads, UID, "me", 10.0, heads.logged_seq, failed)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


async def test_what_comes_meanwhile_is_stored_together() -> None:
    heads = Heads()
    ours = recorder(heads)
    ours.add([LogRun(0, 1, 2)])
    await asyncio.sleep(0)
    ours.add([LogRun(2, 3, 2)])
    ours.add([LogRun(4, 9, 1)])
    await ours.settle()
    assert heads.writes == [[LogRun(0, 1, 2)], [LogRun(2, 3, 2), LogRun(4, 9, 1)]]
    ours.add([LogRun(5, 10, 1)])
    await ours.settle()
    ours.check()
    assert heads.logged_seq == 5


async def test_trouble_is_told_and_stays() -> None:
    heads, told = Heads(), asyncio.Event()
    ours = recorder(heads, told.set)
    heads.error = UnavailableError("DATABASE_UNAVAILABLE", "away")
    ours.add([LogRun(0, 1, 2)])
    await asyncio.wait_for(told.wait(), 10)
    await asyncio.sleep(0)
    heads.error = None
    # Nothing may be stored behind a gap.
    ours.add([LogRun(2, 3, 1)])
    with pytest.raises(UnavailableError):
        ours.check()
    with pytest.raises(UnavailableError):
        await ours.settle()
    await ours.close()
    assert not heads.writes


async def test_another_replica_that_went_on_is_noticed() -> None:
    heads = Heads()
    ours = recorder(heads)
    heads.logged_seq = 3
    ours.add([LogRun(0, 1, 2)])
    with pytest.raises(LeaseLostError):
        await ours.settle()
    assert heads.logged_seq == 3


async def test_close_gives_up_what_is_left() -> None:
    ours = recorder(Heads())
    await ours.close()
    ours.add([LogRun(0, 1, 2)])
    await ours.close()
