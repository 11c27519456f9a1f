"""Appends through the servicer, on both databases, with witness and anchor in memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ledger_svc import chain
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.rpc.errors import status_from_pb
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
    verify_all,
)

MINUTE_NS = 60_000_000_000


def error_of(result: common_pb2.AppendResult) -> StatusError:
    assert result.WhichOneof("outcome") == "error"
    return status_from_pb(result.error)


async def test_append_returns_a_receipt_that_is_stored(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        first = await append(service, draft("r1"))
        second = await append(service, draft("r2"))
        assert (first.receipt.seq, second.receipt.seq) == (1, 2)
        assert second.receipt.previous_hash == first.receipt.receipt_hash
        assert not first.repeated_request
        verified = await verify_all(service)
        assert verified.checked_count == 3
        assert verified.receipt_hash == second.receipt.receipt_hash


@pytest.mark.parametrize("count", [1, 7, 300])
async def test_batch_is_linked_in_order(database_url: str, count: int) -> None:
    witness = InMemoryWitness()
    witness.strangers = 3
    async with ledger_service(database_url, witness) as service:
        results = await append_batch(service, [draft(f"r{n}") for n in range(count)])
        assert [result.index for result in results] == list(range(count))
        assert [result.receipt.seq for result in results] == list(range(1, count + 1))
        assert all(
            result.receipt.anchor_state == common_pb2.ANCHOR_STATE_PENDING for result in results
        )
        assert (await verify_all(service)).checked_count == count + 1


async def test_concurrent_calls_share_flushes(database_url: str) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        calls = len(witness.faults.calls)
        answers = await asyncio.gather(*(append(service, draft(f"r{n}")) for n in range(40)))
        assert sorted(answer.receipt.seq for answer in answers) == list(range(1, 41))
        assert len(witness.faults.calls) - calls < 10
        await verify_all(service)


@pytest.mark.parametrize("suite", ["blake3", "fips"])
async def test_every_suite_and_kind_of_payload_verifies(database_url: str, suite: str) -> None:
    async with ledger_service(database_url, default_suite=suite) as service:
        await append_batch(
            service,
            [
                draft("r1", op_id="op", op_parent_id="root", occurred_at="2024-01-02T03:04:05Z"),
                document("r2"),
                document("r3", b'{"b":1,"a":[true]}', "application/json"),
                document("r4", b'"text"', "application/vnd.x+json"),
                document("r5", b"", "text/plain"),
            ],
        )
        assert (await verify_all(service)).checked_count == 6


# --- exactly once --------------------------------------------------------------------------------


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
    async with ledger_service(database_url, witness, witness_timeout_s=0.2) as service:
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


async def test_a_small_flush_is_witnessed_while_its_ids_are_looked_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = InMemoryWitness()
    calls = 0

    def asked() -> bool:
        return len(witness.faults.calls) > calls

    async with ledger_service(database_url, witness) as service:
        look_up = service.storage.find_requests

        async def later(*args: Any) -> Any:
            await eventually(asked)
            return await look_up(*args)

        with monkeypatch.context() as patched:
            patched.setattr(service.storage, "find_requests", later)
            calls = len(witness.faults.calls)
            assert not (await append(service, draft("r1"))).repeated_request
            calls = len(witness.faults.calls)
            assert (await append(service, draft("r1"))).repeated_request, "for nothing, this time"
        many = [draft(f"m{n}") for n in range(17)]
        await append_batch(service, many)
        calls = len(witness.faults.calls)
        assert all(each.repeated_request for each in await append_batch(service, many))
        assert not asked(), "of many, repeats are found first"
        assert (await verify_all(service)).checked_count == 19


# --- bad input -----------------------------------------------------------------------------------


async def test_bad_drafts_do_not_fail_their_neighbours(database_url: str) -> None:
    broken = draft("r2")
    broken.mutation.new_state = b'{"a":1,"a":2}'
    unnamed = draft("r3", actor_id="")
    large = document("r4", bytes(1024 * 1024 + 1))
    empty = common_pb2.Draft(request_id="r5")
    async with ledger_service(database_url) as service:
        results = await append_batch(
            service, [draft("r1"), broken, unnamed, large, empty, draft("bad id"), draft("r6")]
        )
        assert [result.index for result in results] == list(range(7))
        assert [result.receipt.seq for result in (results[0], results[6])] == [1, 2]
        fields = [error_of(results[n]).violations[0].field for n in range(1, 6)]
        assert fields == [
            "drafts[1].mutation.new_state",
            "drafts[2].actor.id",
            "drafts[3].document.payload",
            "drafts[4].mutation",
            "drafts[5].request_id",
        ]
        assert error_of(results[1]).reason == "INVALID_JSON"
        assert (await verify_all(service)).checked_count == 3


async def test_bad_draft_of_append_names_the_field(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        with pytest.raises(InvalidArgumentError) as caught:
            await append(service, draft(""))
        assert caught.value.violations[0].field == "draft.request_id"
        broken = draft("r1")
        broken.mutation.new_state = b"{"
        with pytest.raises(InvalidArgumentError) as caught:
            await append(service, broken)
        assert caught.value.violations[0].field == "draft.mutation.new_state"


@pytest.mark.parametrize("count", [0, 1001])
async def test_batch_size_is_bounded(database_url: str, count: int) -> None:
    async with ledger_service(database_url) as service:
        with pytest.raises(InvalidArgumentError) as caught:
            await append_batch(service, [draft(f"r{n}") for n in range(count)])
        assert caught.value.violations[0].field == "drafts"


@pytest.mark.parametrize(
    "name", ["tenants/acme/ledgers/none", "tenants/none/ledgers/main", "tenants/acme/ledgers/x-1"]
)
async def test_unknown_ledgers_are_not_found(database_url: str, name: str) -> None:
    async with ledger_service(database_url) as service:
        with pytest.raises(NotFoundError) as caught:
            await append(service, draft("r1"), ledger=name)
        assert caught.value.reason == "LEDGER_NOT_FOUND"


async def test_batches_larger_than_a_flush_are_split(database_url: str) -> None:
    async with ledger_service(database_url, flush_bytes=2 * 1024 * 1024) as service:
        items = [document(f"r{n}", bytes([n]) * 900_000) for n in range(6)]
        results = await append_batch(service, items)
        assert [result.receipt.seq for result in results] == [1, 2, 3, 4, 5, 6]
        assert (await verify_all(service)).checked_count == 7


async def test_full_answer_that_would_be_too_large_is_refused_before_anything(
    database_url: str,
) -> None:
    async with ledger_service(database_url) as service:
        items = [document(f"r{n}", bytes(1_000_000)) for n in range(8)]
        with pytest.raises(InvalidArgumentError) as caught:
            await append_batch(service, items, view=common_pb2.RECEIPT_VIEW_FULL)
        assert caught.value.reason == "RESPONSE_TOO_LARGE"
        assert (await verify_all(service)).head_seq == 0


async def test_full_queue_says_when_to_come_back(database_url: str) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness, queue_items=1000) as service:
        batches = [[draft(f"r{b}-{n}") for n in range(600)] for b in range(5)]
        answers = await asyncio.gather(
            *(append_batch(service, batch) for batch in batches), return_exceptions=True
        )
        refused = [item for item in answers if isinstance(item, ResourceExhaustedError)]
        assert refused
        assert all(error.retry_delay_s for error in refused)
        await verify_all(service)


# --- what the database refuses -------------------------------------------------------------------


async def test_row_that_cannot_be_stored_fails_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt id that is taken violates an index, in place of any data the database refuses."""
    real_ids = chain.receipt_ids
    taken: list[bytes] = []

    def receipt_ids(now_ns: int, random: bytes) -> list[bytes]:
        ids = real_ids(now_ns, random)
        if len(ids) == 9:
            ids[4] = taken[0]
        taken.append(ids[0])
        return ids

    async with ledger_service(database_url) as service:
        monkeypatch.setattr(chain, "receipt_ids", receipt_ids)
        await append(service, draft("first"))
        results = await append_batch(service, [draft(f"r{n}") for n in range(9)])
        assert error_of(results[4]).reason == "NOT_STORABLE"
        assert error_of(results[4]).violations[0].field == "drafts[4]"
        seqs = [result.receipt.seq for place, result in enumerate(results) if place != 4]
        assert seqs == list(range(2, 10))
        assert (await verify_all(service)).checked_count == 10


# --- clocks and keys -----------------------------------------------------------------------------


class Clock:
    """The ledger's clock, ahead of the real one by `ahead_ns`."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


async def test_old_signature_is_replaced(database_url: str) -> None:
    """A witness that hung for over a minute is asked again, and the receipt keeps its id."""
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        delays = iter([2 * MINUTE_NS, 0, 0])
        witness.clock = lambda: time.time_ns() - next(delays)
        calls = len(witness.faults.calls)
        await append(service, draft("r1"))
        assert len(witness.faults.calls) - calls == 2
        await verify_all(service)


async def test_clock_a_little_ahead_of_the_witness_is_tolerated(database_url: str) -> None:
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        witness.clock = lambda: time.time_ns() - 2 * MINUTE_NS
        assert (await append(service, draft("r1"))).receipt.seq == 1


async def test_clock_far_ahead_is_refused(database_url: str) -> None:
    clock = Clock()
    async with ledger_service(database_url, clock=clock) as service:
        clock.ahead_ns = 6 * MINUTE_NS
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("r1"))
        assert caught.value.reason == "CLOCK_SKEW"
        clock.ahead_ns = 0
        assert not (await append(service, draft("r1"))).repeated_request


async def test_clock_stepping_back_keeps_times_increasing(database_url: str) -> None:
    clock = Clock()
    witness = InMemoryWitness(clock=clock)
    async with ledger_service(database_url, witness, clock=clock) as service:
        before = (await append(service, draft("r1"))).receipt
        clock.ahead_ns = -60 * MINUTE_NS
        after = [
            result.receipt for result in await append_batch(service, [draft("r2"), draft("r3")])
        ]
        assert [receipt.t_ns for receipt in after] == [before.t_ns + 1, before.t_ns + 2]
        await verify_all(service)


class Keys:
    """Takes the keys in `accepted` only."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = set(accepted)

    def accepts(self, kid: str, epoch: int) -> bool:
        return kid in self.accepted

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        return kid in self.accepted


async def test_signature_by_a_retired_key_is_made_again(database_url: str) -> None:
    """The key is retired between the signature and the commit; the witness has its successor."""
    witness, keys = InMemoryWitness(), Keys("witness-1")
    async with ledger_service(database_url, witness, keys=keys) as service:

        def retire(method: str, request: Any) -> None:
            keys.accepted = {"witness-2"}
            witness.faults.after = None

        def rotate(method: str, request: Any) -> None:
            if keys.accepted == {"witness-2"}:
                witness.rotate("witness-2", 2)

        witness.faults.before, witness.faults.after = rotate, retire
        receipt = (await append(service, draft("r1"))).receipt
        assert receipt.kid == "witness-2"
        witness.faults.before = None
        keys.accepted = {"witness-3"}
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("r2"))
        assert caught.value.reason == "SIGNATURE_STALE"
        await verify_all(service)


# --- ledgers -------------------------------------------------------------------------------------


async def test_create_ledger_is_idempotent_and_safe_to_race(database_url: str) -> None:
    async with ledger_service(database_url, create=False) as service:
        request = ledger_pb2.CreateLedgerRequest(parent="tenants/acme")
        answers = await asyncio.gather(
            *(service.servicer.CreateLedger(request, None) for _ in range(8))
        )
        assert sum(answer.created for answer in answers) == 1
        assert len({answer.ledger.uid for answer in answers}) == 1
        assert answers[0].ledger.name == LEDGER
        again = await service.servicer.CreateLedger(request, None)
        assert not again.created
        assert again.ledger.seq == 0


async def test_create_ledger_refuses_another_suite(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        request = ledger_pb2.CreateLedgerRequest(parent="tenants/acme", suite=common_pb2.SUITE_FIPS)
        with pytest.raises(AlreadyExistsError) as caught:
            await service.servicer.CreateLedger(request, None)
        assert caught.value.metadata["suite"] == "blake3"
        request.ledger_id, request.suite = "other", common_pb2.SUITE_BLAKE3_ALL
        with pytest.raises(StatusError, match="cannot go to"):
            await service.servicer.CreateLedger(request, None)


async def test_genesis_names_the_keys_that_signed(database_url: str) -> None:
    from provledger import jcs

    witness = InMemoryWitness()
    async with ledger_service(database_url, witness, create=False) as service:
        first = await create_ledger(service)
        witness.rotate("witness-2", 2)
        await create_ledger(service, "tenants/acme/ledgers/second")
        for name, kid in ((LEDGER, "witness-1"), ("tenants/acme/ledgers/second", "witness-2")):
            page = await service.servicer.ListReceipts(
                ledger_pb2.ListReceiptsRequest(parent=name, view=common_pb2.RECEIPT_VIEW_FULL), None
            )
            (genesis,) = page.receipts
            payload = jcs.parse(genesis.payload)
            assert genesis.kid == kid
            assert genesis.receipt_type == "ledger.created"
            assert payload["witnessKey"] == jcs.parse(genesis.signature.body)["jkt"]
            assert payload["logOrigin"] == first.log_origin
            assert payload["predecessor"] is None


async def test_database_put_back_under_a_running_service_is_noticed(database_url: str) -> None:
    import sqlalchemy as sa

    from provledger.db import begin_write

    async with ledger_service(database_url) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.execute(sa.text("DELETE FROM entries WHERE seq = 2"))
            connection.execute(
                sa.text(
                    "UPDATE heads SET seq = 1, receipt_hash = "
                    "(SELECT receipt_hash FROM entries WHERE seq = 1), "
                    "t_ns = (SELECT t_ns FROM entries WHERE seq = 1)"
                )
            )
        with pytest.raises(DataLossError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "LEDGER_ROLLED_BACK"


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
