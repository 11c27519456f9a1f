"""The database becomes an older one under replicas that run: nothing forks, nothing is denied.

As after a recovery to a point in time, or when a standby that lagged takes over. PostgreSQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.storage.tables import SCHEMA as ANCHOR_SCHEMA
from ledger_svc.app import Service
from ledger_svc.storage.tables import SCHEMA
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import Readers, begin_write
from provledger.errors import StatusError, UnavailableError
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.anchoring import OneLog, TestKeys, running_log
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    draft,
    eventually,
    go_back_to,
    ledger_service,
    recorded,
    verify_all,
)
from tests.support.postgres import copy_schema, cut_sessions, swap_schemas

pytestmark = pytest.mark.postgres
LOGGED = common_pb2.ANCHOR_STATE_LOGGED
BEHIND, ROLLED_BACK = "LEDGER_BEHIND_ANCHOR", "LEDGER_ROLLED_BACK"


class Replicas:
    """Two, on one database; its copy `early` lacks three receipts that are logged.

    `one` appended them. `other` has only ever appended the receipt before.
    """

    def __init__(self, url: str, one: Service, other: Service, anchor: InMemoryAnchor) -> None:
        self.url = url
        self.one = one
        self.other = other
        self.anchor = anchor
        self.lost: list[str] = []

    async def diverge(self) -> None:
        """Make the receipts, and the copy before them."""
        await append(self.one, draft("r0"))
        await append(self.other, draft("r1"))
        await recorded(self.one, 2)
        copy_schema(self.url, SCHEMA, "early")
        results = await append_batch(self.one, [draft(f"r{n}") for n in range(2, 5)])
        self.lost = [result.receipt.name for result in results]
        await recorded(self.one, 5)

    def replace(self) -> None:
        """Put the copy in place."""
        swap_schemas(self.url, SCHEMA, "early")


@asynccontextmanager
async def replicas(url: str, witness: InMemoryWitness | None = None) -> AsyncIterator[Replicas]:
    anchor, witness = InMemoryAnchor(), witness or InMemoryWitness()
    async with (
        ledger_service(url, witness, anchor, relay=True) as one,
        ledger_service(url, witness, anchor, create=False, anchor_timeout_s=1.0) as other,
    ):
        made = Replicas(url, one, other, anchor)
        await made.diverge()
        yield made


async def refusal(service: Service, request_id: str) -> str:
    """Why an append is refused."""
    with pytest.raises(StatusError) as caught:
        await append(service, draft(request_id))
    return caught.value.reason


async def denial(service: Service, name: str, **options: Any) -> str:
    """What is said of a receipt that is not found."""
    with pytest.raises(StatusError) as caught:
        await service.servicer.GetReceipt(ledger_pb2.GetReceiptRequest(name=name, **options), None)
    return caught.value.reason


async def test_a_replica_that_was_confirmed_before_appends_nothing(
    postgres_database_url: str,
) -> None:
    async with replicas(postgres_database_url) as both:
        both.replace()
        assert await refusal(both.other, "r9") == BEHIND
        assert await refusal(both.one, "r9") in (BEHIND, ROLLED_BACK)
        for name in both.lost:
            assert await denial(both.other, name) == BEHIND
        # The right one is back: all goes on, and nothing was added meanwhile.
        both.replace()
        response = await append(both.other, draft("r9"))
        assert (response.receipt.seq, response.repeated_request) == (6, False)
        assert (await verify_all(both.one)).head_seq == 6
        await eventually(lambda: len(both.anchor.leaves) == 8)


async def test_what_reads_only_denies_nothing(postgres_database_url: str) -> None:
    """It notices by a connection of its readers."""
    async with replicas(postgres_database_url) as both:
        assert (await verify_all(both.other)).head_seq == 5
        both.replace()
        for name in both.lost:
            assert await denial(both.other, name) == BEHIND
        with pytest.raises(StatusError) as caught:
            await verify_all(both.other)
        assert caught.value.reason == BEHIND


@pytest.mark.parametrize("size", [1, 150])
async def test_replaced_while_a_flush_is_witnessed(postgres_database_url: str, size: int) -> None:
    """It was asked whether it may append, and the database is another one when it commits."""
    witness = InMemoryWitness()
    async with replicas(postgres_database_url, witness) as both:

        def replace(method: str, request: Any) -> None:
            witness.faults.before = None
            both.replace()

        witness.faults.before = replace
        results = await _reasons(both.other, [draft(f"x{n}") for n in range(size)])
        assert results == {BEHIND}
        assert len(both.anchor.leaves) == 7


@pytest.mark.parametrize("knows", [False, True])
async def test_replaced_behind_connections_that_hold(
    postgres_database_url: str, knows: bool
) -> None:
    """Nothing was cut. Who knows of a later receipt, by itself or by the log, still refuses."""
    async with replicas(postgres_database_url) as both:
        service = both.other if knows else both.one
        if knows:
            request = ledger_pb2.GetReceiptRequest(name=both.lost[-1], wait_for=LOGGED)
            await service.servicer.GetReceipt(request, None)
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            go_back_to(connection, 2)
        assert await refusal(service, "r9") == ROLLED_BACK
        # From then on it is asked about, and so lookups do not deny either.
        assert await denial(service, both.lost[0]) == BEHIND
        assert await refusal(service, "r9") == BEHIND


async def test_a_first_connection_notices_as_well(postgres_database_url: str) -> None:
    """A thread that never had one: nothing of it was cut, and it reads before those that were."""
    async with replicas(postgres_database_url) as both:
        both.replace()
        storage = both.other.storage
        before = storage.generation
        fresh = Readers(storage._engine, threads=1, continuity=storage._continuity)  # type: ignore[attr-defined]
        await fresh.run(str)
        assert storage.generation == before + 1
        await fresh.close()


async def test_acknowledged_and_not_logged_is_not_denied_here(postgres_database_url: str) -> None:
    """The log knows nothing of it, but this process does."""
    anchor = InMemoryAnchor()
    async with ledger_service(postgres_database_url, anchor=anchor) as service:
        await append(service, draft("r1"))
        copy_schema(postgres_database_url, SCHEMA, "early")
        name = (await append(service, draft("r2"))).receipt.name
        swap_schemas(postgres_database_url, SCHEMA, "early")
        assert await denial(service, name) == ROLLED_BACK
        assert await refusal(service, "r3") == ROLLED_BACK
        shown = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
        assert shown.ledger.read_only_reason == ROLLED_BACK


async def test_cut_connections_cost_one_question(postgres_database_url: str) -> None:
    """Without a cut there is none; after it, one, and none goes on without an answer."""
    anchor = InMemoryAnchor()
    async with ledger_service(
        postgres_database_url, anchor=anchor, anchor_timeout_s=1.0
    ) as service:
        anchor.faults.calls.clear()
        for n in range(20):
            await append(service, draft(f"a{n}"))
        assert anchor.faults.calls.count("GetLedgerState") == 0
        cut_sessions(postgres_database_url)
        for n in range(20):
            await append(service, draft(f"b{n}"))
        assert (await verify_all(service)).head_seq == 40
        assert anchor.faults.calls.count("GetLedgerState") in (1, 2)
        cut_sessions(postgres_database_url)
        anchor.faults.down = True
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("c"))
        assert caught.value.reason == "ANCHOR_NOT_ASKED"
        anchor.faults.down = False
        await eventually(lambda: _appended(service, "c"))


async def test_the_log_went_back_as_well(postgres_database_url: str, tmp_path: Path) -> None:
    """One server has both schemas. The anchor, which goes on, knows what it has signed."""
    url, witness, keys = postgres_database_url, InMemoryWitness(), TestKeys()
    async with running_log(url, tmp_path, keys=keys, background=True) as log:
        anchor: Any = OneLog(log, keys)
        async with (
            ledger_service(url, witness, anchor, relay=True) as one,
            ledger_service(url, witness, anchor, create=False) as other,
        ):
            both = Replicas(url, one, other, anchor)
            await append(one, draft("r0"))
            await append(other, draft("r1"))
            await recorded(one, 2)
            copy_schema(url, ANCHOR_SCHEMA, "anchor_early")
            copy_schema(url, SCHEMA, "early")
            results = await append_batch(one, [draft(f"r{n}") for n in range(2, 5)])
            await recorded(one, 5)
            swap_schemas(url, ANCHOR_SCHEMA, "anchor_early")
            both.replace()

            for result in results:
                assert await denial(other, result.receipt.name) == "DATABASE_BEHIND"
            missing = f"{LEDGER.rpartition('/')[0]}/other"
            request = ledger_pb2.GetLedgerRequest(name=missing)
            with pytest.raises(StatusError) as caught:
                await other.servicer.GetLedger(request, None)
            assert caught.value.reason == "DATABASE_BEHIND"
            assert await refusal(other, "x1") == "DATABASE_BEHIND"
            assert await refusal(one, "x2") in ("DATABASE_BEHIND", ROLLED_BACK)
            shown = await other.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
            assert shown.ledger.read_only_reason == "DATABASE_BEHIND"
            assert log.state.signed_size == 7

            swap_schemas(url, ANCHOR_SCHEMA, "anchor_early")
            both.replace()
            await eventually(lambda: _appended(other, "x1"))
            assert (await recorded(one, 6)) == (await recorded(other, 6))
            assert (await verify_all(one)).head_seq == 6


async def _reasons(service: Service, drafts: list[common_pb2.Draft]) -> set[str]:
    try:
        results = await append_batch(service, drafts)
    except StatusError as error:
        return {error.reason}
    return {result.WhichOneof("result") or "" for result in results}


async def _appended(service: Service, request_id: str) -> bool:
    try:
        await append(service, draft(request_id))
    except StatusError:
        return False
    return True
