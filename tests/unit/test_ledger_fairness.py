"""Fair queueing over tenants: shares, order, latecomers, memory."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.fairness import FairQueue
from ledger_svc.turns import (
    CONTENDED_FLUSHES,
    CONTENDED_ITEMS,
    FLUSHES,
    GATHER_S,
    MOST_FLUSHES,
    Turns,
)
from provledger.batching import GroupCommit
from provledger.key_events import TENANT as SYSTEM_TENANT

COSTS = st.lists(st.integers(1, 1000), min_size=20, max_size=20)


def anyone(tenant: str, thing: object) -> bool:
    return True


@given(st.dictionaries(st.sampled_from("abcdef"), COSTS, min_size=1))
def test_backlogged_tenants_get_equal_parts_by_cost(costs: dict[str, list[int]]) -> None:
    """As long as all of them wait, none is ahead of another by more than one turn of each."""
    queue: FairQueue[int] = FairQueue()
    for tenant, things in costs.items():
        for cost in things:
            queue.push(tenant, cost)
    had = dict.fromkeys(costs, 0)
    while len(queue.tenants) == len(costs):
        turn = queue.pop(anyone)
        assert turn is not None
        tenant, cost = turn
        queue.charge(tenant, cost)
        had[tenant] += cost
        assert max(had.values()) - min(had.values()) <= 2 * 1000


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 100)), max_size=100))
def test_nothing_is_lost_and_each_tenants_order_is_kept(pushed: list[tuple[str, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    for tenant, thing in pushed:
        queue.push(tenant, thing)
    assert len(queue) == len(pushed)
    popped = []
    while (turn := queue.pop(anyone)) is not None:
        popped.append(turn)
        queue.charge(turn[0], turn[1])
    for tenant in "abc":
        assert [x for x in popped if x[0] == tenant] == [x for x in pushed if x[0] == tenant]


def test_latecomer_goes_next_but_has_saved_nothing_up() -> None:
    queue: FairQueue[int] = FairQueue()
    for n in range(100):
        queue.push("flood", n)
    for _ in range(50):
        assert queue.pop(anyone) is not None
        queue.charge("flood", 10)
    for n in range(100):
        queue.push("late", n)
    order = []
    for _ in range(20):
        turn = queue.pop(anyone)
        assert turn is not None
        order.append(turn[0])
        queue.charge(turn[0], 10)
    assert "late" in order[:2]
    assert order.count("late") == order.count("flood") == 10


def test_who_may_not_go_is_passed_over_and_keeps_the_place() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "a1")
    queue.push("b", "b1")
    assert queue.pop(lambda tenant, _: tenant == "b") == ("b", "b1")
    assert queue.pop(lambda tenant, _: tenant == "b") is None
    assert queue.pop(anyone) == ("a", "a1")
    assert queue.pop(anyone) is None


def test_tenants_that_went_are_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    for n in range(1000):
        queue.push(f"tenant-{n}", n)
        queue.pop(anyone)
        queue.charge(f"tenant-{n}", 1)
    assert len(queue._tags) <= 2


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_idle_tenant_flushes_beside_a_busy_one() -> None:
    turns, began = Turns(Clock()), list[str]()
    for n in range(20):
        turns.ask("flood", lambda n=n: began.append(f"flood {n}"))  # type: ignore[misc]
    assert len(began) == FLUSHES
    turns.ask("quiet", lambda: began.append("quiet"))
    assert began[-1] == "quiet"
    # From now on the flood has less at once, and smaller flushes.
    for _ in range(FLUSHES):
        turns.end("flood")
    assert len(began) == FLUSHES + 1 + CONTENDED_FLUSHES
    assert turns.of("flood").most_items() == CONTENDED_ITEMS


def test_tenant_alone_flushes_as_much_as_it_likes() -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.ask("other", lambda: turns.end("other"))
    turns.ask("alone", lambda: None)
    assert turns.of("alone").most_items() == CONTENDED_ITEMS
    clock.now_s += 1.5
    turns.ask("alone", lambda: None)
    assert turns.of("alone").most_items() is None


def test_key_events_do_not_make_a_tenant_share() -> None:
    """Nobody waits for them: flushes stay as large as they are without."""
    turns = Turns(Clock())
    acme = turns.of("acme")
    turns.of(SYSTEM_TENANT).ask(lambda: None)
    acme.ask(lambda: None)
    assert acme.most_items() is None
    turns.of("globex").ask(lambda: None)
    assert acme.most_items() == CONTENDED_ITEMS


def took(turns: Turns, tenant: str, items: int) -> None:
    turns.ask(tenant, lambda: None)
    turns.took(tenant, items)
    turns.end(tenant)


def test_who_sends_much_gathers_while_others_are_there() -> None:
    clock = Clock()
    turns = Turns(clock)
    busy, quiet = turns.of("busy"), turns.of("quiet")
    took(turns, "busy", 500)
    assert busy.patience() == 0.0, "nobody else is there"
    took(turns, "quiet", 1)
    assert (busy.patience(), quiet.patience()) == (1.0, 0.0)
    clock.now_s += 0.9
    took(turns, "busy", 1)
    assert busy.patience() == 0.0, "it sends less now"
    took(turns, "busy", 500)
    assert busy.patience() == 1.0
    clock.now_s += 0.2
    assert busy.patience() == 0.0, "the other one is gone"


def test_many_tenants_are_bounded_all_the_same() -> None:
    turns, began = Turns(Clock()), list[int]()
    for n in range(2 * MOST_FLUSHES):
        turns.ask(f"t{n}", lambda n=n: began.append(n))  # type: ignore[misc]
    assert len(began) == MOST_FLUSHES
    turns.end("t0")
    assert len(began) == MOST_FLUSHES + 1


class Flushes:
    """Batchers of one tenant whose flushes go on until `end` is set."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.end = asyncio.Event()

    async def flush(self, items: list[int]) -> list[int]:
        await self.end.wait()
        return items

    def batcher(self) -> GroupCommit[int, int]:
        return GroupCommit(self.flush, turns=self.turns.of("acme"), max_in_flight=2)


async def test_ledgers_that_were_given_up_are_passed_over_whatever_their_number() -> None:
    """Each takes a turn and has no use for it; who waits behind them is answered all the same."""
    turns = Turns(Clock())
    flushes = Flushes(turns)
    batchers = [flushes.batcher() for _ in range(FLUSHES + 1500)]
    submitted = [asyncio.ensure_future(batcher.submit(7)) for batcher in batchers]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (turns.running, len(turns._asking)) == (FLUSHES, 1500)
    given_up = submitted[FLUSHES:-1]
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    flushes.end.set()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*submitted[:FLUSHES], submitted[-1]) == [7] * (FLUSHES + 1)
        await asyncio.gather(*(batcher.close() for batcher in batchers))
    assert turns.running == 0


def test_turns_that_come_to_nothing_are_not_begun_within_each_other() -> None:
    """The stack would be as deep as there are such turns in a row."""
    turns, within, deepest = Turns(Clock()), list[str](), list[int]()

    def nothing() -> None:
        within.append("")
        deepest.append(len(within))
        turns.end("acme")
        within.pop()

    for _ in range(FLUSHES):
        turns.ask("acme", lambda: None)
    for _ in range(10):
        turns.ask("acme", nothing)
    turns.end("acme")
    assert deepest == [1] * 10
    assert turns.running == FLUSHES - 1


def test_one_that_fails_at_its_turn_keeps_nobody_waiting() -> None:
    turns, began = Turns(Clock()), list[int]()

    def failing() -> None:
        turns.end("acme")
        raise RuntimeError("at its turn")

    for _ in range(FLUSHES):
        turns.ask("acme", lambda: None)
    turns.ask("acme", failing)
    for n in range(FLUSHES):
        turns.ask("acme", lambda n=n: began.append(n))  # type: ignore[misc]
    turns.end("acme")
    assert began == [0]
    assert turns.running == FLUSHES


async def test_commits_alternate_and_a_cancelled_wait_leaves_no_gap() -> None:
    turns, order = Turns(Clock()), list[str]()
    gate = asyncio.Event()

    async def commit(tenant: str, name: str) -> None:
        async with turns.commit(tenant, 100):
            order.append(name)
            await gate.wait()

    tasks = [asyncio.create_task(commit("flood", f"f{n}")) for n in range(6)]
    tasks.append(asyncio.create_task(commit("quiet", "q")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["f0", "f1"]
    tasks[2].cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order[2] in ("q", "f3")
    assert order.index("q") <= 3
    assert len(order) == 6
    async with asyncio.timeout(5), turns.commit("flood", 1), turns.commit("flood", 1):
        pass


async def test_commits_that_nobody_waited_for_are_not_held_against_a_tenant() -> None:
    turns, order = Turns(Clock()), list[str]()
    for _ in range(1000):
        async with turns.commit("steady", 1000):
            pass
    gate = asyncio.Event()

    async def commit(tenant: str) -> None:
        async with turns.commit(tenant, 1000):
            order.append(tenant)
            await gate.wait()

    names = [name for _ in range(20) for name in ("new", "steady")]
    tasks = [asyncio.create_task(commit(name)) for name in names]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert order[:20].count("steady") in (9, 10, 11)


async def test_tenants_that_came_once_are_forgotten() -> None:
    turns = Turns(Clock())
    for n in range(1000):
        async with turns.commit(f"t{n}", 1):
            pass
    assert len(turns._committing._tags) <= 2


def test_who_is_kept_to_a_quota_gathers_for_longer_whatever_the_rate() -> None:
    turns = Turns(Clock(), bounded=lambda tenant: tenant == "flood")
    took(turns, "flood", 1)
    took(turns, "quiet", 1)
    assert turns.of("flood").patience() > 1.0
    assert turns.of("flood").kept_waiting_s() == GATHER_S * turns.of("flood").patience()
    assert turns.of("quiet").patience() == turns.of("quiet").kept_waiting_s() == 0.0


def test_who_only_sends_much_is_not_kept_waiting() -> None:
    """What he waits for company still tells whether there is too much work."""
    turns = Turns(Clock())
    took(turns, "busy", 500)
    took(turns, "quiet", 1)
    assert turns.of("busy").patience() == 1.0
    assert turns.of("busy").kept_waiting_s() == 0.0
