"""Clocks that are set back an hour while everybody works."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from provledger.client import CallPolicy, Client, Mutation
from provledger.errors import StatusError
from provledger.retry import RetryPolicy
from provledger_cli.embedded.datadir import SERVICES
from tests.faults.clocked import Clock
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.workload import LEDGERS, Load

LOAD = Load(writers=3, batch=4, pause_s=0.03)
HOUR_S = 3600
GO_ON = ("ledger", "anchor", "keys")
"""Whose clock may be behind alone, and nobody has to wait."""

ONCE = CallPolicy(timeout_s=10.0, retry=RetryPolicy(attempts=1))
MUTATION = Mutation(
    action="CREATE",
    resource_type="Item",
    resource_id="skewed",
    actor_id="a",
    request_id="skewed",
    new_state={},
)


@pytest.fixture(scope="module")
def clocked(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Attack, dict[str, Clock]]]:
    """Services of which each has a clock of its own."""
    path = tmp_path_factory.mktemp("clocked")
    modules = dict.fromkeys(SERVICES, "tests.faults.clocked")
    cluster = Cluster(path / "data", options=QUICK, modules=modules)
    attack = Attack(cluster, path / "record", request.config.getoption("fault_seed"))
    clocks = {name: Clock(name, path / f"clock-{name}") for name in SERVICES}
    attack.cluster.environments = {name: clock.environment for name, clock in clocks.items()}
    try:
        for clock in clocks.values():
            # Keys are made when these start, and are not valid before.
            clock.set(-2 * HOUR_S)
        attack.cluster.start()
        attack.make_ledgers()
        for clock in clocks.values():
            clock.set(0)
        yield attack, clocks
    finally:
        attack.close()


def test_clock_is_set_back_an_hour(
    clocked: tuple[Attack, dict[str, Clock]], rng: random.Random
) -> None:
    """On the whole machine, on that of one service alone; and a start in the past."""
    attack, clocks = clocked
    alone = [[name] for name in GO_ON]
    with attack.workload(LOAD) as work:
        work.wait_for(20)
        for names in (list(clocks), *(alone if FULL else [rng.choice(alone)])):
            print("set back:", names)
            for name in names:
                clocks[name].set(-HOUR_S)
            work.wait_for(40)
            name = rng.choice(names)
            attack.cluster[name].kill()
            attack.cluster.restart(name)
            work.wait_for(20)
            for name in names:
                clocks[name].set(0)
            work.wait_for(20)
    print(attack.check())


def test_clock_of_the_witness_alone_is_set_back_an_hour(
    clocked: tuple[Attack, dict[str, Clock]],
) -> None:
    """Its neighbours' are ahead of it then, and whose is right nobody can know: appends wait."""
    attack, clocks = clocked
    with attack.workload(LOAD) as work:
        work.wait_for(20)
        clocks["witness"].set(-HOUR_S)
        before = work.failures
        eventually(lambda: work.failures > before + 3, "appends fail")
        attack.cluster["witness"].kill()
        attack.cluster.restart("witness")
        with Client(attack.cluster.endpoint("ledger"), policy=ONCE) as client:
            eventually(lambda: _refused(client) == "CLOCK_SKEW", "callers hear why")
        clocks["witness"].set(0)
        work.wait_for(20)
    print(attack.check())


def _refused(client: Client) -> str:
    """Why an append is refused, which it is."""
    with pytest.raises(StatusError) as caught:
        client.append(LEDGERS[0], MUTATION)
    return caught.value.reason


def test_clock_behind_the_start_of_its_key_is_said_to_be_wrong(
    clocked: tuple[Attack, dict[str, Clock]],
) -> None:
    """What would be signed then counts for nothing: callers hear which clock to set."""
    attack, clocks = clocked
    with attack.workload(LOAD) as work:
        work.wait_for(20)
        clocks["witness"].set(-3 * HOUR_S)
        before = work.failures
        eventually(lambda: work.failures > before + 3, "appends fail")
        clocks["witness"].set(0)
        work.wait_for(20)
    print(attack.check())
