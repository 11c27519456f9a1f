"""A database put back to before a ledger was made, whose neighbours lost nothing.

The log cannot be asked for a ledger by its name. It can say how many it has: while they are more
than the database knows of, none is said not to exist, and none is made.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ledger_svc.app import Service
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import begin_write
from provledger.errors import FailedPreconditionError, StatusError
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import (
    append,
    append_batch,
    create_ledger,
    draft,
    eventually,
    ledger_service,
    recorded,
)

BEHIND = "LEDGER_BEHIND_ANCHOR"
NOBODY = "tenants/acme/ledgers/none/receipts/018f0000-0000-7000-8000-000000000000"


async def denial(service: Service, name: str) -> str:
    """What is said of a receipt."""
    with pytest.raises(StatusError) as caught:
        await service.servicer.GetReceipt(ledger_pb2.GetReceiptRequest(name=name), None)
    return caught.value.reason


WHOLE = ("log_runs", "entries", "batches", "heads", "ledgers")


async def lost_ledger(url: str, anchor: InMemoryAnchor, tables: tuple[str, ...] = WHOLE) -> str:
    """A database without the rows of its second ledger, which the log has; its receipt.

    tables: which rows are gone. All of them, as in a database put back to before it was made.
    """
    other = "tenants/acme/ledgers/other"
    async with ledger_service(url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await recorded(service, 1)
        await create_ledger(service, other)
        (made,) = await append_batch(service, [draft("r2")], ledger=other)
        await eventually(lambda: len(anchor.ledgers) == 2 and len(anchor.leaves) == 5)
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            uid = connection.execute(
                sa.text("SELECT ledger_uid FROM ledgers WHERE ledger = 'other'")
            ).scalar_one()
            for table in tables:
                connection.execute(
                    sa.text(f"DELETE FROM {table} WHERE ledger_uid = :uid"),
                    {"uid": uid},
                )
    return made.receipt.name


@pytest.mark.parametrize("tables", [WHOLE, ("ledgers",)])
async def test_a_ledger_that_the_log_may_have_is_not_denied(
    database_url: str, tables: tuple[str, ...]
) -> None:
    """Nor is one that is there but for the row that has its name."""
    anchor = InMemoryAnchor()
    name = await lost_ledger(database_url, anchor, tables)
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        for _ in range(2):
            assert await denial(service, name) == BEHIND
        # What is there is served, and none is made beside the one that was lost.
        await append(service, draft("r9"))
        with pytest.raises(FailedPreconditionError) as caught:
            await create_ledger(service, "tenants/acme/ledgers/other")
        assert caught.value.reason == BEHIND


async def test_while_nobody_says_how_many_ledgers_there_are_none_is_denied(
    database_url: str,
) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor) as service:
        pass
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        anchor.faults.down = True
        assert await denial(service, NOBODY) == "ANCHOR_NOT_ASKED"
        anchor.faults.down = False
        await eventually(lambda: _is_denied(service, NOBODY))
        # Asked once.
        anchor.faults.down = True
        assert await denial(service, NOBODY) == "LEDGER_NOT_FOUND"


async def test_a_ledger_whose_place_is_not_stored_yet_is_no_loss(database_url: str) -> None:
    """The process ended between the log's answer and the database's; come again, it says."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await recorded(service, 0)
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.execute(sa.text("DELETE FROM log_runs"))
            connection.execute(sa.text("UPDATE heads SET logged_seq = -1, lease_until_ns = 0"))
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        assert await denial(service, NOBODY) == "ANCHOR_NOT_ASKED"
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await eventually(lambda: _is_denied(service, NOBODY))


async def listed(service: Service, parent: str) -> tuple[list[str], str]:
    """Names page by page, and the reason of what came in place of the end."""
    names: list[str] = []
    request = ledger_pb2.ListLedgersRequest(parent=parent)
    while True:
        try:
            page = await service.servicer.ListLedgers(request, None)
        except StatusError as error:
            return names, error.reason
        names += [ledger.name for ledger in page.ledgers]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return names, ""


async def test_a_list_of_ledgers_does_not_end_where_one_may_be_missing(database_url: str) -> None:
    anchor = InMemoryAnchor()
    await lost_ledger(database_url, anchor)
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        for parent in ("tenants/acme", "tenants/-"):
            assert await listed(service, parent) == (["tenants/acme/ledgers/main"], BEHIND)
        assert await listed(service, "tenants/none") == ([], BEHIND)


async def test_a_list_of_ledgers_ends_once_they_were_counted(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor):
        pass
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        anchor.faults.down = True
        there = ["tenants/acme/ledgers/main"]
        assert await listed(service, "tenants/acme") == (there, "ANCHOR_NOT_ASKED")
        assert await listed(service, "tenants/none") == ([], "ANCHOR_NOT_ASKED")
        anchor.faults.down = False
        await eventually(lambda: _is_denied(service, NOBODY))
        # Asked once.
        anchor.faults.down = True
        assert await listed(service, "tenants/acme") == (there, "")
        assert await listed(service, "tenants/none") == ([], "")


async def test_ledgers_of_others_are_not_missed_where_the_anchor_is_shared(
    database_url: str,
) -> None:
    anchor = InMemoryAnchor()
    name = await lost_ledger(database_url, anchor)
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_is_shared=True
    ) as service:
        assert await denial(service, name) == "LEDGER_NOT_FOUND"


async def _is_denied(service: Service, name: str) -> bool:
    return await denial(service, name) == "LEDGER_NOT_FOUND"


@pytest.mark.parametrize("change", ["tenant = 'acme2'", "ledger = 'moved'"])
async def test_a_ledger_that_was_renamed_is_not_denied_nor_served(
    database_url: str, change: str
) -> None:
    """Its genesis states the name: it is not begun anew under that, nor read by the other."""
    anchor = InMemoryAnchor()
    name = await lost_ledger(database_url, anchor, ())
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.execute(sa.text(f"UPDATE ledgers SET {change} WHERE ledger = 'other'"))
        assert await denial(service, name) == BEHIND
        for ledger in ("tenants/acme/ledgers/other", "tenants/acme2/ledgers/other"):
            with pytest.raises(StatusError) as caught:
                await create_ledger(service, ledger)
            assert caught.value.reason in (BEHIND, "CHAIN_BROKEN")
        other = name.replace("/acme/", "/acme2/")
        if "moved" in change:
            other = name.replace("/other/", "/moved/")
        assert await denial(service, other) == "CHAIN_BROKEN"


async def test_a_ledger_that_was_put_into_another_log_is_not_served(database_url: str) -> None:
    anchor = InMemoryAnchor()
    name = await lost_ledger(database_url, anchor, ())
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
            connection.execute(
                sa.text("UPDATE ledgers SET log_origin = 'x' WHERE ledger = 'other'")
            )
        assert await denial(service, name) == "CHAIN_BROKEN"
