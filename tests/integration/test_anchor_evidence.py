"""What sinks have said is found out, also when the database goes away just after it took it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anchor_svc.opening import open_sinks
from anchor_svc.openlog import OpenLog
from provledger.policy import parse_policy
from tests.integration.test_anchor_quorum import _hurry
from tests.support.anchoring import Ledger, eventually, running_log, submit
from tests.support.chain import START_NS
from tests.support.cut import CutStorage

pytestmark = pytest.mark.timeout(60)

SECOND_NS = 1_000_000_000


def policy_of(directory: Path, limits: str = "") -> Any:
    return parse_policy(f"sink copy file://{directory}\nquorum copy\n{limits}".encode())


@pytest.mark.parametrize("call", ["evidence", "checkpoint"])
async def test_evidence_that_could_not_be_read_is_read_later(
    database_url: str, tmp_path: Path, call: str
) -> None:
    """Nothing newer comes: with `fail-closed`, the ledger refuses appends until this counts."""
    now_ns = START_NS
    cut, ledger = CutStorage(), Ledger()
    policy = policy_of(tmp_path / "copy", "within 10s\nmode fail-closed\n")
    sinks = open_sinks([], policy)
    async with running_log(
        database_url,
        tmp_path,
        sinks=sinks,
        policy=policy,
        background=True,
        prepare=_hurry,
        wrap=cut.wrap,
        clock=lambda: now_ns,
    ) as log:
        ledger.grow(3)
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 4)
        cut.down = {call}
        ledger.grow(2)
        await submit(log, ledger, 3)
        await eventually(lambda: log.relays._cursors[sinks[0].uri] == 6)
        await eventually(lambda: len(cut.failed) > 1)
        now_ns += 11 * SECOND_NS
        await log.overdue.look()
        assert log.state.promise().overdue
        # The sink has done what it was to do.
        (status,) = await log.relays.status()
        assert (status.size, status.lag, status.trouble) == (6, 0, None)
        assert log.relays._failures == {}
        cut.down = set()
        await eventually(lambda: log.state.anchored_size == 6)
        await log.overdue.look()
        assert not log.state.promise().overdue


async def test_older_evidence_is_looked_at_as_well(tmp_path: Path) -> None:
    """A quorum may be met by it, and not by the newest, which one sink alone has yet."""
    cut, ledger = CutStorage(), Ledger()

    def hurry(log: OpenLog) -> None:
        _hurry(log)
        log.relays.anchored._retry = log.relays._retry

    sinks = open_sinks([f"file://{tmp_path}/first", f"file://{tmp_path}/second"], None)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=sinks,
        background=True,
        prepare=hurry,
        wrap=cut.wrap,
    ) as log:
        first, second = (sink.uri for sink in sinks)
        cut.down = {"evidence"}
        ledger.grow(3)
        await submit(log, ledger)
        await eventually(lambda: log.relays._cursors == {first: 4, second: 4})
        # The second takes nothing more; the first goes on, though nobody knows yet what it has.
        (tmp_path / "second").rename(tmp_path / "moved")
        (tmp_path / "second").write_text("in the way")
        ledger.grow(3)
        await submit(log, ledger, 3)
        await eventually(lambda: log.relays._cursors[first] == 7)
        assert log.state.anchored_size == 0
        cut.down = set()
        await eventually(lambda: log.state.anchored_size == 4)


async def test_evidence_that_comes_while_other_is_looked_at_counts(tmp_path: Path) -> None:
    """Two sinks take the same checkpoint; the second says so after the first was read about."""
    cut, ledger = CutStorage(), Ledger()
    place, moved = tmp_path / "second", tmp_path / "moved"
    sinks = open_sinks([f"file://{tmp_path}/first", f"file://{tmp_path}/second"], None)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=sinks,
        background=True,
        prepare=_hurry,
        wrap=cut.wrap,
    ) as log:
        await eventually(lambda: log.state.anchored_size == 1)
        place.rename(moved)
        place.write_text("in the way")
        cut.slow, cut.late = {"evidence"}, True
        ledger.grow(3)
        await submit(log, ledger)
        await eventually(lambda: log.relays._cursors[sinks[0].uri] == 4 and bool(cut.waiting))
        place.unlink()
        moved.rename(place)
        await eventually(lambda: log.relays._cursors[sinks[1].uri] == 4)
        cut.slow = set()
        cut.go_on.set()
        await eventually(lambda: log.state.anchored_size == 4)
