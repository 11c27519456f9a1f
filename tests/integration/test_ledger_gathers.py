"""Drafts of a tenant who sends much wait to be together, while others are there too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ledger_svc import append as pipeline
from provledger.api.witness.v1 import witness_pb2
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    append,
    create_ledger,
    draft,
    ledger_service,
)

BOUND_S = 30.0
FLUSH = 10
MUCH = 500
NEIGHBOUR = "tenants/globex/ledgers/main"


class Watched(InMemoryWitness):
    """Remembers how many drafts each flush had."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def WitnessBatch(
        self, request: witness_pb2.WitnessBatchRequest, context: Any = None, **_: Any
    ) -> witness_pb2.WitnessBatchResponse:
        self.sizes.append(len(request.items))
        return await super().WitnessBatch(request)


@pytest.mark.parametrize("shared", [True, False])
async def test_who_sends_much_has_fewer_and_larger_flushes_while_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    # So long that only what is counted can end the wait.
    monkeypatch.setattr(pipeline, "GATHER_S", 3600.0)
    witness = Watched()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with (
        asyncio.timeout(BOUND_S),
        ledger_service(url, witness, flush_items=FLUSH) as service,
    ):
        await create_ledger(service, NEIGHBOUR)
        monkeypatch.setattr(service.appender._tools.turns, "_clock", lambda: 100.0)
        await asyncio.gather(*(append(service, draft(f"much{n}")) for n in range(MUCH)))
        if shared:
            await append(service, draft("n0"), ledger=NEIGHBOUR)
        lone = asyncio.create_task(append(service, draft("lone")))
        if shared:
            # The neighbour, who sends little, is answered meanwhile.
            await append(service, draft("n1"), ledger=NEIGHBOUR)
            assert not lone.done()
            await asyncio.gather(*(append(service, draft(f"r{n}")) for n in range(FLUSH - 1)))
        await lone
        assert witness.sizes[-1] == (FLUSH if shared else 1)
