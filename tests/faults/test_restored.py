"""A database is put back to an earlier copy: it is noticed before anything new is said."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.client import CallPolicy, Client, Mutation
from provledger.errors import FailedPreconditionError, StatusError
from provledger.retry import RetryPolicy
from provledger.rpc.channel import call, channel
from provledger_cli.embedded.bootstrap import local_key
from tests.faults import observe
from tests.faults.cluster import DiedError, eventually
from tests.faults.conftest import Attack
from tests.faults.denied import check_not_denied
from tests.faults.held import check_held, check_nothing_recorded
from tests.faults.known import Sent
from tests.faults.workload import LEDGERS, OWN_LOG, Load

LOAD = Load(writers=2, batch=4, pause_s=0.03)
LEDGER = LEDGERS[0]
KEY_LEDGER = "tenants/system/ledgers/keys"


def _work(attack: Attack) -> None:
    """Append for a while, until all of it is anchored."""
    with attack.workload(LOAD) as work:
        work.wait_for(40)
    attack.wait_anchored()


def _copy(attack: Attack, name: str, to: Path) -> None:
    """Copy a service's database; it is killed for that, as a snapshot of the disk would."""
    attack.cluster[name].kill()
    to.mkdir()
    for path in attack.cluster.data.databases.glob(f"{name}.sqlite3*"):
        shutil.copy2(path, to / path.name)


def _put_back(attack: Attack, name: str, copy: Path) -> None:
    attack.cluster[name].kill()
    for path in attack.cluster.data.databases.glob(f"{name}.sqlite3*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy2(path, attack.cluster.data.databases / path.name)


def _make_later(attack: Attack, tenant: str) -> str:
    """Make a ledger that an earlier copy lacks; its name."""
    with Client(attack.cluster.endpoint("ledger")) as client:
        made, _ = client.create_ledger(tenant)
    return made.name


def _append(attack: Attack, request_id: str, attempts: int = 10) -> None:
    policy = CallPolicy(timeout_s=30.0, retry=RetryPolicy(attempts=attempts))
    with Client(attack.cluster.endpoint("ledger"), policy=policy) as client:
        client.append(LEDGER, _mutation(request_id))


def _mutation(request_id: str) -> Mutation:
    return Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id="x",
        actor_id="a",
        request_id=request_id,
        new_state={},
    )


def test_ledger_database_of_an_earlier_copy(embedded: Attack, tmp_path: Path) -> None:
    """Nothing is appended; nothing that was anchored is denied by the log; the way out is said."""
    attack = embedded
    _work(attack)
    _copy(attack, "ledger", tmp_path / "early")
    attack.cluster.restart("ledger")
    later = _make_later(attack, "later")
    _work(attack)
    _copy(attack, "ledger", tmp_path / "late")
    leaves = _leaves(attack)

    _put_back(attack, "ledger", tmp_path / "early")
    attack.cluster.restart("ledger")
    with pytest.raises(FailedPreconditionError) as caught:
        _append(attack, "after")
    assert caught.value.reason == "LEDGER_BEHIND_ANCHOR"
    assert "Restore" in caught.value.message
    assert "ledger.behind_anchor" in attack.cluster["ledger"].tail()
    endpoint = attack.cluster.endpoint("ledger")
    check_not_denied(
        endpoint, attack.record_path, LEDGER, "LEDGER_BEHIND_ANCHOR", made_later=[later]
    )
    assert _leaves(attack) == leaves

    _put_back(attack, "ledger", tmp_path / "late")
    attack.cluster.restart("ledger")
    _work(attack)
    print(attack.check())


def test_anchor_database_of_an_earlier_copy(embedded: Attack, tmp_path: Path) -> None:
    """Nothing is signed, the ledger goes on, and all is well when the right one is back."""
    attack = embedded
    _work(attack)
    _copy(attack, "anchor", tmp_path / "early")
    attack.cluster.restart("anchor")
    _work(attack)
    _copy(attack, "anchor", tmp_path / "late")
    leaves, sunk = _leaves(attack), _sunk(attack)

    _put_back(attack, "anchor", tmp_path / "early")
    attack.cluster.spawn("anchor")
    with pytest.raises(DiedError, match=r"DATABASE_BEHIND|older than the data directory"):
        attack.cluster.wait_ready("anchor")
    assert attack.cluster["anchor"].end() is not None
    # The ledger was confirmed before; its receipts stay pending.
    with attack.workload(LOAD, anchored=False) as work:
        work.wait_for(20)
    assert (_leaves(attack), _sunk(attack)) == (leaves, sunk)

    _put_back(attack, "anchor", tmp_path / "late")
    attack.cluster.restart("anchor")
    _work(attack)
    print(attack.check())


@pytest.mark.parametrize("put_back", [("db", "tiles"), ("db", "tiles", "anchors")])
def test_snapshot_of_everything_but_sinks(
    embedded: Attack, tmp_path: Path, put_back: tuple[str, ...]
) -> None:
    """It agrees with itself, and with the sink that was put back as well: only what is outside
    remembers more, and is asked before signing."""
    attack = embedded
    data = attack.cluster.data
    _work(attack)
    _stop(attack)
    for name in put_back:
        shutil.copytree(data.path / name, tmp_path / name)
    attack.cluster.start()
    later = _make_later(attack, f"after-copy-of-{put_back[-1]}")
    # Both logs lose something.
    with attack.workload(LOAD, ledgers=[OWN_LOG]) as work:
        work.wait_for(4)
    _work(attack)
    _stop(attack)
    leaves = _leaves(attack)
    for name in put_back:
        (data.path / name).rename(tmp_path / f"late-{name}")
        shutil.copytree(tmp_path / name, data.path / name)
    sunk = _sunk(attack)

    attack.cluster.start()
    with pytest.raises(FailedPreconditionError) as caught:
        _append(attack, "after")
    assert caught.value.reason == "RESTORED_BEHIND"
    endpoint = attack.cluster.endpoint("ledger")
    check_held(attack.cluster, leaves, "RESTORED_BEHIND")
    for ledger in (LEDGER, OWN_LOG):
        check_nothing_recorded(endpoint, ledger, "RESTORED_BEHIND")
    check_not_denied(endpoint, attack.record_path, LEDGER, "RESTORED_BEHIND", made_later=[later])
    assert "anchor.held" in attack.cluster["anchor"].tail()
    assert _sunk(attack) == sunk
    _stop(attack)

    for name in put_back:
        shutil.rmtree(data.path / name)
        (tmp_path / f"late-{name}").rename(data.path / name)
    attack.cluster.start()
    _work(attack)
    print(attack.check())


@pytest.mark.parametrize(
    ("put_back", "reason"), [(["db"], "DATABASE_BEHIND"), (["db", "tiles"], "RESTORED_BEHIND")]
)
def test_log_of_a_tenant_that_was_made_after_the_copy(
    embedded: Attack, tmp_path: Path, put_back: list[str], reason: str
) -> None:
    """Nothing else was lost: only its directory, or only the sink, still knows of it."""
    attack = embedded
    data, tenant = attack.cluster.data, f"umbrella-{len(put_back)}"
    _work(attack)
    _stop(attack)
    for name in put_back:
        shutil.copytree(data.path / name, tmp_path / name)
    attack.cluster.start()
    logs = _anchored_logs(attack)
    with Client(attack.cluster.endpoint("ledger")) as client:
        later, _ = client.create_ledger(tenant, own_log=True)
    eventually(lambda: _anchored_logs(attack) > logs, "the new log is not in the sinks")
    _stop(attack)
    for name in put_back:
        (data.path / name).rename(tmp_path / f"late-{name}")
        shutil.copytree(tmp_path / name, data.path / name)

    attack.cluster.start()
    # The ledger may have yet to reach the anchor.
    policy = CallPolicy(timeout_s=60.0, retry=RetryPolicy(attempts=20))
    with Client(attack.cluster.endpoint("ledger"), policy=policy) as client:
        for ask in (
            lambda: client.get_ledger(later.name),
            lambda: client.create_ledger(tenant, own_log=True),
            lambda: client.append(later.name, _mutation("again")),
            lambda: list(client.list_ledgers()),
        ):
            with pytest.raises(StatusError) as caught:
                ask()
            assert caught.value.reason == reason
    assert "anchor.log_lost" in attack.cluster["anchor"].tail()
    _stop(attack)

    for name in put_back:
        shutil.rmtree(data.path / name)
        (tmp_path / f"late-{name}").rename(data.path / name)
    attack.cluster.start()
    _work(attack)
    print(attack.check())


def test_key_registry_of_an_earlier_copy(embedded: Attack, tmp_path: Path) -> None:
    """It has forgotten a rotation: nothing is appended and no key event written, until it knows."""
    attack = embedded
    _work(attack)
    _rotate(attack, "witness-2")
    _copy(attack, "keys", tmp_path / "early")
    attack.cluster.restart("keys")
    _rotate(attack, "witness-3")
    _work(attack)
    _copy(attack, "keys", tmp_path / "late")

    # Acknowledged, and not in the log yet: a key that was replaced would sign the next checkpoint.
    attack.cluster.restart("keys")
    attack.wait_anchored()
    attack.cluster["anchor"].kill()
    attack.record.sent([Sent(LEDGER, _mutation("waits"))])
    _append(attack, "waits")
    attack.cluster["ledger"].kill()
    logged = _leaves(attack)
    _put_back(attack, "keys", tmp_path / "early")
    attack.cluster.restart("keys", "anchor", "ledger")
    before = _receipts(attack, KEY_LEDGER)
    _check_registry_behind(attack)
    # Its next event would be in the place of another, and then be as many as there are.
    asyncio.run(_propose(attack, "witness-4"))
    eventually(
        lambda: "key_ledger.waits" in attack.cluster["ledger"].tail(), "no event was refused"
    )
    _check_registry_behind(attack)
    assert _receipts(attack, KEY_LEDGER) == before
    assert _leaves(attack) == logged

    # The ledger hears of the right one, without a restart.
    _put_back(attack, "keys", tmp_path / "late")
    attack.cluster.restart("keys")
    eventually(lambda: "key_registry.caught_up" in attack.cluster["ledger"].tail(), "still behind")
    _work(attack)
    assert [len(leaves) for leaves in _leaves(attack).values()] > [*map(len, logged.values())]
    print(attack.check())


def _check_registry_behind(attack: Attack) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        _append(attack, "after")
    assert caught.value.reason == "KEY_REGISTRY_BEHIND"
    assert "keys rebuild" in caught.value.message
    with Client(attack.cluster.endpoint("ledger")) as client:
        assert client.get_ledger(LEDGER).read_only_reason == "KEY_REGISTRY_BEHIND"
        with pytest.raises(FailedPreconditionError, match="key registry"):
            client.create_ledger("made-by-an-old-key")


def _rotate(attack: Attack, kid: str) -> None:
    """Make a key the witness's, as the key ledger says."""

    def recorded() -> bool:
        return asyncio.run(_is_recorded(attack, kid))

    asyncio.run(_propose(attack, kid))
    eventually(recorded, f"{kid} is not in the key ledger")


async def _propose(attack: Attack, kid: str) -> None:
    uri, jwk = await local_key(attack.cluster.data, kid, "witness")
    request = keys_pb2.RotateKeyRequest(
        kid=kid, purpose=keys_pb2.KEY_PURPOSE_WITNESS, uri=uri, jwk=jwk
    )
    async with channel(attack.cluster.endpoint("keys")) as opened:
        await call(keys_pb2_grpc.KeysServiceStub(opened).RotateKey, request, timeout_s=10.0)


async def _is_recorded(attack: Attack, kid: str) -> bool:
    request = keys_pb2.ListKeyEventsRequest()
    async with channel(attack.cluster.endpoint("keys")) as opened:
        stub = keys_pb2_grpc.KeysServiceStub(opened)
        events = (await call(stub.ListKeyEvents, request, timeout_s=10.0)).events
    mine = [each.state for each in events if each.event.kid == kid]
    return mine == [keys_pb2.KEY_EVENT_STATE_RECORDED] * 2


def _receipts(attack: Attack, ledger: str) -> list[str]:
    with Client(attack.cluster.endpoint("ledger")) as client:
        return [each.name for each in client.list_receipts(ledger)]


def test_ledger_that_nobody_confirms_says_so(embedded: Attack) -> None:
    """Started while the anchor is away, it cannot know that it is not behind."""
    attack = embedded
    _work(attack)
    for name in ("anchor", "ledger"):
        attack.cluster[name].kill()
    attack.cluster.restart("ledger")
    with pytest.raises(StatusError) as caught:
        # A second attempt may have too little time left to hear the answer.
        _append(attack, "unconfirmed", attempts=1)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "ANCHOR_NOT_ASKED")
    attack.cluster.restart("anchor")
    _work(attack)
    print(attack.check())


def _stop(attack: Attack) -> None:
    for name in reversed(attack.cluster.services):
        attack.cluster[name].kill()


def _leaves(attack: Attack) -> dict[str, list[bytes]]:
    """Of each log."""
    logs = [*(attack.cluster.data.tiles / "logs").iterdir()]
    return {log.name: observe.published_leaves(log) for log in logs}


def _anchored_logs(attack: Attack) -> set[str]:
    """The logs that are in a sink, by the directory there."""
    return {name.split(" ")[1].split("/")[0] for name in _sunk(attack)}


def _sunk(attack: Attack) -> dict[str, bytes]:
    """In all sinks."""
    return {
        f"{uri} {path.parent.name}/{path.name}": path.read_bytes()
        for uri, sink in attack.cluster.sinks.items()
        for path in sink.rglob("*.checkpoint")
    }
