"""The services on PostgreSQL, two ledger replicas on one ledger, while the database misbehaves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from provledger.client import Client, Mutation
from provledger.errors import StatusError
from tests.faults.cluster import eventually
from tests.faults.conftest import FULL
from tests.faults.denied import check_not_denied
from tests.faults.errands import Errands
from tests.faults.on_postgres import OnPostgres, on_postgres
from tests.faults.statements import WORKING
from tests.faults.workload import LEDGERS, Load
from tests.support.postgres import PostgresServer, copy_schema, swap_schemas

pytestmark = pytest.mark.postgres

LEDGER = LEDGERS[0]
LOAD = Load(writers=4, batch=4, pause_s=0.03)
# Flushes that take more than one statement: a single one has all its locks before it moves a head.
LARGE_LOAD = Load(writers=4, batch=400, pause_s=0.03)

LARGE_BATCHES = Load(writers=1, batch=250, pause_s=0.4)
"""The same, but for the statements that only they make, beside many small ones."""
COMES_S = 10.0
"""So long a statement is waited for that may not come."""

CLOCK = (b"clock_timestamp()", b"public.set_clock()")
MAKE_CLOCK = """
CREATE TABLE public.clock AS SELECT 0 AS offset_s;
CREATE FUNCTION public.set_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
  SELECT clock_timestamp() + make_interval(secs => offset_s) FROM public.clock
$$;
"""
"""A clock of the server that a test can set: the proxies have services ask for it instead."""


@pytest.fixture(scope="module")
def postgres(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[OnPostgres]:
    """A server of the module's own, since it is restarted; with fsync, since it is killed."""
    path = tmp_path_factory.mktemp("postgres")
    seed = request.config.getoption("fault_seed")
    with (
        PostgresServer(durable=True) as server,
        on_postgres(server, path, seed, replicas=2, replace=CLOCK) as postgres,
    ):
        with postgres.session() as session:
            session.execute(MAKE_CLOCK)
        postgres.attack.cluster.start()
        postgres.attack.make_ledgers()
        yield postgres


@pytest.fixture(autouse=True)
def _calm(postgres: OnPostgres) -> Iterator[None]:
    yield
    postgres.calm()


def test_answers_that_never_come(
    postgres: OnPostgres,
    rng: random.Random,
    fault_seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    """A database, or the way to it, that hangs: callers hear so in time, and it goes on after."""
    targets = [(name, each) for name in ("ledger", "anchor") for each in WORKING[name]]
    rng.shuffle(targets)
    stalled, never = 0, list[str]()
    with (
        postgres.attack.workload(LOAD) as work,
        postgres.attack.workload(LARGE_BATCHES),
        Errands(postgres.attack.cluster, f"stalls-{fault_seed:08x}"),
    ):
        for service, pattern in targets:
            if stalled == (12 if FULL else 1):
                break
            print(service, repr(pattern), flush=True)
            proxy = postgres.proxies[service]
            proxy.inject(pattern, "stall")
            try:
                eventually(lambda: not proxy.pending(), "it stalls", COMES_S)  # noqa: B023
            except AssertionError:
                # Nobody came to make it, which another one is taken for.
                never.append(pattern)
                proxy.calm()
                continue
            time.sleep(rng.uniform(0.2, 3.0 if FULL else 1.0))
            proxy.calm()
            stalled += 1
            work.wait_for(10)
    record_property("points", f"answers that never come: {stalled} stalled, not {never}")
    print(postgres.attack.check())
    assert stalled == (12 if FULL else 1)


def test_connections_are_terminated(postgres: OnPostgres, rng: random.Random) -> None:
    cut = 0
    with postgres.attack.workload(LOAD) as work, postgres.session() as session:
        for _ in range(60 if FULL else 4):
            row = session.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND random() < %s",
                [rng.choice((0.3, 1.0))],
            ).fetchone()
            assert row is not None
            cut += row[0]
            work.wait_for(rng.randint(1, 10))
        work.wait_for(20)
    print(f"{cut} connections cut; {postgres.attack.check()}")
    assert cut > 0


def test_server_is_restarted(postgres: OnPostgres, rng: random.Random) -> None:
    """As an operator does, in a hurry, and by a crash."""
    modes = ("fast", "immediate", "kill")
    with postgres.attack.workload(LOAD) as work:
        for mode in [*modes, *modes, *modes] if FULL else [rng.choice(modes)]:
            print(mode)
            postgres.server.stop(mode)
            time.sleep(rng.uniform(0.0, 1.0))
            postgres.server.start()
            work.wait_for(20)
    print(postgres.attack.check())


def test_ledger_goes_back_under_replicas_that_run(postgres: OnPostgres) -> None:
    """Its schema is restored in place to an earlier copy: both were confirmed, and are asked anew.

    Nothing is appended, nothing that was anchored is denied, and with the right one all goes on.
    """
    attack, url = postgres.attack, postgres.url
    with attack.workload(LOAD) as work:
        work.wait_for(20)
    attack.wait_anchored()
    copy_schema(url, "ledger", "early")
    # The other one has acknowledged nothing since, and goes by what the log holds.
    attack.ledger_endpoints = [attack.cluster.endpoint("ledger")]
    with attack.workload(LOAD) as work:
        work.wait_for(20)
    attack.ledger_endpoints = []
    attack.wait_anchored()

    swap_schemas(url, "ledger", "early")
    item = Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id="x",
        actor_id="a",
        request_id="after",
        new_state={},
    )
    lost = []
    for replica in ("ledger2", "ledger"):
        endpoint = attack.cluster.endpoint(replica)
        with Client(endpoint) as client, pytest.raises(StatusError) as caught:
            client.append(LEDGER, item)
        assert caught.value.reason in ("LEDGER_BEHIND_ANCHOR", "LEDGER_ROLLED_BACK")
        lost.append(check_not_denied(endpoint, attack.record_path, LEDGER, "LEDGER_BEHIND_ANCHOR"))

    swap_schemas(url, "ledger", "early")
    with attack.workload(LOAD) as work:
        work.wait_for(20)
    print(f"{lost} lost, none denied; {attack.check()}")
    with postgres.session() as session:
        session.execute("DROP SCHEMA early CASCADE")


def test_clock_of_the_server_is_set_back_an_hour(postgres: OnPostgres, rng: random.Random) -> None:
    """Appends wait until it is right again, and the log for no lease of the time before."""
    cluster = postgres.attack.cluster

    def set_clock(offset_s: int) -> None:
        with postgres.session() as session:
            session.execute("UPDATE public.clock SET offset_s = %s", [offset_s])

    with postgres.attack.workload(LOAD) as work:
        work.wait_for(20)
        for _ in range(5 if FULL else 1):
            # Leases are given by a clock that is an hour ahead, and outlive whoever has them.
            set_clock(3600)
            work.wait_for(20)
            victims = ["ledger", "ledger2"]
            for name in victims:
                cluster[name].kill()
            set_clock(0)
            cluster.restart(*victims)
            work.wait_for(20)
            set_clock(-3600)
            before = work.failures
            eventually(lambda: work.failures > before + 3, "appends fail")  # noqa: B023
            set_clock(0)
            work.wait_for(20)
    print(postgres.attack.check())


def test_real_deadlock_is_survived(postgres: OnPostgres, rng: random.Random) -> None:
    """The service holds a head and wants to insert; we hold the table and want the head."""
    with postgres.attack.workload(LARGE_LOAD) as work, postgres.session() as session:
        # PostgreSQL ends the transaction that notices first, and it shall not be ours.
        session.execute("SET deadlock_timeout = '100s'")
        # Otherwise the service gives up waiting for the table before PostgreSQL looks.
        session.execute("ALTER SYSTEM SET deadlock_timeout = '50ms'")
        session.execute("SELECT pg_reload_conf()")
        try:
            for _ in range(10 if FULL else 1):
                before = _deadlocks(session)
                while not _provoke_deadlock(session):
                    work.wait_for(10)
                work.wait_for(10)
                eventually(lambda: _deadlocks(session) > before, "PostgreSQL counts a deadlock")  # noqa: B023
        finally:
            session.execute("ALTER SYSTEM RESET deadlock_timeout")
            session.execute("SELECT pg_reload_conf()")
    print(postgres.attack.check())


def _deadlocks(session: psycopg.Connection[Any]) -> int:
    row = session.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


# Who waits for the table with nothing written or locked before is one statement, not yet begun.
WAITS_WITH_A_HEAD = """
SELECT count(*) FROM pg_locks wanted JOIN pg_locks own USING (pid)
WHERE wanted.relation = 'ledger.entries'::regclass AND NOT wanted.granted
  AND own.locktype = 'transactionid' AND own.granted
"""


def _provoke_deadlock(session: psycopg.Connection[Any]) -> bool:
    """Take the table, and the heads once a service waits for the table with one of them.

    Not if everything that comes to wait is a single statement: it has to be let through.
    """

    def waits() -> bool:
        row = session.execute(WAITS_WITH_A_HEAD).fetchone()
        return row is not None and row[0] > 0

    with session.transaction():
        session.execute("LOCK TABLE ledger.entries IN SHARE MODE")
        try:
            eventually(waits, "a service waits for our lock", 2.0)
        except AssertionError:
            return False
        session.execute("SELECT ledger_uid FROM ledger.heads FOR UPDATE")
    return True


TRIGGER = """
CREATE SEQUENCE {schema}.faults;
CREATE FUNCTION {schema}.fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF nextval('{schema}.faults') % {every} = 0 THEN
    RAISE EXCEPTION 'forced by a test' USING ERRCODE = '{state}';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON {schema}.{table}
  FOR EACH STATEMENT EXECUTE FUNCTION {schema}.fault();
"""

STATES = {
    "40001": "serialization_failure", "40P01": "deadlock_detected", "55P03": "lock_not_available",
    "57014": "query_canceled", "53100": "disk_full", "53200": "out_of_memory",
    "58030": "io_error", "25006": "read_only_sql_transaction",
}  # fmt: skip


def test_statements_are_refused(postgres: OnPostgres, rng: random.Random) -> None:
    """By the server itself, with the states that it gives when it cannot go on."""
    tables = {
        "ledger": ("entries", "batches", "heads", "log_runs"),
        "anchor": ("entries", "checkpoints", "logs", "anchors", "ledgers", "runs"),
    }
    targets = [
        (schema, table, state)
        for schema, names in tables.items()
        for table in names
        for state in STATES
    ]
    chosen = targets if FULL else [
        ("ledger", rng.choice(tables["ledger"]), "40001"), rng.choice(targets)
    ]  # fmt: skip
    with postgres.attack.workload(LOAD) as work, postgres.session() as session:
        for schema, table, state in chosen:
            print(schema, table, STATES[state])
            values = {"schema": schema, "table": table, "state": state, "every": 2}
            session.execute(TRIGGER.format(**values))
            try:
                eventually(lambda: _raised(session, schema) >= 4, "the trigger fires", 60.0)  # noqa: B023
            finally:
                session.execute(
                    f"DROP TRIGGER fault ON {schema}.{table}; "
                    f"DROP FUNCTION {schema}.fault; DROP SEQUENCE {schema}.faults"
                )
            work.wait_for(10)
    print(postgres.attack.check())


def _raised(session: psycopg.Connection[Any], schema: str) -> int:
    row = session.execute(f"SELECT last_value FROM {schema}.faults").fetchone()
    assert row is not None
    return int(row[0])


def test_replicas_fight_and_are_killed(postgres: OnPostgres, rng: random.Random) -> None:
    """Two on one ledger, with nothing in common but the row lock of its head."""
    cluster = postgres.attack.cluster
    with postgres.attack.workload(LOAD) as work:
        for _ in range(30 if FULL else 1):
            name = rng.choice(("ledger", "ledger2"))
            how = rng.choice(("kill", "halt"))
            print(how, name)
            work.wait_for(rng.randint(5, 30))
            if how == "kill":
                cluster[name].kill()
                cluster.restart(name)
            else:
                # Long enough for the other one to take its lease.
                cluster[name].halt()
                time.sleep(1.5)
                cluster[name].resume()
        work.wait_for(20)
    print(postgres.attack.check())
