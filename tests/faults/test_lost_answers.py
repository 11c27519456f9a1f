"""What services ask of each other, of key provider and sink, fails, takes too long, or loses its
answer, while clients work. What callers ask of services is in `test_every_rpc`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

import pytest

from anchor_svc.restored import MARKER
from provledger.client import Client
from provledger.client.calls import DEFAULT_CALL_POLICY, CallPolicy
from tests.faults import rpc_calls
from tests.faults.between import AT_LAST, BETWEEN, Edge
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import FULL, QUICK, Attack, seed_of
from tests.faults.faulty import (
    DIR_ENV,
    HOLDS_FAULTS,
    OPEN_FAULTS,
    SIGN_FAULTS,
    SINK_FAULTS,
    Faults,
)
from tests.faults.observe import anchored_size, shared_log
from tests.faults.proxy import FAULTS, Fault, Proxy
from tests.faults.rpcs import Caller
from tests.faults.workload import Load
from tests.support.ports import free_ports

LOAD = Load(writers=3, batch=4, pause_s=0.03)

EDGES: tuple[Edge, ...] = (*BETWEEN, ("client", "ledger"))

# Made all the time by this workload and what the ledger does for it.
STEADY = {
    "witness": ("WitnessBatch",),
    "anchor": ("SubmitLeaves",),
    "ledger": ("Append", "AppendBatch", "AppendStream", "GetReceipt"),
    "keys": (),
}


class Between:
    """An attack whose calls between services, and from the clients, all go through proxies."""

    def __init__(self, attack: Attack, proxies: dict[Edge, Proxy]) -> None:
        self.attack = attack
        self.proxies = proxies
        self.faults = Faults(attack.record_path.parent / "faults")

    def quiet(self) -> None:
        """No more faults."""
        for proxy in self.proxies.values():
            proxy.calm()


@pytest.fixture(scope="module")
def between(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Between]:
    """The services on SQLite with a proxy on each way between them."""
    path = tmp_path_factory.mktemp("between")
    faults = path / "faults"
    faults.mkdir()
    cluster = Cluster(
        path / "data",
        sinks=2,
        modules={"witness": "tests.faults.faulty_witness", "anchor": "tests.faults.faulty_anchor"},
        options={**QUICK, DIR_ENV: str(faults)},
    )
    proxies: dict[Edge, Proxy] = {}
    attack = Attack(cluster, path / "record", request.config.getoption("fault_seed"))
    try:
        for (caller, callee), port in zip(EDGES, free_ports(len(EDGES)), strict=True):
            proxies[caller, callee] = Proxy(port, cluster.endpoint(callee)).start()
            cluster.route(caller, callee, port)
        cluster.start()
        attack.make_ledgers()
        attack.ledger_endpoints = [f"127.0.0.1:{proxies['client', 'ledger'].port}"]
        yield Between(attack, proxies)
    finally:
        attack.close()
        for proxy in proxies.values():
            proxy.close()


@pytest.fixture(autouse=True)
def _calm(between: Between) -> Iterator[None]:
    yield
    between.quiet()


def test_rpcs_fail_and_lose_their_answers(between: Between, rng: random.Random) -> None:
    """Each fault alone, then all calls of a way at once, now and then."""
    proxies = between.proxies
    with between.attack.workload(LOAD) as work:
        for edge, proxy in proxies.items():
            for method in STEADY[edge[1]]:
                # The log must know entries that come late for what they are.
                one = "late" if method == "SubmitLeaves" else rng.choice(FAULTS)
                faults = [*FAULTS, *FAULTS] if FULL else ["lose", one]
                rng.shuffle(faults)
                print(edge, method, faults)
                proxy.inject(method, *faults)
        for edge, proxy in proxies.items():
            for method in STEADY[edge[1]]:
                what = f"all faults of {method}"
                eventually(lambda: not proxy.pending(method), what, 120.0)  # noqa: B023
        for _ in range(40 if FULL else 2):
            edge = rng.choice(EDGES)
            fault = rng.choice(FAULTS)
            print("all calls", edge, fault)
            with proxies[edge].all_calls(fault):
                eventually(_some_time(rng.uniform(0.1, 1.0)), "a moment")
        work.wait_for(20)
    injected = sum((proxy.injected for proxy in proxies.values()), start=type(proxy.injected)())
    assert {fault for _, fault in injected} >= {"lose"}
    print(dict(injected))
    print(between.attack.check())


def test_first_calls_of_a_start_fail(between: Between, rng: random.Random) -> None:
    """What a service asks its neighbours before it serves, and what it asks them once."""
    cluster = between.attack.cluster
    with between.attack.workload(LOAD) as work:
        for service in (
            ("ledger", "anchor", "witness") if FULL else (rng.choice(["ledger", "anchor"]),)
        ):
            own = [proxy for edge, proxy in between.proxies.items() if edge[0] == service]
            for proxy in own:
                for method in list(proxy.calls):
                    proxy.inject(method, *(FAULTS if FULL else [rng.choice(("fail", "lose"))]))
            before = sum(proxy.injected.total() for proxy in own)
            cluster[service].kill()
            cluster.restart(service)
            work.wait_for(20)
            between.quiet()
            assert sum(proxy.injected.total() for proxy in own) > before, "it asks nobody"
        work.wait_for(20)
    print(between.attack.check())


HASTY = CallPolicy(attempt_timeout_s=0.5)


def test_making_a_ledger_whose_answer_is_lost(between: Between, rng: random.Random) -> None:
    """The retry finds what the first attempt made, and does not make another one."""
    proxy = between.proxies["client", "ledger"]
    for fault in FAULTS if FULL else ("lose",):
        name = f"lost-{fault.replace(' ', '-')}"
        proxy.inject("CreateLedger", fault)
        # What is late comes behind the retry, which need not be long in coming.
        policy = HASTY if fault == "late" else DEFAULT_CALL_POLICY
        with Client(f"127.0.0.1:{proxy.port}", policy=policy) as client:
            ledger, created = client.create_ledger(name, timeout_s=45.0)
            assert created is (fault not in ("lose", "stall"))
            eventually(lambda: not proxy.on_the_way, "what is late has come")
            assert client.get_ledger(ledger.name).uid == ledger.uid


def test_key_provider_fails(between: Between, rng: random.Random) -> None:
    """Of witness and anchor, whoever signs next."""
    _in_process(between, rng, "sign", SIGN_FAULTS)


def test_key_cannot_be_opened(between: Between, rng: random.Random) -> None:
    """Of witness and anchor, when they start: it is tried again until it can."""
    cluster = between.attack.cluster
    # Whoever opens a key waits ten seconds for it.
    slow = ("time out", "stall")
    faults = list(OPEN_FAULTS) if FULL else [rng.choice([f for f in OPEN_FAULTS if f not in slow])]
    with between.attack.workload(LOAD) as work:
        for service in ("witness", "anchor") if FULL else (rng.choice(("witness", "anchor")),):
            rng.shuffle(faults)
            print(service, faults)
            cluster[service].kill()
            between.faults.inject("open", *faults)
            cluster.restart(service)
            eventually(lambda: not between.faults.pending("open"), "all faults of open", 240.0)
            work.wait_for(20)
    between.attack.wait_anchored()
    print(between.attack.check())


def test_sink_fails(between: Between, rng: random.Random) -> None:
    """The other one is well meanwhile. Who answers late, and then not, leaves out a size."""
    for sink in ("sink", "other-sink") if FULL else (rng.choice(("sink", "other-sink")),):
        print(sink)
        _in_process(between, rng, sink, SINK_FAULTS, ("slow", "fail", "time out"))


def test_sink_does_not_say_what_it_holds(between: Between, rng: random.Random) -> None:
    """After a restore nothing is signed until it does; at any other start it is let be."""
    cluster = between.attack.cluster
    log = shared_log(cluster)
    rounds = [(f, restored) for f in HOLDS_FAULTS for restored in (True, False)]
    with between.attack.workload(LOAD) as work:
        for fault, restored in rounds if FULL else rng.sample(rounds, 1):
            print(fault, "after a restore" if restored else "")
            faults = [fault, rng.choice(("fail", "lose"))] if restored else [fault]
            cluster["anchor"].kill()
            size = anchored_size(cluster)
            if restored:
                (log / MARKER).write_text('{"accepted": false}')
            between.faults.inject("holds", *faults)
            cluster.restart("anchor")
            while between.faults.pending("holds"):
                assert not restored or anchored_size(cluster) == size
                assert cluster["anchor"].running, cluster["anchor"].tail()
            eventually(lambda: anchored_size(cluster) > size, "it goes on")  # noqa: B023
            work.wait_for(20)
    print(between.attack.check())


def _in_process(
    between: Between,
    rng: random.Random,
    call: str,
    kinds: tuple[str, ...],
    first: tuple[str, ...] = (),
) -> None:
    """`first` are faults that each round begins with, in this order."""
    # Waits grow with each failure in a row, to a minute: after a round of them comes a success.
    rounds = [list(kinds) for _ in range(3)] if FULL else [[rng.choice(kinds), "fail", "lose"]]
    for faults in rounds:
        rng.shuffle(faults)
        faults = [*first, *faults]
        print(faults)
        with between.attack.workload(LOAD) as work:
            between.faults.inject(call, *faults)
            eventually(lambda: not between.faults.pending(call), f"all faults of {call}", 240.0)
            work.wait_for(20)
        between.attack.wait_anchored()
    print(between.attack.check())


def test_calls_between_services(between: Between, rng: random.Random, fault_seed: int) -> None:
    """Each of them, on an occasion that makes the service call; and there are no others."""
    table = [
        (edge, method, fault)
        for edge, methods in BETWEEN.items()
        for method, occasion in methods.items()
        for fault in FAULTS
        if occasion not in AT_LAST
    ]
    rng.shuffle(table)
    # What is not answered at all is waited for as long as the service does: not in a sample.
    lost = [row for row in table if row[2] == "lose"][:5]
    refused = [row for row in table if row[2] == "fail"][:1]
    with between.attack.workload(LOAD) as work:
        asyncio.run(_between(between, table if FULL else [*lost, *refused], fault_seed))
        work.wait_for(20)
    for edge, methods in BETWEEN.items():
        assert between.proxies[edge].calls.keys() <= methods.keys(), edge
    print(between.attack.check())


async def _between(
    between: Between, chosen: list[tuple[Edge, str, Fault]], fault_seed: int
) -> None:
    cluster = between.attack.cluster
    # Past the proxies between services, but through some for the callers' own calls.
    ports = free_ports(len(cluster.services))
    clients = {
        name: Proxy(port, cluster.endpoint(name)).start()
        for name, port in zip(cluster.services, ports, strict=True)
    }
    tag = f"{seed_of(fault_seed, between.attack.node_id):08x}"
    try:
        async with Caller(cluster, clients, tag) as caller:
            await rpc_calls.prepare(caller)
            for edge, method, fault in chosen:
                print(*edge, method, fault, flush=True)
                proxy = between.proxies[edge]
                proxy.inject(method, fault)
                async with asyncio.timeout(120.0):
                    while proxy.pending(method):
                        await BETWEEN[edge][method](caller)
                    while proxy.on_the_way:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    # Whatever came of it, and of what was handed over late, the next one works.
                    await BETWEEN[edge][method](caller)
    finally:
        for proxy in clients.values():
            proxy.close()


def test_logs_of_their_own(between: Between, rng: random.Random, fault_seed: int) -> None:
    """The last test here: its logs are none that the checker knows."""
    rows = [
        (edge, method, fault)
        for edge, methods in BETWEEN.items()
        for method, occasion in methods.items()
        for fault in (FAULTS if FULL else (rng.choice(("fail", "lose")),))
        if occasion in AT_LAST
    ]
    asyncio.run(_between(between, rows, fault_seed))
    between.attack.cluster.check_none_ended()


def _some_time(wait_s: float) -> Callable[[], bool]:
    """A condition that holds after some time: the length of a fault, not a wait for something."""
    deadline_s = time.monotonic() + wait_s
    return lambda: time.monotonic() > deadline_s
