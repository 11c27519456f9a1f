"""Quotas of tenants over real sockets: who is kept to them, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ledger_svc import append as pipeline
from ledger_svc import gate
from ledger_svc.app import LEDGER_SERVICE
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tests.support.backpressure import OTHER, held, is_refusal, outcome, request
from tests.support.ledgering import LEDGER, draft, eventually, verify_all


async def test_quota_of_a_tenant_is_its_own(tmp_path: Path) -> None:
    quotas = {"acme": ("20",)}
    async with held(tmp_path, tenant_quotas=quotas) as (_, channel, witness), asyncio.timeout(60):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        batch = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[draft(f"b{n}") for n in range(400)]
        )
        assert len((await stub.AppendBatch(batch)).results) == 400
        error = await outcome(stub.Append(request(draft("more"))))
        assert is_refusal(error, "QUOTA_EXCEEDED")
        assert error is not None
        # 400 at 20 a second: nineteen seconds of debt, less what has passed.
        assert 5.0 < (error.retry_delay_s or 0.0) < 19.1
        assert await outcome(stub.Append(request(draft("mine"), OTHER))) is None


async def test_messages_of_a_stream_are_answered_as_the_quota_lets_them(tmp_path: Path) -> None:
    """Nobody waits long without an answer: a message beyond the quota is answered in portions."""
    async with held(tmp_path, tenant_quotas={"acme": ("10",)}) as (_, channel, witness):
        witness.gate.set()
        message = ledger_pb2.AppendStreamRequest(
            ledger=LEDGER, drafts=[draft(f"s{n}") for n in range(25)]
        )
        message.drafts[23].mutation.new_state = b"{"
        call = ledger_pb2_grpc.LedgerServiceStub(channel).AppendStream(iter([message]), timeout=60)
        parts = [part async for part in call]
        assert [len(part.results) for part in parts] == [10, 10, 5]
        results = [result for part in parts for result in part.results]
        assert [result.index for result in results] == list(range(25))
        assert [n for n, result in enumerate(results) if result.HasField("error")] == [23]
        assert "drafts[23]" in results[23].error.message


async def test_a_stream_ends_before_drafts_that_would_wait_long(tmp_path: Path) -> None:
    """Behind the answers to all before them; what comes after them is not recorded first."""
    async with held(tmp_path, tenant_quotas={"acme": ("20",)}) as (service, channel, witness):
        witness.gate.set()
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        batch = ledger_pb2.AppendBatchRequest(
            ledger=LEDGER, drafts=[draft(f"b{n}") for n in range(1000)]
        )
        call = stub.AppendStream(timeout=60)
        await call.write(ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft("first")))
        assert (await call.read()).result.HasField("receipt")
        await stub.AppendBatch(batch, timeout=60)
        drafts = [draft(f"s{n}") for n in range(30)]
        await call.write(ledger_pb2.AppendStreamRequest(drafts=drafts))
        error = await outcome(call.read())
        assert is_refusal(error, "QUOTA_EXCEEDED")
        assert error is not None
        assert (error.retry_delay_s or 0.0) > gate.MAX_QUOTA_WAIT_S
        assert (await verify_all(service)).head_seq == 1001


@pytest.mark.parametrize("rpc", ["Append", "AppendBatch"])
@pytest.mark.parametrize("first", ["", OTHER], ids=["draft first", "another ledger first"])
async def test_quota_is_not_avoided_by_the_order_of_fields(
    tmp_path: Path, rpc: str, first: str
) -> None:
    """What the gate reads from the raw bytes is not the tenant that is charged."""
    async with held(tmp_path, tenant_quotas={"acme": ("5",)}) as (_, channel, witness):
        witness.gate.set()
        call = channel.unary_unary(f"/{LEDGER_SERVICE}/{rpc}")

        def raw(number: int) -> bytes:
            # Field numbers are those of both requests.
            one = ledger_pb2.AppendRequest
            parts = (one(ledger=first), one(draft=draft(f"r{number}")), one(ledger=LEDGER))
            return b"".join(part.SerializeToString() for part in parts)

        outcomes = [await outcome(call(raw(number))) for number in range(12)]
        assert outcomes[0] is None
        refused = [error for error in outcomes if error is not None]
        assert refused
        assert all(is_refusal(error, "QUOTA_EXCEEDED") for error in refused)


async def test_new_ledgers_count_against_the_quota(tmp_path: Path) -> None:
    async with held(tmp_path, tenant_quotas={"*": ("5",)}) as (_, channel, witness):
        witness.gate.set()
        create = channel.unary_unary(f"/{LEDGER_SERVICE}/CreateLedger")
        of = ledger_pb2.CreateLedgerRequest
        for tenant, first in (("evil", ""), ("worse", "tenants/victim")):
            outcomes = []
            for number in range(12):
                # The parent as written by serialisers, or behind another one.
                parts = (of(parent=first), of(parent=f"tenants/{tenant}", ledger_id=f"l{number}"))
                data = b"".join(part.SerializeToString() for part in parts)
                outcomes.append(await outcome(create(data)))
            assert outcomes[0] is None
            refused = [error for error in outcomes if error is not None]
            assert refused
            assert all(is_refusal(error, "QUOTA_EXCEEDED") for error in refused)


async def test_shared_quota_holds_only_while_others_are_there(tmp_path: Path) -> None:
    async with held(tmp_path, shared_quotas={"*": ("10",)}) as (service, channel, witness):
        witness.gate.set()
        now_s = 100.0
        service.gate._quotas._clock = lambda: now_s
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)

        async def sent(name: str, ledger: str = LEDGER) -> Any:
            return await outcome(stub.Append(request(draft(name), ledger)))

        for number in range(50):
            assert await sent(f"r{number}") is None
        assert await sent("mine", OTHER) is None
        error = await sent("more")
        assert is_refusal(error, "QUOTA_EXCEEDED")
        assert error.retry_delay_s == pytest.approx(0.1)
        assert await sent("mine-again", OTHER) is None
        now_s += 0.2
        assert await sent("later") is None
        now_s += 6.0
        for number in range(50):
            assert await sent(f"s{number}") is None
        assert (await verify_all(service)).head_seq == 101


async def test_who_is_kept_to_a_shared_quota_gathers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few his drafts are, and however little the others send."""
    monkeypatch.setattr(pipeline, "GATHER_S", 3600.0)
    async with held(tmp_path, shared_quotas={"*": ("10",)}) as (service, channel, witness):
        witness.gate.set()
        now_s = 100.0
        service.gate._quotas._clock = lambda: now_s
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        for number in range(60):
            assert await outcome(stub.Append(request(draft(f"r{number}")))) is None
        assert await outcome(stub.Append(request(draft("mine"), OTHER))) is None
        now_s += 0.15
        gathers = asyncio.ensure_future(outcome(stub.Append(request(draft("gathers")))))
        # Read from the same connection behind it.
        assert await outcome(stub.Append(request(draft("mine-again"), OTHER))) is None
        assert not gathers.done()
        waited_s: list[float] = []
        monkeypatch.setattr(
            service.gate._limiter, "flushed", lambda **flush: waited_s.append(flush["waited_s"])
        )
        await service.appender.close()  # flushes what waits
        assert await gathers is None
        # To be kept waiting by a quota is no sign of too much work.
        assert waited_s == [0.0]


async def test_streams_go_on_when_somebody_comes(tmp_path: Path) -> None:
    """What waits for room was let in before, and is no debt; then all of them share the quota."""
    options = {"shared_quotas": {"*": ("50",)}, "work_bytes": 16 * 1024 * 1024}
    async with held(tmp_path, **options) as (service, channel, witness), asyncio.timeout(60):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        large = b'{"a": "' + bytes(120 * 1024).hex().encode() + b'"}'

        def message(name: str, drafts: int, state: bytes) -> ledger_pb2.AppendStreamRequest:
            found = ledger_pb2.AppendStreamRequest(
                ledger=LEDGER, drafts=[draft(f"{name}-{n}") for n in range(drafts)]
            )
            for each in found.drafts:
                each.mutation.new_state = state
            return found

        streams = []
        for number in range(8):
            # 38 MB of drafts in all, of which 12 fit while the witness is stuck.
            first, second = message(f"a{number}", 20, large), message(f"b{number}", 20, b"{}")
            streams.append(stub.AppendStream(iter([first, second]), timeout=60))
        reading = [asyncio.ensure_future(_all(call)) for call in streams]
        await eventually(lambda: len(service.gate._waiting) > 0)
        assert await outcome(stub.Append(request(draft("mine"), OTHER))) is None
        witness.gate.set()
        answered = await asyncio.gather(*reading)
        assert [len(results) for results in answered] == [40] * 8
        assert (await verify_all(service)).head_seq == 320


async def _all(call: Any) -> list[Any]:
    return [result async for part in call for result in part.results]
