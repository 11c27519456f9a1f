"""Streams do not hold up the end of a service, and lose no answer by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ledger_svc.app import Service
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import StatusError
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import App, serve
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    draft,
    eventually,
    ledger_service,
    served,
    settings,
    verify_all,
)

Request = ledger_pb2.AppendStreamRequest
WAIT_S = 30.0


class HeldWitness(InMemoryWitness):
    """Answers once `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = 0

    async def WitnessBatch(self, request: Any, *args: Any, **options: Any) -> Any:
        self.asked += 1
        await self.gate.wait()
        return await super().WitnessBatch(request, *args, **options)


@asynccontextmanager
async def streaming(
    tmp_path: Path, witness: InMemoryWitness | None = None
) -> AsyncIterator[tuple[Service, Any]]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url, witness) as service, served(service) as channel:
        yield service, ledger_pb2_grpc.LedgerServiceStub(channel).AppendStream(timeout=WAIT_S)


async def end_of(call: Any) -> StatusError:
    """How a stream ended on which nothing more was answered."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return from_rpc_error(caught.value)


async def test_an_idle_stream_ends_when_the_service_does(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, call):
        await call.write(Request(ledger=LEDGER, draft=draft("r1")))
        assert (await call.read()).result.receipt.seq == 1
        await service.servicer.drain()
        error = await end_of(call)
        assert (error.code, error.reason) == ("UNAVAILABLE", "SERVER_DRAINING")


async def test_a_stream_without_a_message_ends_too(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, call):
        await call.wait_for_connection()
        await eventually(lambda: service.servicer._parts.gate._silent_streams == 1)
        await service.servicer.drain()
        assert (await end_of(call)).reason == "SERVER_DRAINING"


async def test_a_stream_that_begins_during_the_drain_ends_at_once(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, call):
        await service.servicer.drain()
        assert (await end_of(call)).reason == "SERVER_DRAINING"


async def test_what_was_read_is_answered_before_the_end(tmp_path: Path) -> None:
    witness = HeldWitness()
    witness.gate.set()
    async with streaming(tmp_path, witness) as (service, call):
        witness.gate.clear()
        asked = witness.asked
        await call.write(Request(ledger=LEDGER, drafts=[draft(f"r{n}") for n in range(3)]))
        await eventually(lambda: witness.asked > asked)
        await service.servicer.drain()
        witness.gate.set()
        answer = await call.read()
        assert [result.receipt.seq for result in answer.results] == [1, 2, 3]
        assert (await end_of(call)).reason == "SERVER_DRAINING"
        assert (await verify_all(service)).checked_count == 4


async def test_the_drain_of_a_server_waits_for_no_idle_stream(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with ledger_service(url) as service:
        app = App(
            [(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, service.servicer)],
            on_drain=service.servicer.drain,
        )
        config = settings(url, grace_s=600.0)
        serving = asyncio.create_task(serve(app, config, stop=stop, on_ready=port.set_result))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as opened:
            call = ledger_pb2_grpc.LedgerServiceStub(opened).AppendStream()
            await call.write(Request(ledger=LEDGER, draft=draft("r1")))
            await call.read()
            stop.set()
            async with asyncio.timeout(WAIT_S):
                await serving
            assert (await end_of(call)).reason == "SERVER_DRAINING"
