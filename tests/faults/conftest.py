"""Fixtures of the fault harness: its seed, its mode, and services to attack."""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from provledger.client import Client
from tests.faults import observe
from tests.faults.cluster import Cluster
from tests.faults.known import Summary
from tests.faults.record import Record
from tests.faults.workload import LEDGERS, OWN_LOG, SHARED_LOG, Load, Workload

FULL = os.environ.get("PROVLEDGER_FAULTS") == "full"
"""Everything, for as long as it takes, instead of a sample."""

NORMAL = Load()

QUICK = {
    # What waits for a dead process otherwise, and what only makes checks slow.
    "PROVLEDGER_LEDGER_RELAY_LEASE_S": "1",
    "PROVLEDGER_ANCHOR_PUBLISH_INTERVAL_MS": "100",
    "PROVLEDGER_ANCHOR_SINK_DEADLINE_MS": "1500",
    "PROVLEDGER_LEDGER_WITNESS_TIMEOUT_S": "2",
    "PROVLEDGER_LEDGER_ANCHOR_TIMEOUT_S": "2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder attack something, and some need more time than others."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(3600 if FULL else 300))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a failed test left dead or halted is no failure of those behind it."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for each in item.funcargs.values():
            if isinstance(each, Attack):
                each.begin_anew()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the points of attack were reached, which a green test does not show."""
    reports = [each for outcome in ("passed", "failed")
               for each in terminalreporter.stats.get(outcome, ())]  # fmt: skip
    reached = [text for report in reports for name, text in report.user_properties
               if name == "points"]  # fmt: skip
    if reached:
        terminalreporter.section("points of attack")
        for text in reached:
            terminalreporter.line(str(text))


@pytest.fixture
def fault_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the run; with it, `--fault-seed` makes the same choices again."""
    seed: int = request.config.getoption("fault_seed")
    print(f"replay with: --fault-seed {seed}")
    return seed


@pytest.fixture
def rng(request: pytest.FixtureRequest, fault_seed: int) -> random.Random:
    """Choices of one test, the same whichever tests run beside it."""
    return random.Random(seed_of(fault_seed, request.node.nodeid))


def seed_of(fault_seed: int, node_id: str) -> int:
    """The seed of one test's choices."""
    return fault_seed ^ zlib.crc32(node_id.encode())


@pytest.fixture(autouse=True)
def _test_that_runs(request: pytest.FixtureRequest) -> None:
    Attack.node_id = request.node.nodeid


class Attack:
    """Services under attack by one test: a workload, and the check at its end."""

    node_id: ClassVar[str] = ""
    """The test that runs. Services outlive it, and what its clients send must not hang on which
    tests they have seen before."""

    def __init__(self, cluster: Cluster, record_path: Path, seed: int) -> None:
        """`seed` is that of the run."""
        self.cluster = cluster
        self.record_path = record_path
        self._seed = seed
        self._workloads: Counter[str] = Counter()
        self._logs: tuple[str, ...] = (SHARED_LOG,)
        self.record = Record(record_path)
        # What clients had been shown and told before each test.
        self._before: dict[str, tuple[int, int, int]] = {}
        # Where clients find the ledger service, if not where it listens itself.
        self.ledger_endpoints: list[str] = []

    def make_ledgers(self) -> None:
        """Make the ledgers that workloads append to."""
        with Client(self.cluster.endpoint("ledger")) as client:
            for name in LEDGERS:
                made, _ = client.create_ledger(name.split("/")[1], own_log=name == OWN_LOG)
                if name == OWN_LOG:
                    self._logs = (SHARED_LOG, made.log)

    def workload(self, load: Load = NORMAL, **options: object) -> Workload:
        """Clients; each call's requests are new ones, the same in each run with the same seed."""
        self._workloads[self.node_id] += 1
        self._before.setdefault(self.node_id, self._seen())
        seed = f"{seed_of(self._seed, self.node_id):08x}-{self._workloads[self.node_id]}"
        replicas = [name for name in self.cluster.services if name.startswith("ledger")]
        return Workload(
            self.ledger_endpoints or [self.cluster.endpoint(name) for name in replicas],
            self.cluster.endpoint("anchor"),
            self.record,
            seed,
            load,
            **{"logs": self._logs, **options},  # type: ignore[arg-type]
        )

    def wait_anchored(self) -> None:
        """Wait until the sinks have everything that is recorded."""
        observe.wait_published(self.cluster)

    def check(self) -> Summary:
        """Start again what the test killed, and hold all there is against what the clients know.

        What has ended by itself stays so: no fault may make a service give up.
        """
        self.cluster.check_none_ended()
        self.cluster.start()
        summary = observe.check(self.cluster, self.record_path)
        assert summary.acknowledged > 0, "nothing was compared"
        shown, told, headed = self._before.get(self.node_id, (0, 0, 0))
        assert self.record.shown > shown, "no client saw a checkpoint in this test"
        assert self.record.told > told, "no client was told in this test that something is anchored"
        assert self.record.headed > headed, "no client saw a head of a ledger in this test"
        self.cluster.check_none_ended()
        return summary

    def begin_anew(self) -> None:
        """Start all services again, whatever became of them."""
        for service in self.cluster.services.values():
            service.end()
        self.cluster.start()

    def _seen(self) -> tuple[int, int, int]:
        return self.record.shown, self.record.told, self.record.headed

    def close(self) -> None:
        """End everything."""
        self.cluster.close()
        self.record.close()


@contextmanager
def attacked(path: Path, seed: int, **options: Any) -> Iterator[Attack]:
    """Services in a directory, started, with the ledgers that workloads append to.

    `options` are those of `Cluster`.
    """
    attack = Attack(Cluster(path / "data", options=QUICK, **options), path / "record", seed)
    try:
        attack.cluster.start()
        attack.make_ledgers()
        yield attack
    finally:
        attack.close()


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Attack]:
    """The services on SQLite, with two sinks, shared by the tests of a module."""
    path = tmp_path_factory.mktemp("embedded")
    with attacked(path, request.config.getoption("fault_seed"), sinks=2) as attack:
        yield attack
