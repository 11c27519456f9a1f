"""Clients and commands against services whose listings have no end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient, ReceiptFilter, paging
from provledger.errors import InternalError
from provledger_cli.anchors import listed
from provledger_cli.ceremonies.registry import list_key_events, list_keys
from provledger_cli.connect import Remote
from provledger_cli.transfer import exporting
from provledger_cli.verbs.list_ import _whole
from provledger_cli.verifying.earlier_checkpoints import anchored_sizes
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, create, serving

LAST_SEQ = 1_000_000


class Endless(FakeLedger):
    """Lists the same page again and again, or empty ones."""

    def __init__(self) -> None:
        super().__init__()
        self.is_empty = False
        self._tokens = itertools.count()

    def next_token(self) -> str:
        return f"token-{next(self._tokens)}" if self.is_empty else "again"

    async def ListReceipts(self, request: Any, context: Any) -> ledger_pb2.ListReceiptsResponse:
        receipts = [] if self.is_empty else self.receipts
        return ledger_pb2.ListReceiptsResponse(receipts=receipts, next_page_token=self.next_token())

    async def ListLedgers(self, request: Any, context: Any) -> ledger_pb2.ListLedgersResponse:
        ledger = ledger_pb2.Ledger(name=LEDGER, suite=common_pb2.SUITE_BLAKE3)
        return ledger_pb2.ListLedgersResponse(
            ledgers=[] if self.is_empty else [ledger], next_page_token=self.next_token()
        )


class Elsewhere:
    """A `Remote` whose keys and anchor service answer with such pages, without a socket."""

    def __init__(self, fake: Endless, client: AsyncClient) -> None:
        self.client = client
        self.keys = SimpleNamespace(
            ListKeys=self._page(fake, keys_pb2.ListKeysResponse, "keys"),
            ListKeyEvents=self._page(fake, keys_pb2.ListKeyEventsResponse, "events"),
        )
        self.anchor = SimpleNamespace(
            ListLogs=self._page(fake, anchor_pb2.ListLogsResponse, "logs"),
            ListAnchors=self._page(fake, anchor_pb2.ListAnchorsResponse, "anchors"),
        )

    async def call(self, method: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        return await method(request)

    def _page(self, fake: Endless, kind: Any, field: str) -> Callable[[Any], Awaitable[Any]]:
        async def answer(request: Any) -> Any:
            # A loop that never waits could not be timed out.
            await asyncio.sleep(0)
            response = kind(next_page_token=fake.next_token())
            if not fake.is_empty:
                getattr(response, field).add()
            return response

        return answer


@pytest_asyncio.fixture
async def remote(fake: Endless, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Remote]:
    monkeypatch.setattr(paging, "MAX_EMPTY_PAGES", 20)
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        await client.append(LEDGER, create(1))
        yield cast(Remote, Elsewhere(fake, client))


@pytest.fixture
def fake() -> Endless:
    return Endless()


async def _all(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


def _planned(remote: Remote) -> AsyncIterator[Any]:
    header = SimpleNamespace(ledger=LEDGER, tree_size=7)
    plan = SimpleNamespace(header=header, last_seq=LAST_SEQ, head=None, checkpoint=b"")
    return exporting.receipts(remote, cast(exporting.Plan, plan))


LISTINGS: dict[str, Callable[[Remote], Awaitable[Any]]] = {
    "ledgers": lambda remote: _all(remote.client.list_ledgers()),
    "receipts": lambda remote: _all(remote.client.list_receipts(LEDGER)),
    "summaries": lambda remote: _all(remote.client.list_summaries(LEDGER)),
    "list --about": lambda remote: _all(_whole(remote.client, LEDGER, ReceiptFilter(), 10)),
    "export": lambda remote: _all(_planned(remote)),
    "sizes": lambda remote: anchored_sizes(remote, "logs/-", 10, 5),
    "keys": list_keys,
    "key events": list_key_events,
    "logs": listed,
}


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_listing_without_end_is_an_error(
    remote: Remote, fake: Endless, listing: str, is_empty: bool
) -> None:
    fake.is_empty = is_empty
    async with asyncio.timeout(60):
        with pytest.raises(InternalError, match="empty" if is_empty else "second time") as caught:
            await LISTINGS[listing](remote)
    assert caught.value.reason == "BAD_RESPONSE"
