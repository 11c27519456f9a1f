"""A policy that is stored holds: whatever the database does meanwhile, and whoever has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, open_sink, register
from anchor_svc.storage import PolicyRow
from provledger.errors import UnavailableError
from provledger.retry import RetryPolicy
from tests.integration.test_anchor_policies import ACME, copies, grow
from tests.integration.test_anchor_quorum import _hurry
from tests.support.anchoring import Ledger, eventually, running_log
from tests.support.cut import CutStorage

pytestmark = pytest.mark.timeout(60)

QUICK = RetryPolicy(attempts=10_000, base_s=0.01, cap_s=0.02, budget_s=1000)
NEVER = RetryPolicy(attempts=9, base_s=1e9, cap_s=1e9, budget_s=1e12)
STEPS = ["add_policy", "cursors", "anchors", "evidence"]
"""What is asked of the database on the way: storing it, and what makes it hold."""


@asynccontextmanager
async def anchored_log(
    tmp_path: Path, cut: CutStorage, ledger: Ledger, retry: RetryPolicy
) -> AsyncIterator[OpenLog]:
    """A log with something that its own sink holds."""

    def prepare(log: OpenLog) -> None:
        _hurry(log)
        log.policies._retry = retry

    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=[open_sink(f"file://{tmp_path}/base")],
        background=True,
        prepare=prepare,
        wrap=cut.wrap,
    ) as log:
        size = await grow(log, ledger)
        await eventually(lambda: log.state.anchored_size == size)
        yield log


async def holds(log: OpenLog, tenant: str, text: bytes) -> None:
    """Wait until a policy holds for what is there already, with nothing new logged."""
    size = log.state.published_size

    def there() -> bool:
        row, promise = log.policies.newest(tenant), log.state.promise(tenant)
        return row is not None and row.text == text and promise.anchored_size == size

    await eventually(there)
    for status in await log.relays.status():
        assert (status.lag, status.trouble) == (0, None), status.uri


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tenant", ["", ACME])
async def test_the_same_call_again_has_it_hold(
    tmp_path: Path, step: str, late: bool, tenant: str
) -> None:
    cut, ledger = CutStorage(), Ledger()
    # What the log's sink holds already is looked at as well.
    text = copies(tmp_path, "base", "far")
    async with anchored_log(tmp_path, cut, ledger, NEVER) as log:
        cut.down, cut.late = {step}, late
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await log.policies.set(tenant, text, "alice")
        cut.down = set()
        assert (await log.policies.set(tenant, text, "alice")).version == 1
        await holds(log, tenant, text)
        size = await grow(log, ledger)
        await eventually(lambda: log.state.promise(tenant).anchored_size == size)


@pytest.mark.parametrize("names", [("base",), ("base", "far")])
@pytest.mark.parametrize("step", STEPS)
async def test_it_holds_without_another_call(
    tmp_path: Path, step: str, names: tuple[str, ...]
) -> None:
    """Whoever asked has heard of an error, and does not come again."""
    cut, ledger = CutStorage(), Ledger()
    text = copies(tmp_path, *names)
    async with anchored_log(tmp_path, cut, ledger, QUICK) as log:
        cut.down, cut.late = {step}, True
        with pytest.raises(UnavailableError):
            await log.policies.set("", text, "alice")
        if step == "cursors":
            await eventually(lambda: len(cut.failed) > 2)
        cut.down = set()
        await holds(log, "", text)
        await log.policies.set(ACME, copies(tmp_path, "own"), "bob")
        await holds(log, ACME, copies(tmp_path, "own"))


@pytest.mark.parametrize("names", [("base",), ("base", "far")])
@pytest.mark.parametrize("step", STEPS)
async def test_it_holds_when_the_caller_has_gone(
    tmp_path: Path, step: str, names: tuple[str, ...]
) -> None:
    """Its deadline passes at some point, which cancels the call."""
    cut, ledger = CutStorage(), Ledger()
    text = copies(tmp_path, *names)
    async with anchored_log(tmp_path, cut, ledger, NEVER) as log:
        cut.slow = {step}
        call = asyncio.ensure_future(log.policies.set("", text, "alice"))
        await eventually(lambda: bool(cut.waiting))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cut.go_on.set()
        await holds(log, "", text)
        size = await grow(log, ledger)
        await eventually(lambda: log.state.anchored_size == size)


async def test_checking_only_makes_nothing_hold(tmp_path: Path) -> None:
    cut, ledger = CutStorage(), Ledger()
    text = copies(tmp_path, "far")
    async with anchored_log(tmp_path, cut, ledger, NEVER) as log:
        cut.down = {"cursors"}
        with pytest.raises(UnavailableError):
            await log.policies.set("", text, "alice")
        checked = await log.policies.set("", text, "alice", validate_only=True)
        assert checked.version == 1
        assert log.policies.newest("") is None
        assert [sink.uri for sink in log.relays.sinks] == [f"file://{tmp_path}/base"]


class Stubborn:
    """A sink that is slow to go, and complains."""

    closing: asyncio.Event
    go_on: asyncio.Event

    def __init__(self, uri: str) -> None:
        self.uri = uri

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        return Evidence("stubborn", b"%d" % checkpoint.size)

    async def close(self) -> None:
        self.closing.set()
        await self.go_on.wait()
        raise SinkError("no")


async def test_a_sink_that_is_slow_to_go_is_in_the_way_of_no_policy(tmp_path: Path) -> None:
    """The caller goes while the sink that the older policy named is closed."""
    register("stubborn", Stubborn)
    Stubborn.closing, Stubborn.go_on = asyncio.Event(), asyncio.Event()
    cut, ledger = CutStorage(), Ledger()
    text = copies(tmp_path, "far")
    async with anchored_log(tmp_path, cut, ledger, NEVER) as log:
        await log.policies.set("", b"sink s stubborn:x\nquorum s\n", "alice")
        await holds(log, "", b"sink s stubborn:x\nquorum s\n")
        call = asyncio.ensure_future(log.policies.set("", text, "alice"))
        await eventually(Stubborn.closing.is_set)
        call.cancel()
        Stubborn.go_on.set()
        await holds(log, "", text)


async def test_what_is_found_out_while_a_policy_is_set_is_kept(tmp_path: Path) -> None:
    """The promise of the log is kept at the very moment at which a tenant gives up his own."""
    cut, ledger = CutStorage(), Ledger()
    async with anchored_log(tmp_path, cut, ledger, NEVER) as log:
        # Of the same sink, so that no evidence comes later which would have us look once more.
        await log.policies.set(ACME, copies(tmp_path, "base"), "bob")
        await holds(log, ACME, copies(tmp_path, "base"))
        # What is asked after the evidence, before a promise counts as kept.
        cut.slow = {"checkpoint"}
        size = await grow(log, ledger)
        await eventually(lambda: bool(cut.waiting))
        cut.slow = set()
        await log.policies.set(ACME, b"", "bob")
        cut.go_on.set()
        await eventually(lambda: log.state.anchored_size == size)


async def test_closing_ends_what_goes_on(tmp_path: Path) -> None:
    """It does not wait for a database that hangs; the next start has the policy hold."""
    cut, ledger = CutStorage(), Ledger()
    text = copies(tmp_path, "far")
    calls: list[asyncio.Future[Any]] = []
    async with anchored_log(tmp_path, cut, ledger, QUICK) as log:
        cut.down = {"cursors"}
        with pytest.raises(UnavailableError):
            await log.policies.set("", text, "alice")
        cut.slow = {"add_policy"}
        calls.append(asyncio.ensure_future(log.policies.set(ACME, text, "alice")))
        await eventually(lambda: "add_policy" in cut.waiting)
        row = await log.policies.version("", 1)
        assert row == PolicyRow("", 1, text, row.set_at_ns, "alice")
    assert (await asyncio.gather(*calls, return_exceptions=True))[0] is not None
    assert log.policies._settling is None or log.policies._settling.done()
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path, background=True) as log:
        await holds(log, "", text)
