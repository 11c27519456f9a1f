"""`import` as a pipeline: bounded, exact in what it counts, and safe to run again."""

from __future__ import annotations

import asyncio
import collections
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import InternalError, NotFoundError, UnavailableError
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.transfer.importing import Progress, Rejection, run_import
from provledger_cli.transfer.lines import no_request_ids, request_ids
from tests.integration.client_simulator import (
    EXHAUSTED,
    LEDGER,
    LOST_ANSWER,
    TURNED_AWAY,
    UNAVAILABLE,
    FakeLedger,
    serving,
)

IDS = request_ids(b"k" * 32, "test")


def lines(count: int, **changes: Any) -> Iterator[bytes]:
    for number in range(1, count + 1):
        value = {
            "action": "CREATE",
            "resource_type": "Item",
            "resource_id": str(number),
            "actor_id": "tester",
            "new_state": {"n": number},
        }
        yield orjson.dumps(value | changes) + b"\n"


@pytest.fixture
def fake() -> FakeLedger:
    return FakeLedger()


@pytest_asyncio.fixture
async def remote(fake: FakeLedger, tmp_path: Path) -> AsyncIterator[Remote]:
    async with serving(fake) as endpoint:
        where = Target(DataDir.at(tmp_path), {"ledger": endpoint}, False)
        async with Remote(where, timeout_s=10.0) as remote:
            yield remote


async def do_import(remote: Remote, source: Iterable[bytes], **options: Any) -> Progress:
    progress = Progress()
    await run_import(remote, LEDGER, source, IDS, progress=progress, **options)
    return progress


async def test_every_line_is_recorded(remote: Remote, fake: FakeLedger) -> None:
    progress = await do_import(remote, lines(1234), batch_items=100)
    assert (progress.lines, progress.appended, progress.rejected) == (1234, 1234, 0)
    assert set(fake.by_request) == {IDS(number) for number in range(1, 1235)}
    assert sorted(fake.calls, reverse=True) == [100] * 12 + [34]


@pytest.mark.parametrize("seed", range(5))
async def test_lines_about_one_resource_stay_in_order_through_any_trouble(
    remote: Remote, fake: FakeLedger, seed: int
) -> None:
    chance = random.Random(seed)
    kinds = [UNAVAILABLE, LOST_ANSWER, EXHAUSTED, "", "", ""]
    fake.faults.extend(chance.choices(kinds, k=20))
    source, numbers = [], collections.defaultdict(list)
    for number, line in enumerate(lines(600), start=1):
        resource = str(chance.randrange(150))
        source.append(orjson.dumps({**orjson.loads(line), "resource_id": resource}))
        numbers[resource].append(IDS(number))
    await do_import(remote, source, batch_items=20, in_flight=5)
    places = {request_id: place for place, request_id in enumerate(fake.by_request)}
    for ids in numbers.values():
        assert [places[item] for item in ids] == sorted(places[item] for item in ids)


async def test_running_it_again_appends_nothing(remote: Remote, fake: FakeLedger) -> None:
    await do_import(remote, lines(50))
    progress = await do_import(remote, lines(60))
    assert (progress.appended, progress.repeated) == (10, 50)
    assert len(fake.receipts) == 60


async def test_bad_lines_are_named_and_lose_nothing_else(remote: Remote, fake: FakeLedger) -> None:
    good = list(lines(4))
    unknown = orjson.dumps({**orjson.loads(good[0]), "colour": "red"})
    refused = next(lines(1, actor_id="bad"))
    source = [good[0], b"{nope\n", good[1], unknown, b"\n", refused, good[2], good[3]]
    progress = await do_import(remote, source, batch_items=2)
    assert (progress.appended, progress.rejected, progress.lines) == (4, 3, 8)
    assert [(item.line, item.field) for item in progress.rejections] == [
        (2, ""),
        (4, "colour"),
        (6, ""),
    ]
    assert progress.rejections[2].reason == "INVALID_IDENTIFIER"


async def test_rejected_lines_have_the_reasons_that_are_documented(
    remote: Remote, fake: FakeLedger
) -> None:
    good = next(iter(lines(1)))
    unknown = orjson.dumps({**orjson.loads(good), "colour": "red"})
    source = [b"{}", b'{"action":"CREATE"}', unknown, b'{"action":"MERGE"}', good]
    progress = await do_import(remote, source)
    assert (progress.appended, progress.rejected) == (1, 4)
    assert [(item.field, item.reason) for item in progress.rejections] == [
        ("action", "REQUIRED"),
        ("resource_type", "REQUIRED"),
        ("colour", "INVALID_FIELD"),
        ("action", "ACTION_INVALID"),
    ]


async def test_a_line_that_is_too_long_is_rejected(remote: Remote, fake: FakeLedger) -> None:
    source = [*lines(1), b"x" * (9 * 1024 * 1024), *lines(1)]
    progress = await do_import(remote, source)
    assert progress.rejected == 1
    assert "longer than" in progress.rejections[0].message


async def test_only_the_first_rejections_are_kept(remote: Remote, fake: FakeLedger) -> None:
    progress = await do_import(remote, [b"{\n"] * 1000)
    assert progress.rejected == 1000
    assert [item.line for item in progress.rejections] == list(range(1, 21))


class _MeetsAnother(int):
    """A line's number: while it is put in order, another thread has a line to reject."""

    other: threading.Thread

    def __lt__(self, number: int) -> bool:
        if self.other.ident is None:
            self.other.start()
            # The other one may have to wait for us, and then has not ended yet.
            self.other.join(0.2)
        return super().__lt__(number)


def test_the_thread_that_reads_and_the_loop_reject_lines_at_once() -> None:
    progress = Progress()
    for number in (7, 4):
        progress.reject(Rejection(number, "", "OURS", ""))
    met = _MeetsAnother(5)
    met.other = threading.Thread(target=progress.reject, args=[Rejection(6, "", "THEIRS", "")])
    progress.reject(Rejection(met, "", "OURS", ""))
    met.other.join(30)
    assert progress.rejected == 4
    assert [item.line for item in progress.rejections] == [4, 5, 6, 7]


async def test_a_limit_ends_it_early(remote: Remote, fake: FakeLedger) -> None:
    progress = await do_import(remote, lines(100), limit=7)
    assert (progress.lines, progress.appended) == (7, 7)


async def test_a_line_that_nothing_tells_from_others_ends_it(
    remote: Remote, fake: FakeLedger
) -> None:
    named = list(lines(3, request_id="mine"))
    progress = Progress()
    with pytest.raises(CommandError, match="line 2 has no request_id") as caught:
        await run_import(
            remote, LEDGER, [named[0], *lines(2)], no_request_ids, progress=progress, batch_items=1
        )
    assert "--source" in caught.value.hint
    assert progress.rejected == 0
    progress = Progress()
    await run_import(remote, LEDGER, named[:1], no_request_ids, progress=progress)
    assert list(fake.by_request) == ["mine"]


@pytest.mark.parametrize("fault", [UNAVAILABLE, EXHAUSTED, LOST_ANSWER, TURNED_AWAY])
async def test_trouble_on_the_way_loses_and_doubles_nothing(
    remote: Remote, fake: FakeLedger, fault: str
) -> None:
    fake.faults.extend([fault, "", fault, fault])
    progress = await do_import(remote, lines(300), batch_items=50, in_flight=3)
    assert progress.recorded == 300
    assert len(fake.receipts) == 300


async def test_one_call_in_flight_keeps_the_order_through_trouble(
    remote: Remote, fake: FakeLedger
) -> None:
    fake.faults.extend(["", UNAVAILABLE, LOST_ANSWER, ""])
    await do_import(remote, lines(200), batch_items=20, in_flight=1)
    assert list(fake.by_request) == [IDS(number) for number in range(1, 201)]


async def test_no_more_calls_are_in_flight_than_allowed(
    remote: Remote, fake: FakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = running = 0
    original = remote.append_batch

    async def counted(request: Any) -> Any:
        nonlocal most, running
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0)
            return await original(request)
        finally:
            running -= 1

    monkeypatch.setattr(remote, "append_batch", counted)
    await do_import(remote, lines(400), batch_items=10, in_flight=3)
    assert most == 3


async def test_the_source_is_read_no_further_than_what_is_in_flight(
    remote: Remote, fake: FakeLedger
) -> None:
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for line in lines(100_000):
            taken += 1
            yield line

    fake.faults.extend([UNAVAILABLE] * 1000)
    importing = asyncio.create_task(do_import(remote, source(), batch_items=10, in_flight=2))
    while len(fake.calls) < 4:  # noqa: ASYNC110 - another process's doing, as it were
        await asyncio.sleep(0.01)
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
    # Two on their way, one waiting for room, and the line that closed it.
    assert taken <= 3 * 10 + 1


@pytest.mark.parametrize("trouble", [[], [UNAVAILABLE], [LOST_ANSWER, UNAVAILABLE]])
async def test_what_has_come_is_recorded_while_the_source_waits(
    remote: Remote, fake: FakeLedger, trouble: list[str]
) -> None:
    more = threading.Event()

    def source() -> Iterator[bytes]:
        yield from lines(3)
        assert more.wait(60)
        yield from list(lines(5))[3:]

    fake.faults.extend(trouble)
    progress = Progress()
    recorded = asyncio.Event()
    importing = asyncio.create_task(
        run_import(
            remote,
            LEDGER,
            source(),
            IDS,
            linger_s=0.01,
            progress=progress,
            on_progress=lambda: recorded.set() if progress.recorded == 3 else None,
        )
    )
    try:
        await asyncio.wait_for(recorded.wait(), 10)
        assert not importing.done()
    finally:
        more.set()
    await importing
    assert (len(fake.receipts), progress.recorded, progress.gaps()) == (5, 5, [])


async def test_a_source_that_fails_loses_nothing_of_what_it_gave(
    remote: Remote, fake: FakeLedger
) -> None:
    def source() -> Iterator[bytes]:
        yield from lines(25)
        raise CommandError("the compressed data ends early")

    with pytest.raises(CommandError, match="ends early"):
        await do_import(remote, source(), batch_items=10)
    assert len(fake.receipts) == 25


async def test_lines_without_an_answer_are_named(remote: Remote, fake: FakeLedger) -> None:
    fake.faults.extend(["", *[UNAVAILABLE] * 1000])
    progress = Progress()
    importing = asyncio.create_task(
        run_import(remote, LEDGER, lines(25), IDS, batch_items=10, in_flight=1, progress=progress)
    )
    while len(fake.calls) < 4:  # noqa: ASYNC110 - another process's doing, as it were
        await asyncio.sleep(0.01)
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
    assert progress.appended == 10
    assert progress.gaps()[0][0] == 11
    assert progress.unanswered >= set(range(11, 21))


async def test_a_limit_waits_for_no_line_beyond_it(remote: Remote, fake: FakeLedger) -> None:
    def source() -> Iterator[bytes]:
        yield from lines(7)
        raise AssertionError("nobody asked for more")

    assert (await do_import(remote, source(), limit=7)).appended == 7


@pytest.mark.parametrize("service", ["ledger", "keys", "anchor"])
async def test_a_service_that_has_not_started_is_said_to_be_so(
    tmp_path: Path, service: str
) -> None:
    """While `up` is at work, or after it failed, the directory knows no address of some."""
    where = Target(DataDir.at(tmp_path), dict.fromkeys(("ledger", "keys", "anchor"), ""), True)
    async with Remote(where, timeout_s=0.3) as remote:
        with pytest.raises(CommandError) as caught:
            getattr(remote, service)
    assert f"the {service} service has not started" in caught.value.message
    assert f"logs/{service}.log" in caught.value.hint


async def test_what_fails_for_good_is_raised_and_what_was_recorded_stays(
    fake: FakeLedger, tmp_path: Path
) -> None:
    async with serving(fake) as endpoint:
        where = Target(DataDir.at(tmp_path), {"ledger": endpoint}, False)
        async with Remote(where, timeout_s=0.3) as remote:
            progress = Progress()
            fake.faults.extend(["", ""] + [UNAVAILABLE] * 1000)
            with pytest.raises(UnavailableError):
                await run_import(remote, LEDGER, lines(100), IDS, batch_items=10, progress=progress)
            assert progress.appended == len(fake.receipts) == 20
            fake.faults.clear()
            with pytest.raises(NotFoundError):
                await run_import(remote, "tenants/t/ledgers/none", lines(1), IDS, progress=progress)


@pytest.mark.parametrize("count", [0, 9, 11])
async def test_an_answer_with_another_number_of_results_is_an_error(
    remote: Remote, fake: FakeLedger, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    original, calls = remote.append_batch, 0

    async def answered(request: Any) -> Any:
        nonlocal calls
        calls += 1
        response = await original(request)
        if calls == 2:
            results = [*response.results, response.results[0]][:count]
            return ledger_pb2.AppendBatchResponse(results=results)
        return response

    monkeypatch.setattr(remote, "append_batch", answered)
    progress = Progress()
    with pytest.raises(InternalError, match="another number of results") as caught:
        await run_import(
            remote, LEDGER, lines(30), IDS, batch_items=10, in_flight=1, progress=progress
        )
    assert caught.value.reason == "BAD_RESPONSE"
    assert (progress.appended, progress.rejected) == (10, 0)
    # Of none of them anything is known; the same import again tells.
    assert progress.unanswered >= set(range(11, 21))
    progress = await do_import(remote, lines(30), batch_items=10)
    assert (progress.appended, progress.repeated) == (10, 20)


async def test_receipts_of_another_ledger_are_not_counted(
    remote: Remote, fake: FakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = remote.append_batch

    async def answered(request: Any) -> Any:
        response = await original(request)
        response.results[3].receipt.name = "tenants/evil/ledgers/main/receipts/1"
        return response

    monkeypatch.setattr(remote, "append_batch", answered)
    progress = Progress()
    with pytest.raises(InternalError, match="another ledger"):
        await run_import(remote, LEDGER, lines(10), IDS, progress=progress)
    assert (progress.recorded, progress.gaps()) == (0, [(1, 10)])
