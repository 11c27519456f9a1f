"""Reading receipts: views, states, waiting, listings, heads. On both databases."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ledger_svc import listing, paging
from ledger_svc.app import Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client.convert import receipt_from_pb
from provledger.errors import (
    FailedPreconditionError,
    InputError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
    UnavailableError,
)
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.verify import verify_receipt
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    document,
    draft,
    ledger_service,
)

BASIC = common_pb2.RECEIPT_VIEW_BASIC
FULL = common_pb2.RECEIPT_VIEW_FULL
PENDING = common_pb2.ANCHOR_STATE_PENDING
LOGGED = common_pb2.ANCHOR_STATE_LOGGED
ANCHORED = common_pb2.ANCHOR_STATE_ANCHORED


def key_set(witness: InMemoryWitness, anchor: InMemoryAnchor) -> KeySet:
    return KeySet(
        [
            VerificationKey.from_public_key(
                witness.public_key, kid=witness.kid, purpose=KeyPurpose.WITNESS
            ),
            VerificationKey.from_public_key(
                anchor.public_key, kid="log-1", purpose=KeyPurpose.CHECKPOINT
            ),
        ]
    )


async def get(service: Service, name: str, **options: Any) -> common_pb2.Receipt:
    request = ledger_pb2.GetReceiptRequest(name=name, **options)
    return (await service.servicer.GetReceipt(request, None)).receipt


async def pages(service: Service, **options: Any) -> list[ledger_pb2.ListReceiptsResponse]:
    """All pages of a listing."""
    found = []
    token = ""
    while True:
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, page_token=token, **options)
        page = await service.servicer.ListReceipts(request, None)
        found.append(page)
        token = page.next_page_token
        if not token:
            return found


def seqs_of(found: list[ledger_pb2.ListReceiptsResponse]) -> list[int]:
    return [receipt.seq for page in found for receipt in page.receipts]


# --- one receipt ---------------------------------------------------------------------------------


async def test_receipts_verify_offline_once_they_are_logged(database_url: str) -> None:
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    witness.strangers = 2
    async with ledger_service(database_url, witness, anchor, relay=True) as service:
        results = await append_batch(
            service, [draft("r1"), document("r2"), document("r3", b"{}", "application/json")]
        )
        for result in results:
            receipt = await get(service, result.receipt.name, wait_for=LOGGED)
            assert receipt.anchor_state in (LOGGED, ANCHORED)
            report = verify_receipt(receipt_from_pb(receipt), key_set(witness, anchor))
            assert report.status == "verified"


async def test_what_was_waited_for_is_not_called_pending_for_want_of_a_proof(
    database_url: str,
) -> None:
    anchor = InMemoryAnchor()

    def busy(method: str, request: object) -> None:
        if method == "BatchGetInclusionProofs":
            raise UnavailableError("QUEUE_FULL", "not now")

    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        name = (await append(service, draft("r1"))).receipt.name
        await get(service, name, wait_for=LOGGED)
        anchor.faults.before = busy
        with pytest.raises(UnavailableError) as caught:
            await get(service, name, wait_for=LOGGED)
        assert caught.value.reason == "PROOF_UNAVAILABLE"
        assert (await get(service, name)).anchor_state in (LOGGED, ANCHORED)
        anchor.faults.before = None
        assert (await get(service, name, wait_for=LOGGED)).proofs


async def test_append_answers_in_full_before_it_is_logged(database_url: str) -> None:
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    async with ledger_service(database_url, witness, anchor) as service:
        answers = await asyncio.gather(*(append(service, draft(f"r{n}")) for n in range(10)))
        for answer in answers:
            assert answer.receipt.anchor_state == PENDING
            assert not answer.receipt.proofs
            report = verify_receipt(receipt_from_pb(answer.receipt), key_set(witness, anchor))
            assert report.status == "unverified"


async def test_repeat_returns_the_receipt_with_its_proofs(database_url: str) -> None:
    async with ledger_service(database_url, relay=True) as service:
        first = (await append(service, draft("r1"))).receipt
        await get(service, first.name, wait_for=ANCHORED)
        again = await append(service, draft("r1"))
        assert again.repeated_request
        assert again.receipt.anchor_state == ANCHORED
        assert again.receipt.proofs
        assert again.receipt.receipt_hash == first.receipt_hash


async def test_basic_view_holds_no_content(database_url: str) -> None:
    async with ledger_service(database_url, relay=True) as service:
        full = (await append(service, draft("r1"))).receipt
        basic = await get(service, full.name, view=BASIC)
        assert not basic.statement + basic.payload + basic.commitment.secret
        assert not basic.proofs
        assert not basic.HasField("signature")
        for field in (
            "name",
            "seq",
            "t_ns",
            "receipt_hash",
            "previous_hash",
            "payload_hash",
            "kid",
        ):
            assert getattr(basic, field) == getattr(full, field)


async def test_waiting_until_anchored(database_url: str) -> None:
    anchor = InMemoryAnchor()
    anchor.anchoring = False
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        name = (await append(service, draft("r1"))).receipt.name
        assert (await get(service, name, wait_for=LOGGED)).anchor_state == LOGGED
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await get(service, name, wait_for=ANCHORED)
        waiting = asyncio.create_task(get(service, name, wait_for=ANCHORED))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        anchor.anchoring = True
        receipt = await waiting
        assert receipt.anchor_state == ANCHORED
        assert receipt.proofs[0].evidence[0].sink == "memory:"
        assert (await get(service, name, view=BASIC)).anchor_state == ANCHORED


async def test_waiting_for_an_anchor_without_sinks_is_refused(database_url: str) -> None:
    anchor = InMemoryAnchor(sinks=False)
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        name = (await append(service, draft("r1"))).receipt.name
        with pytest.raises(FailedPreconditionError) as caught:
            await get(service, name, wait_for=ANCHORED)
        assert caught.value.reason == "NO_ANCHOR_SINKS"


async def test_waiting_sees_what_another_replica_logged(database_url: str) -> None:
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    async with (
        ledger_service(database_url, witness, anchor, relay=True) as one,
        ledger_service(database_url, witness, anchor, create=False) as two,
    ):
        name = (await append(two, draft("r1"))).receipt.name
        assert (await get(two, name, wait_for=LOGGED)).proofs
        assert (await get(one, name, wait_for=ANCHORED)).proofs


@pytest.mark.parametrize(
    "name",
    [
        f"{LEDGER}/receipts/018c0000-0000-7000-8000-000000000000",
        "tenants/acme/ledgers/none/receipts/018c0000-0000-7000-8000-000000000000",
    ],
)
async def test_unknown_receipts_are_not_found(database_url: str, name: str) -> None:
    async with ledger_service(database_url) as service:
        with pytest.raises(NotFoundError):
            await get(service, name)


async def test_malformed_names_are_refused(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        for name in ("", "x", f"{LEDGER}/receipts/1", f"{LEDGER}/receipts/../x"):
            with pytest.raises(InputError):
                await get(service, name)


# --- listings ------------------------------------------------------------------------------------


async def _fill(service: Service) -> None:
    """60 receipts: resources a and b, actors x, y and z, in turns; every tenth is a document."""
    items = []
    for n in range(1, 61):
        if n % 10 == 0:
            items.append(document(f"r{n}"))
        else:
            items.append(draft(f"r{n}", resource_id="ab"[n % 2], actor_id="xyz"[n % 3]))
    for start in range(0, 60, 13):
        await append_batch(service, items[start : start + 13])


async def test_listing_pages_through_everything_in_order(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        await _fill(service)
        found = await pages(service, page_size=7)
        assert seqs_of(found) == list(range(61))
        assert len(found) == 9
        assert seqs_of(await pages(service)) == list(range(61))


@pytest.mark.parametrize(
    ("conditions", "fits"),
    [
        ({"resource_type": "Version", "resource_id": "a"}, lambda n: n % 2 == 0 and n % 10),
        ({"resource_type": "Version"}, lambda n: n % 10),
        ({"actor_id": "x"}, lambda n: n % 3 == 0 and n % 10),
        (
            {"resource_type": "Version", "resource_id": "b", "actor_id": "y"},
            lambda n: n % 2 == 1 and n % 3 == 1 and n % 10,
        ),
        ({"resource_type": "Version", "actor_id": "z"}, lambda n: n % 3 == 2 and n % 10),
        ({"receipt_type": "evidence.recovery"}, lambda n: n % 10 == 0),
        ({"receipt_type": "mutation", "actor_id": "y"}, lambda n: n % 3 == 1 and n % 10),
        ({"actor_id": "nobody"}, lambda n: False),
    ],
)
async def test_listing_by_conditions(database_url: str, conditions: Any, fits: Any) -> None:
    async with ledger_service(database_url) as service:
        await _fill(service)
        expected = [n for n in range(1, 61) if fits(n)]
        assert seqs_of(await pages(service, **conditions)) == expected
        assert seqs_of(await pages(service, page_size=2, **conditions)) == expected


async def test_listing_by_time(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        await _fill(service)
        times = [receipt.t_ns for receipt in (await pages(service, page_size=100))[0].receipts]
        for start, end, expected in (
            (times[10], times[20], range(10, 20)),
            (times[10] + 1, 0, range(11, 61)),
            (0, times[5], range(5)),
            (times[60], times[60] + 1, range(60, 61)),
            (times[60] + 1, 0, range(0)),
            (times[5], times[5], range(0)),
            (times[30], times[10], range(0)),
        ):
            found = await pages(service, page_size=4, start_t_ns=start, end_t_ns=end)
            assert seqs_of(found) == list(expected)
        some = await pages(
            service, actor_id="x", start_t_ns=times[10], end_t_ns=times[30], page_size=3
        )
        assert seqs_of(some) == [12, 15, 18, 21, 24, 27]


async def test_pages_are_short_where_little_is_found(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page looks at a bounded number of rows; the token goes on behind them."""
    monkeypatch.setattr(listing, "MAX_SCANNED_ROWS", 8)
    async with ledger_service(database_url) as service:
        await _fill(service)
        found = await pages(service, receipt_type="evidence.recovery")
        assert seqs_of(found) == [10, 20, 30, 40, 50, 60]
        assert max(len(page.receipts) for page in found) == 1
        assert any(not page.receipts for page in found)


async def test_full_pages_are_cut_by_size(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_PAGE_BYTES", 10_000)
    async with ledger_service(database_url) as service:
        await append_batch(service, [document(f"r{n}", bytes(4000)) for n in range(5)])
        found = await pages(service, view=FULL)
        assert seqs_of(found) == [0, 1, 2, 3, 4, 5]
        assert len(found) == 3
        assert len(await pages(service, view=BASIC)) == 1


async def test_full_listing_is_proven_against_one_tree(database_url: str) -> None:
    """What is appended while somebody pages does not move the tree the proofs lead to."""
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    async with ledger_service(database_url, witness, anchor, relay=True) as service:
        results = await append_batch(service, [draft(f"r{n}") for n in range(10)])
        await get(service, results[-1].receipt.name, wait_for=LOGGED)
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, page_size=6)
        first = await service.servicer.ListReceipts(request, None)
        assert first.tree_size == 12
        later = await append_batch(service, [draft(f"s{n}") for n in range(10)])
        await get(service, later[-1].receipt.name, wait_for=LOGGED)
        request.page_token = first.next_page_token
        second = await service.servicer.ListReceipts(request, None)
        assert second.tree_size == 12
        for receipt in first.receipts:
            report = verify_receipt(receipt_from_pb(receipt), key_set(witness, anchor))
            assert report.status == "verified"
        proven = {receipt.seq: len(receipt.proofs) for receipt in second.receipts}
        assert proven == {6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 0}
        (unproved,) = [receipt for receipt in second.receipts if not receipt.proofs]
        assert unproved.anchor_state in (LOGGED, ANCHORED)
        request.page_token, request.tree_size = "", 5
        pinned = await service.servicer.ListReceipts(request, None)
        assert pinned.tree_size == 5
        assert [receipt.seq for receipt in pinned.receipts if receipt.proofs] == [0, 1, 2, 3]
        request.tree_size = 99
        with pytest.raises(NotFoundError):
            await service.servicer.ListReceipts(request, None)


@pytest.mark.parametrize("away", [UnavailableError("X", "away"), InternalError("X", "broken")])
async def test_pages_of_a_named_tree_are_not_shown_without_their_proofs(
    database_url: str, away: StatusError
) -> None:
    """They say which tree their proofs lead to: whoever keeps them takes them for proved."""
    anchor = InMemoryAnchor()

    def no_proofs(method: str, request: object) -> None:
        if method == "BatchGetInclusionProofs":
            raise away

    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        results = await append_batch(service, [draft(f"r{n}") for n in range(4)])
        await get(service, results[-1].receipt.name, wait_for=LOGGED)
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, page_size=2)
        second = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, page_size=2)
        first = await service.servicer.ListReceipts(request, None)
        second.page_token = first.next_page_token
        named = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, tree_size=3)
        anchor.faults.before = no_proofs
        for asked in (second, named):
            with pytest.raises(UnavailableError) as caught:
                await service.servicer.ListReceipts(asked, None)
            assert caught.value.reason == "PROOF_UNAVAILABLE"
            assert caught.value.retry_delay_s
        # Where no tree is named, there is none, and they are no less logged for that.
        plain = await service.servicer.ListReceipts(request, None)
        assert (plain.tree_size, len(plain.receipts)) == (0, 2)
        assert not any(receipt.proofs for receipt in plain.receipts)
        assert all(receipt.anchor_state in (LOGGED, ANCHORED) for receipt in plain.receipts)
        anchor.faults.before = None
        again = await service.servicer.ListReceipts(second, None)
        assert (again.tree_size, [len(r.proofs) for r in again.receipts]) == (6, [1, 1])


async def test_a_named_tree_may_be_newer_than_what_is_stored_as_logged(database_url: str) -> None:
    anchor, lost = InMemoryAnchor(), asyncio.Event()

    def lose_answer(method: str, request: object) -> None:
        if method == "SubmitLeaves":
            lost.set()
            raise UnavailableError("LOST", "nobody heard that it was logged")

    anchor.faults.after = lose_answer
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        async with asyncio.timeout(30):
            while len(anchor.leaves) < 3:
                lost.clear()
                await lost.wait()
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, tree_size=3)
        page = await service.servicer.ListReceipts(request, None)
        assert [len(receipt.proofs) for receipt in page.receipts] == [1, 1]


async def test_page_of_100_receipts_with_proofs_is_quick(database_url: str) -> None:
    """Design §10: 100 receipts with proofs by query in 50 ms; here without a network."""
    async with ledger_service(database_url, relay=True) as service:
        results = await append_batch(service, [draft(f"r{n}") for n in range(200)])
        await get(service, results[-1].receipt.name, wait_for=LOGGED)
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=FULL, page_size=100)
        took_s = []
        for _ in range(5):
            started_s = time.perf_counter()
            page = await service.servicer.ListReceipts(request, None)
            took_s.append(time.perf_counter() - started_s)
            assert all(receipt.proofs for receipt in page.receipts)
        assert min(took_s) < 0.05


@pytest.mark.parametrize("field", ["resource_type", "resource_id", "actor_id", "receipt_type"])
async def test_conditions_with_a_nul_are_refused(database_url: str, field: str) -> None:
    """PostgreSQL takes none in text."""
    request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, resource_type="Version")
    setattr(request, field, "a\0b")
    async with ledger_service(database_url) as service:
        with pytest.raises(InvalidArgumentError) as caught:
            await service.servicer.ListReceipts(request, None)
        assert [violation.field for violation in caught.value.violations] == [field]


async def test_page_tokens_with_a_nul_are_refused(database_url: str) -> None:
    query = {"method": "ListLedgers", "parent": "tenants/-"}
    token = paging.page_token(query, {"after": "acme/\0"})
    request = ledger_pb2.ListLedgersRequest(parent="tenants/-", page_token=token)
    async with ledger_service(database_url) as service:
        with pytest.raises(InvalidArgumentError) as caught:
            await service.servicer.ListLedgers(request, None)
        assert caught.value.reason == "INVALID_PAGE_TOKEN"


async def test_page_tokens_belong_to_their_query(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        await _fill(service)
        request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, page_size=5, actor_id="x")
        token = (await service.servicer.ListReceipts(request, None)).next_page_token
        request.page_token = token
        request.page_size = 9  # may change (AIP-158)
        assert (await service.servicer.ListReceipts(request, None)).receipts
        for change in (
            {"actor_id": "y"},
            {"resource_type": "Version"},
            {"view": FULL},
            {"start_t_ns": 1},
            {"page_token": token[:-2]},
            {"page_token": "AAAA"},
            {"page_token": "\u00e9"},
            {"page_token": "x" * 5000},
        ):
            changed = ledger_pb2.ListReceiptsRequest()
            changed.CopyFrom(request)
            for name, value in change.items():
                setattr(changed, name, value)
            with pytest.raises(InvalidArgumentError) as caught:
                await service.servicer.ListReceipts(changed, None)
            assert caught.value.violations[0].field == "page_token"


@pytest.mark.parametrize(
    "bad",
    [
        {"page_size": -1},
        {"resource_id": "x"},
        {"start_t_ns": -1},
        {"end_t_ns": -1},
        {"tree_size": 5},
        {"tree_size": -1, "view": FULL},
        {"view": 7},
    ],
)
async def test_bad_listings_are_refused(database_url: str, bad: Any) -> None:
    async with ledger_service(database_url) as service:
        with pytest.raises(InvalidArgumentError):
            await pages(service, **bad)


async def test_ledgers_are_listed_by_name(database_url: str) -> None:
    names = [
        f"tenants/{tenant}/ledgers/{ledger}"
        for tenant in ("a", "a-b", "b")
        for ledger in ("main", "x", "y")
    ]
    async with ledger_service(database_url, create=False) as service:
        for name in reversed(names):
            await create_ledger(service, name)

        async def listed(parent: str, page_size: int) -> list[str]:
            found, token = [], ""
            while True:
                request = ledger_pb2.ListLedgersRequest(
                    parent=parent, page_size=page_size, page_token=token
                )
                page = await service.servicer.ListLedgers(request, None)
                found += [ledger.name for ledger in page.ledgers]
                token = page.next_page_token
                if not token:
                    return found

        assert await listed("tenants/-", 2) == names
        assert await listed("tenants/-", 0) == names
        assert await listed("tenants/a", 2) == names[:3]
        assert await listed("tenants/a-b", 100) == names[3:6]
        assert await listed("tenants/none", 2) == []
        with pytest.raises(InputError):
            await listed("tenants/A", 2)
