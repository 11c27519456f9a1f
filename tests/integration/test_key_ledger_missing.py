"""What the key registry takes for recorded and is not in the key ledger gets there after all.

A real keys service and a real ledger service, whose neighbours endorse whatever they are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc.app import Service
from ledger_svc.key_ledger import KeyLedger
from ledger_svc.key_registry import KeyRegistry
from provledger import jcs, names
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.witness.v1 import witness_pb2
from provledger.db import begin_write
from provledger.key_events import LEDGER, LEDGER_NAME, TENANT, parse_signed
from provledger.key_history import check_key_set, replay
from provledger.keyring import KeyRing
from provledger.rpc.key_events import PURPOSES_PB, endorsement_to_pb, event_from_pb
from tests.inmem.witness import InMemoryWitness
from tests.integration.test_keys_svc import Keys, keys_on
from tests.support.ledgering import ledger_service
from tests.unit.test_key_events import C1, H1, R1, W1, W2, W3

MAKERS = {each.kid: each for each in (W1, W2, W3, C1, H1, R1)}
MADE_UP = "tenants/system/ledgers/keys/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1"


class Endorser:
    """Witness and anchor, as far as key events go."""

    async def SignKeyEvent(self, request: Any, **_: Any) -> witness_pb2.SignKeyEventResponse:
        endorsement = MAKERS[request.kid].endorse(event_from_pb(request.event))
        return witness_pb2.SignKeyEventResponse(endorsement=endorsement_to_pb(endorsement))


@asynccontextmanager
async def carrying(service: Service, keys: Keys) -> AsyncIterator[None]:
    """A ledger service that writes the key ledger."""

    async def none(uri: str) -> Any:
        raise NotImplementedError

    ring = KeyRing(keys.endpoint, (), none, watcher="ledger")
    await ring.start()
    registry = KeyRegistry(ring, keys.stub, service.storage)
    carrier = KeyLedger(
        ring,
        keys.stub,
        Endorser(),
        Endorser(),
        service.maker,
        service.directory,
        service.appender,
        service.storage,
        "blake3",
        registry,
    )
    running = [asyncio.create_task(each) for each in (registry.run(), carrier.run())]
    try:
        yield
    finally:
        for each in running:
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each
        await ring.close()


async def begin(keys: Keys) -> None:
    for key, purpose in zip((W1, C1, H1), PURPOSES_PB.values(), strict=False):
        uri = f"local:{key.kid}.pem"
        await keys.create(purpose, kid=key.kid, uri=uri, jwk=jcs.encode(key.jwk))
    await keys.ask(
        "ProposeGenesis",
        pb.ProposeGenesisRequest(recovery_kid=R1.kid, recovery_jwk=jcs.encode(R1.jwk)),
    )
    (event,) = await events(keys)
    endorsement = endorsement_to_pb(R1.endorse(event_from_pb(event.event)))
    await keys.ask(
        "EndorseKeyEvent",
        pb.EndorseKeyEventRequest(digest=event.digest, endorsements=[endorsement]),
    )


async def events(keys: Keys) -> list[pb.JournaledKeyEvent]:
    return list((await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events)


async def settled(keys: Keys, count: int) -> list[pb.JournaledKeyEvent]:
    """All events, once so many are recorded."""
    async with asyncio.timeout(20.0):
        while True:
            found = await events(keys)
            if [each.state for each in found] == [pb.KEY_EVENT_STATE_RECORDED] * count:
                return found
            await asyncio.sleep(0.02)


async def rotate(keys: Keys, to: Any) -> None:
    await keys.rotate(kid=to.kid, uri=f"local:{to.kid}.pem", jwk=jcs.encode(to.jwk))


async def told_wrong(keys: Keys) -> None:
    """All that is open is endorsed by those who must, and then said to be recorded."""
    while waiting := [e for e in await events(keys) if e.state != pb.KEY_EVENT_STATE_RECORDED]:
        read = event_from_pb(waiting[0].event)
        kids = {*waiting[0].endorser_kids, waiting[0].event.kid}
        endorsements = [endorsement_to_pb(MAKERS[kid].endorse(read)) for kid in kids]
        digest = waiting[0].digest
        await keys.ask(
            "EndorseKeyEvent",
            pb.EndorseKeyEventRequest(digest=digest, endorsements=endorsements),
        )
        await keys.ask("RecordKeyEvent", pb.RecordKeyEventRequest(digest=digest, receipt=MADE_UP))


async def followed(service: Service, keys: Keys, count: int) -> list[str]:
    """What comes next gets into the key ledger, which has everything then, and holds; the receipts
    by the registry."""
    # Several replicas see it at once, and one of them appends it.
    async with carrying(service, keys), carrying(service, keys):
        await rotate(keys, W3)
        found = await settled(keys, count)
    ledger = await service.storage.get_ledger(TENANT, LEDGER)
    assert ledger is not None
    rows = await service.storage.get_rows(ledger.uid, range(1, 99), full=True)
    there = [each.row.payload for each in rows]
    assert there == [each.payload for each in found]
    history = replay([parse_signed(each) for each in there], R1.thumbprint)
    check_key_set(history, await keys.jwks())
    ids = [names.receipt_id_text(each.row.receipt_id) for each in rows]
    real = [f"{LEDGER_NAME}/receipts/{each}" for each in ids]
    # The one who appended it may have been cut off before he could say where it is.
    named = [each.receipt for each in found]
    assert [
        MADE_UP if by == MADE_UP else is_at for by, is_at in zip(named, real, strict=True)
    ] == named
    return named


@pytest.mark.parametrize("is_running", [False, True])
async def test_what_was_said_to_be_recorded_and_is_not_there_is_appended(
    is_running: bool, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One false RecordKeyEvent, and nothing behind it could be in the key ledger."""
    witness = InMemoryWitness()
    async with (
        ledger_service(database_url, witness, create=False) as service,
        keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as keys,
    ):
        await begin(keys)
        async with carrying(service, keys):
            await settled(keys, 1)
            if is_running:
                witness.faults.down = True
                await rotate(keys, W2)
                await told_wrong(keys)
        if not is_running:
            await rotate(keys, W2)
            await told_wrong(keys)
        witness.faults.down = False
        named = await followed(service, keys, 5)
    assert is_running or MADE_UP not in named
    assert "key_ledger.was_missing" in caplog.messages


async def test_what_the_database_lost_before_the_log_had_it_is_appended_again(
    database_url: str, tmp_path: Path
) -> None:
    """As by a failover to a standby that was behind."""
    async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as keys:
        async with ledger_service(database_url, create=False) as service:
            await begin(keys)
            async with carrying(service, keys):
                await settled(keys, 1)
                await rotate(keys, W2)
                await settled(keys, 3)
            with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
                connection.execute(sa.text("DELETE FROM entries WHERE seq > 1"))
                connection.execute(
                    sa.text(
                        "DELETE FROM batches WHERE batch_seq NOT IN (SELECT batch_seq FROM entries)"
                    )
                )
                connection.execute(
                    sa.text(
                        "UPDATE heads SET seq = 1, receipt_hash = "
                        "(SELECT receipt_hash FROM entries WHERE seq = 1), "
                        "t_ns = (SELECT t_ns FROM entries WHERE seq = 1)"
                    )
                )
        async with ledger_service(database_url, create=False) as service:
            await followed(service, keys, 5)
