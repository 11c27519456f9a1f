"""The batcher under a load, in virtual time: how full batches are, and how long an item waits.

Arrivals come from a seeded generator and time from a virtual clock: no machine is measured.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from provledger import telemetry
from provledger.batching import GroupCommit
from provledger.pacing import TARGET_SHARE, ArrivalRate, target_items
from tests.support import virtual_time

BUDGET_S = 0.008
RATES = (50, 100, 210, 330, 500, 1000, 2000, 5000)
SETTLING_S = 2.0


@dataclass
class Load:
    """What was seen of one run, after the first seconds."""

    fills: list[float] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    commits_s: list[float] = field(default_factory=list)


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(rate)


def even(rate: float, _: random.Random) -> Iterator[float]:
    while True:
        yield 1 / rate


def bursts(rate: float, rng: random.Random) -> Iterator[float]:
    """Four at once, then a pause."""
    while True:
        yield rng.expovariate(rate / 4)
        yield from (0.0, 0.0, 0.0)


def load(
    rate: float,
    gaps: Callable[[float, random.Random], Iterator[float]],
    *,
    flush_s: float = 0.003,
    seconds: float | None = None,
    **options: object,
) -> Load:
    seen = Load()
    seconds = SETTLING_S + max(0.5, 400 / rate) if seconds is None else seconds

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        tasks = set()

        async def flush(items: list[float]) -> list[float]:
            if clock() > SETTLING_S:
                target = batcher.stats().last_target
                seen.targets.append(target)
                seen.fills.append(min(1.0, len(items) / target))
                seen.waits_s.append(clock() - items[0])
            await asyncio.sleep(flush_s)
            return items

        async def one() -> None:
            start_s = clock()
            await batcher.submit(start_s)
            if start_s > SETTLING_S:
                seen.commits_s.append(clock() - start_s)

        batcher: GroupCommit[float, float] = GroupCommit(
            flush,
            clock=clock,
            **{"budget_s": BUDGET_S, **options},  # type: ignore[arg-type]
        )
        for gap in gaps(rate, random.Random(7)):
            if gap:
                await asyncio.sleep(gap)
            if clock() > seconds:
                break
            task = asyncio.ensure_future(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        await batcher.close()

    virtual_time.run(main)
    return seen


@pytest.mark.parametrize("gaps", [poisson, even, bursts])
@pytest.mark.parametrize("rate", RATES)
def test_batches_are_full_at_a_steady_load(
    rate: int, gaps: Callable[[float, random.Random], Iterator[float]]
) -> None:
    seen = load(rate, gaps)
    assert len(seen.fills) > 50
    assert sum(seen.fills) / len(seen.fills) >= 0.85
    # SPEC: a target is at least rate x half the budget (design section 5, "Anchor").
    enough = sum(target >= rate * BUDGET_S / 2 for target in seen.targets)
    assert enough >= 0.95 * len(seen.targets)
    if gaps is not bursts:
        assert enough == len(seen.targets)


@pytest.mark.parametrize("rate", RATES)
def test_no_item_waits_longer_than_the_budget_and_the_flush_before(rate: int) -> None:
    seen = load(rate, poisson, flush_s=0.003)
    assert max(seen.waits_s) <= BUDGET_S + 0.003 + 1e-6
    ordered = sorted(seen.commits_s)
    # 12 ms is the budget of an anchor commit; this is the part of it that pacing may use up.
    assert ordered[int(0.95 * len(ordered))] <= 0.012


def test_lone_item_does_not_wait_at_low_load() -> None:
    seen = load(5, even, seconds=20)
    assert max(seen.waits_s) < 1e-6


def test_lone_item_after_a_rush_waits_no_longer_than_the_budget() -> None:
    def rush_then_one(rate: float, rng: random.Random) -> Iterator[float]:
        yield from (1 / rate for _ in range(int(rate * (SETTLING_S + 0.5))))
        yield 0.2
        yield 100.0

    seen = load(2000, rush_then_one, seconds=50)
    assert seen.targets[-1] > 1
    assert BUDGET_S - 0.001 < seen.waits_s[-1] <= BUDGET_S + 1e-9


def test_fixed_size_and_interval() -> None:
    seen = load(1000, even, budget_s=0.05, fixed_items=20)
    assert set(seen.targets) == {20}
    assert set(seen.fills) == {1.0}
    slow = load(100, even, budget_s=0.05, fixed_items=20)
    assert max(slow.waits_s) <= 0.05 + 1e-6
    assert sum(slow.fills) / len(slow.fills) < 0.5


def test_batch_waits_as_long_as_patience_lasts_for_the_same_target() -> None:
    seen = load(500, poisson, flush_s=0.0, patience=lambda: 0.5)
    assert max(seen.waits_s) <= BUDGET_S / 2 + 1e-6
    assert max(seen.targets) == max(load(500, poisson, flush_s=0.0).targets) == 3


def test_without_patience_for_the_budget_a_crowd_is_what_is_waited_for() -> None:
    alone = load(1000, poisson, linger_s=0.001, patience=lambda: 0.0)
    assert alone.targets == load(1000, poisson, linger_s=0.001, budget_s=0.0).targets
    assert set(alone.targets) == {1}
    shared = load(1000, poisson, linger_s=0.001, patience=lambda: 1.0)
    assert sum(shared.targets) > 1.5 * len(shared.targets)
    assert max(shared.targets) <= max(load(1000, poisson).targets)


def test_more_patience_is_more_of_a_budget_whoever_is_there() -> None:
    """Without regard to how many callers there are, which `linger_s` has it count."""
    longer = load(1000, even, flush_s=0.0, linger_s=0.001, patience=lambda: 2.0)
    assert longer.targets == load(1000, even, flush_s=0.0, budget_s=2 * BUDGET_S).targets
    assert set(longer.targets) == {10}
    slow = load(200, poisson, flush_s=0.0, linger_s=0.001, patience=lambda: 2.0)
    assert BUDGET_S < max(slow.waits_s) <= 2 * BUDGET_S + 1e-6


def test_a_batch_goes_in_time_when_patience_ends_or_begins_while_it_waits() -> None:
    rng = random.Random(3)
    seen = load(1000, poisson, linger_s=0.002, patience=lambda: float(rng.random() < 0.5))
    assert max(seen.waits_s) <= BUDGET_S + 0.003 + 1e-6


def test_a_target_never_exceeds_the_ceiling() -> None:
    seen = load(5000, even, budget_s=0.5, max_items=100, seconds=2.2)
    assert max(seen.targets) == 100


def test_without_a_budget_nothing_waits() -> None:
    seen = load(1000, poisson, budget_s=0.0)
    assert set(seen.targets) == {1}
    assert max(seen.waits_s) <= 0.003 + 1e-6


def test_rate_follows_the_arrivals_and_forgets() -> None:
    rate = ArrivalRate()
    assert rate.per_s(0.0) == 0.0
    for step in range(3000):
        rate.add(1, step / 1000)
    assert rate.per_s(3.0) == pytest.approx(1000, rel=0.01)
    assert rate.per_s(4.0) < 200
    assert rate.per_s(1e9) == 0.0
    assert target_items(1000, BUDGET_S, 1000) == 5 >= 1000 * BUDGET_S * TARGET_SHARE


def test_metrics_tell_queue_fill_and_latency() -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    reader = export.InMemoryMetricReader()
    telemetry.use(trace.TracerProvider(), metrics.MeterProvider(metric_readers=[reader]))
    try:
        load(1000, poisson, seconds=2.5, name="test")
        data = reader.get_metrics_data()
    finally:
        telemetry.shutdown()
    found = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    for name in ("batch.fill", "batch.items", "batch.flush.duration", "batch.commit.duration"):
        (point,) = found[name]
        assert dict(point.attributes) == {"batcher": "test"}
        assert point.count > 50
    (fill,) = found["batch.fill"]
    assert 0.85 <= fill.sum / fill.count <= 1
    waiting = {point.attributes["batcher"]: point.value for point in found["batch.queue.items"]}
    assert waiting["test"] == 0
