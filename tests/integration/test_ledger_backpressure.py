"""Backpressure over real sockets: who is refused, how, and who is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger_svc import admission, gate, stream
from ledger_svc.app import LEDGER_SERVICE, Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import StatusError
from tests.support.backpressure import OTHER, held, is_refusal, outcome, request
from tests.support.ledgering import (
    LEDGER,
    create_ledger,
    document,
    draft,
    eventually,
    verify_all,
)

CALLS = 400
SOME = bytes(20 * 1024)


async def test_flood_is_refused_at_once_and_another_tenant_is_served(tmp_path: Path) -> None:
    async with held(tmp_path) as (service, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        calls = [
            asyncio.ensure_future(outcome(stub.Append(request(document(f"r{n}", SOME)))))
            for n in range(CALLS)
        ]
        # All that is refused is refused while nothing at all is answered.
        await eventually(lambda: any(call.done() for call in calls))
        assert await outcome(stub.Append(request(draft("mine"), OTHER))) is None
        batch = ledger_pb2.AppendBatchRequest(
            ledger=OTHER, drafts=[draft(f"b{n}") for n in range(300)]
        )
        assert len((await stub.AppendBatch(batch)).results) == 300
        witness.gate.set()
        outcomes = await asyncio.gather(*calls)
        refused = [error for error in outcomes if error is not None]
        assert 50 < len(refused) < CALLS - 50
        assert all(is_refusal(error, "OVERLOADED") for error in refused)
        # What was let in is recorded, what was refused is not.
        assert (await verify_all(service)).head_seq == CALLS - len(refused)
        assert service.gate.in_work_bytes == service.gate.in_work_units == 0


async def test_small_calls_are_bounded_by_number(tmp_path: Path) -> None:
    """What is beyond it is refused while nothing is answered; a batch finds room all the same."""
    async with held(tmp_path, small_calls=64) as (service, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        calls = [
            asyncio.ensure_future(outcome(stub.Append(request(draft(f"r{n}"))))) for n in range(150)
        ]
        await eventually(lambda: sum(call.done() for call in calls) == 150 - 48)
        assert all(is_refusal(call.result(), "OVERLOADED") for call in calls if call.done())
        assert await outcome(stub.Append(request(draft("mine"), OTHER))) is None
        batch = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[document(f"b{n}", SOME) for n in range(3)]
        )
        waiting = asyncio.ensure_future(stub.AppendBatch(batch))
        before = service.gate.in_work_units
        await eventually(lambda: service.gate.in_work_units > before)
        witness.gate.set()
        assert len((await waiting).results) == 3
        await asyncio.gather(*calls)
        assert (await verify_all(service)).head_seq == 48 + 3
        assert service.gate.in_work_bytes == service.gate.tenants == 0


async def test_refusal_costs_no_parsing(tmp_path: Path) -> None:
    """Bytes that are no request are OVERLOADED too, and MALFORMED only when there is room."""
    broken = request(document("x", SOME)).SerializeToString()[:-3]
    async with held(tmp_path) as (_, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        raw = channel.unary_unary(f"/{LEDGER_SERVICE}/Append")
        assert (await outcome(raw(broken))).reason == "MALFORMED_REQUEST"  # type: ignore[union-attr]
        calls = [
            asyncio.ensure_future(outcome(stub.Append(request(document(f"r{n}", SOME)))))
            for n in range(CALLS)
        ]
        await eventually(lambda: any(call.done() for call in calls))
        assert is_refusal(await outcome(raw(broken)), "OVERLOADED")
        witness.gate.set()
        await asyncio.gather(*calls)


async def test_memory_in_work_is_bounded_in_bytes(tmp_path: Path) -> None:
    bound = 16 * 1024 * 1024
    async with held(tmp_path, work_bytes=bound) as (service, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        payload = bytes(1000 * 1024)
        witness.gate.set()
        ledgers = [f"tenants/flood-{n}/ledgers/main" for n in range(5)]
        for ledger in ledgers:
            await create_ledger(service, ledger)
        witness.gate.clear()
        calls = [
            asyncio.ensure_future(outcome(stub.Append(request(document(f"r{n}", payload), ledger))))
            for n in range(6)
            for ledger in ledgers
        ]
        most = 0
        while not any(call.done() for call in calls):
            most = max(most, service.gate.in_work_bytes)
            await asyncio.sleep(0.005)
        most = max(most, service.gate.in_work_bytes)
        assert bound / 2 < most <= bound
        # The other tenant's megabyte still finds room.
        mine = request(document("mine", payload), OTHER)
        assert await outcome(stub.Append(mine)) is None
        witness.gate.set()
        outcomes = await asyncio.gather(*calls)
        assert 10 < sum(is_refusal(error, "OVERLOADED") for error in outcomes) < 30


async def test_few_ledgers_are_made_at_a_time(tmp_path: Path) -> None:
    async with held(tmp_path) as (_, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)

        def create(tenant: str, number: int) -> asyncio.Future[StatusError | None]:
            wanted = ledger_pb2.CreateLedgerRequest(
                parent=f"tenants/{tenant}", ledger_id=f"l{number}"
            )
            return asyncio.ensure_future(outcome(stub.CreateLedger(wanted)))

        # The witness is stuck: whoever is let in stays.
        calls = [create("evil", number) for number in range(40)]
        await eventually(lambda: sum(call.done() for call in calls) == 16)
        assert all(is_refusal(call.result(), "OVERLOADED") for call in calls if call.done())
        mine = create("mine", 0)
        # An answer to a later call of the same connection: mine was let in before.
        assert await outcome(stub.Append(request(draft("r1"), OTHER))) is None
        assert not mine.done()
        witness.gate.set()
        assert await mine is None
        outcomes = await asyncio.gather(*calls)
        assert sum(error is None for error in outcomes) == 24


class Others:
    """Another tenant, who appends one by one and is never refused."""

    def __init__(self, service: Service, stub: Any) -> None:
        self._service = service
        self._stub = stub
        self.appended = 0
        self.most_unread = 0

    async def append_some(self) -> None:
        for _ in range(25):
            call = self._stub.Append(request(draft(f"u{self.appended}"), OTHER))
            assert await outcome(call) is None
            self.appended += 1
            self.most_unread = max(self.most_unread, self._service.unread.size_bytes)

    async def append_until_halted(self, look: Callable[[], Any]) -> None:
        """Go on until what others do has not changed for as long as three rounds take."""
        still = 0
        while still < 3:
            before = look()
            await self.append_some()
            halted = before == look() and not self._service.gate.in_work_bytes
            still = still + 1 if halted else 0


async def test_slow_readers_slow_only_themselves(tmp_path: Path, monkeypatch: Any) -> None:
    """Several streams whose answers nobody takes come to a halt; another tenant goes on."""
    taken: Counter[str] = Counter()
    real = admission.check_draft

    def check_draft(item: common_pb2.Draft) -> int:
        taken[item.request_id[:1]] += 1
        return real(item)

    monkeypatch.setattr(admission, "check_draft", check_draft)
    streams, drafts, size_bytes = 4, 280, 20 * 1024
    window = 64 * 1024
    options = {"stream_bytes": window, "stream_in_flight": 1000}
    async with held(tmp_path, **options) as (service, channel, witness), asyncio.timeout(120):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        slow = []
        for stream in range(streams):
            items = [document(f"{stream}-{n}", bytes(size_bytes)) for n in range(drafts)]
            messages = [ledger_pb2.AppendStreamRequest(draft=item) for item in items]
            messages[0].ledger = LEDGER
            messages[0].view = common_pb2.RECEIPT_VIEW_FULL
            slow.append(stub.AppendStream(iter(messages)))
        # Answers carry the payload back: transport buffers fill, then the windows do. It has come
        # to a halt when another tenant appends, for longer than a flush takes, and they do not.
        others = Others(service, stub)
        await others.append_until_halted(
            lambda: tuple(taken[str(stream)] for stream in range(streams))
        )
        held_still = [taken[str(stream)] for stream in range(streams)]
        assert all(0 < count < drafts for count in held_still), held_still
        # They hold their windows and no work of others; no window is larger than was agreed.
        assert service.gate.in_work_bytes == 0
        assert 0 < service.unread.size_bytes <= others.most_unread <= streams * (window + 1024)
        await others.append_some()
        assert [taken[str(stream)] for stream in range(streams)] == held_still
        # One that is read again goes on to its end, and so do the others then.
        for stream in slow:
            results = [response.result async for response in stream]
            assert [result.index for result in results] == list(range(drafts))
        assert (await verify_all(service)).head_seq == streams * drafts
        await eventually(lambda: service.unread.size_bytes == 0)
        assert taken["u"] == others.appended >= 100


async def test_unread_answers_of_a_tenant_are_bounded(tmp_path: Path) -> None:
    """Streams that could hold more than the service may are held up before; another's is not."""
    size_bytes = 512 * 1024
    options = {"work_bytes": 16 * 1024 * 1024, "stream_bytes": 16 * 1024 * 1024}
    async with held(tmp_path, **options) as (service, channel, witness), asyncio.timeout(120):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        witness.gate.set()
        bound = 3 * 4 * 1024 * 1024
        slow = []
        for stream in range(4):
            call = stub.AppendStream()
            slow.append((call, asyncio.create_task(_write(call, f"{stream}-", size_bytes, 16))))
        others = Others(service, stub)
        await others.append_until_halted(lambda: service.unread.size_bytes)
        # 32 MiB were sent, and 16 could be held; one message of each is always let in.
        assert bound / 2 < others.most_unread <= bound + 4 * (size_bytes + 1024)
        mine = stub.AppendStream(
            iter([ledger_pb2.AppendStreamRequest(ledger=OTHER, draft=draft("mine"))])
        )
        assert (await mine.read()).result.receipt.seq == others.appended + 1
        for call, writing in slow:
            count = 0
            async for _ in call:
                count += 1
            await writing
            assert count == 16
        await eventually(lambda: service.unread.size_bytes == 0)


async def _write(call: Any, prefix: str, size_bytes: int, count: int) -> None:
    for n in range(count):
        message = ledger_pb2.AppendStreamRequest(draft=document(f"{prefix}{n}", bytes(size_bytes)))
        message.ledger = LEDGER if n == 0 else ""
        message.view = common_pb2.RECEIPT_VIEW_FULL
        await call.write(message)
    await call.done_writing()


async def test_silent_streams_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_MESSAGE_S", 0.05)
    async with held(tmp_path) as (_, channel, witness), asyncio.timeout(20):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        error = await outcome(stub.AppendStream().read())
        assert error is not None
        assert (error.code, error.reason) == ("DEADLINE_EXCEEDED", "STREAM_SILENT")
        # The connection is as good as before.
        assert await outcome(stub.Append(request(draft("r1")))) is None


async def test_silent_streams_are_counted_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_SILENT_STREAMS", 2)
    async with held(tmp_path) as (_, channel, witness), asyncio.timeout(60):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        one, two, three = (
            asyncio.ensure_future(outcome(stub.AppendStream().read())) for _ in "abc"
        )
        calls = (one, two, three)
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [call for call in calls if call.done()]
        assert is_refusal(refused.result(), "TOO_MANY_STREAMS")

        async def taken() -> bool:
            items = iter([ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft("r1"))])
            return await outcome(stub.AppendStream(items).read()) is None

        assert not await taken()
        # One that has begun is counted elsewhere; one that has ended, nowhere.
        next(call for call in calls if not call.done()).cancel()
        await eventually(taken)
        for call in calls:
            call.cancel()


async def test_streams_of_a_tenant_are_counted_and_given_back(tmp_path: Path) -> None:
    async with held(tmp_path, tenant_streams=2) as (service, channel, _), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        streams = []
        for n in range(2):
            stream = stub.AppendStream()
            await stream.write(ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft(f"s{n}")))
            streams.append(stream)
        await eventually(lambda: service.gate.in_work_units == 10)
        third = stub.AppendStream(
            iter([ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft("third"))])
        )
        assert is_refusal(await outcome(third.read()), "TOO_MANY_STREAMS")
        for stream in streams:
            stream.cancel()
        other = stub.AppendStream(
            iter([ledger_pb2.AppendStreamRequest(ledger=OTHER, draft=draft("o"))])
        )
        assert (await other.read()).result.receipt.seq == 1

        async def taken_again() -> bool:
            stream = stub.AppendStream(
                iter([ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft("again"))])
            )
            reading = asyncio.ensure_future(outcome(stream.read()))
            done, _ = await asyncio.wait({reading}, timeout=0.2)
            stream.cancel()
            return not done

        await eventually(taken_again)


async def test_reads_are_bounded_by_tenant_and_leave_room_for_another(tmp_path: Path) -> None:
    """Reads that wait for an anchor fill their tenant's share; what comes then is refused."""
    async with held(tmp_path, read_calls=16) as (service, channel, witness), asyncio.timeout(60):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        append = ledger_pb2.AppendRequest(
            ledger=LEDGER, draft=draft("r"), view=common_pb2.RECEIPT_VIEW_BASIC
        )
        name = (await stub.Append(append)).receipt.name
        wait = ledger_pb2.GetReceiptRequest(name=name, wait_for=common_pb2.ANCHOR_STATE_ANCHORED)
        calls = [stub.GetReceipt(wait) for _ in range(20)]
        waiting = [asyncio.ensure_future(outcome(call)) for call in calls]
        await eventually(lambda: sum(call.done() for call in waiting) == 8)
        assert service.reading_gate.in_work == 12
        assert all(is_refusal(call.result(), "OVERLOADED") for call in waiting if call.done())
        mine = ledger_pb2.GetLedgerRequest(name=LEDGER)
        assert is_refusal(await outcome(stub.GetLedger(mine)), "OVERLOADED")
        assert await outcome(stub.GetLedger(ledger_pb2.GetLedgerRequest(name=OTHER))) is None
        for call in calls:
            call.cancel()
        await eventually(lambda: not service.reading_gate.in_work)
        assert await outcome(stub.GetLedger(mine)) is None
        await eventually(lambda: not service.reading_gate.tenants)
