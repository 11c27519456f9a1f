"""The client against a service that answers something else than what it was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient
from provledger.errors import InternalError
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, create, serving

OTHER = "tenants/evil/ledgers/main"


class Confused(FakeLedger):
    """Takes every ledger for the one it has, and every receipt for the first."""

    async def GetLedger(self, request: Any, context: Any) -> ledger_pb2.GetLedgerResponse:
        request.name = LEDGER
        return await super().GetLedger(request, context)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[AsyncClient]:
    fake = Confused()
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        for number in range(3):
            await client.append(LEDGER, create(number))
        yield client


async def test_another_ledger_is_not_taken_for_the_one_asked_for(client: AsyncClient) -> None:
    assert (await client.get_ledger(LEDGER)).name == LEDGER
    with pytest.raises(InternalError, match=LEDGER) as caught:
        await client.get_ledger(OTHER)
    assert caught.value.reason == "BAD_RESPONSE"


async def test_receipts_of_another_ledger_are_not_listed(client: AsyncClient) -> None:
    assert len((await client.list_page(LEDGER)).receipts) == 3
    with pytest.raises(InternalError, match=OTHER) as caught:
        await client.list_page(OTHER)
    assert caught.value.reason == "BAD_RESPONSE"
    with pytest.raises(InternalError, match=OTHER):
        await anext(client.list_receipts(OTHER))


async def test_summaries_of_another_ledger_are_not_listed(client: AsyncClient) -> None:
    with pytest.raises(InternalError, match=OTHER):
        await anext(client.list_summaries(OTHER))
