"""Disks that are full or broken, under running services, which must go on when it is over."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from provledger.errors import StatusError
from tests.faults import strace
from tests.faults.cluster import Cluster, DiedError, eventually
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.errands import Errands
from tests.faults.observe import published_size
from tests.faults.said import Said, is_trouble
from tests.faults.strace import FILE_CALLS, Attached, Point
from tests.faults.workload import Load, Workload

LOAD = Load(writers=3, batch=4, pause_s=0.03)

CALLS = {
    "ledger": ("pwrite64", "fdatasync", "pread64"),
    "anchor": (
        "pwrite64", "fdatasync", "fsync", "rename", "link", "pread64", "openat", "unlink", "read",
    ),
    "keys": ("pwrite64", "fdatasync", "pread64"),
}  # fmt: skip
"""Calls that services make all the time, of `read` only those on the newest checkpoint in the sink:
others are made for each wake-up of a thread."""

NOTICED = frozenset({"pwrite64", "fdatasync", "fsync", "rename", "link"})
"""Calls whose failure somebody hears of: a client, or the reader of a log."""

STARTING = {
    service: ("pwrite64", "fdatasync", "pread64", "openat", "ftruncate", *more)
    for service, more in {"ledger": (), "anchor": ("mkdir", "fsync"), "keys": ()}.items()
}
"""Calls on databases, and those that hardly anything else makes, while a service starts."""

ERRORS = {"pread64": ("EIO",), "read": ("EIO",), "unlink": ("EIO",)}
ANY_ERROR = ("ENOSPC", "EIO")
TMPFS_MB = 64


def _all(calls: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    return [
        (service, call, error)
        for service, names in calls.items()
        for call in names
        for error in ERRORS.get(call, ANY_ERROR)
    ]


def test_calls_on_files_fail(
    embedded: Attack, rng: random.Random, tmp_path: Path, fault_seed: int
) -> None:
    """All of one kind, for a while; no process is started again."""
    strace.require()
    targets = _all(CALLS)
    chosen = targets if FULL else [
        rng.choice([each for each in targets if each[0] == service]) for service in CALLS
    ]  # fmt: skip
    cluster = embedded.cluster
    missed = []
    with (
        embedded.workload(LOAD, excused=_looks_damaged) as work,
        Errands(cluster, f"disk-{fault_seed:08x}", excused=_looks_damaged) as errands,
    ):
        _check_nothing_noticed(embedded, work, errands)
        for number, (service, call, error) in enumerate(chosen):
            print(service, call, error, flush=True)
            pid = cluster[service].pid
            if service == "anchor":
                # A relay that still waits after the last fault would not tell of the next one.
                size = published_size(cluster)
                eventually(lambda size=size: published_size(cluster) > size, "it grows")  # type: ignore[misc]
            attached = Attached(
                pid,
                Point(call, "1+", f"error={error}"),
                paths=tuple(cluster.data.anchors.glob("*/latest")) if call == "read" else (),
                trace=tmp_path / f"trace-{number}",
            )
            try:
                eventually(lambda: attached.injected > 0, "a call fails", 30.0)  # noqa: B023
                if call in NOTICED:
                    _notices(embedded, work, service, call, error)
            except AssertionError:
                missed.append((service, call, error))
            attached.detach()
            work.wait_for(20)
            assert cluster[service].running, cluster[service].tail()
            assert cluster[service].pid == pid
    print(embedded.check())
    assert not missed


def test_calls_on_files_fail_at_a_start(
    embedded: Attack,
    rng: random.Random,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """A service that cannot read or write its files ends, or serves; the next start is right."""
    strace.require()
    targets = _all(STARTING)
    rng.shuffle(targets)
    cluster, ended, failed, never = embedded.cluster, 0, 0, []
    with embedded.workload(LOAD, excused=_looks_damaged) as work:
        # Each has to fail; a sample takes another one for what no start made just now.
        for number, (service, call, error) in enumerate(targets if FULL else targets[:8]):
            if failed and not FULL:
                break
            cluster[service].kill()
            point = Point(call, "1+", f"error={error}")
            paths = () if call in FILE_CALLS else cluster.database_files(service)
            trace = tmp_path / f"trace-{number}"
            cluster.spawn(service, wrapper=strace.wrapper(point, paths=paths, trace=trace))
            with contextlib.suppress(DiedError):
                cluster.wait_ready(service)
            status = cluster[service].end()
            happened = strace.injected(trace) > 0
            print(
                service, call, error, "serves" if status is None else status, happened, flush=True
            )
            # By its own decision, and for that reason.
            assert status is None or (happened and status > 0), cluster[service].tail()
            failed, ended = failed + happened, ended + (status is not None)
            if not happened:
                never.append((service, call))
            cluster.restart(service)
            work.wait_for(20)
    tried = failed + len(never)
    record_property("points", f"calls that fail at a start: {failed} of {tried}, not {never}")
    print(embedded.check())
    assert failed >= (tried * 3 / 4 if FULL else 1)
    assert not FULL or ended > tried / 4


def _looks_damaged(error: StatusError) -> bool:
    """SQLite says SQLITE_CORRUPT of some pages that it cannot read, and so do we: for as long."""
    return error.reason == "DATABASE_CORRUPT"


def _notices(attack: Attack, work: Workload, service: str, call: str, error: str) -> None:
    """Until a client of the ledger, or the log of the anchor, has heard of this failure."""
    if service == "ledger":
        before = work.failures
        eventually(lambda: work.failures > before, "an append fails")
        return
    if service == "keys":
        return  # whoever makes a key insists until it is there
    # The anchor tells its caller, which says so, and says itself what nobody called for.
    said = _said(attack)
    eventually(lambda: bool(said.of(call, error)), "somebody says it")


def _check_nothing_noticed(attack: Attack, work: Workload, errands: Errands) -> None:
    """Where nothing fails nothing is taken for that, though much is said, also as a warning."""
    said, failures = _said(attack), work.failures
    errands.wait_for(1)
    assert any(is_trouble(line) for line in said.lines()), "nothing is said at all"
    for service, call, error in _all(CALLS):
        if service == "anchor" and call in NOTICED:
            assert not said.of(call, error), (call, error)
    assert work.failures == failures


def _said(attack: Attack) -> Said:
    """What ledger and anchor say from now on."""
    return Said(attack.cluster[name].log for name in ("ledger", "anchor"))


@contextlib.contextmanager
def small_disk(path: Path, *, size_mb: int = TMPFS_MB) -> Iterator[None]:
    """A file system of its own at `path`; skips the test where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "provledger-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk of its own needs root and the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def test_full_disk(tmp_path: Path, rng: random.Random, fault_seed: int) -> None:
    """Databases, tiles, sink and even the logs have no room; then somebody makes some."""
    with small_disk(tmp_path / "small"):
        attack = Attack(
            Cluster(tmp_path / "small" / "data", options=QUICK), tmp_path / "record", fault_seed
        )
        try:
            attack.cluster.start()
            attack.make_ledgers()
            with attack.workload(LOAD) as work:
                for _ in range(5 if FULL else 1):
                    work.wait_for(rng.randint(10, 60))
                    before = work.failures
                    _fill(tmp_path / "small" / "filler")
                    eventually(lambda: work.failures > before + 3, "appends fail")  # noqa: B023
                    (tmp_path / "small" / "filler").unlink()
                    work.wait_for(20)
            for service in attack.cluster.services.values():
                assert service.running, service.tail()
            print(attack.check())
        finally:
            attack.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
