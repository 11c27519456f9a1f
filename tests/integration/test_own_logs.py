"""Many ledgers on one log, and logs that tenants have for themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider

from anchor_svc.app import build
from gateway_svc.anchor import AnchorPlace
from ledger_svc import convert
from ledger_svc.app import Service
from provledger import telemetry
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
)
from provledger.rpc.channel import channel
from tests.bench import many
from tests.integration.test_anchor_service import (
    ANY,
    BLAKE3,
    Anchor,
    anchor_on,
    keys_service,
    serving,
    settings,
)
from tests.support.anchoring import Ledger, TestKeys, check_log, running_log, submit
from tests.support.ledgering import append, draft, ledger_service

pytestmark = pytest.mark.timeout(120)

ACME = "tenants/acme"


@pytest.fixture
def metrics() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    tracer = TracerProvider(shutdown_on_exit=False)
    telemetry.use(tracer, MeterProvider([reader], shutdown_on_exit=False))
    try:
        yield reader
    finally:
        telemetry.shutdown()


async def test_log_whose_directory_cannot_be_made_is_made_later(tmp_path: Path) -> None:
    async with anchor_on(tmp_path) as anchor:
        (directory,) = tmp_path.rglob("logs")
        request = pb.CreateLogRequest(tenant=ACME, suite=BLAKE3)
        # A file in the way is to the service what a broken disk is: OSError.
        directory.rename(directory.with_name("away"))
        directory.touch()
        with pytest.raises(UnavailableError) as caught:
            await anchor.ask("CreateLog", request)
        assert caught.value.reason == "DISK_UNAVAILABLE"
        directory.unlink()
        directory.with_name("away").rename(directory)
        made = (await anchor.ask("CreateLog", request)).log
        assert (await anchor.ask("CreateLog", request)).log.uid == made.uid


async def test_thousand_ledgers_share_a_log(tmp_path: Path) -> None:
    """Each grows three times, all at once; every entry is proven in its place."""
    database_url = f"sqlite:///{tmp_path}/log.db"
    keys = TestKeys()
    ledgers = [Ledger(f"ledger-{number}") for number in range(1000)]
    async with running_log(database_url, tmp_path, keys=keys, batch_budget_s=0.008) as log:
        for _ in range(3):
            starts = [len(ledger.entries) for ledger in ledgers]
            for ledger in ledgers:
                ledger.grow(1)
            await asyncio.gather(*map(submit, [log] * 1000, ledgers, starts))
        assert log.state.signed_size == 3001
    async with running_log(database_url, tmp_path, keys=keys) as log:
        # States of ledgers come from the database now, each checked against the log.
        ledgers[500].grow(2)
        await submit(log, ledgers[500], 2)
        await check_log(log, ledgers, keys)


async def test_ledgers_of_all_logs_are_counted(tmp_path: Path) -> None:
    first, second = Ledger("first"), Ledger("second")
    first.grow(2)
    second.grow(1)
    async with anchor_on(tmp_path) as anchor:

        async def count() -> int:
            request = pb.GetLogRequest(name=ANY, count_ledgers=True)
            return int((await anchor.ask("GetLog", request)).ledger_count)

        assert await count() == 0
        await anchor.submit(first)
        assert await count() == 1
        own = (await anchor.ask("CreateLog", pb.CreateLogRequest(tenant=ACME, suite=BLAKE3))).log
        assert await count() == 1
        await anchor.submit(second, log=own.name)
        assert await count() == 2
        # Only for those who ask.
        assert (await anchor.ask("GetLog", pb.GetLogRequest(name=ANY))).ledger_count == 0


async def test_many_ledgers_of_the_ledger_service_share_a_log(
    database_url: str, tmp_path: Path
) -> None:
    """A hundred; `make bench ARGS="--only many"` does it with a thousand."""
    found = await many.run(tmp_path, database_url, ledgers=100)
    assert found["verified"] == 20


async def test_tenant_gets_a_log_of_its_own_over_restarts(tmp_path: Path) -> None:
    ledger, shared = Ledger("own"), Ledger("shared")
    ledger.grow(3)
    shared.grow(2)
    async with anchor_on(tmp_path) as anchor:
        request = pb.CreateLogRequest(tenant=ACME, suite=BLAKE3)
        made = await anchor.ask("CreateLog", request)
        assert made.created
        default = await anchor.log()
        assert made.log.uid != default.uid
        assert made.log.origin.split("/")[0] == default.origin.split("/")[0]
        assert (made.log.tenant, default.tenant) == (ACME, "")
        assert (await _log(anchor, made.log.name)).tenant == ACME
        assert {log.name: log.tenant for log in await _listed(anchor)} == {
            made.log.name: ACME,
            default.name: "",
        }
        again = await anchor.ask("CreateLog", request)
        assert (again.log.name, again.created) == (made.log.name, False)
        await anchor.submit(shared)
        answer = await anchor.submit(ledger, log=made.log.name)
        assert (answer.tree_size, answer.runs[0].start_index) == (4, 1)
        assert (await anchor.log()).tree_size == 3
        # It is published and anchored on its own, in the same place under another origin.
        own = made.log.name
        async with asyncio.timeout(20):
            while (await _log(anchor, own)).anchored_size < 4:  # noqa: ASYNC110 - over gRPC
                await asyncio.sleep(0.01)
        # Neither knows of the other's ledgers.
        for name, uid in ((own, shared.uid), (ANY, ledger.uid)):
            request_state = pb.GetLedgerStateRequest(log=name, ledger_uid=uid)
            assert (await anchor.ask("GetLedgerState", request_state)).seq == -1
        with pytest.raises(FailedPreconditionError, match="blake3-all"):
            await anchor.ask(
                "CreateLog", pb.CreateLogRequest(tenant=ACME, suite=common_pb2.SUITE_BLAKE3_ALL)
            )
        for bad in (
            {"tenant": ""},
            {"tenant": "acme"},
            {"suite": 0},
            {"kept_for": ["acme"]},
            {"kept_for": [ACME] * 1001},
        ):
            values: dict[str, Any] = {"tenant": ACME, "suite": BLAKE3, **bad}
            with pytest.raises(InvalidArgumentError):
                await anchor.ask("CreateLog", pb.CreateLogRequest(**values))


async def _log(anchor: Any, name: str) -> pb.Log:
    return (await anchor.ask("GetLog", pb.GetLogRequest(name=name))).log  # type: ignore[no-any-return]


@asynccontextmanager
async def anchor_with(keys: str, directory: Path, **changes: Any) -> AsyncIterator[Anchor]:
    config = settings(directory, keys, **changes)
    async with (
        serving(await build(config), config) as port,
        channel(f"127.0.0.1:{port}") as opened,
    ):
        yield Anchor(opened)


async def test_own_logs_are_opened_again_and_bounded(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(5)
    async with keys_service(tmp_path) as keys:
        async with anchor_with(keys, tmp_path, max_own_logs=1) as anchor:
            request = pb.CreateLogRequest(tenant=ACME, suite=BLAKE3)
            name = (await anchor.ask("CreateLog", request)).log.name
            await anchor.submit(ledger, 0, 3, log=name)
            other = pb.CreateLogRequest(tenant="tenants/other", suite=BLAKE3)
            with pytest.raises(FailedPreconditionError, match="logs of their own"):
                await anchor.ask("CreateLog", other)
        async with anchor_with(keys, tmp_path) as anchor:
            answer = await anchor.submit(ledger, 3, log=name)
            assert answer.tree_size == 6
            assert (await anchor.ask("CreateLog", request)).log.name == name


async def test_who_asks_for_a_log_takes_no_place_of_those_who_are_named(tmp_path: Path) -> None:
    """A caller may name any tenant, and a log is for ever: those of the settings get theirs."""

    async def made(service: Service, tenant: str, **more: Any) -> str:
        parent = f"tenants/{tenant}"
        request = ledger_pb2.CreateLedgerRequest(parent=parent, ledger_id="main", **more)
        return (await service.servicer.CreateLedger(request, None)).ledger.log

    async with (
        keys_service(tmp_path) as keys,
        anchor_with(keys, tmp_path, max_own_logs=3) as anchor,
        ledger_service(
            f"sqlite:///{tmp_path}/ledger.db",
            anchor=anchor.stub,  # type: ignore[arg-type]
            own_log_tenants=("first", "second", "*"),
            create=False,
        ) as service,
    ):
        taken = [await made(service, "first"), await made(service, "made-up", own_log=True)]
        for more in ({"own_log": True}, {}):
            with pytest.raises(FailedPreconditionError, match="a place that is kept") as caught:
                await made(service, "made-up-too", **more)
            assert caught.value.reason == "TOO_MANY_LOGS"
            # Who has one keeps it.
            assert await made(service, "made-up", **more) == taken[1]
        taken.append(await made(service, "second"))
        assert len({*taken, (await anchor.log()).name}) == 4
        with pytest.raises(FailedPreconditionError, match=r"already$"):
            await made(service, "made-up-too", own_log=True)


async def test_damaged_log_of_a_tenant_stops_nobody_else_and_is_seen(
    tmp_path: Path, metrics: InMemoryMetricReader
) -> None:
    ledger, other, shared = Ledger("a"), Ledger("b"), Ledger("shared")
    for each in (ledger, other, shared):
        each.grow(300)
    async with keys_service(tmp_path) as keys:
        async with anchor_with(keys, tmp_path) as anchor:
            wanted = [
                pb.CreateLogRequest(tenant=f"tenants/{name}", suite=BLAKE3) for name in ("a", "b")
            ]
            names = [(await anchor.ask("CreateLog", request)).log.name for request in wanted]
            await anchor.submit(ledger, 0, 280, log=names[0])
            await anchor.submit(other, 0, 280, log=names[1])
            await anchor.submit(shared, 0, 280)
        (tile,) = tmp_path.glob(f"**/{names[0].removeprefix('logs/')}/tile/0/000")
        whole = tile.read_bytes()
        tile.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        async with anchor_with(keys, tmp_path) as anchor:
            state = pb.GetLedgerStateRequest(log=names[0], ledger_uid=ledger.uid)
            asks = [
                lambda: anchor.ask("CreateLog", wanted[0]),
                lambda: anchor.ask("GetLog", pb.GetLogRequest(name=names[0])),
                lambda: anchor.ask("GetLedgerState", state),
                lambda: anchor.submit(ledger, 280, log=names[0]),
            ]
            for ask in asks:
                with pytest.raises(DataLossError) as caught:
                    await ask()
                assert caught.value.reason == "ROOT_MISMATCH"
                assert caught.value.metadata["tile"] == "tile/0/000"
                assert caught.value.metadata["log"] == names[0]
            assert (await anchor.submit(other, 280, log=names[1])).tree_size == 301
            assert (await anchor.submit(shared, 280)).tree_size == 301
            by_name = {log.name: log for log in await _listed(anchor)}
            assert len(by_name) == 3
            closed = by_name.pop(names[0])
            assert (closed.state, closed.tree_size) == (pb.LOG_STATE_DAMAGED, 0)
            assert closed.origin.endswith(names[0].removeprefix("logs/"))
            damage = closed.damage
            assert (damage.tenant, damage.reason) == ("tenants/a", "ROOT_MISMATCH")
            assert closed.tenant == damage.tenant
            assert damage.tile == "tile/0/000"
            assert names[0] in damage.message
            assert {log.state for log in by_name.values()} == {pb.LOG_STATE_SERVING}
            assert not any(log.HasField("damage") for log in by_name.values())
            # A key that is retired meanwhile has signed it, too.
            assert (await _reported(keys, 2))[closed.origin] == 281
            # Readers of what is published are not sent to it.
            place = AnchorPlace(anchor.channel, deadline_s=20)
            assert names[0] not in await place.names()
            assert names[1] in await place.names()
            assert _logs_by_state(metrics) == {"serving": 2, "damaged": 1}
        tile.write_bytes(whole)
        async with anchor_with(keys, tmp_path) as anchor:
            assert (await anchor.submit(ledger, 280, log=names[0])).tree_size == 301
            assert {log.state for log in await _listed(anchor)} == {pb.LOG_STATE_SERVING}
        (tile,) = tmp_path.glob(f"**/{await _shared_uid(keys, tmp_path)}/tile/0/000")
        tile.write_bytes(b"damaged")
        with pytest.raises(DataLossError):
            async with anchor_with(keys, tmp_path):
                pass


async def _reported(keys: str, grown: int) -> dict[str, int]:
    """Sizes of logs by origin, as the anchor reports them once so many of them are at 301."""
    async with channel(keys) as opened, asyncio.timeout(30.0):
        stub = keys_pb2_grpc.KeysServiceStub(opened)
        while True:
            answer = await stub.ListSigners(keys_pb2.ListSignersRequest())
            for one in answer.signers:
                sizes = {each.origin: each.size for each in one.log_sizes}
                if [*sizes.values()].count(301) == grown:
                    return sizes
            await asyncio.sleep(0.05)


def _logs_by_state(metrics: InMemoryMetricReader) -> dict[object, float]:
    data = metrics.get_metrics_data()
    assert data is not None
    return {
        (point.attributes or {})["state"]: point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "anchor.logs"
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }


async def _listed(anchor: Anchor) -> list[pb.Log]:
    """All logs, a page each."""
    found: list[pb.Log] = []
    request = pb.ListLogsRequest(page_size=1)
    while True:
        page = await anchor.ask("ListLogs", request)
        found += page.logs
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def _shared_uid(keys: str, directory: Path) -> str:
    async with anchor_with(keys, directory) as anchor:
        return (await anchor.log()).name.removeprefix("logs/")


async def test_ledgers_of_a_tenant_go_to_its_own_log(database_url: str, tmp_path: Path) -> None:
    def create(tenant: str, ledger_id: str, **more: Any) -> ledger_pb2.CreateLedgerRequest:
        parent = f"tenants/{tenant}"
        return ledger_pb2.CreateLedgerRequest(parent=parent, ledger_id=ledger_id, **more)

    async with (
        anchor_on(tmp_path) as anchor,
        ledger_service(
            database_url,
            anchor=anchor.stub,  # type: ignore[arg-type]
            relay=True,
            own_log_tenants=("always",),
        ) as service,
    ):
        servicer = service.servicer
        shared = (await servicer.CreateLedger(create("acme", "shared"), None)).ledger
        own = (await servicer.CreateLedger(create("acme", "own", own_log=True), None)).ledger
        second = (await servicer.CreateLedger(create("acme", "two", own_log=True), None)).ledger
        always = (await servicer.CreateLedger(create("always", "main"), None)).ledger
        repeated = await servicer.CreateLedger(create("acme", "own", own_log=True), None)
        assert (repeated.ledger.name, repeated.created) == (own.name, False)
        with pytest.raises(AlreadyExistsError, match="ledgers share"):
            await servicer.CreateLedger(create("acme", "shared", own_log=True), None)
        logs = [ledger.log_origin for ledger in (shared, own, second, always)]
        assert logs[1] == logs[2]
        assert len(set(logs)) == 3
        receipt = (await append(service, draft("mine"), ledger=own.name)).receipt
        wanted = ledger_pb2.GetReceiptRequest(
            name=receipt.name, view=convert.FULL, wait_for=convert.ANCHORED
        )
        anchored = (await servicer.GetReceipt(wanted, None)).receipt
        assert anchored.proofs[0].origin == own.log_origin != shared.log_origin
