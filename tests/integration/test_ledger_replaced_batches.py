"""What a replica remembers of a database is not shown as part of the one that took its place."""

from __future__ import annotations

from typing import Any

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


async def test_batch_of_a_database_that_was_lost_meanwhile_is_not_remembered(
    database_url: str,
) -> None:
    """Right after its commit, or while it is read: it may not be there in the other one."""
    async with ledger_service(database_url, InMemoryWitness(), InMemoryAnchor()) as service:
        storage: Any = service.storage
        asked: list[list[int]] = []

        def losing(method: Any) -> Any:
            async def answer(*args: Any, **options: Any) -> Any:
                told = await method(*args, **options)
                if method.__name__ == "get_batches":
                    asked.append(args[1])
                storage._continuity.lost(storage.generation)
                return told

            return answer

        whole = storage.append, storage.get_batches
        storage.append, storage.get_batches = map(losing, whole)
        receipt = (await append(service, draft("r1"), view=FULL)).receipt
        assert asked == [[1]]
        await _get(service, receipt.name)
        assert asked == [[1], [1]]
        storage.get_batches = whole[1]
        assert (await _get(service, receipt.name)).signature == receipt.signature
        storage.get_batches = None
        assert (await _get(service, receipt.name)).signature == receipt.signature
