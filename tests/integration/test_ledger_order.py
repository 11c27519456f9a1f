"""What fails for the moment is not overtaken: neither on a stream nor in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from ledger_svc import append
from ledger_svc.app import Service
from ledger_svc.storage.database import Database
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.rpc.errors import MESSAGE_TOO_LARGE, from_rpc_error, status_from_pb
from tests.inmem.faults import rpc_error
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import LEDGER, append_batch, draft, ledger_service, served, verify_all

BOUND_S = 30.0
FLUSH = 10
SLOW = "DEADLINE_EXCEEDED"
TOO_SLOW = DeadlineExceededError("SLOW", "the witness did not answer")


async def turns(count: int) -> None:
    """Let others have so many turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class LateFailure(InMemoryWitness):
    """Does not answer for one draft, which is told once drafts of a later flush were witnessed."""

    def __init__(self, error: StatusError = TOO_SLOW, *, fails_first: bool = False) -> None:
        """fails_first: it is told at once, and the others are answered only then."""
        super().__init__()
        self.victim = ""
        self.later = asyncio.Event()
        self._error = error
        self._fails_first = fails_first

    async def WitnessBatch(
        self, request: witness_pb2.WitnessBatchRequest, context: Any = None, **_: Any
    ) -> witness_pb2.WitnessBatchResponse:
        if any(item.draft.request_id == self.victim for item in request.items):
            if self._fails_first:
                self.later.set()
            await self.later.wait()
            raise rpc_error(self._error)
        response = await super().WitnessBatch(request)
        if self.victim and self._fails_first:
            await self.later.wait()
            await turns(100)  # until that was noted
        elif self.victim:
            self.later.set()
        return response


@asynccontextmanager
async def ledger(
    tmp_path: Path, witness: InMemoryWitness, flush_items: int = FLUSH
) -> AsyncIterator[tuple[Service, Any]]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with (
        asyncio.timeout(BOUND_S),
        ledger_service(url, witness, flush_items=flush_items) as service,
        served(service) as channel,
    ):
        yield service, ledger_pb2_grpc.LedgerServiceStub(channel)


def drafts(first: int, count: int, name: str = "r") -> list[common_pb2.Draft]:
    return [draft(f"{name}{number}") for number in range(first, first + count)]


def message(items: Sequence[common_pb2.Draft]) -> ledger_pb2.AppendStreamRequest:
    return ledger_pb2.AppendStreamRequest(ledger=LEDGER, drafts=items)


async def send(
    stub: Any, messages: Sequence[Sequence[common_pb2.Draft]]
) -> tuple[list[common_pb2.AppendResult], str]:
    """What a stream answers, and the code that it ends with."""
    return await end_of(stub.AppendStream(iter([message(items) for items in messages])))


async def end_of(call: Any) -> tuple[list[common_pb2.AppendResult], str]:
    """The same of a stream on which all was sent."""
    results: list[common_pb2.AppendResult] = []
    try:
        async for response in call:
            results.extend(response.results)
    except grpc.aio.AioRpcError as error:
        return results, from_rpc_error(error).code
    return results, "OK"


def codes(results: Sequence[common_pb2.AppendResult]) -> set[str]:
    return {
        status_from_pb(result.error).code if result.HasField("error") else "" for result in results
    }


async def recorded(service: Service) -> int:
    """How many receipts there are, beside the ledger's first one."""
    return (await verify_all(service)).checked_count - 1


async def test_a_stream_ends_behind_what_fails_for_the_moment(tmp_path: Path) -> None:
    witness = LateFailure()
    async with ledger(tmp_path, witness) as (service, stub):
        witness.victim = "r3"
        messages = [drafts(0, FLUSH), drafts(FLUSH, FLUSH)]
        results, code = await send(stub, messages)
        assert (len(results), codes(results), code) == (FLUSH, {SLOW}, SLOW)
        assert await recorded(service) == 0
        witness.victim = ""
        results, code = await send(stub, messages)
        assert code == "OK"
        assert [result.receipt.seq for result in results] == list(range(1, 1 + 2 * FLUSH))


async def test_what_is_sent_on_a_stream_that_failed_is_not_recorded(tmp_path: Path) -> None:
    """Its sender may be far ahead of the answers."""
    witness = LateFailure()
    async with ledger(tmp_path, witness) as (service, stub):
        witness.victim = "r3"
        call = stub.AppendStream()
        for first in range(0, 4 * FLUSH, FLUSH):
            await call.write(message(drafts(first, FLUSH)))
        await witness.later.wait()
        witness.victim = ""
        # Others are not held up.
        assert (await send(stub, [drafts(0, 1, "other")]))[1] == "OK"
        results, code = await end_of(call)
        assert (len(results), codes(results), code) == (FLUSH, {SLOW}, SLOW)
        assert (await send(stub, [drafts(1, 1, "other")]))[1] == "OK"
        assert await recorded(service) == 2


async def test_what_stands_before_a_failure_goes_on(tmp_path: Path) -> None:
    """Or streams that are too much for the service, all of them, would get nowhere."""
    witness = LateFailure(fails_first=True)
    many = 70  # a flush of so many does not wait for those before it, to fail
    async with ledger(tmp_path, witness, flush_items=many) as (service, stub):
        witness.victim = f"r{many}"
        results, code = await send(stub, [drafts(first, many) for first in (0, many, 2 * many)])
        assert codes(results[:many]) == {""}
        assert (len(results), codes(results[many:]), code) == (2 * many, {SLOW}, SLOW)
        assert await recorded(service) == many


class Halving(InMemoryWitness):
    """Takes no drafts of others and of the batch in one call, and those of others not at all."""

    on = False

    async def WitnessBatch(
        self, request: witness_pb2.WitnessBatchRequest, context: Any = None, **_: Any
    ) -> witness_pb2.WitnessBatchResponse:
        names = {item.draft.request_id[0] for item in request.items}
        if self.on and "o" in names:
            if len(names) > 1:
                raise rpc_error(ResourceExhaustedError(MESSAGE_TOO_LARGE, "too large"))
            raise rpc_error(TOO_SLOW)
        return await super().WitnessBatch(request)


async def test_who_shares_a_flush_that_fails_in_halves_is_not_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of a flush is not tried behind a first that failed."""
    monkeypatch.setattr(append, "CONTENDED_ITEMS", FLUSH)
    witness = Halving()
    async with ledger(tmp_path, witness, flush_items=2 * FLUSH) as (service, _):
        witness.on = True
        items = drafts(0, 2 * FLUSH)
        others, mine = await asyncio.gather(
            append_batch(service, drafts(0, FLUSH, "o")),
            append_batch(service, items),
            return_exceptions=True,
        )
        assert isinstance(others, DeadlineExceededError)
        assert isinstance(mine, DeadlineExceededError)
        assert await recorded(service) == 0
        witness.on = False
        again = await append_batch(service, items)
        assert [result.receipt.seq for result in again] == list(range(1, 1 + 2 * FLUSH))


async def test_what_clients_send_again_is_not_overtaken_whatever_it_is_called(
    tmp_path: Path,
) -> None:
    """Of a connection to the witness that breaks, gRPC says INTERNAL now and then."""
    broken = InternalError("INTERNAL", "Received RST_STREAM with error code 2")
    witness = LateFailure(error=broken)
    async with ledger(tmp_path, witness) as (service, stub):
        witness.victim = "r3"
        results, code = await send(stub, [drafts(0, FLUSH), drafts(FLUSH, FLUSH)])
        assert (len(results), codes(results), code) == (FLUSH, {"INTERNAL"}, "INTERNAL")
        assert await recorded(service) == 0


async def test_whoever_cannot_be_looked_up_is_not_overtaken(tmp_path: Path) -> None:
    """A repeat among them may be recorded: so they are told a failure for the moment."""
    witness = LateFailure(error=InternalError("BROKEN", "for good"))
    async with ledger(tmp_path, witness) as (service, _):

        async def fail(*_: object) -> None:
            raise UnavailableError("DATABASE_UNAVAILABLE", "the database is away")

        witness.victim = "r3"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Database, "find_requests", fail)
            with pytest.raises(UnavailableError):
                await append_batch(service, drafts(0, 2 * FLUSH))
        assert await recorded(service) == 0


async def test_drafts_of_a_batch_fail_behind_one_that_fails_for_the_moment(tmp_path: Path) -> None:
    witness = LateFailure()
    async with ledger(tmp_path, witness) as (service, _):
        witness.victim = f"r{FLUSH}"
        items = drafts(0, 4 * FLUSH)
        results = await append_batch(service, items)
        assert codes(results[:FLUSH]) == {""}
        assert codes(results[FLUSH:]) == {SLOW}
        witness.victim = ""
        again = await append_batch(service, items)
        assert [result.receipt.seq for result in again] == list(range(1, 1 + 4 * FLUSH))
        assert [result.repeated_request for result in again] == [True] * FLUSH + [False] * 30


async def test_what_is_refused_for_good_holds_up_nothing(tmp_path: Path) -> None:
    async with ledger(tmp_path, LateFailure()) as (service, stub):
        items = drafts(0, 3 * FLUSH)
        items[3].mutation.new_state = b"{"  # by the witness
        items[FLUSH].actor.id = ""  # by the ledger
        results, code = await send(stub, [items[:FLUSH], items[FLUSH:]])
        assert code == "OK"
        refused = [place for place, result in enumerate(results) if result.HasField("error")]
        assert refused == [3, FLUSH]
        assert await recorded(service) == 3 * FLUSH - 2
