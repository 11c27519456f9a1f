"""A process that appends to more ledgers than it keeps pipelines for."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

import ledger_svc.pipelines
from ledger_svc.tools import AnyKey
from provledger.db import begin_write
from provledger.errors import DataLossError
from tests.support.ledgering import (
    append,
    create_ledger,
    draft,
    ledger_service,
    verify_all,
)

NAMES = [f"tenants/acme/ledgers/l{n}" for n in range(5)]


@pytest.fixture(autouse=True)
def few_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_svc.pipelines, "_MOST_PIPELINES", 2)


class HeldKey(AnyKey):
    """Good for any batch; from `hold` on not before `release` is set."""

    def __init__(self) -> None:
        self.asked, self.release = asyncio.Semaphore(0), asyncio.Event()
        self.release.set()

    def hold(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.release.clear()

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        self.asked.release()
        return await self.release.wait()


async def test_pipelines_that_are_idle_make_way(database_url: str) -> None:
    async with ledger_service(database_url, create=False) as service:
        for name in NAMES:
            await create_ledger(service, name)
        for seq in (1, 2):
            for name in NAMES:
                answer = await append(service, draft(f"r{seq}"), ledger=name)
                assert answer.receipt.seq == seq
            assert len(service.appender._pipelines) == 2
        repeated = await append(service, draft("r1"), ledger=NAMES[0])
        assert repeated.repeated_request
        for name in NAMES:
            assert (await verify_all(service, name)).checked_count == 3


async def test_pipeline_in_use_stays(database_url: str) -> None:
    """Another one beside it would commit out of its order."""
    key = HeldKey()
    async with ledger_service(database_url, create=False, keys=key) as service:
        for name in NAMES:
            await create_ledger(service, name)
        key.hold()
        calls = []
        for name in NAMES[:4]:
            calls.append(asyncio.ensure_future(append(service, draft("r1"), ledger=name)))
            await key.asked.acquire()
        pipelines = service.appender._pipelines
        there = len(pipelines)
        key.release.set()
        await asyncio.gather(*calls)
        assert there == 4
        # Those that were too many go when there is another one.
        await create_ledger(service, "tenants/acme/ledgers/last")
        await append(service, draft("r1"), ledger="tenants/acme/ledgers/last")
        assert len(pipelines) == 2
        assert (await append(service, draft("r2"), ledger=NAMES[0])).receipt.seq == 2


async def test_what_was_acknowledged_is_known_for_longer_than_the_pipeline(
    database_url: str,
) -> None:
    async with ledger_service(database_url, create=False) as service:
        for name in NAMES:
            await create_ledger(service, name)
            await append(service, draft("r1"), ledger=name)
        assert len(service.appender._pipelines) == 2
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.execute(sa.text("UPDATE heads SET t_ns = t_ns + 1"))
        with pytest.raises(DataLossError) as caught:
            await append(service, draft("r2"), ledger=NAMES[0])
        assert caught.value.reason == "LEDGER_ROLLED_BACK"
