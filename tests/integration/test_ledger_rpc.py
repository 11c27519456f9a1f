"""The ledger behind a socket: typed errors, limits, deadlines, health, and a stop under load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger import checkpoint, merkle, note
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import StatusError
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    document,
    draft,
    ledger_service,
    served,
    served_at,
    verify_all,
)


async def refusal(call: Awaitable[Any]) -> StatusError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"


async def test_the_page_of_rpcs_calls_the_stubs(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its example as it stands, but for the address and a tenant that has no ledger yet: the
    receipt, and then what is refused."""
    page = (Path(__file__).parents[2] / "docs/rpcs.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    async with ledger_service(url) as service, served_at(service) as address:
        ours = code.replace("127.0.0.1:7003", address).replace("tenants/acme", "tenants/own")
        await asyncio.to_thread(exec, compile(ours, "rpcs.md", "exec"), {})
        refused = ours.replace('new_state=b\'{"plan": "free"}\'', "new_state=b'{'")
        await asyncio.to_thread(exec, compile(refused, "rpcs.md", "exec"), {})
    recorded, error = capsys.readouterr().out.splitlines()
    assert recorded.startswith("tenants/own/ledgers/main/receipts/")
    assert recorded.endswith(" 1")
    assert "new_state" in error


@pytest.mark.parametrize("name", ["README.md", "docs/client.md"])
async def test_examples_of_the_client_record_for_a_tenant_that_is_new(url: str, name: str) -> None:
    page = (Path(__file__).parents[2] / name).read_text("utf-8")
    (code,) = (
        part.partition("```")[0]
        for part in page.split("```python\n")[1:]
        if "provledger.client" in part.partition("```")[0] and "tls" not in part.partition("```")[0]
    )
    shown: dict[str, Any] = {}
    async with ledger_service(url, relay=True) as service, served_at(service) as address:
        ours = code.replace("127.0.0.1:7003", address).replace("acme", "own")
        await asyncio.to_thread(exec, compile(ours, name, "exec"), shown)
    assert shown["receipt"].name.startswith("tenants/own/ledgers/main/receipts/")
    assert shown["receipt"].proofs


def test_the_example_with_certificates_makes_a_client() -> None:
    page = (Path(__file__).parents[2] / "docs/client.md").read_text("utf-8")
    (code,) = (
        part.partition("```")[0]
        for part in page.split("```python\n")[1:]
        if "TLSSettings" in part.partition("```")[0]
    )
    shown: dict[str, Any] = {}
    exec(compile(code, "client.md", "exec"), shown)
    shown["client"].close()
    assert shown["tls"].ca == Path("/etc/tls/ca.crt")


async def test_errors_cross_the_wire_with_their_details(url: str) -> None:
    async with ledger_service(url) as service, served(service) as channel:
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        append = lambda item, ledger=LEDGER: stub.Append(  # noqa: E731
            ledger_pb2.AppendRequest(ledger=ledger, draft=item)
        )
        await append(draft("r1"))
        error = await refusal(append(draft("r1", resource_id="other")))
        assert (error.code, error.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert error.metadata == {"requestId": "r1", "field": "mutation.resource_id"}
        error = await refusal(append(draft("r2"), "tenants/acme/ledgers/none"))
        assert (error.code, error.reason) == ("NOT_FOUND", "LEDGER_NOT_FOUND")
        error = await refusal(append(draft("r2"), "nonsense"))
        assert (error.code, error.violations[0].field) == ("INVALID_ARGUMENT", "ledger")
        error = await refusal(append(document("r3", bytes(1024 * 1024 + 1))))
        assert error.violations[0].field == "draft.document.payload"
        broken = draft("r4")
        broken.mutation.new_state = b'{"a":9007199254740993}'
        error = await refusal(append(broken))
        assert error.reason == "INVALID_JSON"
        assert error.violations[0].field == "draft.mutation.new_state"


async def test_an_anchor_that_is_away_is_named_without_its_address(url: str) -> None:
    async with (
        ledger_service(url, anchor_timeout_s=0.5) as service,
        served(service) as opened,
        channel("127.0.0.1:9") as nobody,
    ):
        away: Any = anchor_pb2_grpc.AnchorServiceStub(nobody)
        service.servicer._head_stub = away
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(opened)
        error = await refusal(stub.GetHead(ledger_pb2.GetHeadRequest(name=LEDGER), timeout=30))
        assert (error.code, error.reason) == ("UNAVAILABLE", "ANCHOR_UNAVAILABLE")
        assert error.message == "the anchor service does not answer"


async def test_batch_of_50000_is_refused_and_harms_nobody(url: str) -> None:
    async with ledger_service(url) as service, served(service) as channel:
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        drafts = [draft(f"r{n}", new={}) for n in range(50_000)]
        large = stub.AppendBatch(ledger_pb2.AppendBatchRequest(ledger=LEDGER, drafts=drafts))
        small = stub.Append(ledger_pb2.AppendRequest(ledger=LEDGER, draft=draft("mine")))
        error = await refusal(large)
        assert error.code == "INVALID_ARGUMENT"
        assert error.violations[0].field == "drafts"
        assert (await small).receipt.seq == 1


async def test_deadline_bounds_a_wait(url: str) -> None:
    async with ledger_service(url) as service, served(service) as channel:
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        answer = await stub.Append(ledger_pb2.AppendRequest(ledger=LEDGER, draft=draft("r1")))
        request = ledger_pb2.GetReceiptRequest(
            name=answer.receipt.name, wait_for=common_pb2.ANCHOR_STATE_LOGGED
        )
        error = await refusal(stub.GetReceipt(request, timeout=0.2))
        assert error.code == "DEADLINE_EXCEEDED"


async def test_every_method_is_served(url: str) -> None:
    async with (
        ledger_service(url, relay=True) as service,
        served(service) as channel,
    ):
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "provledger.api.ledger.v1.LedgerService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        created = await stub.CreateLedger(
            ledger_pb2.CreateLedgerRequest(parent="tenants/acme", ledger_id="second")
        )
        assert created.created
        receipt = (
            await stub.Append(
                ledger_pb2.AppendRequest(ledger=created.ledger.name, draft=draft("r"))
            )
        ).receipt
        shown = await stub.GetReceipt(
            ledger_pb2.GetReceiptRequest(
                name=receipt.name, wait_for=common_pb2.ANCHOR_STATE_ANCHORED
            )
        )
        assert shown.receipt.proofs
        name = created.ledger.name
        assert (await stub.GetLedger(ledger_pb2.GetLedgerRequest(name=name))).ledger.seq == 1
        assert (
            len((await stub.ListLedgers(ledger_pb2.ListLedgersRequest(parent="tenants/-"))).ledgers)
            == 2
        )
        page = await stub.ListReceipts(ledger_pb2.ListReceiptsRequest(parent=name))
        assert [item.seq for item in page.receipts] == [0, 1]
        assert (await stub.GetHead(ledger_pb2.GetHeadRequest(name=name))).head
        verified = await stub.VerifyRange(ledger_pb2.VerifyRangeRequest(name=name, end_seq=9))
        assert verified.checked_count == 2


@pytest.mark.parametrize("told", [True, False], ids=["told", "asked"])
async def test_an_append_may_wait_for_its_proof(url: str, told: bool) -> None:
    anchor = InMemoryAnchor()
    # With the log's answer, or by a question of its own.
    anchor.proves = told
    async with (
        ledger_service(url, anchor=anchor, relay=True) as service,
        served(service) as channel,
    ):
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)

        async def append(
            n: int, state: common_pb2.AnchorState = common_pb2.ANCHOR_STATE_LOGGED
        ) -> ledger_pb2.AppendResponse:
            request = ledger_pb2.AppendRequest(ledger=LEDGER, draft=draft(f"r{n}"), wait_for=state)
            answer: ledger_pb2.AppendResponse = await stub.Append(request, timeout=30)
            return answer

        anchor.anchoring = False
        answers = await asyncio.gather(*(append(n) for n in range(40)))
        for n, answer in enumerate(answers):
            receipt = answer.receipt
            assert receipt.anchor_state == common_pb2.ANCHOR_STATE_LOGGED
            (proof,) = receipt.proofs
            merkle.verify_inclusion(
                proof.log_index,
                checkpoint.parse(note.open(proof.checkpoint, [anchor.vkey]).text).size,
                anchor.leaves[proof.log_index],
                list(proof.hashes),
                checkpoint.parse(note.open(proof.checkpoint, [anchor.vkey]).text).root,
            )
            shown = (await stub.GetReceipt(ledger_pb2.GetReceiptRequest(name=receipt.name))).receipt
            assert shown.statement == receipt.statement, n
            assert shown.anchor_state == common_pb2.ANCHOR_STATE_LOGGED
            assert [item.log_index for item in shown.proofs] == [proof.log_index]
        repeated = await append(7)
        assert repeated.repeated_request
        # To the checkpoint of now, which may be a later one.
        (then,), (now,) = answers[7].receipt.proofs, repeated.receipt.proofs
        assert now.log_index == then.log_index
        anchor.anchoring = True
        anchored = await append(99, common_pb2.ANCHOR_STATE_ANCHORED)
        assert anchored.receipt.anchor_state == common_pb2.ANCHOR_STATE_ANCHORED
        error = await refusal(append(100, 17))  # type: ignore[arg-type]
        assert (error.code, error.violations[0].field) == ("INVALID_ARGUMENT", "wait_for")


@pytest.mark.parametrize("told", [True, False], ids=["told", "asked"])
async def test_a_batch_may_wait_for_its_proofs(url: str, told: bool) -> None:
    """For those of it that were recorded, repeats and neighbours of a bad one too."""
    anchor = InMemoryAnchor()
    anchor.proves = told
    anchor.anchoring = False
    async with (
        ledger_service(url, anchor=anchor, relay=True) as service,
        served(service) as channel,
    ):
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        early = await stub.Append(ledger_pb2.AppendRequest(ledger=LEDGER, draft=draft("r0")))
        request = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER,
            drafts=[draft("r0"), draft("r1"), draft("bad id\n"), draft("r2"), draft("r1")],
            view=common_pb2.RECEIPT_VIEW_FULL,
            wait_for=common_pb2.ANCHOR_STATE_LOGGED,
        )
        results = (await stub.AppendBatch(request, timeout=30)).results
        assert [item.repeated_request for item in results] == [True, False, False, False, True]
        assert results[2].error.code
        for item in (results[0], results[1], results[3], results[4]):
            assert item.receipt.anchor_state == common_pb2.ANCHOR_STATE_LOGGED
            (proof,) = item.receipt.proofs
            signed = checkpoint.parse(note.open(proof.checkpoint, [anchor.vkey]).text)
            leaf = anchor.leaves[proof.log_index]
            merkle.verify_inclusion(
                proof.log_index, signed.size, leaf, list(proof.hashes), signed.root
            )
        assert results[0].receipt.name == early.receipt.name
        assert results[4].receipt == results[1].receipt
        anchor.anchoring = True
        request.view = common_pb2.RECEIPT_VIEW_BASIC
        request.wait_for = common_pb2.ANCHOR_STATE_ANCHORED
        results = (await stub.AppendBatch(request, timeout=30)).results
        assert [item.receipt.anchor_state for item in results if item.HasField("receipt")] == [
            common_pb2.ANCHOR_STATE_ANCHORED
        ] * 4
        only_bad = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[draft("bad id\n")], wait_for=common_pb2.ANCHOR_STATE_ANCHORED
        )
        assert (await stub.AppendBatch(only_bad, timeout=30)).results[0].error.code
        request.wait_for = 17  # type: ignore[assignment]
        error = await refusal(stub.AppendBatch(request))
        assert (error.code, error.violations[0].field) == ("INVALID_ARGUMENT", "wait_for")


async def test_a_batch_whose_log_is_away_is_answered_all_the_same(url: str) -> None:
    async with ledger_service(url) as service, served(service) as channel:
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[draft("r1")], wait_for=common_pb2.ANCHOR_STATE_LOGGED
        )
        (result,) = (await stub.AppendBatch(request, timeout=1.0)).results
        assert result.receipt.anchor_state == common_pb2.ANCHOR_STATE_PENDING


async def test_an_append_whose_log_is_away_is_answered_all_the_same(url: str) -> None:
    async with ledger_service(url) as service, served(service) as channel:
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = ledger_pb2.AppendRequest(
            ledger=LEDGER, draft=draft("r1"), wait_for=common_pb2.ANCHOR_STATE_LOGGED
        )
        receipt = (await stub.Append(request, timeout=1.0)).receipt
        assert receipt.anchor_state == common_pb2.ANCHOR_STATE_PENDING
        assert receipt.statement
        assert not receipt.proofs


async def test_stop_under_load_loses_nothing_that_was_answered(url: str) -> None:
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    answered: set[str] = set()
    async with ledger_service(url, witness, anchor) as service:
        async with served(service) as channel:
            stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)

            async def append(n: int) -> None:
                request = ledger_pb2.AppendRequest(
                    ledger=LEDGER, draft=draft(f"r{n}"), view=common_pb2.RECEIPT_VIEW_BASIC
                )
                await stub.Append(request)
                answered.add(f"r{n}")

            tasks = [asyncio.create_task(append(n)) for n in range(200)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*tasks, return_exceptions=True)
    async with ledger_service(url, witness, anchor, create=False) as service:
        found = await service.storage.find_requests(
            (await service.storage.list_ledgers("", ("", ""), 1))[0][0].uid,
            [f"r{n}" for n in range(200)],
        )
        assert answered
        assert answered <= set(found.known)
        await verify_all(service)
