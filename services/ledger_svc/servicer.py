"""The RPCs of the ledger: convert, call, convert. Errors are mapped by the server's interceptor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from ledger_svc import admission, answers, convert, listing, stream
from ledger_svc.chain import LedgerInfo
from ledger_svc.directory import LedgerDirectory
from ledger_svc.draining import Draining
from ledger_svc.gate import Gate
from ledger_svc.genesis import LedgerMaker
from ledger_svc.guard import Guard
from ledger_svc.key_ledger import check_creatable, check_writable, refuse_system
from ledger_svc.order import Order
from ledger_svc.outcomes import Outcome, Recorded
from ledger_svc.pipelines import Appender
from ledger_svc.progress import Progress
from ledger_svc.reads import Reads
from ledger_svc.storage import Storage
from ledger_svc.unread import Unread, Window
from ledger_svc.witnessing import Pending
from provledger import names, telemetry
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import NotFoundError, StatusError, UnavailableError
from provledger.rpc.auth import current_principal
from provledger.rpc.channel import call
from provledger.rpc.errors import naming

MAX_VERIFIED_ROWS: Final = 10_000
DEFAULT_LEDGER: Final = "main"
MAX_APPEND_WAIT_S: Final = 5.0
_WAIT_SHARE: Final = 0.8
"""The part of a caller's deadline that an append may wait after it is durable."""

_NEED_PROOFS: Final = frozenset({convert.LOGGED, convert.ANCHORED})


class HeadStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLedgerHead: Callable[..., Awaitable[anchor_pb2.GetLedgerHeadResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the servicer is made of."""

    storage: Storage
    directory: LedgerDirectory
    appender: Appender
    reads: Reads
    progress: Progress
    maker: LedgerMaker
    anchor: Any
    gate: Gate
    unread: Unread
    guard: Guard
    default_suite: str = "blake3"
    anchor_timeout_s: float = 10.0
    stream_in_flight: int = 512
    stream_bytes: int = 2 * 1024 * 1024


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """LedgerService (provledger/api/ledger/v1)."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._storage = parts.storage
        self._directory = parts.directory
        self._reads = parts.reads
        self._guard = parts.guard
        self._head_stub: HeadStub = parts.anchor
        self._draining = Draining()

    async def drain(self) -> None:
        """End streams behind what they are answered by now: the service is to end."""
        self._draining.begin()

    # --- ledgers

    async def CreateLedger(
        self, request: ledger_pb2.CreateLedgerRequest, context: Any
    ) -> ledger_pb2.CreateLedgerResponse:
        """Make a ledger, or find the one that is there."""
        tenant = names.parse_tenant_name(request.parent, "parent")
        ledger_id = names.check_label(request.ledger_id or DEFAULT_LEDGER, "ledger_id")
        check_creatable(tenant, ledger_id)
        suite = convert.suite_from_pb(request.suite, "") or None
        self._parts.gate.admit(tenant, 1, appends=False)
        ledger, created = await self._parts.maker.create(
            tenant,
            ledger_id,
            suite,
            self._parts.default_suite,
            current_principal(),
            own_log=request.own_log,
        )
        self._directory.add(ledger)
        state = await self._storage.get_head(ledger.uid)
        return ledger_pb2.CreateLedgerResponse(
            ledger=listing.ledger_to_pb(self._guard, ledger, state), created=created
        )

    async def GetLedger(
        self, request: ledger_pb2.GetLedgerRequest, context: Any
    ) -> ledger_pb2.GetLedgerResponse:
        """One ledger with its head."""
        ledger = await self._directory.get(request.name, "name")
        await self._guard.ask_again([ledger])
        async with self._guard.expecting(ledger):
            state = await self._storage.get_head(ledger.uid)
        shown = listing.ledger_to_pb(self._guard, ledger, state)
        return ledger_pb2.GetLedgerResponse(ledger=shown)

    async def ListLedgers(
        self, request: ledger_pb2.ListLedgersRequest, context: Any
    ) -> ledger_pb2.ListLedgersResponse:
        """Ledgers of a tenant, or of all."""
        return await listing.list_ledgers(self._storage, self._guard, request)

    # --- appends

    async def Append(
        self, request: ledger_pb2.AppendRequest, context: Any
    ) -> ledger_pb2.AppendResponse:
        """Record one draft."""
        ledger = await self._directory.get(request.ledger, "ledger")
        check_writable(ledger, request.draft)
        view = convert.view_from_pb(request.view, convert.FULL)
        if request.wait_for:
            convert.check_wait_for(request.wait_for)
        self._parts.gate.admit(ledger.tenant, 1)
        (outcome,) = await self._parts.appender.append(ledger, [_admit(request)])
        if not isinstance(outcome, Recorded):
            raise convert.in_field(outcome, "draft")
        response = ledger_pb2.AppendResponse(repeated_request=outcome.repeated)
        filled = [(response.receipt, outcome)]
        if request.wait_for in _NEED_PROOFS:
            fill = await self._waited(ledger, [outcome], request.wait_for, view, context)
            await fill(filled)
        else:
            await answers.fill_receipts(self._reads, ledger, filled, view)
        return response

    async def _waited(
        self,
        ledger: LedgerInfo,
        outcomes: Sequence[Outcome],
        state: common_pb2.AnchorState,
        view: common_pb2.ReceiptView,
        context: Any,
    ) -> answers.Fill:
        """Wait until durable receipts have got as far as `state`, or as long as allowed.

        Whatever keeps them from getting there, they are recorded: what is returned fills them in
        as they are then.
        """
        seqs = [outcome.stored.row.seq for outcome in outcomes if isinstance(outcome, Recorded)]
        seq, left_s = max(seqs, default=-1), context.time_remaining()
        wait_s = MAX_APPEND_WAIT_S
        if left_s is not None:
            wait_s = min(wait_s, _WAIT_SHARE * left_s)
        waited = not self._parts.progress.is_logged(ledger.uid, seq)
        try:
            async with asyncio.timeout(wait_s):
                if seqs:
                    await self._wait_for(ledger, seq, state)
            reached = True
        except (TimeoutError, StatusError):
            reached = False
        just_logged = reached and waited and state == convert.LOGGED and view == convert.FULL
        return partial(answers.fill_waited, self._reads, ledger, view=view, just_logged=just_logged)

    async def AppendBatch(
        self, request: ledger_pb2.AppendBatchRequest, context: Any
    ) -> ledger_pb2.AppendBatchResponse:
        """Record drafts, each with a result of its own."""
        ledger = await self._directory.get(request.ledger, "ledger")
        refuse_system(ledger.tenant)
        view = convert.view_from_pb(request.view, convert.BASIC)
        drafts = request.drafts
        if request.wait_for:
            convert.check_wait_for(request.wait_for)
        admission.check_batch_size(drafts)
        self._parts.gate.admit(ledger.tenant, len(drafts))
        if view == convert.FULL:
            _check_view(drafts)
        done = await self._append(ledger, drafts, current_principal(), Order())
        response = ledger_pb2.AppendBatchResponse()
        results = [response.results.add() for _ in done]
        fill = None
        if request.wait_for in _NEED_PROOFS:
            fill = await self._waited(ledger, done, request.wait_for, view, context)
        field = "drafts[{index}]"
        await answers.fill_results(self._reads, ledger, done, view, field, results, fill=fill)
        return response

    async def AppendStream(
        self, request_iterator: AsyncIterator[ledger_pb2.AppendStreamRequest], context: Any
    ) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
        """Record drafts as they come; answer in order."""
        self._draining.check()
        principal = current_principal()
        with self._parts.gate.silent_stream(principal):
            first = await stream.first_message(aiter(request_iterator), self._draining)
            if first is None:
                return
            ledger = await self._directory.get(first.ledger, "ledger")
        refuse_system(ledger.tenant)
        view = convert.view_from_pb(first.view, convert.BASIC)
        gate, tenant = self._parts.gate, ledger.tenant

        def check(request: ledger_pb2.AppendStreamRequest) -> None:
            if request.ledger not in ("", ledger.name):
                raise convert.violation("ledger", "must be empty or the one of the first message")
            if request.drafts:
                admission.check_batch_size(request.drafts)
                if request.HasField("draft"):
                    raise convert.violation("draft", "must be absent where there are drafts")

        order = Order()

        async def submit(drafts: Sequence[common_pb2.Draft]) -> list[Outcome]:
            return await self._append(ledger, drafts, principal, order)

        async def answer(
            portion: stream.Portion, results: Sequence[common_pb2.AppendResult]
        ) -> None:
            await answers.fill_results(
                self._reads,
                ledger,
                portion.outcomes,
                view,
                portion.field,
                results,
                portion.first_index,
                portion.first_place,
            )

        async def enter(drafts: int, size_bytes: int) -> None:
            await gate.enter(tenant, drafts, size_bytes)

        async def requests() -> AsyncIterator[ledger_pb2.AppendStreamRequest]:
            yield first
            async for request in request_iterator:
                yield request

        steps = stream.Steps(
            check=check,
            portion=lambda: gate.portion(tenant),
            enter=enter,
            leave=lambda size: gate.leave(tenant, size),
            submit=submit,
            answer=answer,
            order=order,
        )
        parts = self._parts
        window = Window(parts.stream_in_flight, parts.stream_bytes, parts.unread, tenant)
        with gate.stream(tenant):
            async for response in stream.answers(requests(), steps, window, self._draining):
                yield response

    async def _append(
        self,
        ledger: LedgerInfo,
        drafts: Sequence[common_pb2.Draft],
        principal: str,
        order: Order,
    ) -> list[Outcome]:
        """Admit drafts and record those that may be; an outcome for each, in order."""
        outcomes: list[Outcome | None] = [None] * len(drafts)
        items: list[Pending] = []
        places: list[int] = []
        ref = telemetry.current_ref()
        for place, draft in enumerate(drafts):
            try:
                items.append(Pending(draft, principal, admission.check_draft(draft), ref, order))
                places.append(place)
            except Exception as error:
                outcomes[place] = error
        if items:
            recorded = await self._parts.appender.append(ledger, items)
            if len(items) == len(drafts):
                return recorded
            for place, outcome in zip(places, recorded, strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    # --- reads

    async def GetReceipt(
        self, request: ledger_pb2.GetReceiptRequest, context: Any
    ) -> ledger_pb2.GetReceiptResponse:
        """One receipt, if asked only once it has got as far as is said."""
        ledger_name, receipt_id = names.parse_receipt_name(request.name, "name")
        view = convert.view_from_pb(request.view, convert.FULL)
        ledger = await self._directory.get(ledger_name, "name")
        stored = await self._storage.get_receipt(ledger.uid, names.receipt_id_bytes(receipt_id))
        if stored is None:
            await self._guard.confirm(ledger)
            raise NotFoundError(
                "RECEIPT_NOT_FOUND",
                f"there is no receipt {request.name}",
                metadata={"receipt": request.name},
            )
        convert.check_wait_for(request.wait_for)
        waited = not self._parts.progress.is_logged(ledger.uid, stored.row.seq)
        await self._wait_for(ledger, stored.row.seq, request.wait_for)
        response = ledger_pb2.GetReceiptResponse()
        receipt = response.receipt
        if waited and request.wait_for == convert.LOGGED and view == convert.FULL:
            await self._reads.just_logged(ledger, (stored,), (receipt,))
        else:
            await self._reads.show(ledger, (stored,), view, (receipt,))
        if view == convert.FULL and request.wait_for in _NEED_PROOFS and not receipt.proofs:
            # It is logged, but the anchor was too busy to prove it: without a proof it is less than
            # what was waited for.
            raise UnavailableError(
                "PROOF_UNAVAILABLE", "the anchor did not prove the receipt", retry_delay_s=0.2
            )
        return response

    async def _wait_for(self, ledger: LedgerInfo, seq: int, state: common_pb2.AnchorState) -> None:
        progress = self._parts.progress
        if state == convert.LOGGED:
            await progress.wait_logged(ledger.uid, seq)
        elif state == convert.ANCHORED:
            tenant = ledger.tenant_name
            await progress.wait_anchored(ledger.uid, ledger.log_name, seq, tenant)

    async def ListReceipts(
        self, request: ledger_pb2.ListReceiptsRequest, context: Any
    ) -> ledger_pb2.ListReceiptsResponse:
        """Receipts of one ledger in chain order."""
        ledger = await self._directory.get(request.parent, "parent")
        return await listing.list_receipts(self._storage, self._reads, self._guard, ledger, request)

    async def GetHead(
        self, request: ledger_pb2.GetHeadRequest, context: Any
    ) -> ledger_pb2.GetHeadResponse:
        """The head as the anchor signs it: the anchor, not we, knows what was logged."""
        ledger = await self._directory.get(request.name, "name")
        asked = anchor_pb2.GetLedgerHeadRequest(
            log=ledger.log_name, ledger_uid=ledger.uid, tree_size=request.tree_size
        )
        timeout_s = self._parts.anchor_timeout_s
        try:
            head = await call(self._head_stub.GetLedgerHead, asked, timeout_s=timeout_s)
        except StatusError as error:
            raise naming(error, "ANCHOR_UNAVAILABLE", "the anchor service") from error
        return ledger_pb2.GetHeadResponse(head=head.head, checkpoint=head.checkpoint)

    async def VerifyRange(
        self, request: ledger_pb2.VerifyRangeRequest, context: Any
    ) -> ledger_pb2.VerifyRangeResponse:
        """Recompute what is stored; a fault is DATA_LOSS. The end is the log's to confirm."""
        ledger = await self._directory.get(request.name, "name")
        start_seq, end_seq = request.start_seq, request.end_seq
        if start_seq < 0:
            raise convert.violation("start_seq", "must not be negative")
        if end_seq < start_seq:
            raise convert.violation("end_seq", "must not be less than start_seq")
        end_seq = min(end_seq, start_seq + MAX_VERIFIED_ROWS - 1)
        async with self._guard.expecting(ledger):
            verified = await self._storage.verify_range(ledger, start_seq, end_seq)
        places_checked = await self._reads.check_places(ledger, start_seq, verified.checked_seq)
        if end_seq >= verified.head_seq:
            await self._guard.confirm(ledger)
        self._guard.check_known(ledger)
        return ledger_pb2.VerifyRangeResponse(
            checked_seq=verified.checked_seq,
            checked_count=verified.checked_count,
            head_seq=verified.head_seq,
            receipt_hash=verified.receipt_hash,
            places_checked=places_checked,
            name=ledger.name,
        )


def _admit(request: ledger_pb2.AppendRequest) -> Pending:
    try:
        size = admission.check_draft(request.draft)
    except Exception as error:
        raise convert.in_field(error, "draft") from error
    return Pending(request.draft, current_principal(), size, telemetry.current_ref())


def _check_view(drafts: Sequence[common_pb2.Draft]) -> None:
    """Refuse early what could not be returned: a new state stands in its diff once more."""
    size = sum(draft.ByteSize() for draft in drafts)
    if len(drafts) > 1 and 2 * size > answers.MAX_FULL_BYTES:
        raise convert.violation(
            "view",
            "nothing is recorded: these receipts may be too large to be returned in full in one "
            "answer; ask for BASIC, or send fewer",
            "VIEW_TOO_LARGE",
        )
