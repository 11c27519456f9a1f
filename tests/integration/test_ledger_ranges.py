"""What a ledger says of itself as a whole: its signed head, its state, its stored rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger_svc.app import Service
from ledger_svc.audit import Auditor
from ledger_svc.chain import Row
from provledger import dsse, jcs
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.disclosure import commit_fields
from provledger.errors import (
    DataLossError,
    InvalidArgumentError,
    OutOfRangeError,
)
from provledger.head import parse_head
from provledger.statement import parse_statement
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    document,
    draft,
    eventually,
    ledger_service,
    recorded,
    verify_all,
)

OTHER = "tenants/acme/ledgers/other"
NEIGHBOUR = "tenants/globex/ledgers/main"
LOGGED = common_pb2.ANCHOR_STATE_LOGGED


async def get(service: Service, name: str, **options: Any) -> common_pb2.Receipt:
    request = ledger_pb2.GetReceiptRequest(name=name, **options)
    return (await service.servicer.GetReceipt(request, None)).receipt


class Chunks:
    """Keeps the rows of each chunk that is verified, and whose; waits for `go` in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.tenants: list[str] = []
        self.go = threading.Event()
        check = Auditor.check

        def seen(auditor: Auditor, rows: Sequence[Row], *others: Any) -> None:
            self.sizes.append(sum(len(row.statement) + len(row.payload) for row in rows))
            self.tenants.append(auditor._ledger.tenant)
            assert self.go.wait(30.0)
            check(auditor, rows, *others)

        monkeypatch.setattr(Auditor, "check", seen)


async def test_large_rows_are_verified_few_at_a_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(monkeypatch)
    chunks.go.set()
    async with ledger_service(database_url) as service:
        for number in range(9):
            await append(service, document(f"r{number}", bytes(1000 * 1000)))
        assert (await verify_all(service)).checked_count == 10
    assert len(chunks.sizes) > 2
    assert max(chunks.sizes) <= 4 * 1024 * 1024


async def test_verification_ends_when_nobody_waits_for_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(monkeypatch)
    async with ledger_service(database_url) as service:
        await append_batch(service, [draft(f"r{n}") for n in range(600)])
        verifying = asyncio.create_task(verify_all(service))
        await eventually(lambda: chunks.sizes)
        verifying.cancel()
        await asyncio.wait((verifying,))
        chunks.go.set()
    # Closed, it has ended its threads.
    assert len(chunks.sizes) == 1


async def test_appends_do_not_wait_for_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, lookups share threads with other reads."""
    chunks = Chunks(monkeypatch)
    async with ledger_service(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as service:
        await append(service, draft("r1"))
        await create_ledger(service, NEIGHBOUR)
        names = (LEDGER, LEDGER, NEIGHBOUR, NEIGHBOUR)
        verifying = [asyncio.create_task(verify_all(service, name)) for name in names]
        try:
            await eventually(lambda: len(chunks.sizes) >= 2)
            async with asyncio.timeout(10.0):
                await append(service, draft("r2"))
        finally:
            chunks.go.set()
        await asyncio.gather(*verifying)


async def test_a_tenants_calls_leave_room_for_the_verification_of_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Chunks(monkeypatch)
    async with ledger_service(database_url) as service:
        await append(service, draft("r1"))
        await create_ledger(service, NEIGHBOUR)
        verifying = [asyncio.create_task(verify_all(service)) for _ in range(20)]
        try:
            await eventually(lambda: chunks.tenants)
            verifying.append(asyncio.create_task(verify_all(service, NEIGHBOUR)))
            await eventually(lambda: len(chunks.tenants) >= 2)
            assert chunks.tenants == ["acme", "globex"]
        finally:
            chunks.go.set()
        await asyncio.gather(*verifying)


async def test_head_is_the_one_the_anchor_signs(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        receipt = (await append(service, draft("r1"))).receipt
        await get(service, receipt.name, wait_for=LOGGED)
        answer = await service.servicer.GetHead(ledger_pb2.GetHeadRequest(name=LEDGER), None)
        head = parse_head(dsse.decode(answer.head).payload)
        assert (head.seq, head.receipt_hash) == (1, receipt.receipt_hash)
        assert answer.checkpoint == anchor.checkpoint(head.size)


async def test_ranges_are_verified_piece_by_piece(database_url: str) -> None:
    async with ledger_service(database_url, relay=True) as service:
        results = await append_batch(service, [draft(f"r{n}") for n in range(600)])
        await get(service, results[-1].receipt.name, wait_for=LOGGED)

        async def verify(start: int, end: int) -> ledger_pb2.VerifyRangeResponse:
            request = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=start, end_seq=end)
            return await service.servicer.VerifyRange(request, None)

        for start, end, checked, count in ((0, 0, 0, 1), (5, 300, 300, 296), (590, 9999, 600, 11)):
            answer = await verify(start, end)
            assert (answer.checked_seq, answer.checked_count) == (checked, count)
            assert (answer.head_seq, answer.name) == (600, LEDGER)
            assert answer.places_checked
        with pytest.raises(OutOfRangeError):
            await verify(601, 601)
        for start, end in ((-1, 5), (5, 4)):
            with pytest.raises(InvalidArgumentError):
                await verify(start, end)


async def test_places_in_the_log_are_unverified_while_the_anchor_is_away(
    database_url: str,
) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        receipt = (await append(service, draft("r1"))).receipt
        await get(service, receipt.name, wait_for=LOGGED)
        await recorded(service, 1)
        request = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=0, end_seq=0)
        assert (await service.servicer.VerifyRange(request, None)).places_checked
        anchor.faults.down = True
        answer = await service.servicer.VerifyRange(request, None)
        assert answer.checked_count == 1
        assert not answer.places_checked


class RepeatingAnchor(InMemoryAnchor):
    """Proves one receipt as often as it is asked for one."""

    async def BatchGetInclusionProofs(self, *args: Any, **options: Any) -> Any:
        answer = await super().BatchGetInclusionProofs(*args, **options)
        for proof in answer.proofs:
            proof.CopyFrom(answer.proofs[0])
        return answer


async def test_a_proof_that_is_there_twice_checks_no_other_place(database_url: str) -> None:
    anchor = RepeatingAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await recorded(service, 0)
        await create_ledger(service, OTHER)
        await eventually(lambda: len(anchor.leaves) == 3)
        await append(service, draft("r1"))
        uid = await recorded(service, 1)
        assert len(await service.storage.log_runs(uid, 0, 1)) == 2
        answer = await verify_all(service)
        assert answer.checked_count == 2
        assert not answer.places_checked


async def test_state_of_a_ledger_follows_the_log(database_url: str) -> None:
    async with ledger_service(database_url, relay=True) as service:
        receipt = (await append(service, draft("r1"))).receipt
        await get(service, receipt.name, wait_for=LOGGED)

        async def logged() -> bool:
            request = ledger_pb2.GetLedgerRequest(name=LEDGER)
            ledger = (await service.servicer.GetLedger(request, None)).ledger
            return (ledger.seq, ledger.logged_seq) == (1, 1)

        await eventually(logged)
        await verify_all(service)


class MisstatingWitness(InMemoryWitness):
    """Signs, with all that belongs to it, a payload that says something else of the mutation."""

    said: tuple[bytes, bytes] = (b"", b"")

    def _witness(self, request: Any, item: Any, now_ns: int) -> witness_pb2.WitnessedStatement:
        witnessed = super()._witness(request, item, now_ns)
        payload = witnessed.payload.replace(*self.said)
        if payload == witnessed.payload:
            return witnessed
        opened = commit_fields(jcs.parse(payload), witnessed.secret, mutation=True)
        statement = replace(parse_statement(witnessed.statement), payload_hash=opened.root)
        witnessed.payload, witnessed.payload_hash = payload, opened.root
        witnessed.statement = statement.encode()
        return witnessed


MISSTATED = "payload or statement are of different mutations"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((b'"entityId":"redis/8.8.2"', b'"entityId":"redis/8.8.3"'), MISSTATED),
        ((b'"entityType":"', b'"entityType":"x'), MISSTATED),
        ((b'"mutationType":"CREATE"', b'"mutationType":"DELETE"'), MISSTATED),
        ((b'"diff":[', b'"diff":{"0":1},"e":['), "payload has a diff that is no array"),
    ],
)
async def test_payload_of_another_mutation_than_is_stated_is_found(
    database_url: str, said: tuple[bytes, bytes], told: str
) -> None:
    """A witness that signs such a pair is at fault, and every other column fits."""
    witness = MisstatingWitness()
    async with ledger_service(database_url, witness) as service:
        await append(service, draft("r0"))
        assert (await verify_all(service)).checked_count == 2
        witness.said = said
        await append(service, draft("r1"))
        with pytest.raises(DataLossError) as caught:
            await verify_all(service)
    assert caught.value.metadata["seq"] == "2"
    assert caught.value.message.endswith(f": {told}")
    assert told.startswith(caught.value.metadata["column"])
