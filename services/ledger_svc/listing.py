"""Listings of receipts and ledgers, page by page (AIP-158).

A page without a next one says that there is nothing more. While the log may hold more than the
database does, that is not said: what is there is listed, and the page behind it is the guard's
error.
"""

from __future__ import annotations

from typing import Final

from ledger_svc import admission, convert, paging
from ledger_svc.chain import HeadState, LedgerInfo
from ledger_svc.guard import Guard
from ledger_svc.reads import Reads
from ledger_svc.storage import PageBounds, Storage
from provledger import names
from provledger.api.ledger.v1 import ledger_pb2

MAX_SCANNED_ROWS: Final = 5_000
"""Rows looked at for one page; a page of a rare find may therefore be short, or empty."""
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
"""Statements and payloads on one page of the FULL view; it is cut short rather than refused, and so
it is where proofs and evidence do not fit beside them (`room`)."""

_RECEIPT_POSITION: Final = frozenset({"p", "t"})
_LEDGER_POSITION: Final = frozenset({"after"})


async def list_receipts(
    storage: Storage,
    reads: Reads,
    guard: Guard,
    ledger: LedgerInfo,
    request: ledger_pb2.ListReceiptsRequest,
) -> ledger_pb2.ListReceiptsResponse:
    """One page of the receipts of a ledger, in chain order.

    Raises:
        FailedPreconditionError, UnavailableError: as `Guard.confirm`, in place of an empty last
            page.
        UnavailableError: PROOF_UNAVAILABLE, as `Reads.show`, where request or token name a tree.
    """
    limit = admission.page_size(request.page_size)
    view = convert.view_from_pb(request.view, convert.BASIC)
    if request.tree_size < 0 or (request.tree_size and view != convert.FULL):
        raise convert.violation("tree_size", "must not be negative, and is for the FULL view only")
    conditions = convert.query_from_pb(request)
    query = {
        "method": "ListReceipts",
        "parent": request.parent,
        "view": str(int(view)),
        "resourceType": request.resource_type,
        "resourceId": request.resource_id,
        "actorId": request.actor_id,
        "receiptType": request.receipt_type,
        "start": str(request.start_t_ns),
        "end": str(request.end_t_ns),
        "treeSize": str(request.tree_size),
    }
    position, tree_size = -1, request.tree_size
    if request.page_token:
        members = paging.read_page_token(request.page_token, query, _RECEIPT_POSITION)
        position = paging.read_decimal(members["p"], -1)
        tree_size = paging.read_decimal(members["t"], 0)
    bounds = PageBounds(limit, MAX_SCANNED_ROWS, MAX_PAGE_BYTES)
    async with guard.expecting(ledger):
        page = await storage.find_page(
            ledger.uid, conditions, position, bounds, full=view == convert.FULL
        )
    response = ledger_pb2.ListReceiptsResponse()
    shown = await reads.show(
        ledger,
        page.found,
        view,
        [response.receipts.add() for _ in page.found],
        logged_seq=page.logged_seq,
        tree_size=tree_size,
    )
    response.tree_size = shown.tree_size
    ended, position = page.ended, page.position
    if shown.receipts < len(page.found):
        del response.receipts[shown.receipts :]
        ended, position = False, page.found[shown.receipts - 1].row.seq
    if ended and page.found:
        ended = await guard.may_end(ledger)
    elif ended:
        await guard.confirm(ledger)
    if not ended:
        response.next_page_token = paging.page_token(
            query, {"p": str(position), "t": str(response.tree_size)}
        )
    return response


def ledger_to_pb(guard: Guard, ledger: LedgerInfo, state: HeadState) -> ledger_pb2.Ledger:
    """A ledger, which takes no entries either while what is stored of it is known to be too old."""
    shown = convert.ledger_to_pb(ledger, state)
    shown.read_only_reason = state.read_only_reason or guard.refuses_because(ledger)
    return shown


async def list_ledgers(
    storage: Storage, guard: Guard, request: ledger_pb2.ListLedgersRequest
) -> ledger_pb2.ListLedgersResponse:
    """One page of ledgers, by tenant and ledger id.

    Raises:
        FailedPreconditionError, UnavailableError: as `Guard.check_absent`, in place of an empty
            last page.
    """
    limit = admission.page_size(request.page_size)
    tenant = ""
    if request.parent != "tenants/-":
        tenant = names.parse_tenant_name(request.parent, "parent")
    query = {"method": "ListLedgers", "parent": request.parent}
    after = ("", "")
    if request.page_token:
        members = paging.read_page_token(request.page_token, query, _LEDGER_POSITION)
        before, _, behind = members["after"].partition("/")
        after = (before, behind)
    found = await storage.list_ledgers(tenant, after, limit + 1)
    await guard.ask_again(ledger for ledger, _ in found[:limit])
    response = ledger_pb2.ListLedgersResponse(
        ledgers=[ledger_to_pb(guard, ledger, state) for ledger, state in found[:limit]]
    )
    ended = len(found) <= limit
    if ended and found:
        ended = await guard.may_end_ledgers()
    elif ended:
        await guard.check_absent()
    if not ended:
        last, _ = found[:limit][-1]
        response.next_page_token = paging.page_token(
            query, {"after": f"{last.tenant}/{last.ledger}"}
        )
    return response
