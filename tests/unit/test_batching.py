"""The adaptive batcher: grouping, order, bounds, cancellation, crashes, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger.batching import GroupCommit
from provledger.errors import InternalError, ResourceExhaustedError, UnavailableError


class Recorder:
    """A flush that notes its batches; while `hold` is set, flushes wait for `release`."""

    def __init__(self, *, hold: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        if not hold:
            self.gate.set()
        self.crash: Exception | None = None

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.started.set()
        await self.gate.wait()
        if self.crash is not None:
            raise self.crash
        return [ValueError(str(item)) if item < 0 else item * 10 for item in items]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let others have their turn until it holds; the caller sets the limit."""
    while not condition():
        await turns(1)


async def test_idle_is_who_has_nothing_to_do() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush)
    assert batcher.idle
    waiting = asyncio.ensure_future(batcher.submit(1))
    await turns(1)
    assert not batcher.idle
    await flush.started.wait()
    waiting.cancel()
    await turns()
    assert not batcher.idle
    flush.gate.set()
    async with asyncio.timeout(60):
        await until(lambda: batcher.idle)


async def test_lone_item_is_flushed_at_once() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush)
    assert await batcher.submit(4) == 40
    assert flush.batches == [[4]]


async def test_what_arrives_in_one_turn_or_during_a_flush_goes_together() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush)
    first = [asyncio.ensure_future(batcher.submit(n)) for n in (1, 2)]
    await flush.started.wait()
    later = [asyncio.ensure_future(batcher.submit(n)) for n in (3, 4, 5)]
    await turns()
    assert batcher.stats().queued_items == 3
    flush.gate.set()
    assert await asyncio.gather(*first, *later) == [10, 20, 30, 40, 50]
    assert flush.batches == [[1, 2], [3, 4, 5]]


async def test_bad_item_fails_alone() -> None:
    batcher = GroupCommit(Recorder())
    good, bad = await asyncio.gather(batcher.submit(1), batcher.submit(-1), return_exceptions=True)
    assert good == 10
    assert isinstance(bad, ValueError)
    results = await batcher.submit_many([1, -2, 3])
    assert results[0] == 10
    assert isinstance(results[1], ValueError)
    assert results[2] == 30


async def test_crashed_flush_fails_its_callers_and_the_batcher_goes_on() -> None:
    flush = Recorder()
    flush.crash = RuntimeError("disk")
    batcher = GroupCommit(flush)
    outcomes = await asyncio.gather(
        batcher.submit(1), batcher.submit_many([2, 3]), return_exceptions=True
    )
    assert list(outcomes) == [flush.crash, flush.crash]
    flush.crash = None
    assert await batcher.submit(4) == 40


async def test_flush_with_a_wrong_number_of_results_is_a_fault() -> None:
    async def flush(items: list[int]) -> list[int | Exception]:
        return [1]

    batcher = GroupCommit(flush)
    with pytest.raises(InternalError):
        await batcher.submit_many([1, 2])


async def test_cancelled_waiter_leaves_flush_and_neighbours_alone() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush)
    leaving = asyncio.ensure_future(batcher.submit(1))
    staying = asyncio.ensure_future(batcher.submit(2))
    await flush.started.wait()
    queued = asyncio.ensure_future(batcher.submit(3))
    queued_too = asyncio.ensure_future(batcher.submit(4))
    await turns()
    leaving.cancel()
    queued.cancel()
    await turns()
    flush.gate.set()
    assert await staying == 20
    assert await queued_too == 40
    assert flush.batches == [[1, 2], [4]], "what nobody waits for any more is not begun"
    assert batcher.stats().queued_items == 0


async def test_full_queue_says_when_to_come_back() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=2, max_queued_items=3)
    running = asyncio.ensure_future(batcher.submit(0))
    await flush.started.wait()
    waiting = [asyncio.ensure_future(batcher.submit(n)) for n in (1, 2, 3)]
    await turns()
    with pytest.raises(ResourceExhaustedError) as caught:
        await batcher.submit(4)
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_delay_s is not None
    assert 0.0 < caught.value.retry_delay_s <= 5.0
    flush.gate.set()
    assert await asyncio.gather(running, *waiting) == [0, 10, 20, 30]
    assert await batcher.submit(4) == 40


async def test_queue_is_bounded_in_bytes_too() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_queued_bytes=100)
    tasks = [asyncio.ensure_future(batcher.submit(1, size_bytes=60))]
    await flush.started.wait()
    tasks.append(asyncio.ensure_future(batcher.submit(2, size_bytes=60)))
    await turns()
    with pytest.raises(ResourceExhaustedError):
        await batcher.submit(3, size_bytes=60)
    flush.gate.set()
    await asyncio.gather(*tasks)


async def given_up(batcher: GroupCommit[int, int], items: list[int], **how: bool) -> None:
    """Submit each item in a group of its own of 10 bytes, and cancel the wait for them."""
    task = asyncio.ensure_future(batcher.submit_groups([([n], 10) for n in items], **how))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_given_up_takes_no_room() -> None:
    """However often somebody tries again while a flush hangs, others find room."""
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_queued_items=4, max_queued_bytes=50)
    running = asyncio.ensure_future(batcher.submit(0))
    await flush.started.wait()
    staying = asyncio.ensure_future(batcher.submit_many([1, 2], size_bytes=20))
    for again in range(10):
        await given_up(batcher, [7] if again % 2 else [8, 9])
    stats = batcher.stats()
    assert (stats.queued_items, stats.queued_bytes) == (2, 20)
    living = asyncio.ensure_future(batcher.submit(3, size_bytes=30))
    await turns()
    flush.gate.set()
    assert [await running, *await staying, await living] == [0, 10, 20, 30]
    assert flush.batches == [[0], [1, 2, 3]]
    stats = batcher.stats()
    assert (stats.queued_items, stats.queued_bytes) == (0, 0)
    assert batcher.idle


async def test_what_is_given_up_in_a_flush_is_not_counted_twice() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=1)
    await given_up(batcher, [1, 2, 3])
    assert flush.batches == [[1]], "it is in a flush, the others wait for the next ones"
    later = asyncio.ensure_future(batcher.submit(4, size_bytes=10))
    await turns()
    assert (batcher.stats().queued_items, batcher.stats().queued_bytes) == (1, 10)
    flush.gate.set()
    assert await later == 40
    assert (batcher.stats().queued_items, batcher.stats().queued_bytes) == (0, 0)


async def test_a_queue_of_what_was_given_up_takes_anything() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_queued_items=2)
    running = asyncio.ensure_future(batcher.submit(0))
    await flush.started.wait()
    await given_up(batcher, [1])
    large = asyncio.ensure_future(batcher.submit_many([2, 3, 4]))
    await turns()
    flush.gate.set()
    assert (await running, await large) == (0, [20, 30, 40])


async def test_what_was_given_up_does_not_pile_up() -> None:
    """Nor do the empty places of it, while no flush comes by."""
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush)
    running = asyncio.ensure_future(batcher.submit(0))
    await flush.started.wait()
    staying = [asyncio.ensure_future(batcher.submit(n)) for n in (1, 2)]
    for n in range(1_000):
        await given_up(batcher, [n, n], urgent=True)
        assert len(batcher._queue) < 200
    staying.append(asyncio.ensure_future(batcher.submit(3)))
    await turns()
    flush.gate.set()
    assert await asyncio.gather(running, *staying) == [0, 10, 20, 30]
    assert flush.batches == [[0], [1, 2, 3]]
    assert (batcher._given_up, batcher._urgent_groups) == (0, 0)


async def test_group_larger_than_every_bound_goes_alone() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, max_items=2, max_queued_items=5)
    results = await asyncio.gather(
        batcher.submit(1), batcher.submit_many([2, 3, 4]), batcher.submit(7)
    )
    assert list(results) == [10, [20, 30, 40], 70]
    assert flush.batches == [[1], [2, 3, 4], [7]]
    assert await batcher.submit_many(list(range(9))) == [n * 10 for n in range(9)]
    assert flush.batches[-1] == list(range(9))


async def test_batches_are_bounded_in_bytes() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, max_bytes=100)
    await asyncio.gather(*(batcher.submit(n, size_bytes=40) for n in range(5)))
    assert flush.batches == [[0, 1], [2, 3], [4]]


async def test_pipelined_flushes_start_in_order() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=1, max_in_flight=2)
    tasks = [asyncio.ensure_future(batcher.submit(n)) for n in range(4)]
    await turns()
    assert flush.batches == [[0], [1]]
    assert batcher.stats().flushes_in_flight == 2
    flush.gate.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30]
    assert flush.batches == [[0], [1], [2], [3]]


async def test_where_many_wait_one_more_flush_runs() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=10, max_in_flight=2, one_more_from=20)
    tasks = [asyncio.ensure_future(batcher.submit_many([n] * 10)) for n in range(3)]
    await turns()
    assert [batch[0] for batch in flush.batches] == [0, 1]
    tasks.append(asyncio.ensure_future(batcher.submit_many([3] * 10)))
    await turns()
    assert [batch[0] for batch in flush.batches] == [0, 1, 2]
    tasks += [asyncio.ensure_future(batcher.submit_many([n] * 10)) for n in range(4, 9)]
    await turns()
    assert batcher.stats().flushes_in_flight == 3
    flush.gate.set()
    await asyncio.gather(*tasks)
    assert [batch[0] for batch in flush.batches] == list(range(9))


async def test_an_urgent_item_has_its_batch_go_at_once() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, budget_s=3600.0, fixed_items=10)
    patient = [asyncio.ensure_future(batcher.submit(n)) for n in range(3)]
    await turns()
    assert flush.batches == []
    async with asyncio.timeout(10):
        assert await batcher.submit_many([3], urgent=True) == [30]
        assert await asyncio.gather(*patient) == [0, 10, 20]
    assert flush.batches == [[0, 1, 2, 3]]
    # The next one waits for others again.
    late = asyncio.ensure_future(batcher.submit(4))
    await turns()
    assert len(flush.batches) == 1
    await asyncio.gather(late, batcher.close())


async def test_an_urgent_group_that_does_not_fit_goes_with_the_next_batch() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, budget_s=3600.0, fixed_items=4, max_items=4)
    patient = asyncio.ensure_future(batcher.submit_many([0, 1, 2]))
    await turns()
    async with asyncio.timeout(10):
        assert await batcher.submit_many([3, 4], urgent=True) == [30, 40]
    assert flush.batches == [[0, 1, 2], [3, 4]]
    late = asyncio.ensure_future(batcher.submit(5))
    await turns()
    assert len(flush.batches) == 2
    await asyncio.gather(patient, late, batcher.close())


class Callers:
    """So many callers that submit one item after the other, until told to stop."""

    def __init__(self, batcher: GroupCommit[int, int], count: int) -> None:
        self._batcher = batcher
        self.going = True
        self.tasks = [asyncio.ensure_future(self._submit(n)) for n in range(count)]

    async def _submit(self, number: int) -> None:
        while self.going:
            await self._batcher.submit(number)

    async def stop(self) -> None:
        self.going = False
        await asyncio.gather(*self.tasks)


async def test_a_crowd_is_waited_for() -> None:
    flush = Recorder()
    # So long that only what is counted can end the wait.
    batcher = GroupCommit(flush, max_in_flight=2, linger_s=60.0)
    callers = Callers(batcher, 40)
    async with asyncio.timeout(10):
        await until(lambda: len(flush.batches) >= 20)
        assert min(len(batch) for batch in flush.batches) >= 24
        await asyncio.gather(callers.stop(), batcher.close())


async def test_no_small_flush_runs_beside_a_large_one() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_in_flight=2, linger_s=0.001)
    callers = [asyncio.ensure_future(batcher.submit(n)) for n in range(40)]
    await flush.started.wait()
    callers += [asyncio.ensure_future(batcher.submit(n)) for n in range(100, 105)]
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in flush.batches] == [40]
    callers += [asyncio.ensure_future(batcher.submit(n)) for n in range(200, 230)]
    await turns()
    assert [len(batch) for batch in flush.batches] == [40, 35]
    flush.gate.set()
    await asyncio.gather(*callers)


async def test_a_crowd_that_does_not_come_back_is_waited_for_only_so_long() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, linger_s=0.01)
    await asyncio.gather(*(batcher.submit(n) for n in range(40)))
    async with asyncio.timeout(10):
        for number in range(20):
            assert await batcher.submit(number) == number * 10
    assert batcher.stats().last_target == 1, "the crowd is forgotten"


async def test_a_few_callers_wait_for_nobody() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, linger_s=60.0)
    callers = Callers(batcher, 8)
    async with asyncio.timeout(10):
        await until(lambda: len(flush.batches) >= 50)
        # A batch of many items is one caller.
        assert await batcher.submit_many(range(100)) == [n * 10 for n in range(100)]
        await batcher.submit(1)
        await callers.stop()


async def test_a_budget_does_not_wait_for_more_callers_than_there_are() -> None:
    flush = Recorder()
    # So long that only what is counted can end the wait.
    batcher = GroupCommit(flush, max_in_flight=2, budget_s=60.0, linger_s=0.001)
    callers = Callers(batcher, 8)
    async with asyncio.timeout(10):
        await until(lambda: len(flush.batches) >= 50)
        # Nor for others where one sends batches.
        for _ in range(50):
            await batcher.submit_many(range(50))
        await asyncio.gather(callers.stop(), batcher.close())


async def test_what_waits_for_a_crowd_is_flushed_on_closing() -> None:
    flush = Recorder()
    batcher = GroupCommit(flush, linger_s=60.0)
    await asyncio.gather(*(batcher.submit(n) for n in range(40)))
    waiting = asyncio.ensure_future(batcher.submit(7))
    await turns()
    assert not waiting.done()
    async with asyncio.timeout(10):
        await batcher.close()
    assert await waiting == 70


async def test_close_flushes_what_waits_and_refuses_more() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=1)
    tasks = [asyncio.ensure_future(batcher.submit(n)) for n in range(3)]
    await flush.started.wait()
    closing = asyncio.ensure_future(batcher.close())
    await turns()
    with pytest.raises(UnavailableError) as caught:
        await batcher.submit(9)
    assert caught.value.reason == "SHUTTING_DOWN"
    flush.gate.set()
    await closing
    assert [task.result() for task in tasks] == [0, 10, 20]
    await batcher.close()


async def test_cancelled_flush_answers_its_waiters() -> None:
    """At the end of a loop all its tasks are cancelled, flushes included."""
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush)
    waiter = asyncio.ensure_future(batcher.submit(1))
    await flush.started.wait()
    for task in asyncio.all_tasks() - {asyncio.current_task(), waiter}:
        task.cancel()
    with pytest.raises(UnavailableError):
        await waiter


async def test_flush_runs_outside_the_context_of_its_callers() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    seen = []

    async def flush(items: list[int]) -> list[int | Exception]:
        seen.append(caller.get())
        return list(items)

    batcher = GroupCommit(flush)
    caller.set("mallory")
    await batcher.submit(1)
    assert seen == ["nobody"]


async def test_empty_group_needs_no_flush() -> None:
    flush = Recorder()
    assert await GroupCommit(flush).submit_many([]) == []
    assert flush.batches == []


async def test_stats_tell_fill_and_latency() -> None:
    ticks = iter([0.5, 1.0, 1.25, 2.0])
    batcher = GroupCommit(Recorder(), fixed_items=4, clock=lambda: next(ticks))
    await batcher.submit_many([1, 2, 3])
    await turns()
    stats = batcher.stats()
    assert (stats.flushes, stats.items, stats.last_items) == (1, 3, 3)
    assert (stats.last_fill, stats.last_flush_s) == (0.75, 0.25)
    assert (stats.queued_items, stats.queued_bytes, stats.flushes_in_flight) == (0, 0, 0)


@given(
    groups=st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=7), max_size=30),
    cancelled=st.sets(st.integers(0, 29)),
    max_items=st.integers(1, 10),
    max_in_flight=st.integers(1, 3),
    one_more_from=st.none() | st.integers(1, 20),
)
def test_every_group_gets_its_own_results_in_order(
    groups: list[list[int]],
    cancelled: set[int],
    max_items: int,
    max_in_flight: int,
    one_more_from: int | None,
) -> None:
    async def scenario() -> None:
        flush = Recorder()
        batcher = GroupCommit(
            flush,
            max_items=max_items,
            max_in_flight=max_in_flight,
            one_more_from=one_more_from,
        )
        tasks = [asyncio.ensure_future(batcher.submit_many(group)) for group in groups]
        await asyncio.sleep(0)
        for number in cancelled:
            if number < len(tasks):
                tasks[number].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (group, results) in enumerate(zip(groups, done, strict=True)):
            if isinstance(results, BaseException):
                assert isinstance(results, asyncio.CancelledError)
                assert number in cancelled
                continue
            assert [r if isinstance(r, int) else "bad" for r in results] == [
                item * 10 if item >= 0 else "bad" for item in group
            ]
        for batch in flush.batches:
            assert len(batch) <= max(max_items, 7)
        await batcher.close()

    asyncio.run(scenario())


class HandedTurns:
    """Turns that come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.most: int | None = None
        self.sizes: list[int] = []
        self.running = 0

    def ask(self, go: Callable[[], None]) -> None:
        self.asked.append(go)

    def most_items(self) -> int | None:
        return self.most

    def took(self, items: int) -> None:
        self.sizes.append(items)
        self.running += 1

    def end(self) -> None:
        self.running -= 1

    def go(self) -> None:
        self.asked.pop(0)()


async def test_batch_grows_until_its_turn_comes() -> None:
    flush, handed = Recorder(), HandedTurns()
    batcher = GroupCommit(flush, turns=handed)
    first = asyncio.ensure_future(batcher.submit(1))
    await turns()
    later = [asyncio.ensure_future(batcher.submit(n)) for n in (2, 3)]
    await turns()
    assert (len(handed.asked), flush.batches) == (1, [])
    handed.go()
    assert await asyncio.gather(first, *later) == [10, 20, 30]
    assert flush.batches == [[1, 2, 3]]
    await turns()
    assert handed.running == 0


async def test_turn_may_be_for_less_and_the_rest_asks_again() -> None:
    flush, handed = Recorder(hold=True), HandedTurns()
    handed.most = 2
    batcher = GroupCommit(flush, turns=handed, max_in_flight=2)
    submitted = asyncio.ensure_future(batcher.submit_groups([([n], 0) for n in range(5)]))
    await turns()
    handed.go()
    handed.go()
    assert not handed.asked
    flush.gate.set()
    await turns()
    handed.go()
    assert await submitted == [0, 10, 20, 30, 40]
    assert handed.sizes == [2, 2, 1]


async def test_turn_for_what_was_given_up_is_ended() -> None:
    handed = HandedTurns()
    batcher = GroupCommit(Recorder(), turns=handed)
    task = asyncio.ensure_future(batcher.submit(1))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    handed.go()
    assert (handed.sizes, handed.running) == ([0], 0)


class BrokenTurns(HandedTurns):
    """Turns of which the first cannot be accounted."""

    def took(self, items: int) -> None:
        super().took(items)
        if len(self.sizes) == 1:
            raise RuntimeError("not accounted")


async def test_turn_that_cannot_be_used_is_ended_and_its_callers_hear_why() -> None:
    flush, handed = Recorder(), BrokenTurns()
    batcher = GroupCommit(flush, turns=handed, max_items=1)
    first, second = (asyncio.ensure_future(batcher.submit(n)) for n in (1, 2))
    await turns()
    with pytest.raises(RuntimeError, match="not accounted"):
        handed.go()
    assert handed.running == 0
    await turns()
    handed.go()
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeError, match="not accounted"):
            await first
        assert await second == 20
        await batcher.close()
    assert handed.running == 0


async def test_close_waits_for_a_turn_that_was_asked_for() -> None:
    flush, handed = Recorder(), HandedTurns()
    batcher = GroupCommit(flush, turns=handed)
    task = asyncio.ensure_future(batcher.submit(1))
    await turns()
    closing = asyncio.ensure_future(batcher.close())
    await turns()
    assert not closing.done()
    handed.go()
    await closing
    assert await task == 10


async def test_groups_are_queued_all_or_none() -> None:
    flush = Recorder(hold=True)
    batcher = GroupCommit(flush, max_items=1, max_queued_items=4)
    running = [asyncio.ensure_future(batcher.submit(n)) for n in range(3)]
    await turns()
    with pytest.raises(ResourceExhaustedError):
        await batcher.submit_groups([([7], 0), ([8], 0), ([9], 0)])
    assert batcher.stats().queued_items == 2
    flush.gate.set()
    await asyncio.gather(*running)


async def test_group_that_crashes_fails_by_itself() -> None:
    crash = RuntimeError("disk")

    async def flush(items: list[int]) -> Sequence[int | Exception]:
        if 2 in items:
            raise crash
        return items

    batcher = GroupCommit(flush, max_items=2)
    assert await batcher.submit_groups([([1, 1], 0), ([2, 2], 0), ([3], 0)]) == [
        1,
        1,
        crash,
        crash,
        3,
    ]
    with pytest.raises(RuntimeError):
        await batcher.submit_groups([([2, 1], 0), ([2], 0)])
