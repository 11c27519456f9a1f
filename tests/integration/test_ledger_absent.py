"""What is not found is said not to exist only if the log has no more. On both databases."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc.app import Service, check_all
from ledger_svc.chain import LedgerInfo
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient
from provledger.db import begin_write
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    StatusError,
    UnavailableError,
)
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    create_ledger,
    draft,
    eventually,
    go_back_to,
    ledger_service,
    recorded,
    served_at,
    verify_all,
)

BEHIND = "LEDGER_BEHIND_ANCHOR"
LATER = "tenants/acme/ledgers/later"
NOBODY = f"{LEDGER}/receipts/01890000-0000-7000-8000-000000000000"


async def restored(url: str, anchor: InMemoryAnchor) -> list[str]:
    """A database put back to its receipt 1, while the log has 3 and 4; names of all, by seq."""
    async with ledger_service(url, anchor=anchor, relay=True) as service:
        drafts = [draft(f"r{n}", resource_id=f"item/{n}") for n in range(1, 5)]
        made = await append_batch(service, drafts)
        await recorded(service, 4)
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            genesis = connection.execute(sa.text("SELECT receipt_id FROM entries WHERE seq = 0"))
            uid = bytes(genesis.scalar_one()).hex()
            go_back_to(connection, 2)
    first = f"{LEDGER}/receipts/{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
    return [first, *(result.receipt.name for result in made)]


async def get(service: Service, name: str) -> int:
    request = ledger_pb2.GetReceiptRequest(name=name)
    return int((await service.servicer.GetReceipt(request, None)).receipt.seq)


async def listed(service: Service, **options: Any) -> tuple[list[int], StatusError | None]:
    """Seqs page by page, and what came in place of the end."""
    seqs: list[int] = []
    request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, **options)
    while True:
        try:
            page = await service.servicer.ListReceipts(request, None)
        except StatusError as error:
            return seqs, error
        seqs += [receipt.seq for receipt in page.receipts]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return seqs, None


async def shown(service: Service) -> list[str]:
    """Why the ledger takes no entries, by each RPC that shows it."""
    one = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
    request = ledger_pb2.ListLedgersRequest(parent="tenants/-")
    (listed,) = (await service.servicer.ListLedgers(request, None)).ledgers
    again = await create_ledger(service)
    return [one.ledger.read_only_reason, listed.read_only_reason, again.read_only_reason]


async def test_lost_receipts_are_not_denied(database_url: str) -> None:
    anchor = InMemoryAnchor()
    names = await restored(database_url, anchor)
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        for name in (*names[3:], NOBODY):
            with pytest.raises(FailedPreconditionError) as caught:
                await get(service, name)
            assert (caught.value.reason, caught.value.metadata["loggedSeq"]) == (BEHIND, "4")
        assert [await get(service, name) for name in names[:3]] == [0, 1, 2]


@pytest.mark.parametrize("page_size", [0, 1, 3])
async def test_a_list_of_an_older_copy_has_no_end(database_url: str, page_size: int) -> None:
    """What is there is listed; then it is said that there is more."""
    anchor = InMemoryAnchor()
    await restored(database_url, anchor)
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        for options, expected in (
            ({}, [0, 1, 2]),
            ({"resource_type": "Version", "resource_id": "item/2"}, [2]),
            ({"resource_type": "Version", "resource_id": "item/4"}, []),
            ({"start_t_ns": 2**62}, []),
        ):
            seqs, error = await listed(service, page_size=page_size, **options)
            assert seqs == expected
            assert error is not None
            assert error.reason == BEHIND


async def test_an_older_copy_is_not_verified(database_url: str) -> None:
    anchor = InMemoryAnchor()
    await restored(database_url, anchor)
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        within = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=0, end_seq=1)
        # Nobody has asked yet, and nothing is said of the end.
        assert (await service.servicer.VerifyRange(within, None)).checked_seq == 1
        with pytest.raises(FailedPreconditionError) as caught:
            await verify_all(service)
        assert caught.value.reason == BEHIND
        # From then on it is known.
        with pytest.raises(FailedPreconditionError):
            await service.servicer.VerifyRange(within, None)


@pytest.mark.parametrize(("start_seq", "reason"), [(3, BEHIND), (4, "OUT_OF_RANGE")])
async def test_what_was_verified_before_is_missed_by_who_goes_on_from_there(
    database_url: str, start_seq: int, reason: str
) -> None:
    """From right behind the end of the copy as from further away."""
    anchor = InMemoryAnchor()
    await restored(database_url, anchor)
    async with (
        ledger_service(database_url, anchor=anchor, create=False) as service,
        served_at(service) as address,
        AsyncClient(address) as client,
    ):
        with pytest.raises(StatusError) as caught:
            await client.verify_range(LEDGER, start_seq=start_seq)
        assert caught.value.reason == reason


async def test_an_older_copy_is_shown_as_such(database_url: str) -> None:
    """So are ledgers that are not there: they may have been made after the copy."""
    anchor = InMemoryAnchor()
    await restored(database_url, anchor)
    other = "tenants/acme/ledgers/other"
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        assert await shown(service) == [""] * 3
        with pytest.raises(FailedPreconditionError):
            await append(service, draft("r9"))
        assert await shown(service) == [BEHIND] * 3
        # What was found out stays known while the anchor is away.
        anchor.faults.down = True
        with pytest.raises(FailedPreconditionError):
            await eventually(lambda: append(service, draft("r9")))
        assert await shown(service) == [BEHIND] * 3
        with pytest.raises(FailedPreconditionError) as caught:
            await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=other), None)
        assert caught.value.reason == BEHIND
        with pytest.raises(FailedPreconditionError):
            await create_ledger(service, other)


async def test_what_is_over_is_not_shown_for_ever(database_url: str) -> None:
    """A copy that was held until its sinks had been asked, and to which nobody appends since."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await eventually(lambda: len(anchor.leaves) == 3)
    anchor.held = UnavailableError("RESTORE_NOT_CONFIRMED", "no sink was asked yet")
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        with pytest.raises(UnavailableError):
            await append(service, draft("r2"))
        assert await shown(service) == ["RESTORE_NOT_CONFIRMED"] * 3
        anchor.held = None
        await eventually(lambda: _nothing_is_shown(service))


async def _nothing_is_shown(service: Service) -> bool:
    one = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
    return not one.ledger.read_only_reason


async def test_while_nobody_can_tell_only_what_is_there_is_said(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        name = (await append(service, draft("r1"))).receipt.name
        await eventually(lambda: len(anchor.leaves) == 3)
    anchor.faults.down = True
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        assert await get(service, name) == 1
        seqs, error = await listed(service)
        assert (seqs, error and error.reason) == ([0, 1], "ANCHOR_NOT_ASKED")
        for refused in (get(service, NOBODY), verify_all(service)):
            with pytest.raises(UnavailableError) as caught:
                await refused
            assert caught.value.reason == "ANCHOR_NOT_ASKED"
        # Nothing is known of the database itself.
        assert await shown(service) == [""] * 3

        anchor.faults.down = False
        await eventually(lambda: _is_denied(service))
        # Confirmed once, it is so without the anchor.
        anchor.faults.down = True
        assert await _is_denied(service)
        assert await listed(service) == ([0, 1], None)
        assert (await verify_all(service)).head_seq == 1


@pytest.mark.parametrize("error", [FailedPreconditionError, UnavailableError])
async def test_held_log_is_reason_to_doubt(database_url: str, error: type[StatusError]) -> None:
    """Everything was restored: what the log itself has is too old, or nobody knows yet."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor):
        pass
    unavailable = error is UnavailableError
    reason = "RESTORE_NOT_CONFIRMED" if unavailable else "RESTORED_BEHIND"
    anchor.held = error(reason, "held")
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        # Nobody has asked for the other one yet: a new one is asked for itself.
        with pytest.raises(error) as caught:
            await create_ledger(service, "tenants/acme/ledgers/other")
        assert caught.value.reason == reason
        with pytest.raises(error) as caught:
            await get(service, NOBODY)
        assert caught.value.reason == reason
        seqs, end = await listed(service)
        assert (seqs, end and end.reason) == ([0], reason)
        assert await shown(service) == [reason] * 3


@pytest.mark.parametrize("error", [FailedPreconditionError, UnavailableError])
async def test_no_ledger_is_denied_while_a_log_is_held(
    database_url: str, error: type[StatusError]
) -> None:
    """Everything was restored, and counts the same; no ledger was asked for since it is held."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor):
        pass
    anchor.faults.down = True
    unavailable = error is UnavailableError
    reason = "START_NOT_CONFIRMED" if unavailable else "RESTORED_BEHIND"
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        # As the service does once it has started.
        await check_all(service)
        anchor.faults.down, anchor.held = False, error(reason, "held")
        for call in (ledger_is_there, ledgers_end, partial(create_ledger, name=LATER)):
            with pytest.raises(error) as caught:
                await call(service)
            assert caught.value.reason == reason
        assert await shown(service) == [""] * 3

        anchor.held = None
        await eventually(lambda: _later_is_denied(service))
        assert await ledgers_end(service) == [LEDGER]


async def test_what_is_over_for_one_that_nobody_asks_for_denies_others_again(
    database_url: str,
) -> None:
    """Each ledger was found held at the start; then the sinks confirm, and all of them are idle."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor) as service:
        await create_ledger(service, "tenants/other/ledgers/idle")
    anchor.held = FailedPreconditionError("RESTORED_BEHIND", "held")
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        await check_all(service)
        with pytest.raises(FailedPreconditionError):
            await create_ledger(service, LATER)

        anchor.held = None
        await eventually(lambda: _later_is_denied(service))
        assert (await create_ledger(service, LATER)).name == LATER
        # That it is over for each of them, and not only that it may be, was found out.
        anchor.faults.down = True
        assert [service.guard.stale_reason(each) for each in await stored(service)] == [""] * 3
        assert (await append(service, draft("r1"))).receipt.seq == 1


async def stored(service: Service) -> list[LedgerInfo]:
    return [ledger for ledger, _ in await service.storage.list_ledgers("", ("", ""), 10)]


async def ledger_is_there(service: Service) -> None:
    await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LATER), None)


async def ledgers_end(service: Service) -> list[str]:
    """Names of all ledgers, page by page to the end."""
    ledgers: list[str] = []
    request = ledger_pb2.ListLedgersRequest(parent="tenants/-")
    while True:
        page = await service.servicer.ListLedgers(request, None)
        ledgers += [ledger.name for ledger in page.ledgers]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return ledgers


async def _later_is_denied(service: Service) -> bool:
    try:
        await ledger_is_there(service)
    except NotFoundError:
        return True
    except StatusError:
        return False
    raise AssertionError("it was found")


class _Request:
    """What a call holds in its variables."""


async def _refused(call: Awaitable[Any]) -> weakref.ref[_Request]:
    held = _Request()
    with pytest.raises(FailedPreconditionError) as caught:
        await call
    assert caught.value.reason == BEHIND
    return weakref.ref(held)


async def _gone(kept: weakref.ref[_Request]) -> None:
    # The flush that an append was part of ends a moment after it.
    await eventually(lambda: gc.collect() >= 0 and kept() is None, 2.0)


async def test_what_is_refused_again_and_again_keeps_no_request(tmp_path: Path) -> None:
    """An error that is kept and raised has the variables of all its callers in its traceback."""
    url, anchor = f"sqlite:///{tmp_path / 'ledger.sqlite3'}", InMemoryAnchor()
    await restored(url, anchor)
    other = ledger_pb2.GetLedgerRequest(name="tenants/acme/ledgers/other")
    within = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=0, end_seq=1)
    async with ledger_service(url, anchor=anchor, create=False) as service:
        servicer = service.servicer
        calls: list[Callable[[], Awaitable[Any]]] = [
            # Asked, remembered for a moment, and known from then on.
            *(partial(append, service, draft("r9")) for _ in range(3)),
            *(partial(servicer.VerifyRange, within, None) for _ in range(2)),
            *(partial(servicer.GetLedger, other, None) for _ in range(2)),
        ]
        for call in calls:
            await _gone(await _refused(call()))

    empty = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    async with ledger_service(empty, anchor=anchor, create=False) as service:
        for _ in range(3):
            await _gone(await _refused(service.servicer.GetLedger(other, None)))


async def _is_denied(service: Service) -> bool:
    try:
        await get(service, NOBODY)
    except NotFoundError:
        return True
    except UnavailableError:
        return False
    raise AssertionError("it was found")
