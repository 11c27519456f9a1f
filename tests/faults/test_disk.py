"""Disks that are full or broken, under running services, which must go on when it is over."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import strace
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.observe import published_size
from tests.faults.strace import Attached, Point
from tests.faults.workload import Load, Workload

LOAD = Load(writers=3, batch=4, pause_s=0.03)

CALLS = {
    "ledger": ("pwrite64", "fdatasync"),
    "anchor": ("pwrite64", "fdatasync", "fsync", "rename", "link"),
}
ERRORS = ("ENOSPC", "EIO")
TMPFS_MB = 64


def test_calls_that_change_files_fail(embedded: Attack, rng: random.Random) -> None:
    """All of one kind, for a while; no process is started again."""
    strace.require()
    targets = [(s, call, error) for s, calls in CALLS.items() for call in calls for error in ERRORS]
    chosen = targets if FULL else [
        ("ledger", rng.choice(CALLS["ledger"]), rng.choice(ERRORS)),
        ("anchor", rng.choice(CALLS["anchor"]), rng.choice(ERRORS)),
    ]  # fmt: skip
    with embedded.workload(LOAD) as work:
        for service, call, error in chosen:
            print(service, call, error)
            pid = embedded.cluster[service].pid
            if service == "anchor":
                # A relay that still waits after the last fault would not tell of the next one.
                size = published_size(embedded.cluster)
                eventually(lambda size=size: published_size(embedded.cluster) > size, "it grows")  # type: ignore[misc]
            attached = Attached(pid, Point(call, "1+", f"error={error}"))
            _notices(embedded, work, service)
            attached.detach()
            work.wait_for(20)
            assert embedded.cluster[service].running, embedded.cluster[service].tail()
            assert embedded.cluster[service].pid == pid
    print(embedded.check())


def _notices(attack: Attack, work: Workload, service: str) -> None:
    """Until a client of the ledger, or the log of the anchor, has heard of it."""
    if service == "ledger":
        before = work.failures
        eventually(lambda: work.failures > before, "an append fails")
        return
    # The anchor tells its caller, which says so, and says itself what nobody called for.
    logs = [attack.cluster[name].log for name in ("ledger", "anchor")]
    start = [log.stat().st_size for log in logs]
    eventually(lambda: [log.stat().st_size for log in logs] != start, "somebody says it")


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
