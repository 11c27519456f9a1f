"""The metric of what is committed and not logged: it rises in an outage, and is 0 after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger_svc.relay import MAX_CHUNK_ITEMS
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    append_batch,
    create_ledger,
    draft,
    eventually,
    ledger_service,
)
from tests.support.metered import Meter, metered

LAG = "provledger.ledger.relay_lag"
OTHER = "tenants/acme/ledgers/other"


@pytest.fixture
def meter() -> Iterator[Meter]:
    with metered() as meter:
        yield meter


async def test_lag_is_that_of_all_ledgers_and_ends(database_url: str, meter: Meter) -> None:
    """Whether entries come from memory or the database, and though nothing new is appended."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await create_ledger(service, OTHER)
        await append_batch(service, [draft(f"a{n}") for n in range(30)])
        await eventually(lambda: len(anchor.leaves) == 33)
        await eventually(lambda: meter.value(LAG) == 0)
        anchor.faults.down = True
        await append_batch(service, [draft(f"b{n}") for n in range(70)])
        await append_batch(service, [draft(f"c{n}") for n in range(30)], ledger=OTHER)
        await eventually(lambda: meter.value(LAG) == 100)
        # One series, however many ledgers and tenants there are.
        assert len(meter.series(LAG)) == 1
        anchor.faults.down = False
        await eventually(lambda: meter.value(LAG) == 0)
        assert len(anchor.leaves) == 1 + 30 + 70 + 30 + 2


async def test_lag_of_before_the_start_is_told(database_url: str, meter: Meter) -> None:
    """What a process left behind that is gone, in more than one chunk."""
    anchor = InMemoryAnchor()
    count = MAX_CHUNK_ITEMS + 50
    async with ledger_service(database_url, anchor=anchor) as service:
        for start in range(0, count, 350):
            await append_batch(service, [draft(f"{start + n}") for n in range(350)])
    anchor.faults.down = True
    async with ledger_service(database_url, anchor=anchor, relay=True, create=False):
        await eventually(lambda: meter.value(LAG) == count + 1)
        anchor.faults.down = False
        await eventually(lambda: meter.value(LAG) == 0)


async def test_replicas_read_the_same(postgres_database_url: str, meter: Meter) -> None:
    """Also of a ledger that another one relays: it counts for none but once."""
    anchor = InMemoryAnchor()
    async with ledger_service(postgres_database_url, anchor=anchor) as service:
        uid = (await service.storage.list_ledgers("", ("", ""), 1))[0][0].uid
        await append_batch(service, [draft(f"{n}") for n in range(20)])
        assert await service.storage.acquire_lease(uid, "somebody else", 60.0) is not None
        async with ledger_service(postgres_database_url, relay=True, create=False) as replica:
            await eventually(lambda: meter.value(LAG) == 21)
            assert replica.relay._tasks == {}
