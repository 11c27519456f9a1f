"""Proofs and evidence stand in every receipt of an answer, which must fit into a message."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ledger_svc import room
from ledger_svc.app import Service
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    document,
    ledger_service,
    served,
)

FULL = common_pb2.RECEIPT_VIEW_FULL
PENDING = common_pb2.ANCHOR_STATE_PENDING
LOGGED = common_pb2.ANCHOR_STATE_LOGGED
ANCHORED = common_pb2.ANCHOR_STATE_ANCHORED

MESSAGE_BYTES = 16 * 1024 * 1024
COUNT = 300
"""Receipts; with 64 KiB of evidence in each they are more than one message may hold."""


class WordyAnchor(InMemoryAnchor):
    """Its sinks return as much evidence as is kept."""

    def __init__(self, sinks: int = 1) -> None:
        super().__init__()
        self.count = sinks

    def _prove(
        self, ledger_uid: bytes, seqs: list[int], tree_size: int
    ) -> anchor_pb2.BatchGetInclusionProofsResponse:
        answer = super()._prove(ledger_uid, seqs, tree_size)
        if answer.evidence:
            del answer.evidence[:]
            for number in range(self.count):
                answer.evidence.add(sink=f"memory:{number}", kind="memory", evidence=bytes(65536))
        return answer


async def _anchored(service: Service, name: str) -> common_pb2.Receipt:
    request = ledger_pb2.GetReceiptRequest(name=name, wait_for=ANCHORED)
    return (await service.servicer.GetReceipt(request, None)).receipt


def _with_evidence(receipts: Sequence[common_pb2.Receipt]) -> int:
    return sum(bool(receipt.proofs[0].evidence) for receipt in receipts)


async def test_pages_are_cut_where_evidence_has_no_room(database_url: str) -> None:
    async with ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service:
        results = await append_batch(service, [document(f"r{n}") for n in range(COUNT)])
        await _anchored(service, results[-1].receipt.name)
        token, seqs, pages = "", [], 0
        while pages == 0 or token:
            request = ledger_pb2.ListReceiptsRequest(
                parent=LEDGER, view=FULL, page_size=1000, page_token=token
            )
            page = await service.servicer.ListReceipts(request, None)
            assert page.ByteSize() < room.MAX_SHOWN_BYTES
            assert _with_evidence(page.receipts) == len(page.receipts)
            assert all(receipt.statement and receipt.payload for receipt in page.receipts[1:])
            seqs += [receipt.seq for receipt in page.receipts]
            token, pages = page.next_page_token, pages + 1
        assert seqs == list(range(COUNT + 1))
        assert pages == 2


async def test_a_page_holds_one_receipt_however_large(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_SHOWN_BYTES", 1000)
    async with ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service:
        await _anchored(service, (await append(service, document("r1"))).receipt.name)
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL)
        first = await service.servicer.ListReceipts(request, None)
        assert [receipt.seq for receipt in first.receipts] == [0]
        request.page_token = first.next_page_token
        second = await service.servicer.ListReceipts(request, None)
        assert [receipt.seq for receipt in second.receipts] == [1]
        assert _with_evidence(second.receipts) == 1
        assert not second.next_page_token


async def test_appends_leave_out_evidence_that_has_no_room(database_url: str) -> None:
    """Repeated, they are shown as they are now; what is left out is read by itself."""
    drafts = [document(f"r{n}") for n in range(COUNT)]
    async with ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service:
        name = (await append_batch(service, drafts))[-1].receipt.name
        assert len((await _anchored(service, name)).proofs[0].evidence) == 1
        more = [*drafts, *(document(f"s{n}") for n in range(20))]
        async with served(service) as opened:
            stub = ledger_pb2_grpc.LedgerServiceStub(opened)
            batch = ledger_pb2.AppendBatchRequest(ledger=LEDGER, drafts=more, view=FULL)
            answer = await stub.AppendBatch(batch, timeout=60)
            receipts = [result.receipt for result in answer.results if result.repeated_request]
            assert len(receipts) == COUNT
            assert answer.ByteSize() < room.MAX_SHOWN_BYTES + 100_000
            assert {receipt.anchor_state for receipt in receipts} == {ANCHORED}
            assert 0 < _with_evidence(receipts) < COUNT
            message = ledger_pb2.AppendStreamRequest(ledger=LEDGER, drafts=drafts, view=FULL)
            call = stub.AppendStream(iter([message]), timeout=60)
            shown = [result.receipt async for part in call for result in part.results]
            assert len(shown) == COUNT
            assert 0 < _with_evidence(shown) < COUNT


async def test_one_receipt_asked_for_often_is_as_large_each_time(database_url: str) -> None:
    """A request id may stand in a batch many times."""
    async with ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service:
        name = (await append(service, document("r1"))).receipt.name
        await _anchored(service, name)
        request = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[document("r1")] * COUNT, view=FULL
        )
        answer = await service.servicer.AppendBatch(request, None)
        assert answer.ByteSize() < MESSAGE_BYTES
        assert {result.receipt.name for result in answer.results} == {name}
        assert {result.receipt.anchor_state for result in answer.results} == {ANCHORED}


async def test_waiting_batches_leave_out_evidence_too(database_url: str) -> None:
    async with (
        ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service,
        served(service) as opened,
    ):
        stub = ledger_pb2_grpc.LedgerServiceStub(opened)
        for state in (ANCHORED, LOGGED):
            request = ledger_pb2.AppendBatchRequest(
                ledger=LEDGER,
                drafts=[document(f"{state}-{n}") for n in range(COUNT)],
                view=FULL,
                wait_for=state,
            )
            answer = await stub.AppendBatch(request, timeout=60)
            assert answer.ByteSize() < MESSAGE_BYTES
            assert all(result.receipt.name for result in answer.results)


async def test_a_proof_without_room_is_left_out_and_the_receipt_shown_as_pending(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = [document(f"r{n}") for n in range(10)]
    async with ledger_service(database_url, anchor=WordyAnchor(), relay=True) as service:
        fresh = [result.receipt for result in await append_batch(service, drafts, view=FULL)]
        await _anchored(service, fresh[-1].name)
        monkeypatch.setattr(room, "MAX_SHOWN_BYTES", room.size_bytes(fresh) + 3000)
        receipts = [result.receipt for result in await append_batch(service, drafts, view=FULL)]
        shown = {(bool(receipt.proofs), receipt.anchor_state) for receipt in receipts}
        assert shown == {(True, ANCHORED), (False, PENDING)}
        assert all(receipt.statement for receipt in receipts)


async def test_one_receipt_with_all_the_evidence_there_may_be_fits(database_url: str) -> None:
    async with (
        ledger_service(database_url, anchor=WordyAnchor(64), relay=True) as service,
        served(service) as opened,
    ):
        name = (await append(service, document("r1", bytes(1024 * 1024)))).receipt.name
        request = ledger_pb2.GetReceiptRequest(name=name, wait_for=ANCHORED)
        stub = ledger_pb2_grpc.LedgerServiceStub(opened)
        receipt = (await stub.GetReceipt(request, timeout=60)).receipt
        assert len(receipt.proofs[0].evidence) == 64
        assert receipt.ByteSize() < room.MAX_SHOWN_BYTES
