"""The gate: what is let in, what is refused and how, in a pretended service's pretended time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc import overload
from ledger_svc.gate import MAX_SILENT_STREAMS, Gate
from ledger_svc.overload import may_enter
from ledger_svc.tools import Flushed
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import ResourceExhaustedError
from provledger.names import tenant_of
from provledger.rpc.peek import MAX_TEXT_BYTES, first_string
from tests.support.metered import metered
from tests.support.overload import Simulation, request_of

CAPACITY = 3000
KIB = 1024
LARGE = 6 * KIB
"""Bytes of a call that is not small."""
_IN_WORK = ("in_work", "in_work_bytes")


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def gate(clock: Callable[[], float] | None = None, **options: Any) -> Gate:
    defaults = {
        "max_bytes": 1024 * KIB,
        "target_s": 0.03,
        "small_calls": 100,
        "small_by_time": True,
        "tenant_streams": 2,
    }
    return Gate(clock=clock or Clock(), **{**defaults, **options})


# --- under a load that is too much


@pytest.fixture(scope="module")
def alone() -> dict[float, tuple[Simulation, Any]]:
    """A tenant by itself at some multiples of what the service can do."""
    runs = {}
    for times in (1.0, 2.0):
        simulation = Simulation(per_call_s=1 / CAPACITY)
        simulation.arrivals("acme", CAPACITY * times, 3.0, seed=7, size_bytes=LARGE)
        runs[times] = (simulation, simulation.run()["acme"])
    return runs


def test_throughput_holds_at_twice_the_load(alone: Any) -> None:
    peak = max(seen.rate(1.5, 3.0) for _, seen in alone.values())
    assert all(seen.rate(1.5, 3.0) > 0.9 * peak for _, seen in alone.values())
    assert peak > 0.95 * CAPACITY


def test_what_is_let_in_is_answered_in_time(alone: Any) -> None:
    """Without the gate, at twice the load the last of three seconds waits for three."""
    assert alone[2.0][1].p95_s(1.5) < 0.2


def test_memory_is_bounded_by_what_drains_in_time(alone: Any) -> None:
    assert alone[2.0][0].most_bytes < 4096 * KIB
    assert alone[2.0][0].gate.in_work_bytes == alone[2.0][0].gate.in_work_units == 0
    assert alone[2.0][0].gate.tenants == 0


def test_refusals_say_when_to_come_back(alone: Any) -> None:
    """After about as long as what is ahead takes: in work, and told to come back before."""
    delays = sorted(error.retry_delay_s for error in alone[2.0][1].refusals)
    assert {error.reason for error in alone[2.0][1].refusals} == {"OVERLOADED"}
    assert delays[0] >= 0.05
    assert 0.1 <= delays[len(delays) // 2] <= 1.0
    assert delays[-1] <= 5.0


def test_slow_signatures_are_not_taken_for_overload() -> None:
    """A key service 300 ms away: half a second is what a call takes, and no reason to refuse."""
    simulation = Simulation(per_call_s=1 / CAPACITY, fixed_s=0.3)
    simulation.arrivals("acme", 400, 3.0, seed=7)
    seen = simulation.run()["acme"]
    assert not seen.refusals
    assert seen.rate(1.5, 3.0) > 350


@pytest.mark.parametrize("fair", [True, False])
def test_flood_leaves_another_tenant_nearly_alone(fair: bool) -> None:
    """With turns taken by tenant, and, to see that they are what does it, without."""
    quiet = Simulation(per_call_s=1 / CAPACITY)
    quiet.arrivals("quiet", 100, 2.5, seed=3)
    quiet_s = quiet.run()["quiet"].p95_s(1.0)
    loud = Simulation(per_call_s=1 / CAPACITY, fair=fair)
    loud.arrivals("quiet", 100, 2.5, seed=3)
    loud.arrivals("flood", 2 * CAPACITY, 2.5, seed=4, ledgers=50)
    seen = loud.run()
    if fair:
        assert not seen["quiet"].refusals
        assert seen["quiet"].p95_s(1.0) < 2 * quiet_s
    else:
        assert seen["quiet"].p95_s(1.0) > 4 * quiet_s


@pytest.mark.parametrize("size_bytes", [1200, LARGE])
def test_two_floods_get_as_much_as_each_other(size_bytes: int) -> None:
    simulation = Simulation(per_call_s=1 / CAPACITY)
    simulation.arrivals("more", 3 * CAPACITY, 2.0, seed=5, size_bytes=size_bytes)
    simulation.arrivals("less", 1 * CAPACITY, 2.0, seed=6, size_bytes=size_bytes)
    seen = simulation.run()
    rates = [seen[name].rate(1.0, 2.0) for name in ("more", "less")]
    assert min(rates) > 0.8 * max(rates)


# --- small calls


def taken(subject: Gate, held: ExitStack, data: bytes) -> int:
    """How many calls get in until one is refused; all of them stay."""
    for count in range(10_000):
        place = subject.call(data)
        try:
            held.enter_context(place)
        except ResourceExhaustedError:
            return count
    raise AssertionError("nothing was refused")


def test_small_calls_wait_no_longer_than_others() -> None:
    """At twice what can be done, and then at ten times."""
    for times in (2, 10):
        simulation = Simulation(per_call_s=1 / CAPACITY)
        simulation.arrivals("acme", times * CAPACITY, 3.0, seed=7)
        seen = simulation.run()["acme"]
        assert seen.rate(1.5, 3.0) > 0.9 * CAPACITY
        assert seen.p95_s(1.5) < 0.2
        assert {error.reason for error in seen.refusals} == {"OVERLOADED"}
        assert simulation.gate.in_work_units == 0


def test_refused_small_calls_do_not_let_more_batches_in() -> None:
    clock = Clock()
    subject = gate(clock, max_bytes=64 * 1024 * KIB, small_calls=4000)
    batch = request_of("acme", 400 * KIB)
    flush = Flushed(waited_s=0.0, drafts=100, size_bytes=KIB, took_s=0.01, alone=False)
    with ExitStack() as held:
        before = taken(subject, held, batch)
    subject.flushed(flush)
    with ExitStack() as held:
        taken(subject, held, request_of("acme"))
        for _ in range(50):
            clock.now_s += 0.1
            with pytest.raises(ResourceExhaustedError):
                held.enter_context(subject.call(request_of("acme")))
            subject.flushed(flush)
    with ExitStack() as held:
        assert taken(subject, held, batch) == before


def test_where_refusing_makes_it_no_faster_small_calls_are_not_refused_for_it() -> None:
    """Two full connections at ten times what can be done, with grpc.aio."""
    simulation = Simulation(per_call_s=1 / 300, target_s=0.03, small_by_time=False)
    simulation.crowd("acme", 512, 0.0, 6.0)
    seen = simulation.run()["acme"]
    assert not seen.refusals
    assert seen.rate(2.0, 6.0) > 0.8 * 300


def test_small_calls_are_bounded_by_number_and_shared_by_tenant() -> None:
    subject = gate(small_calls=100, max_bytes=1024 * KIB)
    small = request_of("acme", overload.SMALL_CALL_BYTES - 100)
    with ExitStack() as held:
        assert taken(subject, held, small) == 75
        assert taken(subject, held, request_of("other")) == 19
        with subject.call(request_of("third")):
            pass
    assert subject.in_work_units == subject.in_work_bytes == subject.tenants == 0


def test_small_calls_and_batches_do_not_keep_each_other_out() -> None:
    """Neither another tenant's nor one of its own."""
    batch, small = request_of("acme", 400 * KIB), request_of("acme")
    counts = []
    for order in ((batch, small), (small, batch)):
        subject = gate(max_bytes=64 * 1024 * KIB, small_calls=400)
        with ExitStack() as held:
            counts.append({len(data): taken(subject, held, data) for data in order})
    assert counts[0] == counts[1]
    assert counts[0][len(small)] == 300
    assert counts[0][len(batch)] > 4


# --- single decisions


@given(st.lists(st.integers(0, 400), min_size=1, max_size=20), st.integers(1, 1000))
def test_thresholds_leave_room_for_the_next(asks: list[int], limit: int) -> None:
    """However much is asked for by however many, the limit is not reached by those that hold
    something: whoever comes next finds room."""
    held = [0] * len(asks)
    moved = True
    while moved:
        moved = False
        for place, wanted in enumerate(asks):
            if held[place] < wanted and may_enter(held[place], sum(held), limit):
                held[place] += 1
                moved = True
    assert sum(held) <= limit
    assert max(held) <= overload.SHARE * (limit - sum(held)) + 1 + overload.SHARE


def test_memory_bound_holds_in_bytes_for_few_large_calls() -> None:
    subject, held = gate(), ExitStack()
    large = request_of("acme", 200 * KIB)
    with held:
        refused: list[ResourceExhaustedError] = []
        while not refused:
            try:
                held.enter_context(subject.call(large))
            except ResourceExhaustedError as error:
                refused.append(error)
            assert subject.in_work_bytes <= 1024 * KIB
        assert refused[0].reason == "OVERLOADED"
        assert refused[0].retry_delay_s
        # Another still gets in: the first could not take all.
        with subject.call(request_of("other")):
            pass
    assert subject.in_work_bytes == 0
    assert subject.tenants == 0


def test_metrics_tell_what_is_in_work_while_no_flush_ends_and_when_idle() -> None:
    """As in an outage of the witness, and after it."""
    subject, data = gate(), request_of("acme", LARGE)
    with metered() as metrics:

        def told() -> list[float]:
            return [metrics.value(f"provledger.ledger.{name}") or 0 for name in _IN_WORK]

        idle = told()  # of gates that other tests have left
        with subject.call(data):
            assert told() == [idle[0] + subject.in_work_units, idle[1] + len(data)]
            assert subject.in_work_units > 0
        assert told() == idle


def test_idle_service_takes_a_call_larger_than_its_bound() -> None:
    subject = gate()
    with subject.call(request_of("acme", 2048 * KIB)), pytest.raises(ResourceExhaustedError):
        subject.call(request_of("other")).__enter__()


def test_failed_call_gives_its_place_back() -> None:
    subject = gate()
    with pytest.raises(KeyError), subject.call(request_of("acme")):
        raise KeyError
    assert subject.in_work_units == 0


def test_quota_refuses_until_it_has_filled_up_again() -> None:
    clock = Clock()
    subject = gate(clock, quotas={"acme": 10.0, "*": 100.0})
    with subject.call(request_of("acme")):
        # A batch may bring more than is left; the debt is paid off before the next.
        subject.admit("acme", 30)
    with pytest.raises(ResourceExhaustedError) as caught:
        subject.call(request_of("acme")).__enter__()
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.retry_delay_s == pytest.approx(2.1)
    with subject.call(request_of("other")):
        subject.admit("other", 99)
    clock.now_s += 2.1
    with subject.call(request_of("acme")):
        pass


async def test_drafts_of_a_stream_wait_for_the_quota_only_for_moments() -> None:
    """Their sender would take a stream without answers for broken."""
    clock = Clock()
    subject = gate(clock, quotas={"acme": 10.0, "slow": 0.2})
    assert [subject.portion(tenant) for tenant in ("acme", "slow")] == [10, 1]
    assert subject.portion("other") >= 1000
    await subject.enter("acme", 1, KIB)
    subject.admit("acme", 200)
    with pytest.raises(ResourceExhaustedError) as caught:
        await subject.enter("acme", 1, KIB)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.retry_delay_s == pytest.approx(19.2)
    assert subject.in_work_bytes == KIB
    clock.now_s += 19.2
    await subject.enter("acme", 1, KIB)
    assert subject.in_work_bytes == 2 * KIB


def test_streams_of_a_tenant_are_bounded() -> None:
    subject = gate()
    with subject.stream("acme"), subject.stream("acme"):
        with pytest.raises(ResourceExhaustedError) as caught, subject.stream("acme"):
            pass
        assert caught.value.reason == "TOO_MANY_STREAMS"
        with subject.stream("other"):
            pass
    assert subject.tenants == 0


def test_streams_on_which_nothing_came_are_shared_by_callers() -> None:
    """As many as one opens, the next has room; and nobody is remembered who has left."""
    subject = gate()
    with ExitStack() as held:
        for _ in range(MAX_SILENT_STREAMS * 3 // 4):
            held.enter_context(subject.silent_stream("flood"))
        with pytest.raises(ResourceExhaustedError) as caught, subject.silent_stream("flood"):
            pass
        assert caught.value.reason == "TOO_MANY_STREAMS"
        for _ in range(MAX_SILENT_STREAMS // 8):
            held.enter_context(subject.silent_stream("other"))
    assert not subject._silent_of
    assert subject._silent_streams == 0


async def test_drafts_of_streams_wait_for_room_and_get_it_fairly() -> None:
    subject = gate(max_bytes=100 * KIB)
    entered: list[str] = []

    async def enter(tenant: str) -> None:
        await subject.enter(tenant, 1, 20 * KIB)
        entered.append(tenant)

    tasks = [asyncio.create_task(enter(name)) for name in ["a"] * 10 + ["b"] * 10]
    await turns()
    first = len(entered)
    assert 2 <= first < 10
    assert subject.in_work_bytes <= 100 * KIB
    # A waiter that gives up leaves no hole.
    tasks[9].cancel()
    await turns()
    left = 0
    while left < len(entered):
        subject.leave(entered[left], 20 * KIB)
        left += 1
        await turns()
        assert subject.in_work_bytes <= 100 * KIB
    assert sorted(entered) == ["a"] * 9 + ["b"] * 10
    assert entered.index("b") < 7
    assert subject.in_work_bytes == 0
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_waiter_cancelled_as_its_room_comes_gives_it_back() -> None:
    subject = gate(max_bytes=64 * KIB)
    for _ in range(2):
        await subject.enter("a", 1, 30 * KIB)
    waiter = asyncio.create_task(subject.enter("a", 1, 30 * KIB))
    await turns()
    subject.leave("a", 30 * KIB)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert subject.in_work_bytes == 30 * KIB


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- looking into a request


@given(st.text(max_size=100), st.integers(0, 200), st.binary(max_size=50))
def test_first_string_is_what_the_parser_reads(text: str, more: int, rest: bytes) -> None:
    text += "x" * more
    request = ledger_pb2.AppendRequest(ledger=text)
    request.draft.mutation.new_state = rest
    expected = text if len(text.encode()) <= MAX_TEXT_BYTES else ""
    assert first_string(request.SerializeToString()) == expected


@given(st.binary(max_size=400))
def test_first_string_takes_any_bytes(data: bytes) -> None:
    assert len(first_string(data).encode("utf-8", "replace")) <= 3 * MAX_TEXT_BYTES


def test_tenant_is_that_of_the_ledgers_name() -> None:
    assert tenant_of("tenants/acme/ledgers/main") == "acme"
    assert tenant_of("ledgers/acme") == tenant_of("") == tenant_of("tenants") == ""
