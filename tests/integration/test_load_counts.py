"""What becomes of every request and draft of a load is counted, once.

One client process's part, in this one, against a ledger service that answers as each test says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from provledger.api.common.v1 import common_pb2
from provledger.errors import ResourceExhaustedError, StatusError, UnavailableError
from provledger.rpc.errors import status_to_pb
from provledger_cli.load import judge, worker
from provledger_cli.load.fleet import Step
from provledger_cli.load.schedule import Arrival, Traffic
from provledger_cli.load.sender import Connections, Sender, Stream
from tests.support.fake_ledger import LEDGER, RECEIPT, Answering, serving

NO_ROOM = common_pb2.AppendResult(error=status_to_pb(ResourceExhaustedError("NO_ROOM", "later")))
AWAY = common_pb2.AppendResult(error=status_to_pb(UnavailableError("AWAY", "away")))


@asynccontextmanager
async def connected(service: Answering) -> AsyncIterator[Connections]:
    async with serving(service) as endpoint:
        connections = Connections(endpoint, None)
        try:
            yield connections
        finally:
            await connections.close()


def of_kind(kind: str, items: int = 1) -> Traffic:
    return Traffic(ledgers=[(LEDGER, 1.0)], kinds=[(kind, 1.0)], batch_items=items, poisson=False)


async def run(sender: Sender, traffic: Traffic, timeout_s: float = 20.0) -> Step:
    """Ten requests in a tenth of a second."""
    order = {"start_s": time.monotonic(), "rate_per_s": 100.0, "seconds": 0.1, "seed": "1"}
    tally = await worker.step(sender, traffic, {**order, "timeout_s": timeout_s})
    await sender.close()
    step = Step(100.0, 0.1)
    step.add(tally.to_json())
    assert step.sent == step.answered + step.refused.total() + step.failed.total() == 10
    return step


@pytest.mark.parametrize(
    ("results", "refused", "failed"),
    [
        ([RECEIPT, RECEIPT, RECEIPT, RECEIPT], 0, 0),
        ([RECEIPT, NO_ROOM, NO_ROOM, NO_ROOM], 3, 0),
        ([NO_ROOM, NO_ROOM, RECEIPT, AWAY], 2, 1),
        ([AWAY, AWAY, AWAY, AWAY], 0, 4),
        # An answer that leaves drafts out, or says nothing of one.
        ([RECEIPT, RECEIPT, RECEIPT], 0, 1),
        ([RECEIPT, RECEIPT, RECEIPT, common_pb2.AppendResult()], 0, 1),
        ([], 0, 4),
    ],
)
async def test_every_draft_of_a_batch_counts(results: Any, refused: int, failed: int) -> None:
    """A batch is answered if all of it is; the bounds are on drafts."""
    traffic = of_kind("batch", 4)
    async with asyncio.timeout(20), connected(Answering(*results)) as connections:
        step = await run(Sender(connections, traffic, "t", 20.0), traffic)
    received = 4 - refused - failed
    assert step.drafts == 40
    assert step.receipts == 10 * received
    assert step.drafts_refused.total() == 10 * refused
    assert step.drafts_failed.total() == 10 * failed
    assert (step.answered, step.failed.total()) == (10 * (received == 4), 10 * bool(failed))
    found = judge.judge([step.document()], max_failed=failed / 4, max_refused=refused / 4)
    assert {each.word for each in found} == {"holds"}
    if failed:
        (less,) = judge.judge([step.document()], max_failed=failed / 4 - 0.01)
        assert less.word == "does not hold"
    if refused:
        (less,) = judge.judge([step.document()], max_refused=refused / 4 - 0.01)
        assert less.word == "does not hold"


async def test_drafts_of_a_batch_that_fails_as_a_whole_count() -> None:
    traffic = of_kind("batch", 4)
    async with asyncio.timeout(20), connected(Answering()) as connections:
        sender = Sender(connections, traffic, "t", 20.0)
        await connections.close()
        step = await run(sender, traffic)
    assert step.drafts == step.drafts_failed.total() == 40


async def test_stream_that_breaks_fails_what_waits_to_be_written() -> None:
    """Those that were not sent yet, since the stream was full, as well as those that were."""
    async with asyncio.timeout(20), connected(Answering()) as connections:
        stream = Stream(connections.stub(LEDGER), LEDGER)
        state = b'"' + b"x" * 300_000 + b'"'
        draft = common_pb2.Draft(mutation=common_pb2.Mutation(new_state=state))
        ended = await asyncio.gather(
            *(stream.append(draft) for _ in range(50)), return_exceptions=True
        )
        await stream.close()
    assert [error for error in ended if not isinstance(error, (StatusError, grpc.RpcError))] == []


class Refused:
    """A call that is refused while its first message is written."""

    def __init__(self) -> None:
        self._written, self._read = asyncio.Event(), asyncio.Event()

    def AppendStream(self) -> Refused:
        return self

    async def write(self, request: Any) -> None:
        self._written.set()
        await self._read.wait()
        raise asyncio.InvalidStateError

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._written.wait()
        self._read.set()
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata, metadata)
        yield

    def cancel(self) -> None:
        pass


async def test_all_that_waits_on_a_stream_that_is_refused_is_refused() -> None:
    stream = Stream(Refused(), LEDGER)
    ended = await asyncio.gather(
        *(stream.append(common_pb2.Draft()) for _ in range(3)), return_exceptions=True
    )
    await stream.close()
    codes = [error.code for error in ended if isinstance(error, StatusError)]
    assert codes == ["RESOURCE_EXHAUSTED"] * 3


class Faulty(Sender):
    """A client with a fault of its own."""

    def __init__(self, error: BaseException, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.error = error

    async def send(self, arrival: Arrival, *, hold_back: bool = False) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [KeyError(), asyncio.CancelledError()])
async def test_fault_of_the_client_is_a_failure(error: BaseException) -> None:
    """And so is a call that something else cancelled."""
    traffic = of_kind("single")
    async with asyncio.timeout(20), connected(Answering()) as connections:
        step = await run(Faulty(error, connections, traffic, "t", 20.0), traffic)
    assert step.failed == {type(error).__name__: 10}


async def test_what_is_still_under_way_at_the_end_has_no_answer() -> None:
    service, traffic = Answering(), of_kind("single")
    service.open.clear()
    async with asyncio.timeout(20), connected(service) as connections:
        step = await run(Sender(connections, traffic, "t", 20.0), traffic, timeout_s=0.1)
    assert step.failed == {"no answer": 10}
