"""Fixtures of the fault harness: its seed, its mode, and services to attack."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from provledger.client import Client
from tests.faults import observe
from tests.faults.checker import Summary
from tests.faults.cluster import Cluster
from tests.faults.record import Record
from tests.faults.workload import LEDGERS, Load, Workload

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


@pytest.fixture
def fault_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the run; with it, `--fault-seed` makes the same choices again."""
    seed: int = request.config.getoption("fault_seed")
    print(f"replay with: --fault-seed {seed}")
    return seed


@pytest.fixture
def rng(request: pytest.FixtureRequest, fault_seed: int) -> random.Random:
    """Choices of one test, the same whichever tests run beside it."""
    return random.Random(fault_seed ^ zlib.crc32(request.node.nodeid.encode()))


class Attack:
    """Services under attack by one test: a workload, and the check at its end."""

    def __init__(self, cluster: Cluster, record_path: Path, seed: int) -> None:
        self.cluster = cluster
        self.record_path = record_path
        self._seed = seed
        self.record = Record(record_path)
        # Where clients find the ledger service, if not where it listens itself.
        self.ledger_endpoints: list[str] = []

    def make_ledgers(self) -> None:
        """Make the ledgers that workloads append to."""
        with Client(self.cluster.endpoint("ledger")) as client:
            for name in LEDGERS:
                client.create_ledger(name.split("/")[1])

    def workload(self, load: Load = NORMAL, **options: object) -> Workload:
        """Clients; each call's requests are new ones."""
        self._seed += 1
        replicas = [name for name in self.cluster.services if name.startswith("ledger")]
        return Workload(
            self.ledger_endpoints or [self.cluster.endpoint(name) for name in replicas],
            self.cluster.endpoint("anchor"),
            self.record,
            self._seed,
            load,
            **options,  # type: ignore[arg-type]
        )

    def wait_anchored(self) -> None:
        """Wait until the sink has everything that is recorded."""
        observe.wait_published(self.cluster)

    def check(self) -> Summary:
        """Make everything run again, and hold it against what the clients know."""
        for name, service in self.cluster.services.items():
            if not service.running:
                self.cluster.restart(name)
        summary = observe.check(self.cluster, self.record_path)
        assert summary.acknowledged > 0
        return summary

    def close(self) -> None:
        """End everything."""
        self.cluster.close()
        self.record.close()


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Attack]:
    """The services on SQLite, shared by the tests of a module."""
    path = tmp_path_factory.mktemp("embedded")
    cluster = Cluster(path / "data", options=QUICK)
    attack = Attack(cluster, path / "record", request.config.getoption("fault_seed"))
    try:
        cluster.start()
        attack.make_ledgers()
        yield attack
    finally:
        attack.close()
