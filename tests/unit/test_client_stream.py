"""A stream's call that goes wrong on this side of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient, CallPolicy, Client, Document
from provledger.client import stream as client_stream
from provledger.client.stream import append_stream
from provledger.errors import (
    DeadlineExceededError,
    IdentifierError,
    InvalidArgumentError,
    UnavailableError,
)
from provledger.retry import NO_RETRY, RetryPolicy
from provledger.rpc.errors import status_to_pb

LEDGER = "tenants/acme/ledgers/main"
DRAFT = Document(
    receipt_type="evidence.note",
    media_type="text/plain",
    payload=b"x",
    resource_type="Note",
    resource_id="1",
    actor_id="tester",
)
FOR_EVER = CallPolicy(timeout_s=1e6, attempt_timeout_s=1e6)


class _Call:
    """What all of them do."""

    def add_done_callback(self, callback: Any) -> None:
        pass


class _Unwritable(_Call):
    """A call whose messages cannot be sent, and on which nothing is ever answered."""

    def AppendStream(self, metadata: Any) -> _Unwritable:
        return self

    async def write(self, request: Any) -> None:
        raise ZeroDivisionError("while it was written")

    async def read(self) -> Any:
        await asyncio.Event().wait()

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass


async def test_what_the_writer_fails_with_is_raised_at_once() -> None:
    stream = append_stream(
        _Unwritable,
        LEDGER,
        [DRAFT],
        full=False,
        window=1,
        policy=FOR_EVER,
    )
    async with asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError, match="while it was written"):
            await anext(stream)


class _Lost(_Call):
    """A call that takes its first message, and breaks."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._written = asyncio.Event()

    def AppendStream(self, metadata: Any) -> _Lost:
        return self

    async def write(self, request: ledger_pb2.AppendStreamRequest) -> None:
        self.sent += [draft.request_id for draft in request.drafts or [request.draft]]
        self._written.set()

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        await self._written.wait()
        raise UnavailableError("LOST", "with what was written")

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass


async def test_what_a_stream_raises_has_the_ids_of_what_it_sent() -> None:
    call = _Lost()
    stream = append_stream(
        lambda: call,
        LEDGER,
        [DRAFT] * 5,
        full=False,
        window=3,
        policy=CallPolicy(timeout_s=1e6, attempt_timeout_s=1e6, retry=NO_RETRY),
    )
    async with asyncio.timeout(30):
        with pytest.raises(UnavailableError) as caught:
            await anext(stream)
    # Two were not read: the window was full.
    assert len(call.sent) == 3
    assert list(caught.value.request_ids) == call.sent


async def test_the_window_is_of_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_stream, "WINDOW_BYTES", 10_000)
    read: list[Document] = []

    def source() -> Iterator[Document]:
        while True:
            read.append(replace(DRAFT, payload=bytes(4000)))
            yield read[-1]

    call = _Lost()
    once = CallPolicy(timeout_s=1e6, attempt_timeout_s=1e6, retry=NO_RETRY)
    stream = append_stream(lambda: call, LEDGER, source(), full=False, window=512, policy=once)
    async with asyncio.timeout(30):
        with pytest.raises(UnavailableError) as caught:
            await anext(stream)
    # The third was read, and waited.
    assert (len(caught.value.request_ids), len(read)) == (2, 3)


class _EndedWhenIdle(_Call):
    """A call that answers its first message, by refusing the draft, and then ends in order."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended
        self._written = asyncio.Event()
        refused = common_pb2.AppendResult(error=status_to_pb(InvalidArgumentError("BAD", "no")))
        self._answers = iter([ledger_pb2.AppendStreamResponse(result=refused)])

    def AppendStream(self, metadata: Any) -> _EndedWhenIdle:
        return self

    async def write(self, request: Any) -> None:
        self._written.set()

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        await self._written.wait()
        return next(self._answers, grpc.aio.EOF)

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        self._ended.set()


async def test_a_stream_that_is_ended_while_nothing_is_due_is_opened_again() -> None:
    ended = asyncio.Event()

    async def source() -> AsyncIterator[Document]:
        yield DRAFT
        await ended.wait()
        yield DRAFT

    stream = append_stream(
        lambda: _EndedWhenIdle(ended),
        LEDGER,
        source(),
        full=False,
        window=1,
        policy=CallPolicy(timeout_s=1e6, attempt_timeout_s=1e6, retry=NO_RETRY),
    )
    async with asyncio.timeout(30):
        assert [result.index async for result in stream] == [0, 1]


@pytest.mark.parametrize(
    ("ledger", "window", "field"),
    [
        (LEDGER, 0, "window"),
        (LEDGER, -1, "window"),
        (7, 1, "ledger"),
        (b"tenants/\xff", 1, "ledger"),
        ("tenants/\ud800", 1, "ledger"),
    ],
)
async def test_what_no_stream_can_have_is_refused_by_the_call(
    ledger: Any, window: int, field: str
) -> None:
    """A window of none would never end, and a name that is no text wait out the timeout."""
    client = AsyncClient("127.0.0.1:1")
    with pytest.raises(IdentifierError) as caught:
        client.append_stream(ledger, [DRAFT], window=window)
    assert caught.value.field == field
    with Client("127.0.0.1:1") as blocking, pytest.raises(IdentifierError):
        blocking.append_stream(ledger, [DRAFT], window=window)


class _Silent(_Call):
    """A call on which nothing more comes than so many answers, by which drafts are refused."""

    def __init__(self, answers: int) -> None:
        self._left = answers
        self._written = asyncio.Event()

    def AppendStream(self, metadata: Any) -> _Silent:
        return self

    async def write(self, request: Any) -> None:
        self._written.set()

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        await self._written.wait()
        if not self._left:
            await asyncio.Event().wait()
        self._left -= 1
        refused = common_pb2.AppendResult(error=status_to_pb(InvalidArgumentError("BAD", "no")))
        return ledger_pb2.AppendStreamResponse(result=refused)

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass


async def test_an_end_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_stream, "END_S", 0.01)
    results = append_stream(
        lambda: _Silent(1), LEDGER, [DRAFT], full=False, window=1, policy=FOR_EVER
    )
    async with asyncio.timeout(10):
        assert [result.index async for result in results] == [0]


@pytest.mark.parametrize("silent_s", [0.0, 0.01], ids=["at once", "after a pause"])
async def test_the_timeout_bounds_a_wait_for_an_answer(silent_s: float) -> None:
    """Also where an attempt may take longer, and where the wait began before the draft came."""

    async def source() -> AsyncIterator[Document]:
        yield DRAFT
        await asyncio.sleep(silent_s)
        yield DRAFT

    policy = CallPolicy(timeout_s=0.5, attempt_timeout_s=1e6)
    results = append_stream(
        lambda: _Silent(1), LEDGER, source(), full=False, window=2, policy=policy
    )
    async with asyncio.timeout(10):
        assert (await anext(results)).index == 0
        with pytest.raises(DeadlineExceededError, match="no answer") as caught:
            await anext(results)
    assert len(caught.value.request_ids) == 1


async def test_a_stream_that_runs_out_of_time_says_what_it_met_before() -> None:
    """The last connection often has too little time left to hear it once more."""
    calls: Iterator[Any] = iter([_Lost(), _Silent(0)])
    policy = CallPolicy(timeout_s=0.3, attempt_timeout_s=1e6, retry=RetryPolicy(base_s=0.001))
    results = append_stream(
        lambda: next(calls), LEDGER, [DRAFT], full=False, window=1, policy=policy
    )
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceededError, match=r"no answer.*before met LOST"):
            await anext(results)
