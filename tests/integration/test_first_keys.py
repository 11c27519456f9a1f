"""The first keys of an installation: registered where there is none, never over a lost registry."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger_svc.app import Service
from ledger_svc.key_ledger import KeyLedger
from ledger_svc.key_registry import KeyRegistry
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client.calls import CallPolicy
from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from provledger.jwk import thumbprint_of
from provledger.key_events import KeyEvent, SignedEvent, parse_signed
from provledger.kms import local
from provledger.rpc.key_events import event_to_pb
from provledger.rpc.listener import Server
from provledger.rpc.server import ServerSettings
from provledger_cli.ceremonies import first_keys
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded import bootstrap
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from tests.integration.test_keys_svc import Keys, keys_on
from tests.support.ledgering import ledger_service
from tests.support.ports import free_port
from tests.unit.test_key_events import C1, CREATED, GENESIS, H1, R1, START, W1, W2, signed

NAMES = ("witness", "checkpoint", "head", "recovery")
URIS = {name: f"local:{name}-1.pem" for name in NAMES[:3]}


# --- keys init, and what the ledger service says of the key ledger


class Ledgers:
    """Says one thing after the other, the last one for ever; an answer if there is none left."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        """Every other RPC, which nobody calls here."""
        return None

    async def GetLedger(
        self, request: ledger_pb2.GetLedgerRequest, context: Any
    ) -> ledger_pb2.GetLedgerResponse:
        self.asked += 1
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error
        return ledger_pb2.GetLedgerResponse()


@asynccontextmanager
async def serving(ledgers: Ledgers) -> AsyncIterator[str]:
    server = Server(ServerSettings())
    server.add(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, ledgers)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.drain(0.0)


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    """A keys service with an empty registry, and the key files."""
    for name in NAMES:
        local.create_key(tmp_path / f"{name}-1.pem")
    async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as opened:
        yield opened


async def begin(keys: Keys, ledger: str, timeout_s: float) -> first_keys.FirstKeys:
    addresses = {"keys": keys.endpoint, "ledger": ledger}
    target = Target(DataDir.at(keys.key_dir), addresses, False)
    async with Remote(target, timeout_s=timeout_s) as remote:
        return await first_keys.begin(remote, URIS, "local:recovery-1.pem", keys.key_dir)


async def kids(keys: Keys) -> set[str]:
    answer = await keys.ask("ListKeys", pb.ListKeysRequest(page_size=10))
    return {key.kid for key in answer.keys}


async def test_nothing_is_registered_while_the_ledger_service_does_not_answer(keys: Keys) -> None:
    with pytest.raises(CommandError, match="could not be asked") as caught:
        await begin(keys, f"127.0.0.1:{free_port()}", 0.3)
    assert caught.value.exit_code == 2
    assert not await kids(keys)


async def test_nothing_is_registered_where_the_ledger_service_may_not_be_asked(keys: Keys) -> None:
    ledgers = Ledgers(PermissionDeniedError("PERMISSION_DENIED", "not you"))
    async with serving(ledgers) as address:
        with pytest.raises(CommandError, match="could not be asked"):
            await begin(keys, address, 60.0)
    assert ledgers.asked == 1
    assert not await kids(keys)


def away() -> UnavailableError:
    return UnavailableError("DATABASE_UNAVAILABLE", "later", retry_delay_s=0.0)


async def test_a_ledger_service_that_comes_late_still_says_that_the_registry_is_lost(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_keys, "_ASK_AGAIN_S", 0.01)
    async with serving(Ledgers(away(), away(), None)) as address:
        with pytest.raises(CommandError, match="there is a key ledger"):
            await begin(keys, address, 60.0)
    assert not await kids(keys)


@pytest.mark.parametrize(
    "looked",
    [
        NotFoundError("LEDGER_NOT_FOUND", "none"),
        # What a first start is told: the anchor answers only once there are keys.
        UnavailableError("ANCHOR_NOT_ASKED", "none here", retry_delay_s=0.5),
    ],
)
async def test_a_new_registry_gets_its_keys_as_soon_as_somebody_has_looked(
    keys: Keys, looked: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_keys, "_ASK_AGAIN_S", 0.01)
    async with serving(Ledgers(away(), looked)) as address:
        done = await begin(keys, address, 60.0)
    assert set(done.registered) == {"witness-1", "checkpoint-1", "head-1"} == await kids(keys)


# --- keys init, run again


async def begin_with(keys: Keys, **uris: str) -> first_keys.FirstKeys:
    """As `keys init`, with other keys than the usual ones."""
    target = Target(DataDir.at(keys.key_dir), {"keys": keys.endpoint}, False)
    given = {name: f"local:{name}-1.pem" for name in NAMES} | uris
    recovery = given.pop("recovery")
    async with Remote(target, timeout_s=10.0) as remote:
        return await first_keys.begin(remote, given, recovery, keys.key_dir)


async def seal(keys: Keys) -> None:
    """Have the first keys endorse the genesis as well: then the key ledger has begun."""
    begun = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events[0]
    for name in NAMES[:3]:
        kid = f"{name}-1"
        uri = f"local:{kid}.pem"
        begun = await bootstrap.endorse(
            keys.stub, CallPolicy(timeout_s=10.0), begun, kid, uri, keys.key_dir
        )
    assert begun.state == pb.KEY_EVENT_STATE_SEALED


def made(keys: Keys, name: str) -> str:
    """The thumbprint of a key that is made now."""
    return thumbprint_of(local.create_key(keys.key_dir / name)).hex()


@pytest.mark.parametrize("begun", [False, True], ids=["proposed", "begun"])
async def test_a_key_ledger_of_another_recovery_key_is_no_pin(keys: Keys, begun: bool) -> None:
    pin = (await begin_with(keys)).pin
    assert pin is not None
    if begun:
        await seal(keys)
    other = made(keys, "other.pem")
    with pytest.raises(CommandError, match="another recovery key") as caught:
        await begin_with(keys, recovery="local:other.pem")
    assert pin.hex() in caught.value.message
    assert other in caught.value.message
    assert await begin_with(keys) == first_keys.FirstKeys((), pin)


async def test_no_pin_is_said_where_the_recovery_key_is_gone(keys: Keys, tmp_path: Path) -> None:
    """It is not an error: the chart's Job runs anew at an upgrade, and the key is offline."""
    await begin_with(keys)
    await seal(keys)
    # Those of the purposes may have been rotated since, and are not asked for.
    for name in NAMES:
        (keys.key_dir / f"{name}-1.pem").unlink()
    done = await begin_with(keys)
    assert (done.registered, done.pin) == ((), None)
    assert "recovery-1.pem" in done.unopened

    pin_out = tmp_path / "pin"
    words = [f"--{name}=local:{name}-1.pem" for name in NAMES]
    words += ["--key-dir", str(keys.key_dir), "--endpoint", keys.endpoint]
    for more, code in ((["--json"], 0), (["--pin-out", str(pin_out)], 2)):
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "provledger_cli.keys_main", "init", *words, *more],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == code, ran.stderr
        if code == 0:
            assert json.loads(ran.stdout)["pin"] is None
        else:
            assert "no pin is written" in ran.stderr
    assert not pin_out.exists()


async def test_a_key_that_an_earlier_run_registered_in_place_of_the_one_given_is_told(
    keys: Keys,
) -> None:
    """Killed after its first key, it is run again with the right one."""
    wrong = made(keys, "wrong.pem")
    jwk = await first_keys._public_jwk("witness", "local:wrong.pem", keys.key_dir)
    await keys.ask(
        "CreateKey",
        pb.CreateKeyRequest(
            kid="witness-1", purpose=pb.KEY_PURPOSE_WITNESS, uri="local:wrong.pem", jwk=jwk
        ),
    )
    with pytest.raises(CommandError, match="witness key is registered already") as caught:
        await begin_with(keys)
    assert wrong in caught.value.message
    assert await kids(keys) == {"witness-1"}
    assert not (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
    done = await begin_with(keys, witness="local:wrong.pem")
    assert set(done.registered) == {"checkpoint-1", "head-1"}


# --- the ledger service, and the events of a registry that was begun anew


def sealed(one: SignedEvent) -> pb.JournaledKeyEvent:
    return pb.JournaledKeyEvent(
        event=event_to_pb(one.event),
        digest=one.event.digest(),
        payload=one.encode(),
        state=pb.KEY_EVENT_STATE_SEALED,
    )


class Registered:
    """A keys service with these events."""

    def __init__(self, *events: pb.JournaledKeyEvent) -> None:
        self.events = events

    async def ListKeyEvents(self, request: Any, **_: Any) -> pb.ListKeyEventsResponse:
        return pb.ListKeyEventsResponse(events=self.events)


def carrier(service: Service, keys: Registered) -> KeyLedger:
    unused: Any = SimpleNamespace(SignKeyEvent=None)
    return KeyLedger(
        unused,
        unused,
        unused,
        unused,
        service.maker,
        service.directory,
        service.appender,
        service.storage,
        "blake3",
        KeyRegistry(unused, keys, service.storage),
    )


def other_genesis() -> SignedEvent:
    """The first keys again, a while later: what an emptied registry proposes."""
    return signed(_replace(GENESIS, at_ns=999), W1, C1, H1, R1)


def other_creation() -> SignedEvent:
    return signed(_replace(CREATED, genesis=other_genesis().event.digest()), W1, W2)


def _replace(event: KeyEvent, **changes: Any) -> KeyEvent:
    # The digest is remembered in the event itself, so that `replace` would take it along.
    values = {name: getattr(event, name) for name in event.__slots__ if not name.startswith("_")}
    return KeyEvent(**(values | changes))


@pytest.mark.parametrize("other", [other_genesis, other_creation])
async def test_a_key_ledger_takes_no_event_of_another_genesis(
    other: Callable[[], SignedEvent], database_url: str
) -> None:
    async with ledger_service(database_url, create=False) as service:
        start, created = sealed(START), sealed(signed(CREATED, W1, W2))
        key_ledger = carrier(service, Registered(start, created))
        first = await key_ledger._append(sealed(START))
        with pytest.raises(AlreadyExistsError, match="another genesis") as caught:
            await key_ledger._append(sealed(other()))
        assert caught.value.reason == "KEY_LEDGER_EXISTS"
        # Its own are taken: the next one, and the genesis again whose answer was lost.
        await key_ledger._append(created)
        assert await key_ledger._append(start) == first
        ledger = await key_ledger._ledger()
        rows = await service.storage.get_rows(ledger.uid, range(1, 9), full=True)
    events = [parse_signed(each.row.payload).event for each in rows]
    assert events == [GENESIS, CREATED]


async def test_a_key_ledger_takes_no_event_in_the_place_of_another(database_url: str) -> None:
    """A registry of before the last event seals its next one for the same place."""
    start, created = sealed(START), sealed(signed(CREATED, W1, W2))
    other = sealed(signed(_replace(CREATED, at_ns=CREATED.at_ns + 1), W1, W2))
    keys = Registered(start, created)
    async with ledger_service(database_url, create=False) as service:
        key_ledger = carrier(service, keys)
        for each in (start, created):
            await key_ledger._append(each)
        for keys.events in ((start, other), (start,), ()):
            with pytest.raises(FailedPreconditionError) as caught:
                await key_ledger._append(other)
            assert caught.value.reason == "KEY_REGISTRY_BEHIND"
        keys.events = (start, created)
        await key_ledger._append(created)
        ledger = await key_ledger._ledger()
        rows = await service.storage.get_rows(ledger.uid, range(1, 9), full=True)
    assert [each.row.payload for each in rows] == [start.payload, created.payload]
