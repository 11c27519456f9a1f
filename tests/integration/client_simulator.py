"""A ledger service in memory, over a real socket, that can be told to misbehave.

It keeps the promise that matters here: the same request id gives the same receipt. `faults` holds
what befalls the next calls, one each.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from provledger import jcs
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client import CallPolicy, Mutation
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.retry import RetryPolicy
from provledger.rpc.errors import status_to_pb
from provledger.rpc.interceptors import ServiceInterceptor
from provledger.rpc.tls import TLSSettings, renewed, server_credentials
from provledger.statement import Statement

LEDGER = "tenants/acme/ledgers/main"

UNAVAILABLE = "unavailable"
EXHAUSTED = "exhausted"
LOST_ANSWER = "lost answer"
HANGS = "hangs"
TURNED_AWAY = "items turned away"

QUICK = CallPolicy(
    timeout_s=10.0,
    attempt_timeout_s=0.5,
    retry=RetryPolicy(attempts=100, base_s=0.01, cap_s=0.05, budget_s=60.0),
)


def create(number: int, **changes: object) -> Mutation:
    """A draft with a request id made of its number."""
    values: dict = {
        "action": "CREATE",
        "resource_type": "Item",
        "resource_id": str(number),
        "actor_id": "tester",
        "new_state": {"n": number},
        "request_id": f"r-{number}",
    }
    return Mutation(**{**values, **changes})


def _statement(draft: common_pb2.Draft, receipt_id: str) -> bytes:
    return Statement(
        ledger=LEDGER,
        ledger_uid=bytes(16),
        receipt_id=receipt_id,
        request_id=draft.request_id,
        receipt_type="mutation",
        action="CREATE",
        resource_type=draft.mutation.resource_type,
        resource_id=draft.mutation.resource_id,
        actor_id=draft.actor.id,
        actor_type="",
        principal="anonymous",
        origin_service="",
        trace_id="",
        upstream_events=(),
        op_id="",
        op_parent_id="",
        occurred_at="",
        witnessed_at_ns=1_763_665_200_000_000_000,
        media_type="application/json",
        profile="fields-v1",
        payload_hash=bytes(32),
        checks=(),
        salt=bytes(16),
    ).encode()


def _payload(mutation: common_pb2.Mutation) -> bytes:
    states = {"newState": mutation.new_state, "previousState": mutation.previous_state}
    return jcs.encode(
        {name: jcs.parse(text or b"null") for name, text in states.items()} | {"diff": []}
    )


class FakeLedger(ledger_pb2_grpc.LedgerServiceServicer):
    """Records drafts in a list; refuses those whose actor is `bad`."""

    def __init__(self) -> None:
        self.faults: deque[str] = deque()
        self.receipts: list[common_pb2.Receipt] = []
        self.by_request: dict[str, common_pb2.Receipt] = {}
        self.calls: list[int] = []
        # Released by each call of a unary method.
        self.begun = asyncio.Semaphore(0)
        self.stream_sessions = 0
        self.stream_messages: list[int] = []
        self.break_stream_after: list[int] = []
        # Set by a stream that then breaks, with everything on it answered.
        self.breaks_when_idle: asyncio.Event | None = None
        # Once each, unless it is for ever.
        self.turned_away_in_stream: set[str] = set()
        self.turns_away_for_ever = False
        self.unplaced_from: int | None = None
        self.verified_ranges: list[tuple[int, int]] = []
        self.lost_its_end = False

    async def _before(self) -> str:
        self.begun.release()
        fault = self.faults.popleft() if self.faults else ""
        if fault == UNAVAILABLE:
            raise UnavailableError("DRAINING", "going down")
        if fault == EXHAUSTED:
            raise ResourceExhaustedError("QUEUE_FULL", "full", retry_delay_s=0.05)
        if fault == HANGS:
            await asyncio.sleep(60)
        return fault

    def _record(self, draft: common_pb2.Draft) -> tuple[common_pb2.Receipt, bool]:
        if draft.actor.id == "bad":
            raise InvalidArgumentError("INVALID_IDENTIFIER", "actor.id: is bad")
        known = self.by_request.get(draft.request_id)
        if known is not None:
            return known, True
        seq = len(self.receipts) + 1
        receipt_id = f"018f0000-0000-7000-8000-{seq:012x}"
        receipt = common_pb2.Receipt(
            name=f"{LEDGER}/receipts/{receipt_id}",
            receipt_type="mutation",
            ledger_uid=bytes(16),
            suite=common_pb2.SUITE_BLAKE3,
            seq=seq,
            t_ns=1_763_665_200_000_000_000 + seq,
            payload_hash=bytes(32),
            previous_hash=bytes(32),
            receipt_hash=bytes(32),
            kid="witness-1",
            statement=_statement(draft, receipt_id),
            payload=_payload(draft.mutation),
        )
        receipt.commitment.profile = "fields-v1"
        receipt.commitment.secret = bytes(32)
        self.receipts.append(receipt)
        self.by_request[draft.request_id] = receipt
        return receipt, False

    def _result(self, index: int, draft: common_pb2.Draft) -> common_pb2.AppendResult:
        try:
            receipt, repeated = self._record(draft)
        except StatusError as error:
            return common_pb2.AppendResult(index=index, error=status_to_pb(error))
        return common_pb2.AppendResult(index=index, receipt=receipt, repeated_request=repeated)

    async def Append(self, request: Any, context: Any) -> ledger_pb2.AppendResponse:
        self.calls.append(1)
        fault = await self._before()
        receipt, repeated = self._record(request.draft)
        if fault == LOST_ANSWER:
            raise UnavailableError("LOST", "after it was recorded")
        return ledger_pb2.AppendResponse(receipt=receipt, repeated_request=repeated)

    async def AppendBatch(self, request: Any, context: Any) -> ledger_pb2.AppendBatchResponse:
        self.calls.append(len(request.drafts))
        fault = await self._before()
        if request.ledger != LEDGER:
            raise NotFoundError("LEDGER_NOT_FOUND", f"no ledger {request.ledger}")
        results = []
        for index, draft in enumerate(request.drafts):
            if fault == TURNED_AWAY and index % 2:
                error = ResourceExhaustedError("QUEUE_FULL", "full", retry_delay_s=0.02)
                results.append(common_pb2.AppendResult(index=index, error=status_to_pb(error)))
            else:
                results.append(self._result(index, draft))
        if fault == LOST_ANSWER:
            raise UnavailableError("LOST", "after it was recorded")
        return ledger_pb2.AppendBatchResponse(results=results)

    async def AppendStream(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
        self.stream_sessions += 1
        limit = self.break_stream_after.pop(0) if self.break_stream_after else None
        index = 0
        async for request in request_iterator:
            drafts = request.drafts or [request.draft]
            self.stream_messages.append(len(drafts))
            results = []
            for draft in drafts:
                if draft.request_id in self.turned_away_in_stream:
                    if not self.turns_away_for_ever:
                        self.turned_away_in_stream.remove(draft.request_id)
                    error = UnavailableError("WITNESS_AWAY", "not now")
                    result = common_pb2.AppendResult(index=index, error=status_to_pb(error))
                else:
                    result = self._result(index, draft)
                if index == limit:
                    # Recorded, but the answer is lost with the connection.
                    raise UnavailableError("DRAINING", "going down")
                results.append(result)
                index += 1
            if not request.drafts:
                yield ledger_pb2.AppendStreamResponse(result=results[0])
                if self.breaks_when_idle is not None:
                    self.breaks_when_idle.set()
                    raise UnavailableError("DRAINING", "going down")
                continue
            # Those of one message may come in several answers.
            middle = len(results) // 2
            yield ledger_pb2.AppendStreamResponse(results=results[:middle])
            yield ledger_pb2.AppendStreamResponse(results=results[middle:])

    async def GetReceipt(self, request: Any, context: Any) -> ledger_pb2.GetReceiptResponse:
        await self._before()
        for receipt in self.receipts:
            if receipt.name == request.name:
                if request.wait_for > common_pb2.ANCHOR_STATE_PENDING:
                    receipt.anchor_state = request.wait_for
                    del receipt.proofs[:]
                    receipt.proofs.add(origin="example.com/log", checkpoint=b"a signed note")
                return ledger_pb2.GetReceiptResponse(receipt=receipt)
        raise NotFoundError("RECEIPT_NOT_FOUND", "no such receipt")

    async def ListReceipts(self, request: Any, context: Any) -> ledger_pb2.ListReceiptsResponse:
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        more = end < len(self.receipts)
        return ledger_pb2.ListReceiptsResponse(
            receipts=self.receipts[start:end], next_page_token=str(end) if more else ""
        )

    async def CreateLedger(self, request: Any, context: Any) -> ledger_pb2.CreateLedgerResponse:
        raise NotImplementedError

    async def ListLedgers(self, request: Any, context: Any) -> ledger_pb2.ListLedgersResponse:
        raise NotImplementedError

    async def GetHead(self, request: Any, context: Any) -> ledger_pb2.GetHeadResponse:
        raise NotImplementedError

    async def GetLedger(self, request: Any, context: Any) -> ledger_pb2.GetLedgerResponse:
        return ledger_pb2.GetLedgerResponse(
            ledger=ledger_pb2.Ledger(
                name=request.name, suite=common_pb2.SUITE_BLAKE3, seq=len(self.receipts)
            )
        )

    async def VerifyRange(self, request: Any, context: Any) -> ledger_pb2.VerifyRangeResponse:
        self.verified_ranges.append((request.start_seq, request.end_seq))
        if request.start_seq > len(self.receipts):
            raise OutOfRangeError("OUT_OF_RANGE", f"{LEDGER} ends at {len(self.receipts)}")
        if self.lost_its_end:
            raise FailedPreconditionError("LEDGER_BEHIND_ANCHOR", "the log holds more")
        # Less at a time than asked for, as the contract allows.
        last = min(request.end_seq, request.start_seq + 6, len(self.receipts))
        return ledger_pb2.VerifyRangeResponse(
            checked_seq=last,
            checked_count=last - request.start_seq + 1,
            head_seq=len(self.receipts),
            receipt_hash=bytes(32),
            places_checked=request.start_seq != self.unplaced_from,
            name=request.name,
        )


@asynccontextmanager
async def serving(
    fake: FakeLedger, port: int = 0, tls: TLSSettings | None = None
) -> AsyncIterator[str]:
    """Serve on a loopback socket; yields host:port."""
    server = grpc.aio.server(interceptors=[ServiceInterceptor()])
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(fake, server)
    if tls is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        bound = server.add_secure_port(f"127.0.0.1:{port}", server_credentials(renewed(tls)))
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)


class InThread:
    """A fake service on a loop in a thread of its own, for the blocking client."""

    def __enter__(self) -> tuple[FakeLedger, str]:
        self.fake = FakeLedger()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)
        return self.fake, self._endpoint

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self.fake) as self._endpoint:
            self._ready.set()
            await self._stop.wait()
