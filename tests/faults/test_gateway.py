"""Readers of the log over HTTP, while the gateway and what it reads from is killed and halted."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from gateway_svc.published import prefix_of
from provledger import checkpoint, note
from tests.faults import observe
from tests.faults.cluster import eventually
from tests.faults.conftest import FULL, Attack, attacked
from tests.faults.readers import Reader
from tests.faults.workload import Load

LOAD = Load(writers=2, batch=20, pause_s=0.02)
# One reads the anchor's directory, the other asks the anchor itself.
GATEWAYS = ("gateway", "gateway2")


@pytest.fixture(scope="module")
def attack(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Attack]:
    path, seed = tmp_path_factory.mktemp("gateways"), request.config.getoption("fault_seed")
    with attacked(path, seed, gateways=len(GATEWAYS)) as made:
        yield made


def test_readers_are_shown_the_log_or_nothing(attack: Attack, rng: random.Random) -> None:
    """Every checkpoint is of the one history, and every entry that it promised is there."""
    cluster = attack.cluster
    attack.wait_anchored()
    shared = observe.shared_log(cluster)
    shown = (shared / "checkpoint").read_bytes()
    log = prefix_of(checkpoint.parse(note.parse(shown).text).origin)
    readers = [
        Reader(name, cluster[name].port, log, attack.record, rng.getrandbits(32))
        for name in GATEWAYS
    ]
    with attack.workload(LOAD) as work, readers[0], readers[1]:
        for _ in range(100 if FULL else 4):
            name = rng.choice((*GATEWAYS, "anchor"))
            how = rng.choice(("kill", "kill", "halt"))
            print(f"{how} {name}")
            time.sleep(rng.uniform(0.0, 0.3))
            if how == "halt":
                cluster[name].halt()
                time.sleep(rng.uniform(0.05, 3.0 if FULL else 0.5))
                cluster[name].resume()
            else:
                cluster[name].kill()
                cluster.restart(name)
        work.wait_for(20)
        for reader in readers:
            seen = len(reader.bundles)
            eventually(lambda r=reader, n=seen: len(r.bundles) > n, "a reader is shown more")  # type: ignore[misc]
    print(attack.check(), *((dict(each.statuses), each.unanswered) for each in readers))
    leaves = observe.published_leaves(shared)
    for reader in readers:
        for first, entries in reader.bundles:
            assert entries == leaves[first : first + len(entries)], f"entries from {first} on"
