"""The client processes of `provledger load` against a ledger service in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger_svc.app import Service
from provledger.api.ledger.v1 import ledger_pb2_grpc
from provledger.errors import UnavailableError
from provledger.rpc.server import Server
from provledger_cli.failures import CommandError
from provledger_cli.load.fleet import Fleet, Step
from provledger_cli.load.kept import Kept
from provledger_cli.load.schedule import Traffic
from tests.inmem.faults import rpc_error
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import LEDGER, create_ledger, ledger_service, settings, verify_all

OTHER = "tenants/other/ledgers/main"


class SlowWitness(InMemoryWitness):
    """Answers while `open` is set, and fails while `broken` is."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def WitnessBatch(self, request: Any, *args: Any, **options: Any) -> Any:
        await self.open.wait()
        if self.broken:
            raise rpc_error(UnavailableError("AWAY", "away", retry_delay_s=60.0))
        return await super().WitnessBatch(request, *args, **options)


@asynccontextmanager
async def listening(
    tmp_path: Path, **options: Any
) -> AsyncIterator[tuple[Service, SlowWitness, str]]:
    witness = SlowWitness()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url, witness, **options) as service:
        await create_ledger(service, OTHER)
        server = Server(settings("sqlite:///unused"), gates=service.gates())
        server.add(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, service.servicer)
        port = await server.start()
        try:
            yield service, witness, f"127.0.0.1:{port}"
        finally:
            witness.open.set()
            await server.drain(5.0)


def setup(endpoint: str, **traffic: Any) -> dict[str, Any]:
    made = Traffic(**{"ledgers": [(LEDGER, 1.0)], **traffic})
    return {
        "endpoint": endpoint,
        "tls": [None] * 3,
        "traffic": made.to_json(),
        "tag": "test",
        "timeout_s": 20.0,
        "keep": True,
    }


def ignore(step: Step) -> None:
    pass


async def test_everything_that_was_due_is_sent_and_answered_once(tmp_path: Path) -> None:
    """Of every kind, for two tenants, by two processes that share the rate."""
    mix = {
        "kinds": [("single", 4.0), ("batch", 1.0), ("stream", 4.0)],
        "ledgers": [(LEDGER, 1.0), (OTHER, 1.0)],
        "sizes": [(100, 1.0), (3000, 1.0)],
        "batch_items": 7,
    }
    async with listening(tmp_path) as (service, _, endpoint), asyncio.timeout(90):
        async with Fleet(2, setup(endpoint, **mix)) as fleet:
            steps = [await fleet.run(rate, 1.0, "1", 20.0, ignore) for rate in (40.0, 80.0)]
            kept: dict[str, Kept] = {}
            await fleet.kept(kept)
        receipts = sum(step.receipts for step in steps)
        heads = [(await verify_all(service, name)).head_seq for name in (LEDGER, OTHER)]
        assert sum(heads) == receipts == sum(each.count for each in kept.values())
        assert [kept[name].highest_seq for name in (LEDGER, OTHER)] == heads
        for step in steps:
            assert step.sent == step.answered == step.latency.count == step.lateness.count
            assert not step.refused
            assert not step.failed
            assert set(step.by_kind) == {"single", "batch", "stream"}
            assert set(step.by_ledger) == {LEDGER, OTHER}
        assert steps[1].sent > 1.3 * steps[0].sent


async def test_stall_counts_in_every_request_that_it_delays(tmp_path: Path) -> None:
    """Sending goes on through a stall of most of a step, and each request tells of it. A closed
    loop would have sent one request, and hidden the others."""
    async with listening(tmp_path) as (_, witness, endpoint), asyncio.timeout(90):
        async with Fleet(1, setup(endpoint, poisson=False)) as fleet:
            running = asyncio.create_task(fleet.run(50.0, 2.0, "1", 20.0, ignore))
            witness.open.clear()
            await asyncio.sleep(2.5)
            assert not running.done()
            witness.open.set()
            step = await running
        assert step.sent == step.answered == pytest.approx(100, abs=1)
        # The first was due two seconds before the stall ended, the last a moment before.
        assert step.latency.quantile_ms(0.5) > 900
        assert step.latency.max_ms > 1500


async def test_refusals_and_failures_are_told_apart_by_reason(tmp_path: Path) -> None:
    quotas = {"acme": ("10",)}
    async with listening(tmp_path, tenant_quotas=quotas) as (_, witness, endpoint):
        async with asyncio.timeout(90), Fleet(1, setup(endpoint)) as fleet:
            refused = await fleet.run(80.0, 1.0, "1", 20.0, ignore)
        witness.broken = True
        async with (
            asyncio.timeout(90),
            Fleet(1, setup(endpoint, ledgers=[(OTHER, 1.0)])) as fleet,
        ):
            failed = await fleet.run(10.0, 1.0, "1", 20.0, ignore)
    assert set(refused.refused) == {"QUOTA_EXCEEDED"}
    assert refused.answered + refused.refused.total() == refused.sent
    assert not refused.failed
    assert set(failed.failed) == {"AWAY"}
    assert not failed.answered


async def test_client_process_that_cannot_start_is_told_of() -> None:
    with pytest.raises(CommandError, match="ended by itself"):
        async with Fleet(1, {**setup("127.0.0.1:1"), "traffic": {"nonsense": 1}}):
            pass


async def test_clients_that_hold_back_hear_no_more_refusals_than_they_need(tmp_path: Path) -> None:
    """Of calls beyond a quota most are never sent; all are counted as refused."""
    quotas = {"acme": ("20",)}
    async with listening(tmp_path, tenant_quotas=quotas) as (service, _, endpoint):
        async with asyncio.timeout(90), Fleet(1, setup(endpoint)) as fleet:
            step = await fleet.run(200.0, 2.0, "1", 20.0, ignore, hold_back=True)
        assert 0 < step.in_time <= step.answered == (await verify_all(service)).head_seq
    assert set(step.refused) == {"QUOTA_EXCEEDED", "THROTTLED"}
    assert step.answered + step.refused.total() == step.sent
    assert step.refused["THROTTLED"] > step.refused["QUOTA_EXCEEDED"]
    assert step.refusal.count == step.refused["QUOTA_EXCEEDED"]
    assert step.cpu_s > 0.0
