"""Answers of unary calls that nobody takes: what they hold, whose that is, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ledger_svc.app import LEDGER_SERVICE, Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    document,
    eventually,
    ledger_service,
    served_at,
)

OTHER = "tenants/other/ledgers/main"
MIB = 1024 * 1024
# Its own connection, whose windows do not grow.
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
BOUND_S = 60.0
READ = ledger_pb2.ListReceiptsRequest(
    parent=LEDGER, page_size=1000, view=common_pb2.RECEIPT_VIEW_FULL
)


@contextlib.asynccontextmanager
async def readable(tmp_path: Path) -> AsyncIterator[tuple[Service, str]]:
    """A served ledger service with 5 MiB to be read of one tenant, and some of another."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with (
        asyncio.timeout(BOUND_S),
        ledger_service(url, work_bytes=16 * MIB, read_calls=16) as service,
        served_at(service) as address,
    ):
        await create_ledger(service, OTHER)
        for n in range(5):
            await append(service, document(f"d{n}", os.urandom(MIB)))
        yield service, address


def unread(opened: grpc.aio.Channel, request: Any, method: str = "ListReceipts") -> Any:
    """A call whose answer is not taken: gRPC reads of a stream only what is asked for."""
    start: Any = opened.unary_stream(f"/{LEDGER_SERVICE}/{method}")
    return start(request.SerializeToString(), timeout=BOUND_S)


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert error.retry_delay_s
    return error.code, error.reason


async def test_answers_that_nobody_takes_are_bounded_and_their_tenants_own(tmp_path: Path) -> None:
    async with (
        readable(tmp_path) as (service, address),
        channel(address, options=OPTIONS) as idle,
        channel(address) as opened,
    ):
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(opened)
        calls = [unread(idle, READ) for _ in range(2)]
        await eventually(lambda: service.untaken.size_bytes > 10 * MIB)
        # They hold their places too, so that small ones are bounded as well.
        assert service.reading_gate.in_work == 2
        assert await refusal(stub.ListReceipts(READ)) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert service.untaken.size_bytes < 16 * MIB
        assert service.reading_gate.in_work == 2
        other = ledger_pb2.ListReceiptsRequest(parent=OTHER)
        assert len((await stub.ListReceipts(other)).receipts) == 1
        for call in calls:
            call.cancel()
        await eventually(lambda: not service.untaken.size_bytes)
        assert len((await stub.ListReceipts(READ)).receipts) == 6
        await eventually(lambda: not service.reading_gate.in_work)
        assert not service.untaken.size_bytes


async def test_answer_counts_until_it_is_taken(tmp_path: Path) -> None:
    async with readable(tmp_path) as (service, address), channel(address, options=OPTIONS) as idle:
        call = unread(idle, READ)
        await eventually(lambda: service.untaken.size_bytes)
        answer = ledger_pb2.ListReceiptsResponse.FromString(await call.read())
        assert len(answer.receipts) == 6
        await eventually(lambda: not service.untaken.size_bytes)
        assert not service.reading_gate.in_work


async def test_answers_to_appends_that_nobody_takes_keep_their_tenant_out(tmp_path: Path) -> None:
    async with (
        readable(tmp_path) as (service, address),
        channel(address, options=OPTIONS) as idle,
        channel(address) as opened,
    ):
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(opened)
        items = [document(f"b{n}", os.urandom(MIB)) for n in range(3)]
        await append_batch(service, items)
        batch = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=items, view=common_pb2.RECEIPT_VIEW_FULL
        )
        # Repeats cost nothing but their answers.
        calls = []
        for n in (1, 2, 3, 4):
            calls.append(unread(idle, batch, "AppendBatch"))
            await eventually(lambda: service.untaken.size_bytes > n * 3 * MIB)  # noqa: B023
        assert await refusal(stub.AppendBatch(batch)) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        for call in calls:
            call.cancel()
        await eventually(lambda: not service.untaken.size_bytes)
        assert len((await stub.AppendBatch(batch)).results) == 3
