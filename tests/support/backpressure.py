"""A served ledger service that is stuck at the witness, and what its callers hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from ledger_svc.app import Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import StatusError
from provledger.rpc.errors import from_rpc_error
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import LEDGER, create_ledger, ledger_service, served

OTHER: Final = "tenants/other/ledgers/main"


class HeldWitness(InMemoryWitness):
    """Answers for `OTHER` alone, until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def WitnessBatch(self, request: Any, *args: Any, **options: Any) -> Any:
        if request.ledger != OTHER:
            await self.gate.wait()
        return await super().WitnessBatch(request, *args, **options)


@asynccontextmanager
async def held(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Service, Any, HeldWitness]]:
    """A served ledger service that is stuck at the witness, but for `OTHER`; a channel to it."""
    witness = HeldWitness()
    witness.gate.set()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    options = {"witness_timeout_s": 60.0, **options}
    async with ledger_service(url, witness, **options) as service, served(service) as channel:
        await create_ledger(service, OTHER)
        witness.gate.clear()
        try:
            yield service, channel, witness
        finally:
            witness.gate.set()


def request(item: common_pb2.Draft, ledger: str = LEDGER) -> ledger_pb2.AppendRequest:
    return ledger_pb2.AppendRequest(ledger=ledger, draft=item, view=common_pb2.RECEIPT_VIEW_BASIC)


async def outcome(call: Any) -> StatusError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


def is_refusal(error: StatusError | None, reason: str) -> bool:
    return (
        error is not None
        and (error.code, error.reason) == ("RESOURCE_EXHAUSTED", reason)
        and (error.retry_delay_s or 0.0) >= 0.05
    )
