"""What the anchor writes to files is durable before anything relies on it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from provledger.client import Client, Mutation
from tests.faults import ordered, strace
from tests.faults.cluster import Cluster
from tests.faults.conftest import QUICK, Attack
from tests.faults.workload import LEDGERS

GIT = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
RECEIPTS, AT_ONCE = 300, 60
"""More than fill a tile."""


@GIT
def test_files_of_the_anchor_are_synced_in_their_order(tmp_path: Path, fault_seed: int) -> None:
    """Tiles, then the checkpoint, then what sinks hold of it, then the evidence of that."""
    strace.require()
    cluster = Cluster(tmp_path / "data", options=QUICK, sinks=2)
    first, second = cluster.config.sinks
    cluster.config = replace(cluster.config, sinks=(first, f"{second}?git=1"))
    attack = Attack(cluster, tmp_path / "record", fault_seed)
    try:
        cluster.spawn("anchor", wrapper=ordered.recorder(tmp_path / "trace"))
        cluster.start()
        attack.make_ledgers()
        with Client(cluster.endpoint("ledger")) as client:
            for start in range(0, RECEIPTS, AT_ONCE):
                client.append_batch(
                    LEDGERS[0], [_mutation(start + more) for more in range(AT_ONCE)]
                )
        attack.wait_anchored()
    finally:
        attack.close()
    trace = ordered.Trace(
        ordered.read(tmp_path / "trace"), cluster.data.tiles, list(cluster.sinks.values())
    )
    assert not (findings := trace.findings()), "\n".join(findings)
    print(dict(trace.seen))
    assert trace.seen.keys() >= {
        *("tile", "bundle", "checkpoint", "sunk", "latest", "git", "evidence")
    }


def _mutation(number: int) -> Mutation:
    return Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id=f"item-{number}",
        actor_id="a",
        request_id=f"synced-{number}",
        new_state={},
    )
