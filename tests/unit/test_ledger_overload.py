"""What the gate learns under one load, and what it makes of the next: in pretended time."""

from __future__ import annotations

import pytest

from ledger_svc.overload import MIN_UNITS, Drain, Limiter
from tests.support.overload import Seen, Simulation

PER_DRAFT_S = 1 / 10_000
SIGNATURE_S = 0.05


def simulation() -> Simulation:
    """A service behind a key service 50 ms away."""
    return Simulation(per_call_s=PER_DRAFT_S, fixed_s=SIGNATURE_S, target_s=0.1)


def refused(seen: Seen) -> list[float]:
    """Delays of those who were refused, shortest first."""
    return sorted(error.retry_delay_s or 0.0 for error in seen.refusals)


# --- after slow single appends


@pytest.mark.parametrize("at_s", [5.5, 6.5])
def test_batches_are_let_in_after_a_spell_of_slow_single_appends(at_s: float) -> None:
    """While single appends come, the machine is slow for a while. Three seconds later nothing is
    left of that: neither beside the last of them, nor once they are all answered."""
    run = simulation()
    run.arrivals("singles", 300, 6.0, seed=3)
    run.pace(1.0, 60 * PER_DRAFT_S)
    run.pace(2.5, PER_DRAFT_S)
    run.burst("batches", at_s, calls=4, drafts=500)
    seen = run.run()
    assert not refused(seen["batches"])
    assert len(seen["batches"].answered_s) == 4


@pytest.mark.parametrize("flight", [1, 8])
def test_offered_load_is_not_taken_for_the_pace(flight: int) -> None:
    """Single appends that wait for nothing but the key service say nothing of how long it takes to
    work off ten batches."""
    run = simulation()
    run.crowd("acme", flight, 0.0, 4.0)
    run.burst("acme", 3.0, calls=10, drafts=500)
    seen = run.run()
    drained_s = max(at_s for at_s, took_s in seen["acme"].answered_s if took_s > 0.2) - 3.0
    delays = refused(seen["acme"])
    assert delays
    assert delays[-1] <= drained_s < 1.0


# --- the pace


def overloaded(drain: Drain, from_s: float, seconds: float, per_s: float) -> None:
    """Turn some work away again and again, while as much is done as can be."""
    for tick in range(round(seconds * 50)):
        now_s = from_s + tick / 50
        drain.turned_away(1.0, now_s)
        drain.done(per_s / 50, 500.0, now_s)


def test_pace_is_learnt_while_work_is_turned_away() -> None:
    drain = Drain()
    overloaded(drain, 100.0, 2.0, 5000)
    assert drain.units_per_s == pytest.approx(5000, rel=0.05)
    overloaded(drain, 102.0, 2.0, 1000)
    assert drain.units_per_s == pytest.approx(1000, rel=0.1)


def test_pace_is_not_learnt_from_work_that_is_all_there_is() -> None:
    drain = Drain()
    for tick in range(200):
        drain.done(1.0, 5.0, 100.0 + tick / 50)
    assert drain.units_per_s == 0.0
    overloaded(drain, 104.0, 2.0, 5000)
    for tick in range(200):
        drain.done(1.0, 5.0, 106.0 + tick / 50)
    # The span in which the last was turned away counted still.
    assert drain.units_per_s == pytest.approx(5000, rel=0.15)


def test_what_was_done_before_the_first_refusal_is_not_counted() -> None:
    """A quiet minute before does not make the service look slow, nor does an idle one."""
    drain = Drain()
    drain.done(1.0, 0.0, 100.0)
    drain.done(1.0, 5.0, 160.0)
    drain.turned_away(1.0, 220.0)
    drain.turned_away(1.0, 220.25)
    drain.done(1800.0, 5.0, 220.3)
    assert drain.units_per_s == pytest.approx(6000)


def test_a_span_at_whose_end_there_was_room_says_nothing() -> None:
    drain = Drain()
    drain.turned_away(1.0, 220.0)
    drain.done(10.0, 5.0, 220.3)
    assert drain.units_per_s == 0.0


def test_work_that_ends_in_bunches_does_not_look_slow() -> None:
    """Calls that share a flush end together: first none, then four at once."""
    drain = Drain()
    for tick in range(100):
        now_s = 100.0 + tick / 50
        drain.turned_away(1.0, now_s)
        drain.done(0.0 if tick % 10 else 1000.0, 500.0, now_s)
        if drain.units_per_s:
            assert 3000 < drain.units_per_s < 7000
    assert drain.units_per_s


def test_pace_is_forgotten() -> None:
    drain = Drain()
    overloaded(drain, 100.0, 2.0, 10)
    assert drain.retry_delay_s(1000.0) == 5.0
    drain.done(1.0, 0.0, 102.0)
    drain.turned_away(1.0, 105.0)
    assert drain.retry_delay_s(1000.0) == 5.0
    drain.done(1.0, 0.0, 105.05)
    drain.turned_away(1.0, 113.0)
    assert drain.retry_delay_s(1000.0) == pytest.approx(0.2)


# --- the limit


def shrunk() -> Limiter:
    """A limit that long waits have brought down."""
    limiter = Limiter(0.1)
    for tick in range(40):
        limiter.flushed(waited_s=3.0, units=100, took_s=0.05, alone=False, now_s=tick / 10)
    assert limiter.limit == MIN_UNITS
    return limiter


def test_limit_is_itself_again_once_all_is_done() -> None:
    limiter = shrunk()
    limiter.drained()
    assert limiter.limit == Limiter(0.1).limit


def test_limit_recovers_while_nobody_waits_and_grows_only_if_needed() -> None:
    limiter = shrunk()
    for tick in range(100):
        limiter.flushed(waited_s=0.01, units=100, took_s=0.05, alone=False, now_s=10 + tick / 10)
    recovered = limiter.limit
    assert Limiter(0.1).limit <= recovered < 1.05 * Limiter(0.1).limit
    limiter.refused()
    limiter.flushed(waited_s=0.01, units=100, took_s=0.05, alone=False, now_s=30.0)
    assert limiter.limit > recovered
    limiter.drained()
    assert limiter.limit > recovered
