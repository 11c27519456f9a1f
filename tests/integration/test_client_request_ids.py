"""Appends that fail say under which request ids they were sent: trying again doubles nothing.

The drafts here have no ids of their own, so that nobody but the client could know them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from provledger.client import AsyncClient, CallPolicy, Client, Mutation
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    StatusError,
    UnavailableError,
)
from provledger.retry import NO_RETRY
from tests.integration import client_simulator
from tests.integration.client_simulator import (
    HANGS,
    LEDGER,
    LOST_ANSWER,
    FakeLedger,
    InThread,
    create,
    serving,
)

ONCE = CallPolicy(retry=NO_RETRY)


@pytest.fixture
def fake() -> FakeLedger:
    return FakeLedger()


@pytest_asyncio.fixture
async def client(fake: FakeLedger) -> AsyncIterator[AsyncClient]:
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=ONCE) as client:
        yield client


def _draft(number: int, **changes: object) -> Mutation:
    return create(number, request_id="", **changes)


async def _failed(client: AsyncClient, draft: Mutation) -> StatusError:
    with pytest.raises(StatusError) as caught:
        await client.append(LEDGER, draft)
    return caught.value


async def test_an_append_whose_answer_is_lost_can_be_sent_again(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.append(LOST_ANSWER)
    draft = _draft(1)
    error = await _failed(client, draft)
    assert isinstance(error, UnavailableError)
    (request_id,) = error.request_ids
    receipt = await client.append(LEDGER, replace(draft, request_id=request_id))
    assert [known.name for known in fake.receipts] == [receipt.name]


async def test_an_append_that_is_refused_names_its_request_too(client: AsyncClient) -> None:
    error = await _failed(client, create(1, actor_id="bad"))
    assert isinstance(error, InvalidArgumentError)
    assert error.request_ids == ("r-1",)


async def test_each_of_those_that_shared_a_call_is_told_its_own(
    client: AsyncClient, fake: FakeLedger
) -> None:
    """One failed call is an error of its own to each of them."""
    fake.faults.append(LOST_ANSWER)
    drafts = [_draft(n) for n in range(10)]
    errors = await asyncio.gather(*(_failed(client, draft) for draft in drafts))
    assert fake.calls == [10]
    assert all(isinstance(error, UnavailableError) and error.reason == "LOST" for error in errors)
    again = [
        replace(draft, request_id=error.request_ids[0])
        for draft, error in zip(drafts, errors, strict=True)
    ]
    for number, draft in enumerate(again):
        receipt = await client.append(LEDGER, draft)
        assert fake.by_request[draft.request_id].name == receipt.name, number
    assert len(fake.receipts) == 10


async def test_a_batch_without_an_answer_has_an_id_for_each_draft(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.append(LOST_ANSWER)
    drafts = [_draft(0), _draft(1, new_state=float("nan")), create(2), _draft(3)]
    with pytest.raises(UnavailableError) as caught:
        await client.append_batch(LEDGER, drafts)
    request_ids = caught.value.request_ids
    # The second could not be written down, and has none.
    assert [bool(request_id) for request_id in request_ids] == [True, False, True, True]
    assert request_ids[2] == "r-2"
    again = [
        replace(draft, request_id=request_id)
        for draft, request_id in zip(drafts, request_ids, strict=True)
    ]
    results = await client.append_batch(LEDGER, again)
    assert [result.repeated for result in results] == [True, False, True, True]
    assert len(fake.receipts) == 3


async def test_a_stream_that_fails_has_the_ids_of_what_it_did_not_answer(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.break_stream_after = [300]
    drafts = [_draft(n) for n in range(600)]
    results = []

    async def take_all() -> None:
        async for result in client.append_stream(LEDGER, drafts):
            results.append(result)

    # Met while it reads or while it writes, a broken connection is another error.
    with pytest.raises(StatusError) as caught:
        await take_all()
    sent = len(results) + len(caught.value.request_ids)
    assert len(results) <= 300 < len(fake.receipts) <= sent
    again = [
        replace(draft, request_id=request_id)
        for draft, request_id in zip(
            drafts[len(results) : sent], caught.value.request_ids, strict=True
        )
    ]
    results += [item async for item in client.append_stream(LEDGER, again + drafts[sent:])]
    assert all(result.error is None for result in results)
    assert [receipt.seq for receipt in fake.receipts] == list(range(1, 601))


async def test_a_source_that_fails_leaves_nothing_unanswered(client: AsyncClient) -> None:
    """Its error is the source's own."""
    failure = UnavailableError("ELSEWHERE", "no")
    failure.request_ids = ("of elsewhere",)

    async def source() -> AsyncIterator[Mutation]:
        yield _draft(0)
        raise failure

    stream = client.append_stream(LEDGER, source())
    assert (await anext(stream)).error is None
    with pytest.raises(UnavailableError) as caught:
        await anext(stream)
    assert caught.value.request_ids == ("of elsewhere",)


async def test_appends_of_a_client_that_is_closed_name_theirs(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([HANGS] * 10)
    appends = []
    async with asyncio.timeout(30):
        # One alone, two in a call, and two that wait.
        for numbers in ((0,), (1, 2)):
            appends += [asyncio.ensure_future(_failed(client, create(n))) for n in numbers]
            await fake.begun.acquire()
        appends += [asyncio.ensure_future(_failed(client, create(n))) for n in (3, 4)]
        await asyncio.sleep(0)
        await client.close()
        errors = await asyncio.gather(*appends)
    assert all(isinstance(error, FailedPreconditionError) for error in errors)
    assert [error.request_ids for error in errors] == [(f"r-{n}",) for n in range(5)]


class Recording(FakeLedger):
    """Records what comes, and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded = threading.Event()

    async def Append(self, request: Any, context: Any) -> Any:
        await self._keep([request.draft])

    async def AppendBatch(self, request: Any, context: Any) -> Any:
        await self._keep(request.drafts)

    async def AppendStream(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            await self._keep(request.drafts or [request.draft])
        yield

    async def _keep(self, drafts: Any) -> None:
        for draft in drafts:
            self._record(draft)
        self.recorded.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["append", "batch", "stream"])
def test_appends_of_a_blocking_client_that_is_closed_name_theirs(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_simulator, "FakeLedger", Recording)
    with InThread() as (fake, endpoint), ThreadPoolExecutor(1) as others:
        client = Client(endpoint, policy=ONCE)
        drafts = [_draft(1), _draft(2)]
        work: dict[str, Callable[[], object]] = {
            "append": lambda: client.append(LEDGER, drafts[0]),
            "batch": lambda: client.append_batch(LEDGER, drafts),
            "stream": lambda: list(client.append_stream(LEDGER, drafts)),
        }
        failing = others.submit(work[kind])
        assert isinstance(fake, Recording)
        assert fake.recorded.wait(30)
        client.close()
        # A stream is told that its call was cancelled.
        with pytest.raises((FailedPreconditionError, UnavailableError)) as caught:
            failing.result(30)
    assert caught.value.request_ids[: len(fake.by_request)] == tuple(fake.by_request)


def test_the_blocking_client_does_the_same() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, policy=ONCE) as client:
        fake.faults.append(LOST_ANSWER)
        draft = _draft(1)
        with pytest.raises(UnavailableError) as caught:
            client.append(LEDGER, draft)
        client.append(LEDGER, replace(draft, request_id=caught.value.request_ids[0]))
        fake.faults.append(LOST_ANSWER)
        with pytest.raises(UnavailableError) as caught:
            client.append_batch(LEDGER, [_draft(2), _draft(3)])
        assert caught.value.request_ids == tuple(fake.by_request)[1:]
        fake.break_stream_after = [0]
        with pytest.raises(StatusError) as broken:
            list(client.append_stream(LEDGER, [_draft(4)]))
        assert broken.value.request_ids == tuple(fake.by_request)[3:]
        assert len(fake.receipts) == 4
