"""The client against a service that misbehaves: nothing is lost and nothing recorded twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from provledger.client import AsyncClient, CallPolicy, Client, Mutation, RangeReport, stream
from provledger.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    IdentifierError,
    InvalidArgumentError,
    InvalidJSONError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    UnavailableError,
)
from provledger.retry import NO_RETRY
from tests.integration.client_simulator import (
    EXHAUSTED,
    HANGS,
    LEDGER,
    LOST_ANSWER,
    QUICK,
    TURNED_AWAY,
    UNAVAILABLE,
    FakeLedger,
    InThread,
    create,
    serving,
)
from tests.support.certs import CertificateAuthority
from tests.support.ledgering import eventually


@pytest.fixture
def fake() -> FakeLedger:
    return FakeLedger()


@pytest_asyncio.fixture
async def client(fake: FakeLedger) -> AsyncIterator[AsyncClient]:
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        yield client


async def test_append_returns_the_receipt(client: AsyncClient, fake: FakeLedger) -> None:
    receipt = await client.append(LEDGER, create(1))
    assert receipt.name == fake.receipts[0].name
    assert receipt.ledger == LEDGER


@pytest.mark.parametrize("fault", [UNAVAILABLE, EXHAUSTED, LOST_ANSWER, HANGS])
async def test_append_is_repeated_until_answered_and_recorded_once(
    client: AsyncClient, fake: FakeLedger, fault: str
) -> None:
    fake.faults.append(fault)
    receipt = await client.append(LEDGER, create(1, request_id=""))
    assert len(fake.calls) == 2
    assert [known.name for known in fake.receipts] == [receipt.name]


async def test_what_the_service_asks_to_wait_is_waited(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([EXHAUSTED] * 4)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await client.append(LEDGER, create(1))
    assert loop.time() - started >= 4 * 0.05


async def test_a_refusal_is_not_repeated(client: AsyncClient, fake: FakeLedger) -> None:
    with pytest.raises(InvalidArgumentError, match="actor"):
        await client.append(LEDGER, create(1, actor_id="bad"))
    assert len(fake.calls) == 1


async def test_the_last_error_is_raised_when_time_is_up(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([UNAVAILABLE] * 1000)
    with pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
        await client.append(LEDGER, create(1), timeout_s=0.3)
    # The time may end in the middle of an attempt, which then says what the one before it met.
    assert "DRAINING" in f"{caught.value.reason} {caught.value.message}"


async def test_a_passed_deadline_says_what_the_attempt_before_it_met(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([UNAVAILABLE, *[HANGS] * 10])
    with pytest.raises(DeadlineExceededError, match="DRAINING"):
        await client.append(LEDGER, create(1), timeout_s=2.0)


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1", policy=QUICK) as client:
        with pytest.raises(UnavailableError):
            await client.append(LEDGER, create(1), timeout_s=0.3)


async def test_a_service_that_never_answers_is_a_passed_deadline(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([HANGS] * 10)
    with pytest.raises(DeadlineExceededError):
        await client.append(LEDGER, create(1), timeout_s=0.2)


async def test_a_restarted_service_is_found_again(fake: FakeLedger) -> None:
    async with serving(fake) as endpoint:
        client = AsyncClient(endpoint, policy=QUICK)
        await client.append(LEDGER, create(1))
    appending = asyncio.create_task(client.append(LEDGER, create(2)))
    # Its first attempts meet a closed port.
    await asyncio.wait({appending}, timeout=0.1)
    assert not appending.done()
    async with serving(fake, int(endpoint.rpartition(":")[2])):
        await appending
        await client.close()
    assert len(fake.receipts) == 2


async def test_appends_at_once_share_calls_and_nothing_else(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.extend([UNAVAILABLE, LOST_ANSWER])
    drafts = [create(n) for n in range(40)]
    drafts[17] = create(17, actor_id="bad")
    done = await asyncio.gather(
        *(client.append(LEDGER, draft) for draft in drafts), return_exceptions=True
    )
    error = done.pop(17)
    assert isinstance(error, InvalidArgumentError)
    assert error.reason == "INVALID_IDENTIFIER"
    recorded = {receipt.name for receipt in fake.receipts}
    assert len(recorded) == len(fake.receipts) == 39
    assert {receipt.name for receipt in done if not isinstance(receipt, BaseException)} == recorded
    assert len(fake.calls) < 10
    # Told not to, each goes by itself.
    async with AsyncClient(client._endpoint, policy=QUICK, share_calls=False) as other:
        before = len(fake.calls)
        await asyncio.gather(*(other.append(LEDGER, create(n)) for n in range(100, 110)))
        assert len(fake.calls) == before + 10


async def test_a_batch_is_split_and_every_draft_answered_in_order(
    client: AsyncClient, fake: FakeLedger
) -> None:
    # With time: a thousand drafts may take longer than the attempts of the other tests.
    async with AsyncClient(client._endpoint) as patient:
        results = await patient.append_batch(LEDGER, [create(n) for n in range(2300)])
    assert fake.calls == [1000, 1000, 300]
    assert [result.index for result in results] == list(range(2300))
    assert [result.request_id for result in results] == [f"r-{n}" for n in range(2300)]
    assert [result.summary.seq for result in results if result.summary] == list(range(1, 2301))


async def test_a_bad_draft_never_fails_its_neighbours(
    client: AsyncClient, fake: FakeLedger
) -> None:
    drafts = [
        create(0),
        create(1, actor_id="bad"),
        create(2, new_state={"x": float("inf")}),
        create(3),
    ]
    results = await client.append_batch(LEDGER, drafts)
    assert [result.summary is not None for result in results] == [True, False, False, True]
    assert isinstance(results[1].error, InvalidArgumentError)
    assert isinstance(results[2].error, InvalidArgumentError)
    assert results[2].error.violations[0].field == "drafts[2]"
    assert len(fake.receipts) == 2


async def test_items_turned_away_for_now_are_sent_again_alone(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.faults.append(TURNED_AWAY)
    results = await client.append_batch(LEDGER, [create(n) for n in range(6)])
    assert fake.calls == [6, 3]
    assert all(result.summary is not None for result in results)
    assert len(fake.receipts) == 6


async def test_a_lost_batch_answer_doubles_nothing(client: AsyncClient, fake: FakeLedger) -> None:
    fake.faults.append(LOST_ANSWER)
    results = await client.append_batch(LEDGER, [create(n) for n in range(5)], full=True)
    assert len(fake.receipts) == 5
    assert all(result.repeated and result.receipt is not None for result in results)


async def test_a_call_that_fails_for_good_raises(client: AsyncClient) -> None:
    with pytest.raises(NotFoundError):
        await client.append_batch("tenants/none/ledgers/main", [create(1)])


async def test_a_stream_answers_in_order(client: AsyncClient, fake: FakeLedger) -> None:
    async def source() -> AsyncIterator[Mutation]:
        for number in range(1000):
            yield create(number, actor_id="bad" if number == 500 else "tester")

    results = [result async for result in client.append_stream(LEDGER, source(), window=16)]
    assert [result.index for result in results] == list(range(1000))
    assert [result.index for result in results if result.error] == [500]
    assert fake.stream_sessions == 1


async def test_a_broken_stream_is_continued_and_doubles_nothing(
    client: AsyncClient, fake: FakeLedger
) -> None:
    fake.break_stream_after = [0, 7, 100]
    drafts = [create(number) for number in range(300)]
    results = [result async for result in client.append_stream(LEDGER, drafts, window=32)]
    assert [result.request_id for result in results] == [f"r-{n}" for n in range(300)]
    assert [receipt.seq for receipt in fake.receipts] == list(range(1, 301))
    assert fake.stream_sessions == 4
    assert any(result.repeated for result in results)


async def test_a_stream_goes_on_with_what_it_turned_away(
    client: AsyncClient, fake: FakeLedger
) -> None:
    """And with all behind it: what was not sent yet does not come before it."""
    fake.turned_away_in_stream = {"r-1", "r-2"}

    async def source() -> AsyncIterator[Mutation]:
        yield create(0, actor_id="bad")
        yield create(1)
        await eventually(lambda: bool(fake.stream_sessions > 1 or fake.calls))
        for number in range(2, 6):
            yield create(number)

    results = [result async for result in client.append_stream(LEDGER, source())]
    assert [result.index for result in results] == list(range(6))
    assert [result.index for result in results if result.error] == [0]
    assert [result.summary.seq for result in results[1:3] if result.summary] == [1, 5]
    # What was sent together with the third alone came before it, and is no double.
    assert list(fake.by_request) == ["r-1", "r-3", "r-4", "r-5", "r-2"]
    assert [result.index for result in results if result.repeated] == [3, 4, 5]
    assert fake.calls == []


async def test_what_a_stream_turns_away_for_too_long_ends_it(fake: FakeLedger) -> None:
    fake.turned_away_in_stream = {"r-2"}
    fake.turns_away_for_ever = True
    once = CallPolicy(retry=NO_RETRY)
    drafts = [create(n) for n in range(4)]
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=once) as client:
        results = client.append_stream(LEDGER, drafts)
        assert [(await anext(results)).index for _ in range(2)] == [0, 1]
        with pytest.raises(UnavailableError, match="not now") as caught:
            await anext(results)
    assert caught.value.request_ids == ("r-2", "r-3")


async def test_drafts_at_hand_share_a_message_and_a_slow_source_waits_for_none(
    client: AsyncClient, fake: FakeLedger
) -> None:
    results = [result async for result in client.append_stream(LEDGER, map(create, range(600)))]
    assert [result.index for result in results] == list(range(600))
    assert fake.stream_messages[:2] == [256, 256]
    fake.stream_messages.clear()
    answered = asyncio.Event()

    async def one_by_one() -> AsyncIterator[Mutation]:
        for number in range(600, 605):
            answered.clear()
            yield create(number)
            await answered.wait()

    async for result in client.append_stream(LEDGER, one_by_one()):
        assert result.error is None
        answered.set()
    assert fake.stream_messages == [1] * 5


async def test_a_stream_reads_its_source_no_further_than_the_window(
    client: AsyncClient, fake: FakeLedger
) -> None:
    taken = 0

    def source() -> Iterator[Mutation]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield create(number)

    stream = client.append_stream(LEDGER, source(), window=10)
    for _ in range(5):
        await anext(stream)
    assert taken <= 5 + 10 + 1
    await stream.aclose()  # type: ignore[attr-defined]


async def test_drafts_that_are_larger_than_the_window_go_one_by_one(
    client: AsyncClient, fake: FakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 100)
    drafts = [create(number, new_state={"n": "x" * 1000}) for number in range(5)]
    results = [result async for result in client.append_stream(LEDGER, drafts)]
    assert [result.index for result in results] == list(range(5))
    assert fake.stream_messages == [1] * 5


async def test_a_stream_is_opened_with_its_first_draft(
    client: AsyncClient, fake: FakeLedger
) -> None:
    """A source may be silent for long, and a stream on which nothing is sent is ended."""
    asked, ready = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[Mutation]:
        asked.set()
        await ready.wait()
        yield create(0)

    stream = aiter(client.append_stream(LEDGER, source()))
    first = asyncio.ensure_future(anext(stream))
    await asked.wait()
    # Whatever was begun before them is at the service by now.
    for _ in range(3):
        await client.get_ledger(LEDGER)
    assert fake.stream_sessions == 0
    ready.set()
    assert (await first).index == 0
    assert fake.stream_sessions == 1
    assert [result async for result in stream] == []


async def test_a_stream_that_breaks_with_nothing_unanswered_is_no_failure(
    fake: FakeLedger,
) -> None:
    fake.breaks_when_idle = broken = asyncio.Event()

    async def source() -> AsyncIterator[Mutation]:
        yield create(0)
        await broken.wait()

    once = CallPolicy(retry=NO_RETRY)
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=once) as client:
        results = [result async for result in client.append_stream(LEDGER, source())]
    assert [result.index for result in results] == [0]


async def test_what_a_stream_was_ended_with_is_told_also_to_who_was_writing(
    fake: FakeLedger,
) -> None:
    """gRPC itself says INTERNAL then, every other time."""
    streams = 20
    fake.break_stream_after = [0] * streams
    drafts = [create(number, new_state={"n": "x" * 100_000}) for number in range(200)]
    once = CallPolicy(retry=NO_RETRY)
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=once) as client:
        for _ in range(streams):
            with pytest.raises(UnavailableError) as caught:
                await anext(aiter(client.append_stream(LEDGER, drafts)))
            assert caught.value.reason == "DRAINING"


async def test_a_stream_of_nothing_ends(client: AsyncClient, fake: FakeLedger) -> None:
    assert [result async for result in client.append_stream(LEDGER, [])] == []


async def test_a_draft_that_cannot_be_written_ends_the_stream_after_those_before_it(
    client: AsyncClient, fake: FakeLedger
) -> None:
    drafts = [create(0), create(1), create(2, new_state=float("nan")), create(3)]
    results = client.append_stream(LEDGER, drafts)
    assert [(await anext(results)).index for _ in range(2)] == [0, 1]
    with pytest.raises(InvalidJSONError):
        await anext(results)
    assert len(fake.receipts) == 2


async def test_listing_goes_through_all_pages(client: AsyncClient, fake: FakeLedger) -> None:
    await client.append_batch(LEDGER, [create(n) for n in range(25)])
    receipts = [receipt async for receipt in client.list_receipts(LEDGER, page_size=10)]
    summaries = [item async for item in client.list_summaries(LEDGER, page_size=10)]
    assert [receipt.seq for receipt in receipts] == list(range(1, 26))
    assert [item.name for item in summaries] == [receipt.name for receipt in receipts]


async def test_verify_range_goes_on_until_all_is_checked(
    client: AsyncClient, fake: FakeLedger
) -> None:
    await client.append_batch(LEDGER, [create(n) for n in range(20)])
    told: list[int] = []
    report = await client.verify_range(LEDGER, progress=told.append)
    assert (report.checked_seq, report.checked_count) == (20, 21)
    assert told == [7, 14, 21]
    assert report.places_checked
    # One piece that could not be compared is enough.
    fake.unplaced_from = 7
    assert not (await client.verify_range(LEDGER)).places_checked


async def test_a_range_without_rows_has_the_row_before_it_checked(
    client: AsyncClient, fake: FakeLedger
) -> None:
    """Whoever goes on each night where he stopped hears of a ledger that became shorter."""
    await client.append_batch(LEDGER, [create(n) for n in range(5)])
    told: list[int] = []
    for end_seq in (None, 5):
        report = await client.verify_range(
            LEDGER, start_seq=6, end_seq=end_seq, progress=told.append
        )
        assert report == RangeReport(6, 5, 0, 5, bytes(32), True)
    assert fake.verified_ranges == [(5, 5)] * 2
    assert not told
    fake.unplaced_from = 5
    assert not (await client.verify_range(LEDGER, start_seq=6)).places_checked
    fake.lost_its_end = True
    with pytest.raises(FailedPreconditionError, match="the log holds more"):
        await client.verify_range(LEDGER, start_seq=6)


@pytest.mark.parametrize(("start_seq", "end_seq"), [(7, None), (7, 6), (7, 5), (7, 7), (3, 6)])
async def test_a_range_beyond_the_head_is_out_of_range(
    client: AsyncClient, start_seq: int, end_seq: int | None
) -> None:
    await client.append_batch(LEDGER, [create(n) for n in range(5)])
    with pytest.raises(OutOfRangeError, match="ends at 5"):
        await client.verify_range(LEDGER, start_seq=start_seq, end_seq=end_seq)


@pytest.mark.parametrize("end_seq", [None, -6, 3])
async def test_a_range_from_before_the_beginning_is_refused(
    client: AsyncClient, fake: FakeLedger, end_seq: int | None
) -> None:
    with pytest.raises(IdentifierError) as caught:
        await client.verify_range(LEDGER, start_seq=-5, end_seq=end_seq)
    assert caught.value.field == "start_seq"
    assert not fake.verified_ranges


async def test_waiting_for_an_anchor_goes_on_over_attempts(
    client: AsyncClient, fake: FakeLedger
) -> None:
    receipt = await client.append(LEDGER, create(1))
    fake.faults.extend([UNAVAILABLE])
    assert (await client.wait_for_anchor(receipt.name)).name == receipt.name


async def test_jwks_without_a_keys_endpoint_says_what_is_missing(client: AsyncClient) -> None:
    with pytest.raises(FailedPreconditionError, match="keys_endpoint"):
        await client.jwks()


def test_the_blocking_client_does_the_same() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        fake.faults.append(LOST_ANSWER)
        receipt = client.append(LEDGER, create(0))
        assert client.get_receipt(receipt.name) == receipt
        results = client.append_batch(LEDGER, [create(n) for n in range(1, 5)])
        assert all(result.summary for result in results)
        streamed = list(client.append_stream(LEDGER, (create(n) for n in range(5, 20))))
        assert [result.index for result in streamed] == list(range(15))
        assert [item.seq for item in client.list_receipts(LEDGER, page_size=7)] == list(
            range(1, 21)
        )
        with pytest.raises(NotFoundError):
            client.get_receipt(f"{LEDGER}/receipts/none")


def test_the_blocking_client_may_begin_with_a_stream() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        assert len(list(client.append_stream(LEDGER, [create(n) for n in range(5)]))) == 5
        assert len(fake.receipts) == 5


async def test_with_certificates_the_client_is_known_and_without_it_is_not_served(
    fake: FakeLedger, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path)
    async with serving(fake, tls=authority.server()) as endpoint:
        address = f"localhost:{endpoint.rpartition(':')[2]}"
        async with AsyncClient(address, tls=authority.issue("importer"), policy=QUICK) as client:
            await client.append(LEDGER, create(1))
        async with AsyncClient(address, policy=QUICK) as stranger:
            with pytest.raises(UnavailableError):
                await stranger.append(LEDGER, create(2), timeout_s=0.3)
    assert len(fake.receipts) == 1


def test_the_blocking_client_may_be_left_in_the_middle_of_a_listing() -> None:
    with InThread() as (_, endpoint), Client(endpoint, policy=QUICK) as client:
        client.append_batch(LEDGER, [create(n) for n in range(30)])
        listing = client.list_receipts(LEDGER, page_size=10)
        assert next(listing).seq == 1
        listing.close()  # type: ignore[attr-defined]
        assert client.get_ledger(LEDGER).seq == 30


def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(FailedPreconditionError, match="closed"):
        client.get_ledger(LEDGER)


def test_the_blocking_client_is_shared_between_threads() -> None:
    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        threads = [
            threading.Thread(target=client.append, args=(LEDGER, create(n))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(fake.receipts) == 20


async def test_client_holds_back_what_an_overloaded_service_would_refuse(
    fake: FakeLedger,
) -> None:
    """Its caller hears RESOURCE_EXHAUSTED with a delay all the same, and the service little."""
    once = CallPolicy(retry=NO_RETRY)
    fake.faults.extend([EXHAUSTED] * 1000)
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=once) as client:
        for number in range(300):
            with pytest.raises(ResourceExhaustedError) as caught:
                await client.append(LEDGER, create(number))
            assert caught.value.retry_delay_s == 0.05
        assert len(fake.calls) < 100
        # Another tenant's calls are not held back.
        before = len(fake.calls)
        with pytest.raises(ResourceExhaustedError, match="full"):
            await client.append("tenants/other/ledgers/main", create(1))
        assert len(fake.calls) == before + 1
