"""What is iterated over with the blocking client ends with the client, and with its last owner."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from provledger.client import Client, Mutation
from provledger.errors import CancelledError, FailedPreconditionError
from tests.integration.client_simulator import LEDGER, QUICK, InThread, create


def _drafts(count: int) -> Iterator[Mutation]:
    return (create(number) for number in range(count))


@pytest.mark.parametrize("taken", [1, 3])
def test_a_stream_whose_client_is_closed_between_two_results_has_the_ids_of_the_rest(
    taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    """They are recorded, and whoever made no ids of his own could only record them once more."""
    with InThread() as (fake, endpoint):
        client = Client(endpoint, policy=QUICK)
        stream = client.append_stream(LEDGER, _drafts(40), window=20)
        results = [next(stream) for _ in range(taken)]
        deadline_s = time.monotonic() + 30.0
        while len(fake.receipts) < 20 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        with caplog.at_level(logging.ERROR, logger="asyncio"):
            client.close()
        with pytest.raises(FailedPreconditionError) as caught:
            next(stream)
        assert caught.value.reason == "CLIENT_CLOSED"
        told = [result.request_id for result in results] + list(caught.value.request_ids)
        assert told == [f"r-{number}" for number in range(len(told))]
        assert set(fake.by_request) <= set(told)
        # Nothing was closed while it ran.
        assert not caplog.records
        assert list(stream) == []


def test_a_listing_whose_client_is_closed_between_two_items_says_so() -> None:
    with InThread() as (_, endpoint):
        client = Client(endpoint, policy=QUICK)
        client.append_batch(LEDGER, _drafts(30))
        listing = client.list_receipts(LEDGER, page_size=10)
        assert next(listing).seq == 1
        client.close()
        with pytest.raises(FailedPreconditionError, match="closed") as caught:
            next(listing)
        assert caught.value.request_ids == ()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, threading.Event]]:
    """A client, and whether what it lists has ended."""
    end = threading.Event()

    async def listing(*_args: Any, **_options: Any) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            end.set()

    with Client("127.0.0.1:1") as client:
        monkeypatch.setattr(client._client, "list_receipts", listing)
        yield client, end


def test_what_nobody_has_any_more_is_ended_without_a_wait(
    ended: tuple[Client, threading.Event],
) -> None:
    """The collector may find it under any lock, also one that the end would need."""
    client, end = ended
    listing = client.list_receipts(LEDGER)
    next(listing)
    dropped, waited = threading.Event(), list[bool]()
    client._own._loop.call_soon_threadsafe(lambda: waited.append(dropped.wait(5.0)))
    del listing
    dropped.set()
    assert end.wait(30)
    assert waited == [True]


def test_whoever_closes_what_he_iterates_over_waits_for_its_end(
    ended: tuple[Client, threading.Event],
) -> None:
    client, end = ended
    listing: Any = client.list_receipts(LEDGER)
    next(listing)
    listing.close()
    assert end.is_set()
    assert list(listing) == []


def test_one_thread_at_a_time_waits_for_the_next_item() -> None:
    reading, given = threading.Event(), threading.Event()

    def source() -> Iterator[Mutation]:
        reading.set()
        given.wait(30)
        yield create(0)

    with InThread() as (_, endpoint), Client(endpoint, policy=QUICK) as client:
        stream = client.append_stream(LEDGER, source())
        results: list[Any] = []
        first = threading.Thread(target=lambda: results.append(next(stream)))
        first.start()
        assert reading.wait(30)
        with pytest.raises(ValueError, match="another thread"):
            next(stream)
        given.set()
        first.join(30)
        assert [result.request_id for result in results] == ["r-0"]


def test_a_stream_that_is_closed_while_its_next_result_is_waited_for_has_the_ids_of_the_rest() -> (
    None
):
    """By another thread, as a watchdog does; whoever waits for it could only record them again."""
    waiting, results, met = threading.Event(), list[str](), list[BaseException]()

    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        fake.turned_away_in_stream.add("r-3")
        fake.turns_away_for_ever = True
        stream: Any = client.append_stream(LEDGER, _drafts(5))

        def take() -> None:
            try:
                for result in stream:
                    results.append(result.request_id)
                    if len(results) == 3:
                        waiting.set()
            except BaseException as error:
                met.append(error)

        taking = threading.Thread(target=take)
        taking.start()
        assert waiting.wait(30)
        # The fourth is asked for, and sent again and again.
        sessions = fake.stream_sessions
        while fake.stream_sessions < sessions + 3:
            taking.join(0.01)
        stream.close()
        taking.join(30)
        assert isinstance(met[0], CancelledError)
        assert met[0].reason == "ITERATION_CLOSED"
        assert [*results, *met[0].request_ids] == [f"r-{number}" for number in range(5)]
        assert list(stream) == []
