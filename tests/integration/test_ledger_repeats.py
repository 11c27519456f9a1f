"""Repeats of requests: recorded once, whatever comes between; and flushes that keep their order."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger_svc import repeats
from ledger_svc.storage import FoundRequests
from provledger import jcs
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    AlreadyExistsError,
    UnavailableError,
)
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    append,
    append_batch,
    create_ledger,
    draft,
    error_of,
    eventually,
    ledger_service,
    verify_all,
)


async def test_repeat_returns_the_same_receipt_in_another_call(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        first = await append(service, draft("r1"))
        again = await append(service, draft("r1"))
        assert again.repeated_request
        assert again.receipt == first.receipt


async def test_repeat_is_recognised_after_a_restart(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        first = await append_batch(service, [draft("r1"), draft("r2")])
    async with ledger_service(database_url, create=False) as service:
        again = await append_batch(service, [draft("r0"), draft("r2"), draft("r1")])
        assert [result.repeated_request for result in again] == [False, True, True]
        assert again[1].receipt == first[1].receipt
        assert again[2].receipt == first[0].receipt
        assert (await verify_all(service)).checked_count == 4


async def test_repeat_inside_one_batch_returns_the_one_receipt(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        results = await append_batch(service, [draft("r1"), draft("r2"), draft("r1")])
        assert [result.repeated_request for result in results] == [False, False, True]
        assert results[2].receipt == results[0].receipt
        assert (await verify_all(service)).checked_count == 3


async def test_repeats_racing_each_other_get_one_receipt(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        answers = await asyncio.gather(*(append(service, draft("r1")) for _ in range(20)))
        assert len({answer.receipt.receipt_hash for answer in answers}) == 1
        assert sum(not answer.repeated_request for answer in answers) == 1


def _deletion(previous: Any) -> common_pb2.Draft:
    return common_pb2.Draft(
        request_id="same",
        actor=common_pb2.Actor(id="bot"),
        mutation=common_pb2.Mutation(
            action=common_pb2.ACTION_DELETE,
            resource_type="Version",
            resource_id="1",
            previous_state=json.dumps(previous).encode(),
        ),
    )


@pytest.mark.parametrize("repeats_of", ["the same batch", "a receipt", "a receipt, few"])
async def test_a_large_receipt_is_read_once_and_not_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats_of: str
) -> None:
    """A call of some kilobytes brings a thousand repeats of a receipt of a megabyte."""
    reads: list[tuple[int, bool]] = []

    def parse(data: bytes, **options: Any) -> Any:
        reads.append((len(data), threading.current_thread() is threading.main_thread()))
        return jcs.parse(data, **options)

    monkeypatch.setattr(repeats, "jcs", SimpleNamespace(parse=parse, encode=jcs.encode))
    large, count = ["x" * 50] * 4000, 3 if repeats_of == "a receipt, few" else 60
    drafts = [_deletion(large), *(_deletion(number) for number in range(count))]
    async with ledger_service(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as service:
        if repeats_of != "the same batch":
            await append(service, drafts.pop(0))
        results = await append_batch(service, drafts)
        assert {error_of(result).reason for result in results[-count:]} == {"REQUEST_ID_REUSED"}
    assert [size > 200_000 for size, _ in reads].count(True) == 1
    assert not any(on_loop for size, on_loop in reads if size > 200_000)


async def test_repeat_ignores_spelling_trace_and_principal(database_url: str) -> None:
    from provledger.rpc.auth import set_principal

    async with ledger_service(database_url) as service:
        first = draft("r1", new={"a": 1, "b": 2})
        first.origin.trace_id = "0af7651916cd43dd8448eb211c80319c"
        receipt = (await append(service, first)).receipt
        again = draft("r1")
        again.mutation.new_state = b' { "b" : 2.0, "a" : 1 } '
        again.mutation.previous_state = b"null"
        set_principal("spiffe://other")
        repeated = await append(service, again)
        assert repeated.repeated_request
        assert repeated.receipt.receipt_hash == receipt.receipt_hash


async def test_request_id_with_other_content_is_refused(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        await append(service, draft("r1"))
        with pytest.raises(AlreadyExistsError) as caught:
            await append(service, draft("r1", resource_id="redis/9"))
        assert caught.value.reason == "REQUEST_ID_REUSED"
        assert caught.value.metadata == {
            "requestId": "r1",
            "field": "mutation.resource_id",
        }
        results = await append_batch(
            service, [draft("r2"), draft("r2", new={"n": 2}), draft("genesis")]
        )
        assert results[0].receipt.seq == 2
        assert error_of(results[1]).metadata["field"] == "mutation.new_state"
        assert error_of(results[2]).metadata["field"] == "mutation"
        assert (await verify_all(service)).checked_count == 3


async def test_request_ids_are_scoped_to_their_ledger(database_url: str) -> None:
    other = "tenants/acme/ledgers/other"
    async with ledger_service(database_url) as service:
        await create_ledger(service, other)
        one = await append(service, draft("r1"))
        two = await append(service, draft("r1"), ledger=other)
        assert not two.repeated_request
        assert one.receipt.ledger_uid != two.receipt.ledger_uid


async def test_repeat_is_answered_while_the_witness_is_away(database_url: str) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness, witness_timeout_s=1.0) as service:
        await append(service, draft("r1"))
        witness.faults.down = True
        assert (await append(service, draft("r1"))).repeated_request
        results = await append_batch(service, [draft("r2"), draft("r1")])
        assert error_of(results[0]).code == "UNAVAILABLE"
        assert results[1].repeated_request
        with pytest.raises(UnavailableError):
            await append_batch(service, [draft("r2"), draft("r3")])
        witness.faults.down = False
        assert not (await append(service, draft("r2"))).repeated_request


async def test_repeats_in_a_small_flush_are_told_by_its_commit(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:

        async def never(*_: Any) -> Any:
            raise AssertionError("nobody looks before the commit, and everybody is recorded by it")

        with monkeypatch.context() as patched:
            patched.setattr(service.storage, "find_requests", never)
            assert not (await append(service, draft("r1"))).repeated_request
            assert (await append(service, draft("r1"))).repeated_request
            results = await append_batch(service, [draft("r2"), draft("r1"), draft("r2")])
            assert [result.receipt.seq for result in results] == [2, 1, 2]
            assert [result.repeated_request for result in results] == [False, True, True]
        many = [draft(f"m{n}") for n in range(65)]
        await append_batch(service, many)
        calls = len(witness.faults.calls)
        assert all(each.repeated_request for each in await append_batch(service, many))
        assert len(witness.faults.calls) == calls, "of many, repeats are found first"
        assert (await verify_all(service)).checked_count == 68


async def test_repeat_that_the_witness_would_not_take_any_more_is_answered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules may have become stricter since; what was acknowledged stays so."""
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        receipt = (await append(service, draft("r1"))).receipt

        def stricter(_: str, request: Any) -> None:
            for item in request.items:
                if item.draft.request_id in ("r1", "r2"):
                    item.draft.mutation.new_state = b"{"

        witness.faults.before = stricter
        again = await append(service, draft("r1"))
        assert again.repeated_request
        assert again.receipt.receipt_hash == receipt.receipt_hash
        results = await append_batch(service, [draft("r1"), draft("r2"), draft("r3")])
        assert results[0].repeated_request
        assert error_of(results[1]).code == "INVALID_ARGUMENT"
        assert results[2].receipt.seq == 2

        async def away(*_: Any) -> Any:
            raise UnavailableError("DATABASE_UNAVAILABLE", "away")

        # While nobody can look, it is not denied either.
        monkeypatch.setattr(service.storage, "find_requests", away)
        with pytest.raises(UnavailableError):
            await append(service, draft("r1"))
        results = await append_batch(service, [draft("r1"), draft("r4")])
        assert error_of(results[0]).code == "UNAVAILABLE"
        assert results[1].receipt.seq == 3


async def test_repeat_is_answered_by_a_ledger_that_takes_no_more(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        await append(service, draft("r1"))
        ledger = await service.storage.get_ledger("acme", "main")
        assert ledger is not None
        await service.storage.latch(ledger.uid, "because")
        results = await append_batch(service, [draft("r2"), draft("r1")])
        assert error_of(results[0]).code == "FAILED_PRECONDITION"
        assert results[1].repeated_request


# --- in the order of flushes ---------------------------------------------------------------------


class HeldWitness(InMemoryWitness):
    """Holds back its answer to whoever asks with the request id `r1`, until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.holding, self.release = asyncio.Event(), asyncio.Event()
        self.answered: set[str] = set()

    async def WitnessBatch(self, request: Any, context: Any = None, **_: Any) -> Any:
        response = await super().WitnessBatch(request)
        ids = {item.draft.request_id for item in request.items}
        if "r1" in ids and not self.holding.is_set():
            self.holding.set()
            await self.release.wait()
        self.answered |= ids
        return response


async def test_repeat_that_was_looked_up_in_a_database_of_before_is_answered(
    database_url: str,
) -> None:
    """After a failover another replica may have recorded it, up to the very same head."""
    async with ledger_service(database_url) as service:
        await append_batch(service, [draft(f"r{n}") for n in range(3)])
        storage: Any = service.storage
        find_requests = storage.find_requests

        async def find_none(ledger_uid: bytes, request_ids: list[str]) -> FoundRequests:
            return FoundRequests((await find_requests(ledger_uid, [])).head_seq, {})

        storage.find_requests = find_none
        results = await append_batch(service, [draft(f"r{n}") for n in range(2, 90)])
        assert [result.receipt.seq for result in results] == list(range(3, 91))
        assert [result.repeated_request for result in results] == [True] + [False] * 87
        await verify_all(service)


async def test_flushes_commit_in_the_order_of_their_start(database_url: str) -> None:
    """Seq order is that of arrival, also where the witness answers the second flush first."""
    witness = HeldWitness()
    async with ledger_service(database_url, witness) as service:
        first = asyncio.create_task(append(service, draft("r1")))
        await witness.holding.wait()
        second = asyncio.create_task(append(service, draft("r2")))
        await eventually(lambda: "r2" in witness.answered)
        witness.release.set()
        assert (await first).receipt.seq == 1
        assert (await second).receipt.seq == 2
        await verify_all(service)


async def test_flush_of_repeats_does_not_let_the_next_one_overtake(database_url: str) -> None:
    witness = HeldWitness()
    async with ledger_service(database_url, witness) as service:
        await append(service, draft("r0"))
        first = asyncio.create_task(append(service, draft("r1")))
        await witness.holding.wait()
        assert (await append(service, draft("r0"))).repeated_request
        third = asyncio.create_task(append(service, draft("r3")))
        await eventually(lambda: "r3" in witness.answered)
        # Time enough for a commit that did not wait for its turn.
        await asyncio.wait({third}, timeout=0.2)
        witness.release.set()
        assert (await first).receipt.seq == 2
        assert (await third).receipt.seq == 3


async def test_repeat_in_the_flush_behind_an_uncommitted_one(database_url: str) -> None:
    """It was looked up before the first was there; that is noticed under the lock."""
    witness = HeldWitness()
    async with ledger_service(database_url, witness) as service:
        first = asyncio.create_task(append(service, draft("r1")))
        await witness.holding.wait()
        second = asyncio.create_task(append_batch(service, [draft("r2"), draft("r1")]))
        await eventually(lambda: "r2" in witness.answered)
        witness.release.set()
        receipt = (await first).receipt
        results = await second
        assert [result.receipt.seq for result in results] == [2, 1]
        assert [result.repeated_request for result in results] == [False, True]
        assert results[1].receipt.receipt_hash == receipt.receipt_hash
        assert (await verify_all(service)).checked_count == 3
