"""AppendStream over a real socket: order, flow control, half-close, and clients that go away."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ledger_svc import admission
from ledger_svc.app import Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client import AppendResult, AsyncClient, Document
from provledger.errors import UnauthenticatedError
from provledger.rpc.errors import from_rpc_error, status_from_pb
from tests.inmem.witness import InMemoryWitness
from tests.support.certs import CertificateAuthority
from tests.support.ledgering import (
    LEDGER,
    append,
    document,
    draft,
    eventually,
    ledger_service,
    served,
    served_at,
    verify_all,
)

Request = ledger_pb2.AppendStreamRequest


@asynccontextmanager
async def streaming(
    tmp_path: Path, witness: InMemoryWitness | None = None, **options: Any
) -> AsyncIterator[tuple[Service, Any]]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url, witness, **options) as service, served(service) as channel:
        yield service, ledger_pb2_grpc.LedgerServiceStub(channel)


def requests_for(items: Iterable[common_pb2.Draft]) -> list[Request]:
    requests = [Request(draft=item) for item in items]
    requests[0].ledger = LEDGER
    return requests


async def drain(call: Any) -> list[common_pb2.AppendResult]:
    return [response.result async for response in call]


async def failure(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    return from_rpc_error(caught.value)


async def test_answers_come_in_order_and_end_after_half_close(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, stub):
        call = stub.AppendStream(iter(requests_for(draft(f"r{n}") for n in range(2000))))
        results = await drain(call)
        assert [result.index for result in results] == list(range(2000))
        assert [result.receipt.seq for result in results] == list(range(1, 2001))
        assert await call.code() is grpc.StatusCode.OK
        assert (await verify_all(service)).checked_count == 2001


@pytest.mark.parametrize("round", range(10))
async def test_half_close_at_once_answers_everything(tmp_path: Path, round: int) -> None:
    """The case in which an earlier probe hung once in a while."""
    async with streaming(tmp_path) as (_, stub), asyncio.timeout(20):
        calls = []
        for stream in range(4):
            call = stub.AppendStream()
            for request in requests_for(draft(f"s{stream}-{n}") for n in range(1 + 7 * round)):
                await call.write(request)
            await call.done_writing()
            calls.append(call)
        for call in calls:
            assert len(await drain(call)) == 1 + 7 * round


async def test_one_request_at_a_time_is_answered_one_at_a_time(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (_, stub), asyncio.timeout(20):
        call = stub.AppendStream()
        for n, request in enumerate(requests_for(draft(f"r{n}") for n in range(30))):
            await call.write(request)
            response = await call.read()
            assert response.result.index == n
            assert response.result.receipt.seq == n + 1
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


def batches_for(items: list[common_pb2.Draft], size: int) -> list[Request]:
    requests = [Request(drafts=items[at : at + size]) for at in range(0, len(items), size)]
    requests[0].ledger = LEDGER
    return requests


async def drain_many(call: Any) -> list[common_pb2.AppendResult]:
    """The results of messages that each held many drafts."""
    results: list[common_pb2.AppendResult] = []
    async for response in call:
        assert not response.HasField("result")
        results.extend(response.results)
    return results


@pytest.mark.parametrize("size", [1, 7, 256, 1000])
async def test_many_drafts_in_a_message_are_recorded_and_answered_in_order(
    tmp_path: Path, size: int
) -> None:
    items = [draft(f"r{n}") for n in range(2000)]
    async with streaming(tmp_path) as (service, stub), asyncio.timeout(30):
        call = stub.AppendStream(iter(batches_for(items, size)))
        results = await drain_many(call)
        assert [result.index for result in results] == list(range(2000))
        assert [result.receipt.seq for result in results] == list(range(1, 2001))
        assert await call.code() is grpc.StatusCode.OK
        assert (await verify_all(service)).checked_count == 2001


async def test_messages_of_one_and_of_many_drafts_may_alternate(tmp_path: Path) -> None:
    items = iter([draft(f"r{n}") for n in range(60)])
    requests = []
    for count in (1, 3, 1, 1, 10, 1, 43):
        drafts = [next(items) for _ in range(count)]
        is_batch = count > 1
        requests.append(Request(drafts=drafts) if is_batch else Request(draft=drafts[0]))
    requests[0].ledger = LEDGER
    async with streaming(tmp_path) as (_, stub), asyncio.timeout(20):
        answers = [answer async for answer in stub.AppendStream(iter(requests))]
        assert [len(answer.results) for answer in answers] == [0, 3, 0, 0, 10, 0, 43]
        results = [result for answer in answers for result in (answer.results or [answer.result])]
        assert [result.receipt.seq for result in results] == list(range(1, 61))
        assert [result.index for result in results] == list(range(60))


@pytest.mark.parametrize("round", range(8))
async def test_half_close_behind_full_messages_answers_everything(
    tmp_path: Path, round: int
) -> None:
    """Several streams at once, each larger than what may be unanswered, closed at once."""
    async with (
        streaming(tmp_path, stream_in_flight=64) as (service, stub),
        asyncio.timeout(30),
    ):

        async def one(stream: int) -> int:
            call = stub.AppendStream()
            writing = asyncio.create_task(write(call, stream))
            results = await drain_many(call)
            await writing
            return len(results)

        async def write(call: Any, stream: int) -> None:
            items = [draft(f"s{stream}-{n}") for n in range(300)]
            for request in batches_for(items, 1 + 37 * round):
                await call.write(request)
            await call.done_writing()

        assert await asyncio.gather(*map(one, range(4))) == [300] * 4
        assert (await verify_all(service)).checked_count == 1201


async def test_what_is_wrong_in_a_message_of_many_is_said_where_it_stands(tmp_path: Path) -> None:
    broken = draft("r2")
    broken.mutation.new_state = b"{"
    first = [draft("r0"), draft("r1")]
    second = [broken, draft("bad id"), draft("r0"), draft("r3")]
    requests = [Request(ledger=LEDGER, drafts=first), Request(drafts=second)]
    async with streaming(tmp_path) as (service, stub):
        results = await drain_many(stub.AppendStream(iter(requests)))
        assert [result.index for result in results] == list(range(6))
        errors = [status_from_pb(results[n].error) for n in (2, 3)]
        assert errors[0].violations[0].field == "drafts[0].mutation.new_state"
        assert errors[1].violations[0].field == "drafts[1].request_id"
        assert results[4].repeated_request
        assert results[5].receipt.seq == 3
        assert (await verify_all(service)).checked_count == 4


async def test_full_receipts_of_a_message_come_in_as_many_answers_as_they_need(
    tmp_path: Path,
) -> None:
    items = [document(f"r{n}", bytes(1024 * 1024)) for n in range(10)]
    request = Request(ledger=LEDGER, drafts=items, view=common_pb2.RECEIPT_VIEW_FULL)
    async with streaming(tmp_path) as (_, stub):
        answers = [answer async for answer in stub.AppendStream(iter([request]))]
        assert len(answers) > 1
        results = [result for answer in answers for result in answer.results]
        assert [result.index for result in results] == list(range(10))
        assert all(len(result.receipt.payload) == 1024 * 1024 for result in results)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(draft=draft("x"), drafts=[draft("y")]), "draft"),
        (Request(drafts=[draft(f"r{n}") for n in range(1001)]), "drafts"),
    ],
)
async def test_messages_that_are_none_break_the_stream(
    tmp_path: Path, request_: Request, field: str
) -> None:
    requests = [*batches_for([draft("r1"), draft("r2")], 2), request_]
    async with streaming(tmp_path) as (service, stub):
        call = stub.AppendStream(iter(requests))
        results: list[common_pb2.AppendResult] = []

        async def read() -> None:
            async for response in call:
                results.extend(response.results)

        error = await failure(read)
        assert error.violations[0].field == field
        assert [result.receipt.seq for result in results] == [1, 2]
        assert (await verify_all(service)).checked_count == 3


async def test_a_message_larger_than_what_may_be_unanswered_goes_through_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = InMemoryWitness()
    async with streaming(tmp_path, witness, stream_in_flight=8) as (service, stub):
        real, gate = witness.WitnessBatch, asyncio.Event()
        real_check, taken = admission.check_draft, []

        async def held(request: Any, **options: Any) -> Any:
            await gate.wait()
            return await real(request, **options)

        def check_draft(item: common_pb2.Draft) -> int:
            taken.append(item.request_id)
            return real_check(item)

        replaced: Any = witness
        replaced.WitnessBatch = held
        monkeypatch.setattr(admission, "check_draft", check_draft)
        requests = batches_for([draft(f"r{n}") for n in range(60)], 20)
        call = stub.AppendStream(iter(requests))
        await eventually(lambda: len(taken) == 20)
        await asyncio.sleep(0.1)
        assert len(taken) == 20
        gate.set()
        assert len(await drain_many(call)) == 60
        assert (await verify_all(service)).checked_count == 61


async def test_bad_drafts_are_answers_and_the_stream_goes_on(tmp_path: Path) -> None:
    broken = draft("r1")
    broken.mutation.new_state = b"{"
    items = [
        draft("r0"),
        broken,
        draft("bad id"),
        document("r3", bytes(1024 * 1024 + 1)),
        draft("r0"),
        draft("r0", resource_id="other"),
        common_pb2.Draft(),
        draft("r7"),
    ]
    async with streaming(tmp_path) as (service, stub):
        results = await drain(stub.AppendStream(iter(requests_for(items))))
        assert [result.index for result in results] == list(range(8))
        assert results[4].repeated_request
        assert results[7].receipt.seq == 2
        errors = {n: status_from_pb(results[n].error) for n in (1, 2, 3, 5, 6)}
        assert errors[1].violations[0].field == "draft.mutation.new_state"
        assert errors[2].violations[0].field == "draft.request_id"
        assert errors[3].violations[0].field == "draft.document.payload"
        assert errors[5].reason == "REQUEST_ID_REUSED"
        assert (await verify_all(service)).checked_count == 3


async def test_view_is_that_of_the_first_message(tmp_path: Path) -> None:
    requests = requests_for([draft("r1"), draft("r2")])
    requests[0].view = common_pb2.RECEIPT_VIEW_FULL
    requests[1].view = common_pb2.RECEIPT_VIEW_BASIC
    async with streaming(tmp_path) as (_, stub):
        results = await drain(stub.AppendStream(iter(requests)))
        assert all(result.receipt.statement for result in results)


async def test_empty_stream_ends_well(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (_, stub):
        assert await drain(stub.AppendStream(iter([]))) == []


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("", "INVALID_ARGUMENT"),
        ("tenants/acme/ledgers/none", "NOT_FOUND"),
        ("nonsense", "INVALID_ARGUMENT"),
    ],
)
async def test_stream_needs_a_ledger(tmp_path: Path, first: str, code: str) -> None:
    async with streaming(tmp_path) as (_, stub):
        call = stub.AppendStream(iter([Request(ledger=first, draft=draft("r1"))]))
        error = await failure(lambda: drain(call))
        assert error.code == code


async def test_another_ledger_breaks_the_stream_after_what_came_before(tmp_path: Path) -> None:
    requests = requests_for(draft(f"r{n}") for n in range(5))
    requests[3].ledger = LEDGER
    requests[4].ledger = "tenants/acme/ledgers/other"
    async with streaming(tmp_path) as (service, stub):
        call = stub.AppendStream(iter(requests))
        results = []

        async def read() -> None:
            async for response in call:
                results.append(response.result.receipt.seq)

        error = await failure(read)
        assert error.violations[0].field == "ledger"
        assert results == [1, 2, 3, 4]
        assert (await verify_all(service)).checked_count == 5


async def test_server_stops_reading_while_drafts_are_unanswered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = InMemoryWitness()
    async with streaming(tmp_path, witness, stream_in_flight=8) as (service, stub):
        real, gate = witness.WitnessBatch, asyncio.Event()
        real_check, taken = admission.check_draft, []

        async def held(request: Any, **options: Any) -> Any:
            await gate.wait()
            return await real(request, **options)

        def check_draft(item: common_pb2.Draft) -> int:
            taken.append(item.request_id)
            return real_check(item)

        replaced: Any = witness
        replaced.WitnessBatch = held
        monkeypatch.setattr(admission, "check_draft", check_draft)
        call = stub.AppendStream(iter(requests_for(draft(f"r{n}") for n in range(100))))
        await eventually(lambda: len(taken) == 8)
        await asyncio.sleep(0.2)
        assert len(taken) == 8
        gate.set()
        assert len(await drain(call)) == 100
        assert (await verify_all(service)).checked_count == 101


async def test_what_was_read_is_recorded_although_the_client_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = InMemoryWitness()
    async with streaming(tmp_path, witness) as (service, stub):
        real, gate = witness.WitnessBatch, asyncio.Event()
        held_calls, taken = [], []
        real_check = admission.check_draft

        async def held(request: Any, **options: Any) -> Any:
            held_calls.append(request)
            await gate.wait()
            return await real(request, **options)

        def check_draft(item: common_pb2.Draft) -> int:
            taken.append(item.request_id)
            return real_check(item)

        replaced: Any = witness
        replaced.WitnessBatch = held
        monkeypatch.setattr(admission, "check_draft", check_draft)
        # Two flushes of others are on their way: what the stream brings waits in the queue.
        others = []
        for name in ("one", "two"):
            others.append(asyncio.create_task(append(service, draft(name))))
            await eventually(lambda: len(held_calls) == len(others))
        call = stub.AppendStream()
        for request in requests_for(draft(f"r{n}") for n in range(20)):
            await call.write(request)
        await eventually(lambda: len(taken) == 22)
        call.cancel()
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*others)
        ledger = await service.storage.get_ledger("acme", "main")
        assert ledger is not None

        async def recorded() -> bool:
            return (await service.storage.get_head(ledger.uid)).head.seq == 22

        await eventually(recorded)
        assert (await append(service, draft("r0"))).repeated_request
        await verify_all(service)


async def test_message_that_is_none_ends_the_stream(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url) as service, served(service) as channel:
        raw = channel.stream_stream(
            "/provledger.api.ledger.v1.LedgerService/AppendStream",
            request_serializer=bytes,
            response_deserializer=ledger_pb2.AppendStreamResponse.FromString,
        )
        good = requests_for([draft("r1")])[0].SerializeToString()
        call = raw(iter([good, b"\xff\xff\xff"]))
        results = []

        async def read() -> None:
            async for response in call:
                results.append(response.result.receipt.seq)

        error = await failure(read)
        assert error.code == "INVALID_ARGUMENT"
        assert results == [1]


async def test_two_streams_and_a_batch_share_the_ledger(tmp_path: Path) -> None:
    async with streaming(tmp_path) as (service, stub):
        streams = [
            drain(stub.AppendStream(iter(requests_for(draft(f"s{s}-{n}") for n in range(300)))))
            for s in range(2)
        ]
        batch = stub.AppendBatch(
            ledger_pb2.AppendBatchRequest(
                ledger=LEDGER, drafts=[draft(f"b{n}") for n in range(300)]
            )
        )
        one, two, three = await asyncio.gather(*streams, batch)
        for results in (one, two, three.results):
            seqs = [result.receipt.seq for result in results]
            assert seqs == sorted(seqs)
        assert (await verify_all(service)).checked_count == 901


async def test_a_stream_goes_on_in_order_with_the_next_certificate_of_its_client(
    tmp_path: Path,
) -> None:
    ca = CertificateAuthority(tmp_path)
    own = ca.server()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    given: list[Document] = []

    async def source() -> AsyncIterator[Document]:
        while True:
            given.append(
                Document(
                    receipt_type="evidence.note",
                    media_type="text/plain",
                    payload=b"x",
                    resource_type="Note",
                    resource_id="1",
                    actor_id="tester",
                    request_id=f"r{len(given)}",
                )
            )
            yield given[-1]
            await asyncio.sleep(0.002)

    async with (
        asyncio.timeout(40),
        ledger_service(url) as service,
        served_at(service, tls_cert=own.cert, tls_key=own.key, tls_ca=own.ca) as address,
    ):
        at = f"localhost:{address.rpartition(':')[2]}"
        short = ca.issue("importer", lasts=dt.timedelta(seconds=5))
        answered: list[AppendResult] = []

        async def stream(client: AsyncClient, documents: Any) -> None:
            async for result in client.append_stream(LEDGER, documents):
                answered.append(result)

        async with AsyncClient(at, tls=short) as client:
            with pytest.raises(UnauthenticatedError) as caught:
                await stream(client, source())
        assert caught.value.reason == "CLIENT_CERTIFICATE_ENDED"
        ids = [result.request_id for result in answered]
        sent = [*ids, *caught.value.request_ids]
        assert sent == [each.request_id for each in given[: len(sent)]]
        async with AsyncClient(at, tls=ca.issue("importer")) as client:
            await stream(client, given[len(answered) :])
        seqs = [each.summary.seq for each in answered if each.summary is not None]
        assert seqs == list(range(1, len(given) + 1))
        assert (await verify_all(service)).checked_count == len(given) + 1
