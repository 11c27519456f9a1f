"""A promise is late by what is stored, and by what was seen: set a clock back, and it still is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from anchor_svc.namedsinks import Foreign
from anchor_svc.overdue import Overdue
from anchor_svc.quorum import Quorum
from anchor_svc.state import LogIdentity, LogState, Promise, SignedCheckpoint
from provledger.policy import Policy, parse_policy

S = 1_000_000_000
START_NS = 1_800_000_000 * S
ACME = "tenants/acme"
POLICY = parse_policy(b"sink copy file:///copy\nquorum copy\nwithin 10s\nmode fail-closed\n")
LONGER = parse_policy(b"sink copy file:///copy\nquorum copy\nwithin 1h\nmode fail-closed\n")


class Stored:
    """What the database says of when heads were published, and decided on: sizes to Unix ns."""

    def __init__(self) -> None:
        self.published: dict[int, int] = {}
        self.intended: dict[int, int] = {}

    async def oldest_published(self, log_uid: bytes, above: int) -> int | None:
        return _oldest(self.published, above)

    async def oldest_intended(self, log_uid: bytes, above: int) -> int | None:
        return _oldest(self.intended, above)


def _oldest(times: dict[int, int], above: int) -> int | None:
    return min(((size, at) for size, at in times.items() if size > above), default=(0, None))[1]


class Machine:
    """A log, and two clocks of the machine: that of the wall, and one that never steps."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.now_ns, self.steady_ns = START_NS, 0
        self.stored, self.interval_s = Stored(), interval_s
        self.start()

    def start(self) -> None:
        """As a process that has found what is there."""
        self.state = LogState()
        self.hold()
        self.state.published = _checkpoint(max(self.stored.published, default=0))
        storage: Any = self.stored
        self.overdue = Overdue(
            LogIdentity(bytes(16), "log.example", "blake3"),
            storage,
            self.state,
            clock=lambda: self.now_ns,
            publish_interval_s=self.interval_s,
            steady=lambda: self.steady_ns,
        )

    def hold(self, policy: Policy = POLICY, tenants: Sequence[str] = ("",)) -> None:
        """Set a policy: now."""
        made = [Promise(one, Quorum(policy, ()), since_ns=self.now_ns) for one in tenants]
        self.state.set_promises({one.tenant: one for one in made}, Foreign())

    def publish(self, size: int) -> None:
        self.stored.intended.setdefault(size, self.now_ns)
        self.stored.published[size] = self.now_ns
        self.state.set_published(_checkpoint(size))

    def anchor(self, size: int) -> None:
        for promise in self.state.promises.values():
            self.state.set_anchored(promise, _checkpoint(size))

    async def after(self, seconds: float, *, step_s: int = 0) -> bool:
        """Whether it is overdue then, if one looked each second."""
        self.now_ns += step_s * S
        for _ in range(int(seconds) or 1):
            self.now_ns += int(seconds > 0) * S
            self.steady_ns += int(seconds > 0) * S
            await self.overdue.look()
        return self.state.promise().overdue


def _checkpoint(size: int) -> SignedCheckpoint:
    return SignedCheckpoint(size, b"", b"")


async def test_what_was_published_before_the_clock_went_back_is_overdue_in_time() -> None:
    log = Machine()
    log.publish(4)
    assert not await log.after(5)
    assert not await log.after(5, step_s=-3600)
    assert await log.after(2)
    log.anchor(4)
    assert not await log.after(1)


async def test_what_is_published_after_the_clock_went_back_is_overdue_in_time() -> None:
    """The policy is of a time to come, by that clock."""
    log = Machine()
    assert not await log.after(0, step_s=-3600)
    log.publish(4)
    assert not await log.after(10)
    assert await log.after(2)


async def test_what_was_overdue_stays_so_when_the_clock_goes_back() -> None:
    """Also where it was a restart that saw it: that process knows it by the stored times alone."""
    log = Machine()
    log.publish(4)
    await log.after(60)
    log.start()
    log.state.promise().since_ns = START_NS
    assert await log.after(0)
    assert await log.after(0, step_s=-3600)
    # What is published meanwhile is not why.
    log.publish(5)
    assert await log.after(1)
    log.anchor(5)
    assert not await log.after(1)


async def test_a_start_with_the_clock_behind_counts_anew_from_what_it_sees() -> None:
    log = Machine()
    log.publish(4)
    assert await log.after(60)
    log.now_ns -= 3600 * S
    log.start()
    assert not await log.after(10)
    assert await log.after(2)


@pytest.mark.parametrize("step_s", [0, -3600])
async def test_another_version_of_the_policy_has_its_own_time(step_s: int) -> None:
    log = Machine()
    log.publish(4)
    assert await log.after(60)
    log.now_ns += step_s * S
    log.hold(LONGER)
    assert not await log.after(3600)
    assert await log.after(2)


async def test_what_comes_after_the_anchored_counts_from_when_it_was_seen() -> None:
    """A sink that takes too long for each head is late, though it takes one after the other."""
    log = Machine()
    log.publish(4)
    assert not await log.after(3, step_s=-3600)
    log.publish(5)
    assert not await log.after(7)
    log.anchor(4)
    assert not await log.after(2)
    assert await log.after(3)


async def test_a_sink_that_keeps_up_is_never_overdue() -> None:
    """However often heads are published; and little is remembered of them."""
    log = Machine()
    for size in range(1, 100):
        log.publish(size)
        assert not await log.after(1, step_s=-3600 if size == 50 else 0)
        log.anchor(max(0, size - 8))
        (seen,) = log.overdue._seen.values()
        assert len(seen._marks) < 20
    for size in range(100, 400):
        log.publish(size)
        await log.after(1)
        assert len(seen._marks) < 20
    assert log.state.promise().overdue


async def test_what_cannot_be_published_is_overdue_in_time_as_well() -> None:
    log = Machine(interval_s=30.0)
    log.publish(4)
    log.anchor(4)
    log.stored.intended[5] = log.now_ns
    assert not await log.after(1)
    assert not await log.after(39, step_s=-3600)
    assert await log.after(2)
    # A policy that is set only now has its time from now.
    log.hold()
    log.anchor(4)
    assert not await log.after(10)
    assert await log.after(2)


async def test_what_is_remembered_is_of_the_promises_there_are() -> None:
    log = Machine()
    log.hold(tenants=("", ACME))
    await log.after(1)
    assert log.overdue._seen.keys() == {"", ACME}
    log.hold()
    await log.after(1)
    assert log.overdue._seen.keys() == {""}
