"""What a replica remembers of a database is not shown as part of the one that took its place."""

from __future__ import annotations

import pytest

from ledger_svc.app import Service
from ledger_svc.storage.tables import SCHEMA
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import append, draft, ledger_service
from tests.support.postgres import copy_schema, swap_schemas

FULL = common_pb2.RECEIPT_VIEW_FULL


async def _get(service: Service, name: str) -> common_pb2.Receipt:
    request = ledger_pb2.GetReceiptRequest(name=name, view=FULL)
    return (await service.servicer.GetReceipt(request, None)).receipt


@pytest.mark.postgres
async def test_receipt_is_shown_with_its_own_batch_where_another_was_lost(
    postgres_database_url: str,
) -> None:
    """Whoever signed the lost one signed something else at the same place."""
    url, witness, anchor = postgres_database_url, InMemoryWitness(), InMemoryAnchor()
    async with (
        ledger_service(url, witness, anchor) as one,
        ledger_service(url, witness, anchor, create=False) as other,
    ):
        await append(one, draft("r1"))
        await append(other, draft("r2"))
        copy_schema(url, SCHEMA, "early")
        lost = (await append(one, draft("lost"), view=FULL)).receipt
        swap_schemas(url, SCHEMA, "early")
        stored = (await append(other, draft("r3"), view=FULL)).receipt
        assert stored.seq == lost.seq
        for service in (one, other):
            assert (await _get(service, stored.name)).signature == stored.signature
