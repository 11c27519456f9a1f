"""Services killed at each call that changes a file, killed and halted at any time, under load."""

from __future__ import annotations

import random
import time

import pytest

from tests.faults import strace
from tests.faults.cluster import DiedError
from tests.faults.conftest import FULL, Attack
from tests.faults.strace import BUSY_CALLS, FILE_CALLS, Attached, Point
from tests.faults.workload import Load, Workload

LOAD = Load(writers=3, batch=4, pause_s=0.03)
GO_ON, GO_ON_CHECKPOINTS = 40, 12
"""So many receipts, of the anchor also so many checkpoints, and a point counts as out of reach."""

POINTS = {
    "ledger": {"pwrite64": 150, "fdatasync": 30, "ftruncate": 2, "openat": 12, "write": 30},
    "anchor": {
        "pwrite64": 150, "fdatasync": 30, "fsync": 40, "rename": 20, "link": 4, "unlink": 4,
        "ftruncate": 1, "mkdir": 3, "openat": 40, "write": 30,
    },
    "keys": {"pwrite64": 4, "ftruncate": 1},
}  # fmt: skip
"""For each service and call, up to which Nth call the full mode goes; further ones are alike."""

SAMPLE = {"ledger": 1, "anchor": 2, "keys": 1}


def _sample(rng: random.Random) -> list[tuple[str, Point]]:
    """Early calls are start and recovery, later ones the same over and over: more of the first."""
    targets = []
    for service, count in SAMPLE.items():
        if service == "keys" and rng.random() < 0.5:
            continue  # it hardly ever writes
        for call in rng.sample(list(POINTS[service]), count):
            targets.append(
                (service, Point(call, 1 + int(POINTS[service][call] * rng.random() ** 2)))
            )
    return targets


def _all(service: str, call: str) -> list[tuple[str, Point]]:
    return [(service, Point(call, nth)) for nth in range(1, POINTS[service][call] + 1)]


ALL = [(service, call) for service, calls in POINTS.items() for call in calls]


@pytest.mark.parametrize("campaign", ALL if FULL else [("sample", "")])
def test_killed_at_calls_that_change_files(
    embedded: Attack, rng: random.Random, campaign: tuple[str, str]
) -> None:
    """Each start recovers from the death before, and may itself die in the middle of that."""
    strace.require()
    targets = _sample(rng) if campaign[0] == "sample" else _all(*campaign)
    cluster, died, before = embedded.cluster, 0, ""
    with embedded.workload(LOAD) as work:
        for service, point in targets:
            print(f"{service}: SIGKILL at {point.call} {point.nth}", end="")
            if before not in ("", service):
                cluster.restart(before)
            reached = _dies_at(embedded, work, service, point)
            print(": reached" if reached else "")
            died, before = died + reached, service
        cluster.restart(before)
        work.wait_for(20)
    print(f"{died} of {len(targets)} points reached; {embedded.check()}")
    assert died


def _dies_at(attack: Attack, work: Workload, name: str, point: Point) -> bool:
    """Start a service that dies at a point, and let it come so far; whether it did."""
    cluster, attached = attack.cluster, None
    if point.call in BUSY_CALLS:
        cluster.restart(name)
        attached = Attached(cluster[name].pid, point)
    else:
        cluster[name].kill()
        cluster.spawn(name, wrapper=strace.wrapper(point))
    try:
        cluster.wait_ready(name)
    except DiedError:
        return True
    receipts = work.acknowledged + GO_ON
    checkpoints = attack.record.checkpoints_seen + (GO_ON_CHECKPOINTS if name == "anchor" else 0)
    deadline_s = time.monotonic() + 60.0
    died = False
    while not died and (
        work.acknowledged < receipts or attack.record.checkpoints_seen < checkpoints
    ):
        died = cluster.wait_dead(name, 0.02)
        assert time.monotonic() < deadline_s, f"no progress:\n{cluster[name].tail()}"
    cluster[name].kill()
    if attached is not None:
        attached.detach()
    return died


def test_killed_and_halted_at_any_moment(embedded: Attack, rng: random.Random) -> None:
    """Several at once, too; a halted process is the worst kind of dead, for it comes back."""
    cluster = embedded.cluster
    with embedded.workload(LOAD) as work:
        for _ in range(150 if FULL else 2):
            name = rng.choice(list(cluster.services))
            other = rng.choice(list(cluster.services))
            delay_s = rng.uniform(0.0, 0.3)
            how = rng.choice(("kill", "kill", "halt", "kill both"))
            print(f"{how} {name} {other if 'both' in how else ''} after {delay_s:.3f} s")
            time.sleep(delay_s)
            if how == "halt":
                cluster[name].halt()
                time.sleep(rng.uniform(0.05, 3.0 if FULL else 0.5))
                cluster[name].resume()
                continue
            victims = {name, other} if how == "kill both" else {name}
            for victim in sorted(victims):
                cluster[victim].kill()
            cluster.restart(*sorted(victims))
        work.wait_for(20)
    print(embedded.check())


def test_every_file_call_that_is_made_is_attacked() -> None:
    """The list of attacked calls is not forgotten when another one is added here."""
    attacked = {call for calls in POINTS.values() for call in calls}
    assert attacked == {*FILE_CALLS, *BUSY_CALLS}
