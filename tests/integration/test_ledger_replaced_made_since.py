"""A ledger that was made since the copy which its database was replaced by. PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from ledger_svc.app import Service
from ledger_svc.storage.tables import SCHEMA
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import begin_write
from provledger.errors import StatusError
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    draft,
    eventually,
    ledger_service,
    verify_all,
)
from tests.support.postgres import copy_schema, swap_schemas

pytestmark = pytest.mark.postgres
MADE = f"{LEDGER.rpartition('/')[0]}/since"
BEHIND, ROLLED_BACK = "LEDGER_BEHIND_ANCHOR", "LEDGER_ROLLED_BACK"


async def _append(service: Service) -> object:
    return await append(service, draft("x"), ledger=MADE)


async def _append_batch(service: Service) -> object:
    return await append_batch(service, [draft(f"x{n}") for n in range(150)], ledger=MADE)


async def _get(service: Service) -> object:
    return await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=MADE), None)


async def _list(service: Service) -> object:
    request = ledger_pb2.ListReceiptsRequest(parent=MADE)
    return await service.servicer.ListReceipts(request, None)


async def _verify(service: Service) -> object:
    return await verify_all(service, MADE)


Call = Callable[[Service], Awaitable[object]]
CALLS: list[Call] = [_append, _append_batch, _get, _list, _verify]


async def reason(call: Call, service: Service) -> str:
    with pytest.raises(StatusError) as caught:
        await call(service)
    return caught.value.reason


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("logged", [True, False])
async def test_it_is_told_as_one_that_the_database_lacks(
    postgres_database_url: str, call: Call, cut: bool, logged: bool
) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(postgres_database_url, anchor=anchor, relay=logged) as service:
        await eventually(lambda: not logged or len(anchor.leaves) == 2)
        copy_schema(postgres_database_url, SCHEMA, "early")
        await create_ledger(service, MADE)
        await append(service, draft("r1"), ledger=MADE)
        await eventually(lambda: not logged or len(anchor.leaves) == 4)
        if cut:
            swap_schemas(postgres_database_url, SCHEMA, "early")
        else:
            with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
                for table in ("log_runs", "batches", "entries", "heads", "ledgers"):
                    connection.exec_driver_sql(
                        f"DELETE FROM {table} WHERE ledger_uid NOT IN "
                        "(SELECT ledger_uid FROM early.ledgers)"
                    )
        found = await reason(call, service)
        assert found == (BEHIND if logged else ROLLED_BACK)
        # Whoever is asked next says the same.
        assert await reason(_get, service) == found


async def test_a_head_that_alone_is_missing_is_damage(postgres_database_url: str) -> None:
    async with ledger_service(postgres_database_url) as service:
        await create_ledger(service, MADE)
        await append(service, draft("r1"), ledger=MADE)
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("DELETE FROM heads")
        for call in (_append, _append_batch, _get, _verify):
            assert await reason(call, service) == "HEAD_MISSING"
