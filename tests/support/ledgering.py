"""A ledger service in this process, over a real database, with neighbours in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import sqlalchemy as sa

from ledger_svc import admission
from ledger_svc.app import Service, assemble
from ledger_svc.config import Settings
from ledger_svc.storage.database import Database
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import StatusError
from provledger.rpc.channel import channel
from provledger.rpc.errors import status_from_pb
from provledger.rpc.server import Server
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness

LEDGER = "tenants/acme/ledgers/main"


def settings(url: str, **options: Any) -> Settings:
    """Settings for a service that is never started as a process."""
    defaults: dict[str, Any] = {
        "database_url": url,
        "witness_endpoint": "unused:1",
        "anchor_endpoint": "unused:1",
        "witness_timeout_s": 2.0,
        "anchor_timeout_s": 2.0,
        "relay_poll_s": 0.05,
        "relay_lease_s": 1.0,
    }
    return Settings(**{**defaults, **options})


@contextlib.asynccontextmanager
async def ledger_service(
    url: str,
    witness: InMemoryWitness | None = None,
    anchor: InMemoryAnchor | None = None,
    *,
    relay: bool = False,
    create: bool = True,
    keys: Any = None,
    clock: Callable[[], int] | None = None,
    **options: Any,
) -> AsyncIterator[Service]:
    """A service, with the ledger `LEDGER` made; `relay` brings entries to the anchor."""
    storage = Database.open(url, reader_threads=2)
    await asyncio.to_thread(storage.migrate)
    extra: dict[str, Any] = {} if clock is None else {"clock": clock}
    service = assemble(
        settings(url, **options),
        storage,
        witness or InMemoryWitness(),
        anchor or InMemoryAnchor(),
        keys=keys,
        **extra,
    )
    running = asyncio.create_task(service.relay.run()) if relay else None
    try:
        if create:
            await create_ledger(service)
        yield service
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await service.close()


async def create_ledger(service: Service, name: str = LEDGER) -> ledger_pb2.Ledger:
    """Make a ledger by its full name."""
    _, tenant, _, ledger_id = name.split("/")
    request = ledger_pb2.CreateLedgerRequest(parent=f"tenants/{tenant}", ledger_id=ledger_id)
    response = await service.servicer.CreateLedger(request, None)
    return response.ledger


def draft(
    request_id: str,
    *,
    new: Any = None,
    resource_id: str = "redis/8.8.2",
    actor_id: str = "bot",
    **fields: Any,
) -> common_pb2.Draft:
    """A CREATE mutation; `fields` set further members of the draft."""
    state = {"name": resource_id, "n": request_id} if new is None else new
    return common_pb2.Draft(
        request_id=request_id,
        actor=common_pb2.Actor(id=actor_id, type="service"),
        mutation=common_pb2.Mutation(
            action=common_pb2.ACTION_CREATE,
            resource_type="Version",
            resource_id=resource_id,
            new_state=json.dumps(state).encode(),
        ),
        **fields,
    )


def document(
    request_id: str,
    payload: bytes = b"\x00\x01binary",
    media_type: str = "application/octet-stream",
    receipt_type: str = "evidence.recovery",
) -> common_pb2.Draft:
    """A document, a blob unless said otherwise."""
    return common_pb2.Draft(
        request_id=request_id,
        actor=common_pb2.Actor(id="bot"),
        document=common_pb2.Document(
            receipt_type=receipt_type,
            media_type=media_type,
            payload=payload,
            resource_type="Backup",
            resource_id="db/1",
        ),
    )


async def append(
    service: Service, item: common_pb2.Draft, view: Any = 0, ledger: str = LEDGER
) -> ledger_pb2.AppendResponse:
    """Append one draft."""
    request = ledger_pb2.AppendRequest(ledger=ledger, draft=item, view=view)
    return await service.servicer.Append(request, None)


async def append_batch(
    service: Service, items: Iterable[common_pb2.Draft], view: Any = 0, ledger: str = LEDGER
) -> list[common_pb2.AppendResult]:
    """Append drafts in one batch."""
    request = ledger_pb2.AppendBatchRequest(ledger=ledger, drafts=items, view=view)
    return list((await service.servicer.AppendBatch(request, None)).results)


async def verify_all(service: Service, name: str = LEDGER) -> ledger_pb2.VerifyRangeResponse:
    """Recompute every stored row of a ledger of at most 10,000."""
    request = ledger_pb2.VerifyRangeRequest(name=name, start_seq=0, end_seq=10**9)
    return await service.servicer.VerifyRange(request, None)


def go_back_to(connection: sa.Connection, seq: int) -> None:
    """Make the database look as it did when `seq` was the last receipt."""
    for statement in (
        "DELETE FROM entries WHERE seq > :seq",
        "DELETE FROM batches WHERE batch_seq > :seq",
        "UPDATE log_runs SET count = :seq + 1",
        "UPDATE heads SET seq = :seq, logged_seq = :seq, "
        "receipt_hash = (SELECT receipt_hash FROM entries WHERE seq = :seq), "
        "t_ns = (SELECT t_ns FROM entries WHERE seq = :seq)",
    ):
        connection.execute(sa.text(statement), {"seq": seq})


def error_of(result: common_pb2.AppendResult) -> StatusError:
    """The error of a draft that was not recorded."""
    assert result.WhichOneof("outcome") == "error"
    return status_from_pb(result.error)


async def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for a condition, plain or awaited, to become true."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


async def recorded(service: Service, seq: int) -> bytes:
    """Wait until the database has the first ledger's places in the log up to `seq`; its uid.

    The log itself has them a moment before.
    """
    uid = (await service.storage.list_ledgers("", ("", ""), 1))[0][0].uid

    async def reached() -> bool:
        return (await service.storage.get_head(uid)).logged_seq == seq

    await eventually(reached)
    return uid


@contextlib.asynccontextmanager
async def served(service: Service, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    """The service behind a real socket, with the interceptor; a channel to it."""
    async with (
        served_at(service, **options) as address,
        channel(address) as opened,
    ):
        yield opened


@contextlib.asynccontextmanager
async def served_at(service: Service, **options: Any) -> AsyncIterator[str]:
    """The same; its address."""
    config = settings("sqlite:///unused", **options)
    server = Server(config, gates=service.gates(), limits=admission.LIMITS)
    server.add(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, service.servicer)
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.drain(5.0)
