"""A ledger service over a socket that answers as a test says, and records nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc

LEDGER = "tenants/load/ledgers/load"
RECEIPT = common_pb2.AppendResult(receipt=common_pb2.Receipt(name="made"))

SERVICER: Any = ledger_pb2_grpc.LedgerServiceServicer


class Answering(SERVICER):  # type: ignore[misc]
    """Answers single appends once it is `open`, each batch with `results`; ends each stream at its
    first draft."""

    def __init__(self, *results: common_pb2.AppendResult) -> None:
        self.results = results
        self.open = asyncio.Event()
        self.open.set()

    async def Append(self, request: Any, context: Any) -> Any:
        await self.open.wait()
        return ledger_pb2.AppendResponse(receipt=RECEIPT.receipt)

    async def AppendBatch(self, request: Any, context: Any) -> Any:
        return ledger_pb2.AppendBatchResponse(results=self.results)

    async def AppendStream(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        yield ledger_pb2.AppendStreamResponse()


@asynccontextmanager
async def serving(service: Answering) -> AsyncIterator[str]:
    """The endpoint of the service."""
    server = grpc.aio.server()
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
