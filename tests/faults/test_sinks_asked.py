"""Sinks are asked which logs they hold, and to prove themselves, and fail or lose the answer."""

from __future__ import annotations

import inspect
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.restored import MARKER
from anchor_svc.sinks import AnchorSink, Listing, Provable, Remembering
from provledger.client import CallPolicy, Client, Ledger
from provledger.errors import StatusError
from provledger.kms import Provider, Signer
from provledger.retry import RetryPolicy
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import FULL, QUICK, Attack
from tests.faults.faulty import ATTACKED, DIR_ENV, LEFT_OUT, SINK_FAULTS, Faults
from tests.faults.said import Said
from tests.faults.workload import Load

LOAD = Load(writers=2, batch=4, pause_s=0.03)
PORTS: tuple[type[Any], ...] = (AnchorSink, Remembering, Listing, Provable, Provider, Signer)
POLICY = CallPolicy(timeout_s=60.0, retry=RetryPolicy(attempts=20))
UNKNOWN = frozenset({"RESTORE_NOT_CONFIRMED", "START_NOT_CONFIRMED", "RESTORED_BEHIND"})
TENANT = "umbrella"


def test_everything_that_is_asked_of_keys_and_sinks_is_attacked() -> None:
    """As RPCs and statements are: what comes to an interface fails this until it is attacked."""
    asked = {
        (port, name)
        for port in PORTS
        for name, member in vars(port).items()
        if inspect.iscoroutinefunction(member) and not name.startswith("_")
    }
    assert asked == ATTACKED.keys() | LEFT_OUT.keys()
    assert not ATTACKED.keys() & LEFT_OUT.keys()


@dataclass
class Lost:
    """Services, and the log of a tenant, `later`, that only the two sinks know of.

    early: a copy of all else from before it was made.
    """

    attack: Attack
    faults: Faults
    early: Path
    later: Ledger

    def put_back(self, *, marked: bool) -> None:
        """Have everything but the sinks be as it was; marked: as `provledger restore` leaves it."""
        _stop(self.attack)
        data = self.attack.cluster.data
        for name in ("db", "tiles"):
            shutil.rmtree(data.path / name)
            shutil.copytree(self.early / name, data.path / name)
        if marked:
            for log in (data.tiles / "logs").iterdir():
                (log / MARKER).write_text('{"accepted": false}')


@pytest.fixture(scope="module")
def lost(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Lost]:
    path = tmp_path_factory.mktemp("asked")
    faults = Faults(path / "faults")
    cluster = Cluster(
        path / "data",
        sinks=2,
        modules={"anchor": "tests.faults.faulty_anchor"},
        options={**QUICK, DIR_ENV: str(faults.path)},
    )
    attack = Attack(cluster, path / "record", request.config.getoption("fault_seed"))
    try:
        cluster.start()
        attack.make_ledgers()
        with attack.workload(LOAD) as work:
            work.wait_for(20)
        attack.wait_anchored()
        _stop(attack)
        for name in ("db", "tiles"):
            shutil.copytree(cluster.data.path / name, path / "early" / name)
        cluster.start()
        with Client(cluster.endpoint("ledger")) as client:
            later, _ = client.create_ledger(TENANT, own_log=True)
        attack.wait_anchored()
        _stop(attack)
        for name in ("db", "tiles"):
            shutil.copytree(cluster.data.path / name, path / "late" / name)
        cluster.start()
        yield Lost(attack, faults, path / "early", later)
        _stop(attack)
        for name in ("db", "tiles"):
            shutil.rmtree(cluster.data.path / name)
            shutil.copytree(path / "late" / name, cluster.data.path / name)
        cluster.start()
        with attack.workload(LOAD) as work:
            work.wait_for(20)
        print(attack.check())
    finally:
        attack.close()


def _stop(attack: Attack) -> None:
    for name in reversed(attack.cluster.services):
        attack.cluster[name].kill()


def test_sinks_do_not_say_which_logs_they_hold(lost: Lost, rng: random.Random) -> None:
    """The one that is lost is not denied for that: never after a restore, and at any other start by
    no ledger that asks once they have answered."""
    rounds = [
        (call, fault, marked)
        for call in ("origins", "found")
        for fault in SINK_FAULTS
        for marked in (True, False)
    ]
    cluster = lost.attack.cluster
    # A sample takes what could be taken for an answer, once with and once without the marker.
    taken = [each for each in rounds if each[1] in ("fail", "lose", "time out", "stall")]
    sample = [rng.choice([each for each in taken if each[2] is marked]) for marked in (True, False)]
    for call, fault, marked in rounds if FULL else sample:
        print(call, fault, "after a restore" if marked else "", flush=True)
        lost.put_back(marked=marked)
        # Of each sink: who answers tells of it.
        lost.faults.inject(call, fault, fault)
        said = Said([cluster["anchor"].log])
        cluster.start()
        if not marked:
            eventually(lambda: _is_lost(said), "the anchor says so")  # noqa: B023
            # One that asked before keeps to what it was told for half a minute (`census`).
            cluster["ledger"].kill()
            cluster.restart("ledger")
        with Client(cluster.endpoint("ledger"), policy=POLICY) as client:
            eventually(lambda: _is_told(client, lost, marked), "the log is lost", 60.0)  # noqa: B023
        assert not lost.faults.pending(call)
        assert _is_lost(said)


def _is_lost(said: Said) -> bool:
    return any('"anchor.log_lost"' in line for line in said.lines())


def _is_told(client: Client, lost: Lost, marked: bool) -> bool:
    """Whether clients hear that the log is lost; fails if a restored one is denied meanwhile."""
    told = []
    for ask in (
        lambda: client.get_ledger(lost.later.name),
        lambda: list(client.list_ledgers()),
        *([lambda: client.create_ledger(TENANT, own_log=True)] if marked else []),
    ):
        try:
            ask()
        except StatusError as error:
            told.append(error.reason)
        else:
            told.append("answered")
    assert not marked or {*told} <= UNKNOWN, told
    return {*told} == {"RESTORED_BEHIND"}


def test_sinks_do_not_prove_themselves_or_do_not_let_go(lost: Lost, rng: random.Random) -> None:
    """Neither keeps the anchor from serving, or ends it, whatever a sink of somebody's own does."""
    cluster = lost.attack.cluster
    for fault in SINK_FAULTS if FULL else (rng.choice(SINK_FAULTS),):
        print(fault, flush=True)
        for call in ("check", "close"):
            lost.faults.inject(call, fault, fault)
        cluster["anchor"].kill()
        cluster.restart("anchor")
        for call in ("check", "close"):
            eventually(lambda: not lost.faults.pending(call), f"all faults of {call}")  # noqa: B023
        cluster.check_none_ended()
