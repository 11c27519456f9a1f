"""The client against a service that answers something else than what it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AnchorState, AsyncClient
from provledger.errors import InternalError
from provledger.retry import NO_RETRY
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, create, serving

OTHER = "tenants/evil/ledgers/main"


class Confused(FakeLedger):
    """Takes every ledger for the one it has; `results` and `drafts` are changed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.results: Callable[[list[Any]], list[Any]] = lambda results: results
        self.draft: Callable[[Any], None] = lambda draft: None
        self.shown: list[Callable[[Any], None]] = []
        self.verified = LEDGER

    def _record(self, draft: Any) -> tuple[Any, bool]:
        request_id = draft.request_id
        self.draft(draft)
        receipt, repeated = super()._record(draft)
        self.by_request[request_id] = receipt
        return receipt, repeated

    async def Append(self, request: Any, context: Any) -> ledger_pb2.AppendResponse:
        answer = await super().Append(request, context)
        result = self.results([common_pb2.AppendResult(receipt=answer.receipt)])[0]
        return ledger_pb2.AppendResponse(receipt=result.receipt)

    async def AppendBatch(self, request: Any, context: Any) -> ledger_pb2.AppendBatchResponse:
        answer = await super().AppendBatch(request, context)
        return ledger_pb2.AppendBatchResponse(results=self.results(list(answer.results)))

    async def AppendStream(self, request_iterator: Any, context: Any) -> Any:
        async for answer in super().AppendStream(request_iterator, context):
            results = self.results(list(answer.results or [answer.result]))
            yield ledger_pb2.AppendStreamResponse(results=results)

    async def GetReceipt(self, request: Any, context: Any) -> ledger_pb2.GetReceiptResponse:
        answer = ledger_pb2.GetReceiptResponse()
        answer.CopyFrom(await super().GetReceipt(request, context))
        if self.shown:
            self.shown.pop(0)(answer.receipt)
        return answer

    async def CreateLedger(self, request: Any, context: Any) -> ledger_pb2.CreateLedgerResponse:
        ledger = ledger_pb2.Ledger(name=LEDGER, suite=common_pb2.SUITE_BLAKE3)
        return ledger_pb2.CreateLedgerResponse(ledger=ledger)

    async def VerifyRange(self, request: Any, context: Any) -> ledger_pb2.VerifyRangeResponse:
        request.name = self.verified
        return await super().VerifyRange(request, context)

    async def GetLedger(self, request: Any, context: Any) -> ledger_pb2.GetLedgerResponse:
        request.name = LEDGER
        return await super().GetLedger(request, context)


@pytest.fixture
def fake() -> Confused:
    return Confused()


@pytest_asyncio.fixture
async def client(fake: Confused) -> AsyncIterator[AsyncClient]:
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        for number in range(3):
            await client.append(LEDGER, create(number))
        yield client


async def test_another_ledger_is_not_taken_for_the_one_asked_for(client: AsyncClient) -> None:
    assert (await client.get_ledger(LEDGER)).name == LEDGER
    with pytest.raises(InternalError, match=LEDGER) as caught:
        await client.get_ledger(OTHER)
    assert caught.value.reason == "BAD_RESPONSE"


@pytest.mark.parametrize("said", [LEDGER, OTHER])
async def test_a_range_of_another_ledger_is_not_taken_for_one_of_the_one_asked_for(
    client: AsyncClient, fake: Confused, said: str
) -> None:
    asked = OTHER if said == LEDGER else LEDGER
    fake.verified = said
    with pytest.raises(InternalError, match=said) as caught:
        await client.verify_range(asked, end_seq=3)
    assert caught.value.reason == "BAD_RESPONSE"
    assert (await client.verify_range(said, end_seq=3)).checked_seq == 3
    # A service of before.
    fake.verified = ""
    assert (await client.verify_range(asked, end_seq=3)).checked_seq == 3


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


def _of_another_request(draft: Any) -> None:
    draft.request_id += "x"


def _about_another_entity(draft: Any) -> None:
    draft.mutation.resource_id = "victim"


def _by_another_actor(draft: Any) -> None:
    draft.actor.id = "victim"


def _to_another_state(draft: Any) -> None:
    draft.mutation.new_state = b'{"n":"\\"newState\\":{\\"n\\":7}"}'


FOREIGN_DRAFTS = [
    (_of_another_request, "request id"),
    (_about_another_entity, "resource id"),
    (_by_another_actor, "actor"),
    (_to_another_state, "payload"),
]


def _of_another_ledger(results: list[Any]) -> list[Any]:
    for result in results:
        result.receipt.name = result.receipt.name.replace(LEDGER, OTHER)
    return results


def _of_another_type(results: list[Any]) -> list[Any]:
    for result in results:
        result.receipt.receipt_type = "evidence.note"
    return results


def _of_another_payload_hash(results: list[Any]) -> list[Any]:
    for result in results:
        result.receipt.payload_hash = b"x" * 32
    return results


def _unreadable(results: list[Any]) -> list[Any]:
    for result in results:
        result.receipt.statement = b"{}"
    return results


def _the_first_for_all(results: list[Any]) -> list[Any]:
    results[0].receipt.statement = b""
    return [common_pb2.AppendResult(receipt=results[0].receipt, index=n.index) for n in results]


def _neither(results: list[Any]) -> list[Any]:
    return [common_pb2.AppendResult(index=result.index) for result in results]


async def _append(client: AsyncClient, way: str, full: bool) -> None:
    drafts = [create(7), create(8), create(9)]
    if way == "single":
        await client.append(LEDGER, drafts[0])
    elif way == "batch":
        await client.append_batch(LEDGER, drafts, full=full)
    else:
        async for _ in client.append_stream(LEDGER, drafts, full=full):
            pass


async def _refused(client: AsyncClient, way: str, full: bool, match: str) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(InternalError, match=match) as caught:
            await _append(client, way, full)
    assert caught.value.reason == "BAD_RESPONSE"


@pytest.mark.parametrize("way", ["single", "batch", "stream"])
@pytest.mark.parametrize(("change", "named"), FOREIGN_DRAFTS)
async def test_a_receipt_of_another_draft_is_not_taken(
    client: AsyncClient, fake: Confused, change: Callable[[Any], None], named: str, way: str
) -> None:
    await _append(client, way, True)
    fake.by_request.clear()
    fake.draft = change
    await _refused(client, way, True, f"another {named}")


@pytest.mark.parametrize("way", ["single", "batch", "stream"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_of_another_ledger, "another ledger"),
        (_of_another_type, "another receipt type"),
        (_of_another_payload_hash, "another payload hash"),
        (_unreadable, "cannot be read"),
    ],
)
async def test_a_receipt_that_is_at_odds_with_the_draft_is_not_taken(
    client: AsyncClient, fake: Confused, change: Callable[[Any], Any], named: str, way: str
) -> None:
    fake.results = change
    await _refused(client, way, True, named)


@pytest.mark.parametrize("way", ["batch", "stream"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_of_another_ledger, "another ledger"),
        (_of_another_type, "another receipt type"),
        (_the_first_for_all, "with one receipt"),
        (_neither, "neither"),
    ],
)
async def test_what_summaries_show_is_held_against_the_drafts(
    client: AsyncClient, fake: Confused, change: Callable[[Any], Any], named: str, way: str
) -> None:
    fake.results = change
    await _refused(client, way, False, named)


async def test_states_are_the_same_however_they_are_written(client: AsyncClient) -> None:
    draft = create(7, new_state=b' {"b": 1, "a": "\\u00e9"} ', previous_state=b" null ")
    first = await client.append(LEDGER, draft)
    assert await client.append(LEDGER, draft) == first


@pytest.mark.parametrize("way", ["single", "batch", "stream"])
@pytest.mark.parametrize("shown", [b"", b'{"diff":[]}'])
async def test_a_receipt_that_does_not_open_its_payload_is_not_taken(
    client: AsyncClient, fake: Confused, shown: bytes, way: str
) -> None:
    """Whatever was recorded could be behind it."""

    def unopened(results: list[Any]) -> list[Any]:
        for result in results:
            result.receipt.commitment.secret = b""
            result.receipt.payload = shown
        return results

    fake.results = unopened
    await _refused(client, way, True, "does not show its payload")


async def test_another_ledger_is_not_taken_for_the_one_that_was_made(client: AsyncClient) -> None:
    assert (await client.create_ledger("acme"))[0].name == LEDGER
    with pytest.raises(InternalError, match=OTHER) as caught:
        await client.create_ledger("evil")
    assert caught.value.reason == "BAD_RESPONSE"


def _another(receipt: Any) -> None:
    receipt.name = receipt.name.replace(LEDGER, OTHER)


def _without_proofs(receipt: Any) -> None:
    del receipt.proofs[:]


def _without_state(receipt: Any) -> None:
    receipt.ClearField("anchor_state")


def _pending(receipt: Any) -> None:
    receipt.anchor_state = common_pb2.ANCHOR_STATE_PENDING


def _logged(receipt: Any) -> None:
    receipt.anchor_state = common_pb2.ANCHOR_STATE_LOGGED


@pytest.mark.parametrize("method", ["get_receipt", "get_summary", "wait_for_anchor"])
async def test_another_receipt_is_not_taken_for_the_one_asked_for(
    client: AsyncClient, fake: Confused, method: str
) -> None:
    name = fake.receipts[0].name
    assert (await getattr(client, method)(name)).name == name
    fake.shown.append(_another)
    with pytest.raises(InternalError, match=f"asked for {name}") as caught:
        await getattr(client, method)(name)
    assert caught.value.reason == "BAD_RESPONSE"


@pytest.mark.parametrize("change", [_without_proofs, _without_state, _pending])
@pytest.mark.parametrize("state", [AnchorState.LOGGED, AnchorState.ANCHORED])
async def test_a_receipt_that_was_waited_for_shows_that_it_is_logged(
    client: AsyncClient, fake: Confused, change: Callable[[Any], None], state: AnchorState
) -> None:
    fake.shown.append(change)
    with pytest.raises(InternalError, match="has no proof") as caught:
        await client.wait_for_anchor(fake.receipts[0].name, state=state)
    assert caught.value.reason == "BAD_RESPONSE"


async def test_what_is_shown_as_less_than_anchored_is_asked_for_again(
    client: AsyncClient, fake: Confused
) -> None:
    """A service that cannot ask its sinks at that moment shows it as logged."""
    name = fake.receipts[0].name
    fake.shown.extend([_logged] * 3)
    assert (await client.wait_for_anchor(name)).proofs
    assert not fake.shown
    fake.shown.append(_logged)
    await client.wait_for_anchor(name, state=AnchorState.LOGGED)
    client._policy = replace(QUICK, retry=NO_RETRY)
    fake.shown.append(_logged)
    with pytest.raises(InternalError, match="until anchored"):
        await client.wait_for_anchor(name)
