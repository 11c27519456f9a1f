"""Every statement that services make on PostgreSQL is cut off, and done with its answer lost."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import DiedError, eventually
from tests.faults.conftest import FULL, seed_of
from tests.faults.errands import Errands
from tests.faults.on_postgres import SERVICES, OnPostgres, on_postgres
from tests.faults.pgproxy import Fault
from tests.faults.statements import FLUSHED, MIGRATING, STARTING, UNKNOWN_HEAD, WORKING, unmet
from tests.faults.workload import Load
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

LOAD = Load(writers=4, batch=4, pause_s=0.03)
LARGE_LOAD = Load(writers=1, batch=250, pause_s=0.4)
"""Flushes of more than 100 receipts go another way."""
FAULTS: tuple[Fault, ...] = ("cut", "lose")
DURABLE = {
    "ledger": (FLUSHED, "^WITH moved .*INTO entries .*INTO batches"),
    "anchor": (
        "^WITH held .*UPDATE logs SET size .*INTO entries",
        "^WITH held .*UPDATE checkpoints SET note",
        "^COMMIT of INSERT INTO anchors",
    ),
}
"""By which something is durable that is acknowledged, shown or counted then."""
HELD_S = 1.0
STARTS = 5
"""So often a service may end before it serves, as its supervisor starts it again."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def postgres(
    server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[OnPostgres]:
    """Services whose very first start went wrong, of each at one statement."""
    seed = request.config.getoption("fault_seed")
    path = tmp_path_factory.mktemp("statements")
    with on_postgres(server, path, seed) as postgres:
        _first_start(postgres, random.Random(seed_of(seed, "first start")))
        postgres.attack.make_ledgers()
        yield postgres


@pytest.fixture(autouse=True)
def _calm(postgres: OnPostgres) -> Iterator[None]:
    yield
    postgres.calm()


def _first_start(postgres: OnPostgres, rng: random.Random) -> None:
    for service in postgres.attack.cluster.services:
        if service in SERVICES:
            _start(postgres, service, rng.choice(MIGRATING[service]), rng.choice(FAULTS))
        else:
            postgres.attack.cluster.start([service])


def _start(postgres: OnPostgres, service: str, pattern: str, fault: Fault) -> None:
    """Start a service whose database fails it at a statement, until it serves."""
    cluster, proxy = postgres.attack.cluster, postgres.proxies[service]
    print(f"start of {service}: {fault} {pattern}")
    proxy.inject(pattern, fault)
    cluster[service].kill()
    for _ in range(STARTS):
        cluster.spawn(service)
        try:
            cluster.wait_ready(service)
            break
        except DiedError:
            cluster[service].end()
    # Makes the first keys, too.
    cluster.start([service])
    what = f"{service} makes a statement like {pattern} when it starts"
    eventually(lambda: not proxy.pending(), what, 20.0)


def test_statements_of_services_at_work(
    postgres: OnPostgres, rng: random.Random, fault_seed: int
) -> None:
    """Each pattern is met: one that is not any more is of no statement."""
    table = [
        (service, pattern, fault)
        for service, patterns in WORKING.items()
        for pattern in patterns
        for fault in FAULTS
    ]
    rng.shuffle(table)
    # What is acknowledged stands and falls with it: no sample goes without.
    table.sort(key=lambda row: row[1] != FLUSHED)
    again: list[tuple[str, str, Fault]] = []
    with (
        postgres.attack.workload(LOAD) as work,
        postgres.attack.workload(LARGE_LOAD),
        Errands(postgres.attack.cluster, f"{fault_seed:08x}"),
    ):
        chosen = table if FULL else table[:10]
        for service, pattern, fault in itertools.chain(chosen, again):
            print(service, fault, pattern, flush=True)
            proxy = postgres.proxies[service]
            proxy.inject(pattern, fault)
            if service == "ledger" and (
                pattern in UNKNOWN_HEAD or (service, pattern, fault) in again
            ):
                # A head is read and locked only where it is not known any more.
                proxy.inject("^WITH moved", "lose")
            try:
                eventually(lambda: not proxy.pending(), "the fault happens", 60.0)  # noqa: B023
            except AssertionError:
                proxy.calm()
                # Once, for it may be that nobody came to make it: not that it is there no more.
                assert (service, pattern, fault) not in again, f"no statement is like {pattern}"
                again.append((service, pattern, fault))
        work.wait_for(20)
    print(postgres.attack.check())


def test_killed_before_it_is_made_durable(postgres: OnPostgres, rng: random.Random) -> None:
    """What the database has yet to be told to keep is gone with the process: nobody was told of it,
    though there was time for that."""
    ledger, anchor = DURABLE["ledger"], DURABLE["anchor"]
    table = [("ledger", each) for each in ledger] + [("anchor", each) for each in anchor]
    chosen = table if FULL else [*table[: len(ledger)], rng.choice(table[len(ledger) :])]
    for service, pattern in chosen:
        print(service, pattern, flush=True)
        proxy = postgres.proxies[service]
        # While several tenants are busy, flushes are too small to be copied.
        with postgres.attack.workload(LARGE_LOAD if pattern == FLUSHED else LOAD) as work:
            proxy.inject(pattern, "hold")
            eventually(lambda: not proxy.pending(), "the fault happens")  # noqa: B023
            # The length of the fault: who answers too early has done so by then.
            time.sleep(HELD_S)
            postgres.attack.cluster[service].kill()
            proxy.calm()
            postgres.attack.cluster.restart(service)
            work.wait_for(20)
    print(postgres.attack.check())


def test_statements_of_a_start(postgres: OnPostgres, rng: random.Random) -> None:
    """What a service that was killed reads and writes before it serves."""
    table = [
        (s, pattern, f) for s, patterns in STARTING.items() for pattern in patterns for f in FAULTS
    ]
    rng.shuffle(table)
    with postgres.attack.workload(LOAD) as work:
        for service, pattern, fault in table if FULL else table[:1]:
            _start(postgres, service, pattern, fault)
            work.wait_for(20)
    print(postgres.attack.check())


@pytest.mark.skipif(not FULL, reason="the fixture's first start is the sample")
def test_statements_of_the_first_start(
    server: PostgresServer, tmp_path: Path, rng: random.Random, fault_seed: int
) -> None:
    """Tables that are half made are made to the end by the next start."""
    orders = {}
    for service in SERVICES:
        orders[service] = [(each, fault) for each in MIGRATING[service] for fault in FAULTS]
        rng.shuffle(orders[service])
    for number in range(max(map(len, orders.values()))):
        with on_postgres(server, tmp_path / str(number), fault_seed) as postgres:
            for service in postgres.attack.cluster.services:
                if service in SERVICES:
                    _start(postgres, service, *orders[service][number % len(orders[service])])
                else:
                    postgres.attack.cluster.start([service])
            postgres.attack.make_ledgers()
            with postgres.attack.workload(LOAD) as work:
                work.wait_for(20)
            print(postgres.attack.check())


def test_every_statement_that_is_made_is_of_a_pattern(
    postgres: OnPostgres, fault_seed: int
) -> None:
    """Of all that the proxies have seen, the making of the tables included."""
    with (
        postgres.attack.workload(LOAD),
        postgres.attack.workload(LARGE_LOAD) as work,
        Errands(postgres.attack.cluster, f"every-{fault_seed:08x}") as errands,
    ):
        work.wait_for(200)
        errands.wait_for(1)
    postgres.attack.check()
    for service, proxy in postgres.proxies.items():
        print(f"{service}: {len(proxy.statements)} statements")
        assert not (others := unmet(service, proxy.statements)), "\n".join(others)
