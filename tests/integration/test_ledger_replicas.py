"""Several ledger services on one PostgreSQL ledger: no gap, no fork, no double, by the row lock."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc.app import Service
from ledger_svc.storage.tables import SCHEMA
from provledger.api.common.v1 import common_pb2
from provledger.db import open_engine
from provledger.errors import UnavailableError
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    draft,
    ledger_service,
    verify_all,
)

pytestmark = pytest.mark.postgres
REPO = Path(__file__).resolve().parents[2]


async def test_two_processes_append_to_one_ledger(postgres_database_url: str) -> None:
    async with ledger_service(postgres_database_url) as service:
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.support.ledger_appender",
                postgres_database_url,
                name,
                "25",
                "40",
                cwd=REPO,
                stdout=asyncio.subprocess.PIPE,
            )
            for name in ("one", "two")
        ]
        outputs = [await process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        found: list[dict[str, list[Any]]] = [json.loads(output) for output, _ in outputs]
        # 25 batches of 20 own ids each, and 25 times 20 shared ones.
        expected = 25 * 20 * 3
        verified = await verify_all(service)
        assert (verified.head_seq, verified.checked_count) == (expected, expected + 1)
        receipts = {tuple(value[:2]) for answers in found for value in answers.values()}
        assert len(receipts) == expected
        # Who shares a request id shares its receipt, and one of the two was the first.
        shared = [item for item in found[0] if item.startswith("shared")]
        assert all(found[0][item][:2] == found[1][item][:2] for item in shared)
        firsts = Counter(bool(found[0][item][2]) + bool(found[1][item][2]) for item in shared)
        assert firsts == {1: len(shared)}


async def test_services_interleave_single_appends(postgres_database_url: str) -> None:
    """Cached heads and lookups of one replica are stale all the time here."""
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    async with (
        ledger_service(postgres_database_url, witness, anchor) as one,
        ledger_service(postgres_database_url, witness, anchor, create=False) as two,
        ledger_service(postgres_database_url, witness, anchor, create=False) as three,
    ):

        async def append_all(service: Any, name: str) -> list[Any]:
            tasks = [
                append(
                    service,
                    draft(f"shared-{n}" if n % 2 else f"{name}-{n}"),
                    common_pb2.RECEIPT_VIEW_BASIC,
                )
                for n in range(60)
            ]
            return list(await asyncio.gather(*tasks))

        answers = await asyncio.gather(
            append_all(one, "one"), append_all(two, "two"), append_all(three, "three")
        )
        seqs = {answer.receipt.seq for group in answers for answer in group}
        assert seqs == set(range(1, 121))
        repeats = sum(answer.repeated_request for group in answers for answer in group)
        assert repeats == 60
        assert (await verify_all(one)).checked_count == 121


async def test_request_id_reused_across_replicas_is_refused(postgres_database_url: str) -> None:
    async with (
        ledger_service(postgres_database_url) as one,
        ledger_service(postgres_database_url, create=False) as two,
    ):
        first, second = await asyncio.gather(
            append_batch(one, [draft(f"r{n}", new={"from": 1}) for n in range(50)]),
            append_batch(two, [draft(f"r{n}", new={"from": 2}) for n in range(50)]),
        )
        for left, right in zip(first, second, strict=True):
            outcomes = {left.WhichOneof("outcome"), right.WhichOneof("outcome")}
            assert outcomes == {"receipt", "error"}
        assert (await verify_all(one)).checked_count == 51


OTHER = "tenants/other/ledgers/main"
HOLD = sa.text(
    "SELECT h.seq FROM heads h JOIN ledgers l USING (ledger_uid) "
    "WHERE l.tenant = 'acme' FOR UPDATE OF h"
)


async def _append_to_both(service: Service, size: int) -> tuple[str, float]:
    """What is said to acme, whose head is held, and the longest that the other tenant waits."""
    told = asyncio.ensure_future(append_batch(service, [draft(f"a{n}") for n in range(size)]))
    longest_s, number = 0.0, 0
    while not told.done():
        started_s = time.monotonic()
        items = [draft(f"o{number}-{n}") for n in range(size)]
        results = await append_batch(service, items, ledger=OTHER)
        assert all(result.WhichOneof("outcome") == "receipt" for result in results)
        longest_s = max(longest_s, time.monotonic() - started_s)
        number += 1
    with pytest.raises(UnavailableError) as caught:
        await told
    return caught.value.reason, longest_s


@pytest.mark.parametrize("size", [1, 120])
async def test_halted_replica_does_not_hold_up_other_tenants(
    postgres_database_url: str, size: int
) -> None:
    """It has locked the head of one ledger, for which the thread waits that writes all of them."""
    engine = open_engine(postgres_database_url, SCHEMA)
    async with ledger_service(postgres_database_url) as service:
        await create_ledger(service, OTHER)
        for name in (LEDGER, OTHER):
            await append(service, draft("r1"), ledger=name)
        with engine.connect() as halted:
            halted.execute(HOLD)
            reason, longest_s = await _append_to_both(service, size)
        assert reason == "LEDGER_BUSY"
        assert longest_s < 2.0
        results = await append_batch(service, [draft(f"a{n}") for n in range(size)])
        assert [result.receipt.seq for result in results] == list(range(2, size + 2))
    engine.dispose()


async def test_head_that_is_held_for_longer_than_a_moment_is_waited_for(
    postgres_database_url: str,
) -> None:
    """By a replica whose commit takes its time: nobody is told."""
    engine = open_engine(postgres_database_url, SCHEMA)
    async with ledger_service(postgres_database_url) as service:
        await append(service, draft("r1"))
        with engine.connect() as other:
            other.execute(HOLD)
            told = asyncio.ensure_future(append(service, draft("r2")))
            await asyncio.sleep(0.6)
        assert (await told).receipt.seq == 2
    engine.dispose()


async def test_server_ends_the_transaction_of_a_halted_replica(postgres_database_url: str) -> None:
    async with ledger_service(postgres_database_url) as service:
        storage: Any = service.storage
        for writer in (storage._writer, storage._quick):
            for name, value in (
                ("lock_timeout", "250ms"),
                ("idle_in_transaction_session_timeout", "10s"),
            ):
                assert await writer.run(_setting, name) == value
        assert await storage._readers.run(_setting, "lock_timeout") == "5s"


def _setting(connection: sa.Connection, name: str) -> str:
    value: str = connection.execute(sa.text(f"SHOW {name}")).scalar_one()
    return value
