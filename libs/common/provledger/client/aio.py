"""The asyncio client. See `provledger.client` for what it promises, `sync` for its blocking twin.

One object belongs to one event loop and may be shared by all its tasks. Channels are opened when
they are first used. Every method raises the exceptions of `provledger.errors`: InputError before
anything is sent, a StatusError for what a service says or for a service that cannot be reached.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final

import grpc

from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client import batches, convert
from provledger.client.calls import DEFAULT_CALL_POLICY, CallPolicy, unary
from provledger.client.drafts import Draft
from provledger.client.singles import Aim, SingleAppends
from provledger.client.stream import DEFAULT_WINDOW, append_stream
from provledger.client.values import (
    AnchorState,
    AppendResult,
    Ledger,
    RangeReport,
    ReceiptFilter,
    ReceiptPage,
    ReceiptSummary,
    SignedHead,
)
from provledger.errors import FailedPreconditionError, InternalError
from provledger.receipt import Receipt
from provledger.rpc.channel import channel
from provledger.rpc.tls import TLSSettings
from provledger.throttle import Throttles

_NO_FILTER: Final = ReceiptFilter()
_VERIFY_ROWS: Final = 10_000
_WAIT_ATTEMPT_S: Final = 30.0


class AsyncClient:
    """Records changes and reads receipts, over gRPC.

    Args:
        endpoint: `host:port` of the ledger service.
        keys_endpoint: `host:port` of the keys service; only `jwks` needs it.
        tls: Certificates for mutual TLS; None on loopback.
        policy: Deadlines and retries.
        share_calls: Whether single appends that are under way at once may share calls, see
            `provledger.client.singles`; each is answered by itself all the same.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        keys_endpoint: str = "",
        tls: TLSSettings | None = None,
        policy: CallPolicy = DEFAULT_CALL_POLICY,
        share_calls: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._keys_endpoint = keys_endpoint
        self._tls = tls
        self._policy = policy
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._ledger_stub: Any = None
        self._throttles = Throttles(policy.max_in_flight)
        self._singles = SingleAppends(self._append_one, self._append_some) if share_calls else None

    async def __aenter__(self) -> AsyncClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the channels."""
        await self.close()

    async def close(self) -> None:
        """Close the channels; calls in flight are cancelled. May be called twice."""
        if self._singles is not None:
            await self._singles.close()
        channels, self._channels, self._ledger_stub = self._channels, {}, None
        for opened in channels.values():
            await opened.close()

    # --- ledgers ---------------------------------------------------------------------------------

    async def create_ledger(
        self,
        tenant: str,
        ledger: str = "main",
        *,
        suite: str = "",
        own_log: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Ledger, bool]:
        """Make a ledger of a tenant, or return the one that is there; True if it was made.

        `suite` is `blake3`, `blake3-all`, `fips`, or "" for the service's default.
        own_log: its entries go to a log of the tenant's own, instead of one that ledgers share.
        """
        request = convert.request(
            ledger_pb2.CreateLedgerRequest,
            parent=f"tenants/{tenant}",
            ledger_id=ledger,
            suite=convert.suite_to_pb(suite),
            own_log=own_log,
        )
        response = await self._call("CreateLedger", request, timeout_s)
        return convert.ledger_from_pb(response.ledger), response.created

    async def get_ledger(self, name: str, *, timeout_s: float | None = None) -> Ledger:
        """Return a ledger by its full name."""
        request = convert.request(ledger_pb2.GetLedgerRequest, name=name)
        response = await self._call("GetLedger", request, timeout_s)
        return convert.ledger_from_pb(response.ledger)

    async def list_ledgers(
        self, tenant: str = "-", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[Ledger]:
        """Yield the ledgers of a tenant, or of all with `-`, by name."""
        token = ""
        while True:
            request = convert.request(
                ledger_pb2.ListLedgersRequest,
                parent=f"tenants/{tenant}",
                page_size=page_size,
                page_token=token,
            )
            response = await self._call("ListLedgers", request, timeout_s)
            for ledger in response.ledgers:
                yield convert.ledger_from_pb(ledger)
            token = response.next_page_token
            if not token:
                return

    # --- appending -------------------------------------------------------------------------------

    async def append(
        self,
        ledger: str,
        draft: Draft,
        *,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Record one draft in the ledger of this full name; its receipt, once it is durable.

        The receipt has no proofs yet, unless its request id is an old one: see `wait_for_anchor`.
        With `wait_for=AnchorState.LOGGED` the answer comes some milliseconds later, with the proof
        and the signed checkpoint it leads to; where the log takes longer than five seconds, or
        than most of the deadline, it comes without: look at `receipt.proofs`.
        """
        message = convert.draft_to_pb(draft)
        refusal = batches.too_large(message, "draft")
        if refusal is not None:
            raise refusal
        within_s = self._policy.timeout_s if timeout_s is None else timeout_s
        aim = Aim(ledger, convert.anchor_state_to_pb(wait_for))
        append = self._append_one if self._singles is None else self._singles.append
        result = await append(aim, message, within_s)
        if result.error is not None:
            raise result.error
        if result.receipt is None:
            raise InternalError("BAD_RESPONSE", "the answer holds no receipt")
        return result.receipt

    async def append_batch(
        self,
        ledger: str,
        drafts: Sequence[Draft],
        *,
        full: bool = False,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> list[AppendResult]:
        """Record any number of drafts; one result for each, in order.

        One bad draft never fails its neighbours: look at each result's `error`. Calls are split by
        count and bytes and sent in turn, and `timeout_s` is for all of them. `full` returns whole
        receipts, otherwise there are summaries. `wait_for` is as in `append`, for each call.
        """
        policy = self._policy
        return await batches.append_all(
            self._append_batch,
            ledger,
            drafts,
            full=full,
            timeout_s=policy.timeout_s if timeout_s is None else timeout_s,
            policy=policy,
            wait_for=convert.anchor_state_to_pb(wait_for),
        )

    def append_stream(
        self,
        ledger: str,
        drafts: AsyncIterable[Draft] | Iterable[Draft],
        *,
        full: bool = False,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncIterator[AppendResult]:
        """Record drafts as they come; one result for each, in order.

        At most `window` drafts are unanswered; the source is read no further meanwhile. A broken
        connection is replaced and what was unanswered sent again. The policy's timeout is for a
        stretch without any answer, not for the whole.
        """
        return append_stream(
            # Not opened here: the blocking client calls this outside of the event loop.
            self._stub,
            ledger,
            drafts,
            full=full,
            window=window,
            policy=self._policy,
            append_again=lambda drafts: batches.append_messages(
                self._append_batch, ledger, drafts, full=full, policy=self._policy
            ),
        )

    async def _append_batch(
        self, request: ledger_pb2.AppendBatchRequest, left_s: float
    ) -> ledger_pb2.AppendBatchResponse:
        response: ledger_pb2.AppendBatchResponse = await self._call("AppendBatch", request, left_s)
        return response

    async def _append_one(
        self, aim: Aim, draft: common_pb2.Draft, timeout_s: float
    ) -> AppendResult:
        request = convert.request(
            ledger_pb2.AppendRequest,
            ledger=aim.ledger,
            draft=draft,
            view=common_pb2.RECEIPT_VIEW_FULL,
            wait_for=aim.wait_for,
        )
        response = await self._call("Append", request, timeout_s)
        outcome = common_pb2.AppendResult(
            receipt=response.receipt, repeated_request=response.repeated_request
        )
        return convert.result_from_pb(outcome, index=0, request_id=draft.request_id, full=True)

    def _append_some(
        self, aim: Aim, drafts: Sequence[common_pb2.Draft], timeout_s: float
    ) -> AsyncIterator[AppendResult]:
        return batches.append_some(
            self._append_batch,
            aim.ledger,
            list(enumerate(drafts)),
            True,
            time.monotonic() + timeout_s,
            self._policy,
            aim.wait_for,
        )

    # --- reading ---------------------------------------------------------------------------------

    async def get_receipt(self, name: str, *, timeout_s: float | None = None) -> Receipt:
        """Return a receipt by its full name, with the proofs that exist so far."""
        request = convert.request(
            ledger_pb2.GetReceiptRequest, name=name, view=common_pb2.RECEIPT_VIEW_FULL
        )
        response = await self._call("GetReceipt", request, timeout_s)
        return convert.receipt_from_pb(response.receipt)

    async def get_summary(self, name: str, *, timeout_s: float | None = None) -> ReceiptSummary:
        """Return a receipt's identity, position and hashes, and how far it has got."""
        request = convert.request(
            ledger_pb2.GetReceiptRequest, name=name, view=common_pb2.RECEIPT_VIEW_BASIC
        )
        response = await self._call("GetReceipt", request, timeout_s)
        return convert.summary_from_pb(response.receipt)

    async def wait_for_anchor(
        self,
        name: str,
        *,
        state: AnchorState = AnchorState.ANCHORED,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Return a receipt once it has got as far as `state`, with its proofs.

        Raises DeadlineExceededError if that takes longer than `timeout_s`.
        """
        request = convert.request(
            ledger_pb2.GetReceiptRequest,
            name=name,
            view=common_pb2.RECEIPT_VIEW_FULL,
            wait_for=convert.anchor_state_to_pb(state),
        )
        response = await self._call("GetReceipt", request, timeout_s, _WAIT_ATTEMPT_S)
        return convert.receipt_from_pb(response.receipt)

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

        `tree_size` picks the checkpoint; 0 takes the newest when the first page is read.
        """
        request = self._list_request(ledger, where, page_size, page_token, tree_size)
        request.view = common_pb2.RECEIPT_VIEW_FULL
        response = await self._call("ListReceipts", request, timeout_s)
        return ReceiptPage(
            receipts=tuple([convert.receipt_from_pb(item) for item in response.receipts]),
            next_page_token=response.next_page_token,
            tree_size=response.tree_size,
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
        """Yield receipts in chain order, page by page; `timeout_s` is for each page."""
        token = ""
        while True:
            page = await self.list_page(
                ledger,
                where,
                page_size=page_size,
                page_token=token,
                tree_size=tree_size,
                timeout_s=timeout_s,
            )
            for receipt in page.receipts:
                yield receipt
            token = page.next_page_token
            if not token:
                return

    async def list_summaries(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[ReceiptSummary]:
        """Yield summaries in chain order, page by page; `timeout_s` is for each page."""
        token = ""
        while True:
            request = self._list_request(ledger, where, page_size, token)
            request.view = common_pb2.RECEIPT_VIEW_BASIC
            response = await self._call("ListReceipts", request, timeout_s)
            for item in response.receipts:
                yield convert.summary_from_pb(item)
            token = response.next_page_token
            if not token:
                return

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

        Raises:
            DataLossError: naming the first row that does not hold.
        """
        if end_seq is None:
            end_seq = (await self.get_ledger(ledger)).seq
        report = RangeReport(start_seq, start_seq - 1, 0, end_seq, b"")
        while report.checked_seq < end_seq:
            first = report.checked_seq + 1
            request = convert.request(
                ledger_pb2.VerifyRangeRequest,
                name=ledger,
                start_seq=first,
                end_seq=min(end_seq, first + _VERIFY_ROWS - 1),
            )
            response = await self._call("VerifyRange", request, timeout_s, self._policy.timeout_s)
            if response.checked_seq < first:
                raise FailedPreconditionError(
                    "RANGE_BEYOND_HEAD", f"the ledger ends at seq {response.head_seq}"
                )
            report = RangeReport(
                start_seq,
                response.checked_seq,
                report.checked_count + response.checked_count,
                response.head_seq,
                response.receipt_hash,
            )
            if progress is not None:
                progress(report.checked_count)
        return report

    async def jwks(self, *, timeout_s: float | None = None) -> bytes:
        """Return the JWK Set a verifier needs, as JSON text; needs `keys_endpoint`."""
        if not self._keys_endpoint:
            raise FailedPreconditionError(
                "NO_KEYS_ENDPOINT", "give the client a keys_endpoint to fetch the JWK Set"
            )
        stub: Any = keys_pb2_grpc.KeysServiceStub(self._channel(self._keys_endpoint))
        request = keys_pb2.GetJwksRequest()
        response = await unary(stub.GetJwks, request, self._policy, timeout_s=timeout_s)
        jwks: bytes = response.jwks
        return jwks

    # --- transport -------------------------------------------------------------------------------

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        if endpoint not in self._channels:
            self._channels[endpoint] = channel(endpoint, self._tls)
        return self._channels[endpoint]

    def _stub(self) -> Any:
        if self._ledger_stub is None:
            self._ledger_stub = ledger_pb2_grpc.LedgerServiceStub(self._channel(self._endpoint))
        return self._ledger_stub

    async def _call(
        self,
        method: str,
        request: Any,
        timeout_s: float | None,
        attempt_timeout_s: float | None = None,
    ) -> Any:
        return await unary(
            getattr(self._stub(), method),
            request,
            self._policy,
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            throttle=self._throttles.of_request(request),
        )
