"""Services killed at each call that changes a file, killed and halted at any time, under load."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import strace
from tests.faults.cluster import Cluster, DiedError, Service
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.errands import Errands
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

OFTEN = frozenset({"pwrite64", "fdatasync", "fsync", "rename", "write"})
"""Calls that come again and again. Of their points at least half have to be reached, of those of
other calls, which come at some moments only, at least one."""

MIGRATION = {"pwrite64": 60, "fdatasync": 16, "unlink": 4, "fchown": 3, "ftruncate": 2, "openat": 8}
FIRST = {"keys": MIGRATION, "anchor": MIGRATION, "ledger": MIGRATION}
"""The same for the first start of all, which makes the database. Only calls on its files count."""

MAKING_KEYS = {"pwrite64": 40, "fdatasync": 8}
"""The same for the keys service while keys are made, two or more of them."""

UNHARMED = {
    "witness": "it has no files but its key, which it reads",
}
"""Services that are not attacked at calls, and why."""

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


@pytest.mark.parametrize("campaign", ALL if FULL else [("sample", "")], ids="-".join)
def test_killed_at_calls_that_change_files(
    embedded: Attack,
    rng: random.Random,
    campaign: tuple[str, str],
    record_property: Callable[[str, object], None],
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
    record_property("points", f"killed, {' '.join(campaign)}: {died} of {len(targets)} reached")
    often = campaign[0] != "keys" and campaign[1] in OFTEN
    assert died >= (len(targets) / 2 if often else 1)


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
        return _struck(cluster[name])
    receipts = work.acknowledged + GO_ON
    checkpoints = attack.record.checkpoints_seen + (GO_ON_CHECKPOINTS if name == "anchor" else 0)
    deadline_s = time.monotonic() + 60.0
    died = False
    while not died and (
        work.acknowledged < receipts or attack.record.checkpoints_seen < checkpoints
    ):
        died = cluster.wait_dead(name, 0.02)
        assert time.monotonic() < deadline_s, f"no progress:\n{cluster[name].tail()}"
    died = _struck(cluster[name])
    if attached is not None:
        attached.detach()
    return died


def _struck(service: Service) -> bool:
    """End a service; whether it had died at its point, by the signal that strace sends there.

    One that ended in another way did so by itself.
    """
    status = service.end()
    assert status in (None, -signal.SIGKILL), f"{service.name}: {status}\n{service.tail()}"
    return status is not None


def test_keys_service_killed_while_keys_are_made(
    embedded: Attack,
    rng: random.Random,
    fault_seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """At each call on its database, of which it makes few otherwise; each key is there once."""
    strace.require()
    points = [Point(call, nth) for call, most in MAKING_KEYS.items() for nth in range(1, most + 1)]
    chosen = points if FULL else rng.sample(points, 1)
    cluster, died, tried = embedded.cluster, 0, 0
    with embedded.workload(LOAD) as work, Errands(cluster, f"killed-{fault_seed:08x}") as errands:
        while chosen:
            point = chosen.pop(0)
            print(f"keys: SIGKILL at {point.call} {point.nth}", end="", flush=True)
            cluster["keys"].kill()
            files = cluster.database_files("keys")
            cluster.spawn("keys", wrapper=strace.wrapper(point, paths=files))
            with contextlib.suppress(DiedError):
                cluster.wait_ready("keys")
                errands.wait_for(2, or_until=lambda: not cluster["keys"].running)
            reached = _struck(cluster["keys"])
            print(": reached" if reached else "")
            died, tried = died + reached, tried + 1
            cluster.restart("keys")
            # The call that was struck is answered now, and does not wait through all other points.
            errands.wait_for(1)
            if not FULL and not reached:
                # Those after it were not either; the first of all is.
                chosen.append(replace(point, nth=int(point.nth) // 2 or 1))
                assert point.nth != 1, "the keys service makes no such call"
        work.wait_for(20)
    record_property("points", f"killed, keys being made: {died} of {tried} reached")
    print(embedded.check())
    assert died >= (tried / 2 if FULL else 1)


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


def test_killed_while_databases_are_made(
    tmp_path: Path,
    rng: random.Random,
    fault_seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Services that die at their very first start, in a migration, come up at the next one."""
    strace.require()
    died = tried = 0
    for number in range(25 if FULL else 6):
        if died and not FULL:
            break
        points = {
            service: Point(call := rng.choice(list(calls)), rng.randint(1, calls[call]))
            for service, calls in FIRST.items()
        }
        path = tmp_path / str(number)
        attack = Attack(Cluster(path, options=QUICK), tmp_path / f"record{number}", fault_seed)
        try:
            for service in attack.cluster.services:
                if service in points:
                    reached = _dies_at_first_start(attack.cluster, service, points[service])
                    print(service, points[service], reached)
                    died, tried = died + reached, tried + 1
                attack.cluster.start([service])
            attack.make_ledgers()
            with attack.workload(LOAD) as work:
                work.wait_for(20)
            print(attack.check())
        finally:
            attack.close()
    record_property("points", f"killed, first start: {died} of {tried} reached")
    assert died >= (tried / 4 if FULL else 1)


def _dies_at_first_start(cluster: Cluster, name: str, point: Point) -> bool:
    cluster.spawn(name, wrapper=strace.wrapper(point, paths=cluster.database_files(name)))
    with contextlib.suppress(DiedError):
        cluster.wait_ready(name)
    return _struck(cluster[name])


def test_every_file_call_that_is_made_is_attacked(tmp_path: Path, fault_seed: int) -> None:
    """Whichever calls change what services keep, from the first start on, points are made of them.

    What only tells the supervisor something (logs, ready files) does not count.
    """
    strace.require()
    data = tmp_path / "data"
    attack = Attack(Cluster(data, options=QUICK), tmp_path / "record", fault_seed)
    cluster = attack.cluster
    try:
        for name in cluster.services:
            cluster.spawn(name, wrapper=strace.recorder(tmp_path / name))
            cluster.start([name])
        attack.make_ledgers()
        with attack.workload(LOAD) as work:
            work.wait_for(40)
        attack.wait_anchored()
        cluster["anchor"].kill()
        cluster.spawn("anchor", wrapper=strace.recorder(tmp_path / "anchor-again"))
        cluster.wait_ready("anchor")
        attack.check()
    finally:
        attack.close()
    quiet = (data / "logs", data / "run")
    traces = {**{name: name for name in cluster.services}, "anchor-again": "anchor"}
    for trace, service in traces.items():
        made = strace.recorded(tmp_path / trace, data, quiet)
        attacked = {*POINTS.get(service, ()), *FIRST.get(service, ())}
        print(service, sorted(made))
        missed = {call: line for call, line in made.items() if call not in attacked}
        assert not missed, f"{service} is not attacked at: {missed}"
        assert bool(made) is (service not in UNHARMED)


def test_every_call_to_attack_is_one_of_the_known() -> None:
    attacked = {call for calls in (*POINTS.values(), *FIRST.values()) for call in calls}
    assert attacked == {*FILE_CALLS, *BUSY_CALLS}
    assert attacked <= set(strace.CHANGING_CALLS)
