"""What a client reads: ledgers, receipts, heads, keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import convert
from provledger.client.answers import bad_response, check_listed, check_name, has_reached
from provledger.client.calls import unary, waits
from provledger.client.paging import Pages
from provledger.client.transport import Transport
from provledger.client.values import (
    AnchorState,
    Ledger,
    RangeReport,
    ReceiptFilter,
    ReceiptPage,
    ReceiptSummary,
    SignedHead,
)
from provledger.errors import FailedPreconditionError, IdentifierError
from provledger.receipt import Receipt

_NO_FILTER: Final = ReceiptFilter()
_VERIFY_ROWS: Final = 10_000
_WAIT_ATTEMPT_S: Final = 30.0


class Reading(Transport):
    """The reads of `AsyncClient`."""

    # --- ledgers ---------------------------------------------------------------------------------

    async def get_ledger(self, name: str, *, timeout_s: float | None = None) -> Ledger:
        """Return a ledger by its full name.

        Raises InternalError (BAD_RESPONSE) if the answer is another ledger.
        """
        request = convert.request(ledger_pb2.GetLedgerRequest, name=name)
        response = await self._call("GetLedger", request, timeout_s)
        check_name(response.ledger.name, name)
        return convert.ledger_from_pb(response.ledger)

    async def list_ledgers(
        self, tenant: str = "-", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Ledger]:
        """Yield the ledgers of a tenant, or of all with `-`, by name.

        Raises InternalError (BAD_RESPONSE) if the pages go round in a circle.
        """
        pages = Pages()
        while pages.more:
            request = convert.request(
                ledger_pb2.ListLedgersRequest,
                parent=f"tenants/{tenant}",
                page_size=page_size,
                page_token=pages.token,
            )
            response = await self._call("ListLedgers", request, timeout_s)
            pages.turn(response.next_page_token, len(response.ledgers))
            for ledger in response.ledgers:
                yield convert.ledger_from_pb(ledger)

    # --- receipts --------------------------------------------------------------------------------

    async def get_receipt(self, name: str, *, timeout_s: float | None = None) -> Receipt:
        """Return a receipt by its full name, with the proofs that exist so far.

        Raises InternalError (BAD_RESPONSE) if the answer is another receipt.
        """
        request = convert.request(
            ledger_pb2.GetReceiptRequest, name=name, view=common_pb2.RECEIPT_VIEW_FULL
        )
        response = await self._call("GetReceipt", request, timeout_s)
        check_name(response.receipt.name, name)
        return convert.receipt_from_pb(response.receipt)

    async def get_summary(self, name: str, *, timeout_s: float | None = None) -> ReceiptSummary:
        """Return a receipt's identity, position and hashes, and how far it has got.

        Raises InternalError (BAD_RESPONSE) if the answer is another receipt.
        """
        request = convert.request(
            ledger_pb2.GetReceiptRequest, name=name, view=common_pb2.RECEIPT_VIEW_BASIC
        )
        response = await self._call("GetReceipt", request, timeout_s)
        check_name(response.receipt.name, name)
        return convert.summary_from_pb(response.receipt)

    async def wait_for_anchor(
        self,
        name: str,
        *,
        state: AnchorState = AnchorState.ANCHORED,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Return a receipt once it has got as far as `state`, with its proofs.

        Raises:
            DeadlineExceededError: that takes longer than `timeout_s`.
            InternalError: BAD_RESPONSE, the answer is another receipt, or one that is not so far.
        """
        request = convert.request(
            ledger_pb2.GetReceiptRequest,
            name=name,
            view=common_pb2.RECEIPT_VIEW_FULL,
            wait_for=convert.anchor_state_to_pb(state, "state"),
        )
        deadline_s = time.monotonic() + self._policy.within_s(timeout_s)
        delays = waits(self._policy)
        while True:
            left_s = deadline_s - time.monotonic()
            response = await self._call("GetReceipt", request, left_s, _WAIT_ATTEMPT_S)
            check_name(response.receipt.name, name)
            if has_reached(response.receipt, request.wait_for):
                return convert.receipt_from_pb(response.receipt)
            delay_s = next(delays, None)
            if delay_s is None or time.monotonic() + delay_s >= deadline_s:
                raise bad_response(f"{name} was waited for until {state}, and is shown as less")
            await asyncio.sleep(delay_s)

    async def list_page(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        page_token: str = "",
        tree_size: int = 0,
        timeout_s: float | None = None,
    ) -> ReceiptPage:
        """Return one page of receipts in chain order, all proved against one checkpoint.

        `tree_size` picks the checkpoint; 0 takes the newest when the first page is read. What it
        does not cover has no proof; nothing has if the anchor did not answer for the first page.

        Raises:
            InternalError: BAD_RESPONSE, a receipt of another ledger is among them.
            UnavailableError: PROOF_UNAVAILABLE, the checkpoint is picked, and the anchor does not
                answer.
        """
        request = self._list_request(ledger, where, page_size, page_token, tree_size)
        request.view = common_pb2.RECEIPT_VIEW_FULL
        response = await self._call("ListReceipts", request, timeout_s)
        check_listed(response.receipts, ledger)
        return ReceiptPage(
            receipts=tuple([convert.receipt_from_pb(item) for item in response.receipts]),
            next_page_token=response.next_page_token,
            tree_size=response.tree_size,
            summaries=tuple([convert.summary_from_pb(item) for item in response.receipts]),
        )

    async def list_receipts(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        tree_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Receipt]:
        """Yield receipts in chain order, page by page; `timeout_s` is for each page.

        Raises InternalError (BAD_RESPONSE) as `list_page`, and if the pages go round in a circle.
        """
        pages = Pages()
        while pages.more:
            page = await self.list_page(
                ledger,
                where,
                page_size=page_size,
                page_token=pages.token,
                tree_size=tree_size,
                timeout_s=timeout_s,
            )
            pages.turn(page.next_page_token, len(page.receipts))
            for receipt in page.receipts:
                yield receipt

    async def list_summaries(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[ReceiptSummary]:
        """Yield summaries in chain order, page by page; `timeout_s` is for each page.

        Raises InternalError (BAD_RESPONSE) as `list_page`, and if the pages go round in a circle.
        """
        pages = Pages()
        while pages.more:
            request = self._list_request(ledger, where, page_size, pages.token)
            request.view = common_pb2.RECEIPT_VIEW_BASIC
            response = await self._call("ListReceipts", request, timeout_s)
            check_listed(response.receipts, ledger)
            pages.turn(response.next_page_token, len(response.receipts))
            for item in response.receipts:
                yield convert.summary_from_pb(item)

    def _list_request(
        self, ledger: str, where: ReceiptFilter, page_size: int, token: str, tree_size: int = 0
    ) -> ledger_pb2.ListReceiptsRequest:
        return convert.request(
            ledger_pb2.ListReceiptsRequest,
            parent=ledger,
            page_size=page_size,
            page_token=token,
            resource_type=where.resource_type,
            resource_id=where.resource_id,
            actor_id=where.actor_id,
            receipt_type=where.receipt_type,
            start_t_ns=where.start_t_ns,
            end_t_ns=where.end_t_ns,
            tree_size=tree_size,
        )

    # --- proving ---------------------------------------------------------------------------------

    async def get_head(
        self, ledger: str, *, tree_size: int = 0, timeout_s: float | None = None
    ) -> SignedHead:
        """Return the signed head of a ledger as of a checkpoint; 0 means the newest.

        Kept elsewhere, it is what later shows that an export was cut short.
        """
        request = convert.request(ledger_pb2.GetHeadRequest, name=ledger, tree_size=tree_size)
        response = await self._call("GetHead", request, timeout_s)
        return SignedHead(response.head, response.checkpoint)

    async def verify_range(
        self,
        ledger: str,
        *,
        start_seq: int = 0,
        end_seq: int | None = None,
        progress: Callable[[int], None] | None = None,
        timeout_s: float | None = None,
    ) -> RangeReport:
        """Have the service recompute its stored chain, by default all of it; what it covered.

        `end_seq` is inclusive. `progress` is told the number of rows checked so far; `timeout_s` is
        for each 10,000 of them.

        Where there is no row from `start_seq` on yet, the one before it is checked: what was there
        once is still there. The report counts none then.

        Raises:
            IdentifierError: `start_seq` is negative.
            DataLossError: naming the first row that does not hold.
            OutOfRangeError: the ledger ends before `end_seq`, or further before `start_seq` than by
                one.
            InternalError: BAD_RESPONSE, another ledger was checked.
        """
        if start_seq < 0:
            raise IdentifierError("start_seq", "must not be negative")
        if end_seq is None:
            end_seq = (await self.get_ledger(ledger)).seq
        if end_seq < start_seq:
            return await self._verify_before(ledger, start_seq, timeout_s)
        report = RangeReport(start_seq, start_seq - 1, 0, end_seq, b"", True)
        while report.checked_seq < end_seq:
            first = report.checked_seq + 1
            last = min(end_seq, first + _VERIFY_ROWS - 1)
            response = await self._verify_rows(ledger, first, last, timeout_s)
            report = RangeReport(
                start_seq,
                response.checked_seq,
                report.checked_count + response.checked_count,
                response.head_seq,
                response.receipt_hash,
                report.places_checked and response.places_checked,
            )
            if progress is not None:
                progress(report.checked_count)
        return report

    async def _verify_before(
        self, ledger: str, start_seq: int, timeout_s: float | None
    ) -> RangeReport:
        """The report of a range without rows: only the service can say that none are missing."""
        before = max(0, start_seq - 1)
        response = await self._verify_rows(ledger, before, before, timeout_s)
        return RangeReport(
            start_seq,
            start_seq - 1,
            0,
            response.head_seq,
            response.receipt_hash if start_seq else b"",
            response.places_checked,
        )

    async def _verify_rows(
        self, ledger: str, first: int, last: int, timeout_s: float | None
    ) -> ledger_pb2.VerifyRangeResponse:
        """One call; the service may check less than up to `last`, but one row at least."""
        request = convert.request(
            ledger_pb2.VerifyRangeRequest, name=ledger, start_seq=first, end_seq=last
        )
        response: ledger_pb2.VerifyRangeResponse = await self._call(
            "VerifyRange", request, timeout_s, self._policy.timeout_s
        )
        # Services of before do not say which one it was.
        if response.name:
            check_name(response.name, ledger)
        if response.checked_seq < first:
            raise FailedPreconditionError(
                "RANGE_BEYOND_HEAD", f"the ledger ends at seq {response.head_seq}"
            )
        return response

    async def jwks(self, *, timeout_s: float | None = None) -> bytes:
        """Return the JWK Set a verifier needs, as JSON text; needs `keys_endpoint`."""
        if not self._keys_endpoint:
            raise FailedPreconditionError(
                "NO_KEYS_ENDPOINT", "give the client a keys_endpoint to fetch the JWK Set"
            )
        request = keys_pb2.GetJwksRequest()
        with self._telling_of_its_end():
            stub: Any = keys_pb2_grpc.KeysServiceStub(self._channel(self._keys_endpoint))
            response = await unary(stub.GetJwks, request, self._policy, timeout_s=timeout_s)
        jwks: bytes = response.jwks
        return jwks
