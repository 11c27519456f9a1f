"""Repeats of receipts whose rows were damaged: nobody but the repeat is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc import repeats
from ledger_svc.app import Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.db import begin_write
from provledger.errors import AlreadyExistsError
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    draft,
    error_of,
    ledger_service,
    served,
)

DAMAGED = [b"", b"{}", b"null", b"[]", b'{"newState":1}']


async def damage(service: Service, request_id: str, column: str, value: bytes) -> None:
    def write() -> None:
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            result = connection.execute(
                sa.text(f"UPDATE entries SET {column} = :value WHERE request_id = :request_id"),
                {"value": value, "request_id": request_id},
            )
            assert result.rowcount == 1

    await asyncio.to_thread(write)


def told(results: Iterable[common_pb2.AppendResult]) -> list[Any]:
    """The seq of each draft that was recorded, the reason of each other."""
    return [
        error_of(result).reason if result.HasField("error") else result.receipt.seq
        for result in results
    ]


@pytest.mark.parametrize("stored", DAMAGED)
async def test_damaged_payload_refuses_its_repeat_alone(database_url: str, stored: bytes) -> None:
    """It was taken out by hand (docs/trust.md, "Personal data"): small flushes, and large ones."""
    async with ledger_service(database_url) as service:
        await append(service, draft("bad"))
        await damage(service, "bad", "payload", stored)
        small = await append_batch(service, [draft("r2"), draft("bad"), draft("r3")])
        assert told(small) == [2, "REQUEST_ID_REUSED", 3]
        assert error_of(small[1]).metadata["requestId"] == "bad"
        many = [draft(f"m{n}") for n in range(80)]
        large = await append_batch(service, [*many[:40], draft("bad"), *many[40:]])
        assert told(large) == [*range(4, 44), "REQUEST_ID_REUSED", *range(44, 84)]
        with pytest.raises(AlreadyExistsError) as caught:
            await append(service, draft("bad"))
        assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_damaged_payload_is_not_told_to_other_callers(database_url: str) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        await append(service, draft("bad"))
        await damage(service, "bad", "payload", b"{}")
        calls = len(witness.faults.calls)
        answers: list[Any] = await asyncio.gather(
            *(append(service, draft(f"r{n}")) for n in range(3)),
            append(service, draft("bad")),
            *(append(service, draft(f"r{n}")) for n in range(3, 6)),
            return_exceptions=True,
        )
        assert len(witness.faults.calls) == calls + 1, "they are in one flush"
        assert isinstance(answers.pop(3), AlreadyExistsError)
        assert [answer.receipt.seq for answer in answers] == list(range(2, 8))


async def test_damaged_payload_does_not_break_a_stream(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with ledger_service(url) as service, served(service) as channel:
        await append(service, draft("bad"))
        await damage(service, "bad", "payload", b"{}")
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        requests = [
            ledger_pb2.AppendStreamRequest(ledger=LEDGER, draft=draft(request_id))
            for request_id in ("r2", "bad", "r3")
        ]
        results = [response.result async for response in stub.AppendStream(iter(requests))]
        assert told(results) == [2, "REQUEST_ID_REUSED", 3]


async def test_damaged_statement_is_loss_of_data_and_no_fault_of_the_draft(
    database_url: str,
) -> None:
    async with ledger_service(database_url) as service:
        await append(service, draft("bad"))
        await damage(service, "bad", "statement", b"{}")
        results = await append_batch(service, [draft("r2"), draft("bad"), draft("r3")])
        assert told(results) == [2, "CHAIN_BROKEN", 3]
        error = error_of(results[1])
        assert error.code == "DATA_LOSS"
        assert error.metadata == {"seq": "1", "column": "statement"}


@pytest.mark.parametrize("count", [2, 80])
async def test_fault_in_comparing_is_told_to_that_draft_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def faulty(_: repeats.Content, item: common_pb2.Draft) -> None:
        raise RuntimeError(item.request_id)

    async with ledger_service(database_url) as service:
        await append(service, draft("bad"))
        monkeypatch.setattr(repeats.Content, "check", faulty)
        fresh = [draft(f"r{n}") for n in range(count)]
        results = await append_batch(service, [*fresh, draft("bad")])
        assert told(results) == [*range(2, count + 2), "INTERNAL"]


async def test_fault_in_looking_leaves_those_alone_that_are_recorded(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused by the witness, and looked up before it is told so."""

    async def faulty(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    refused = draft("r2")
    refused.mutation.new_state = b"{"
    async with ledger_service(database_url) as service:
        monkeypatch.setattr(service.storage, "find_requests", faulty)
        results = await append_batch(service, [draft("r1"), refused, draft("r3")])
        assert told(results) == [1, "INTERNAL", 2]
