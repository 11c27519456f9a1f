"""Appends through the servicer, on both databases, with witness and anchor in memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ledger_svc import chain
from ledger_svc.app import Service
from ledger_svc.tools import AnyKey
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    document,
    draft,
    error_of,
    ledger_service,
    verify_all,
)

MINUTE_NS = 60_000_000_000


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
        assert caught.value.reason == "VIEW_TOO_LARGE"
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


@pytest.mark.parametrize(("fails", "stored", "calls"), [(1, [], 2), (2, list(range(1, 51)), 3)])
async def test_half_of_a_flush_that_fails_leaves_what_was_stored_before_it(
    database_url: str, fails: int, stored: list[int], calls: int
) -> None:
    """The witness refuses a flush as a whole, and does not sign one of its halves."""
    witness = InMemoryWitness()
    asked: list[int] = []

    def refuse(_: str, request: Any) -> None:
        asked.append(len(request.items))
        if len(request.items) > 50:
            raise InvalidArgumentError("INVALID_ARGUMENT", "too much")
        if len(asked) == fails + 1:
            raise FailedPreconditionError("NOT_NOW", "the witness does not sign")

    async with ledger_service(database_url, witness) as service:
        witness.faults.before = refuse
        drafts = [draft(f"r{n}") for n in range(100)]
        if stored:
            results = await append_batch(service, drafts)
            assert [result.receipt.seq for result in results[:50]] == stored
            assert {error_of(result).reason for result in results[50:]} == {"NOT_NOW"}
        else:
            with pytest.raises(FailedPreconditionError, match="does not sign"):
                await append_batch(service, drafts)
        # Nothing of the second half goes before what is not recorded of the first.
        assert len(asked) == calls
        assert (await verify_all(service)).head_seq == len(stored)


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


class Keys(AnyKey):
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


async def genesis_kid(service: Service, name: str = LEDGER) -> str:
    request = ledger_pb2.ListReceiptsRequest(parent=name, view=common_pb2.RECEIPT_VIEW_FULL)
    (genesis,) = (await service.servicer.ListReceipts(request, None)).receipts
    return genesis.kid


async def test_genesis_by_a_key_that_must_not_sign_is_not_stored(database_url: str) -> None:
    """The service has heard of the revocation, the witness not yet; then it has a new key."""
    witness, keys = InMemoryWitness(), Keys("witness-2")
    async with ledger_service(database_url, witness, keys=keys, create=False) as service:
        with pytest.raises(UnavailableError) as caught:
            await create_ledger(service)
        assert caught.value.reason == "SIGNATURE_STALE"
        assert await service.storage.get_ledger("acme", "main") is None
        witness.rotate("witness-2", 2)
        await create_ledger(service)
        assert await genesis_kid(service) == "witness-2"
        await verify_all(service)


async def test_genesis_by_a_retired_key_is_stated_again(database_url: str) -> None:
    """The witness hears of the new key after it signed once with the old one."""
    witness, keys = InMemoryWitness(), Keys("witness-1")
    async with ledger_service(database_url, witness, keys=keys) as service:
        keys.accepted = {"witness-2"}

        def rotate(method: str, request: Any) -> None:
            witness.rotate("witness-2", 2)
            witness.faults.after = None

        witness.faults.after = rotate
        second = "tenants/acme/ledgers/second"
        await create_ledger(service, second)
        assert await genesis_kid(service, second) == "witness-2"
        await verify_all(service, second)


async def test_genesis_that_waited_for_the_database_for_too_long_is_not_stored(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger_service(database_url, create=False) as service:
        with monkeypatch.context() as patched:
            # However quickly it is stored, that was too slow.
            patched.setattr(chain, "MAX_SIGNATURE_AGE_NS", 0)
            with pytest.raises(UnavailableError) as caught:
                await create_ledger(service)
        assert caught.value.reason == "SIGNATURE_STALE"
        assert await service.storage.get_ledger("acme", "main") is None
        await create_ledger(service)
        await verify_all(service)


async def test_genesis_whose_key_is_revoked_before_it_is_stored_is_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database had much to do first."""
    keys = Keys("witness-1")
    async with ledger_service(database_url, keys=keys, create=False) as service:
        insert = service.storage.insert_ledger

        async def late(*args: Any) -> Any:
            keys.accepted = set()
            return await insert(*args)

        monkeypatch.setattr(service.storage, "insert_ledger", late)
        with pytest.raises(UnavailableError) as caught:
            await create_ledger(service)
        assert caught.value.reason == "SIGNATURE_STALE"
        assert await service.storage.get_ledger("acme", "main") is None
        keys.accepted = {"witness-1"}
        monkeypatch.undo()
        await create_ledger(service)
        await verify_all(service)


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
