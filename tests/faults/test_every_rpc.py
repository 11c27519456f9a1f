"""Every RPC there is: refused, never answered, answered slowly or to nobody, and sent twice.

What callers call is in `tests.faults.rpcs`; what services call of each other is in BETWEEN.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provledger.errors import StatusError
from tests.faults import rpc_calls, rpc_keys
from tests.faults.cluster import Cluster
from tests.faults.conftest import FULL, QUICK, Attack, seed_of
from tests.faults.proxy import FAULTS, Fault, Proxy
from tests.faults.rpcs import CALLS, EXCUSED, Caller, Rpc, all_rpcs
from tests.faults.workload import Load
from tests.support.ports import free_ports

LOAD = Load(writers=1, batch=4, pause_s=0.1)
SERVICES = ("ledger", "anchor", "witness")
OTHERS = 3


def test_every_rpc_is_attacked_or_excused() -> None:
    """One that is new is missing here, by its name."""
    assert {*CALLS, *EXCUSED} == set(all_rpcs())
    assert not CALLS.keys() & EXCUSED.keys()


def _chosen(rpcs: list[Rpc], rng: random.Random) -> list[tuple[Rpc, Fault]]:
    """Everything in full mode; else the loss of each answer, and a few of the others."""
    table = [(rpc, fault) for rpc in rpcs for fault in FAULTS]
    rng.shuffle(table)
    if FULL:
        return table
    others = [row for row in table if row[1] != "lose"]
    return [row for row in table if row[1] == "lose"] + others[:OTHERS]


async def _attack(caller: Caller, chosen: list[tuple[Rpc, Fault]]) -> list[str]:
    """Make calls, each under its fault; those that went wrong."""
    wrong = list[str]()
    for (service, method), fault in chosen:
        print(service, method, fault, flush=True)
        if (service, method) in rpc_keys.EMPTY:
            rpc_keys.fresh(caller.cluster)
        proxy = caller.proxies[service]
        proxy.inject(method, fault)
        try:
            await CALLS[service, method](caller)
        except (AssertionError, StatusError) as error:  # the others are to be seen as well
            wrong.append(f"{method}, {fault}: {type(error).__name__}: {error}")
        if proxy.pending(method):
            wrong.append(f"{method}, {fault}: is not called")
        proxy.calm()
    return wrong


@contextmanager
def _proxies(cluster: Cluster, *services: str) -> Iterator[dict[str, Proxy]]:
    ports = free_ports(len(services))
    proxies = {
        service: Proxy(port, cluster.endpoint(service)).start()
        for service, port in zip(services, ports, strict=True)
    }
    try:
        yield proxies
    finally:
        for proxy in proxies.values():
            proxy.close()


@pytest.mark.parametrize("service", SERVICES)
def test_callers_get_what_they_asked_for_once(
    embedded: Attack, rng: random.Random, fault_seed: int, service: str
) -> None:
    tag = f"{seed_of(fault_seed, service):08x}"
    chosen = _chosen([rpc for rpc in CALLS if rpc[0] == service], rng)

    async def run(proxies: dict[str, Proxy]) -> list[str]:
        async with Caller(embedded.cluster, proxies, tag) as caller:
            await rpc_calls.prepare(caller)
            return await _attack(caller, chosen)

    with (
        _proxies(embedded.cluster, *embedded.cluster.services) as proxies,
        embedded.workload(LOAD) as work,
    ):
        wrong = asyncio.run(run(proxies))
        work.wait_for(5)
    print(embedded.check())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("empty", [False, True], ids=["kept", "empty"])
def test_callers_of_the_keys_service(
    tmp_path: Path, rng: random.Random, fault_seed: int, empty: bool
) -> None:
    """Which runs alone: the test itself does what the other services do with key events."""
    cluster = Cluster(tmp_path / "data", options=QUICK)
    rpcs = [rpc for rpc in CALLS if rpc[0] == "keys" and (rpc in rpc_keys.EMPTY) is empty]

    async def run(proxies: dict[str, Proxy]) -> list[str]:
        async with Caller(cluster, proxies, f"{fault_seed:08x}") as caller:
            if not empty:
                await rpc_keys.prepare(caller)
            return await _attack(caller, _chosen(rpcs, rng))

    try:
        if not empty:
            cluster.start(["keys"])
        with _proxies(cluster, "keys") as proxies:
            wrong = asyncio.run(run(proxies))
    finally:
        cluster.close()
    assert not wrong, "\n".join(wrong)
