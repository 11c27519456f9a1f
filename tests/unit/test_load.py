"""`provledger load` without services: its schedule, histogram, judgement and plot."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger.errors import InputError
from provledger_cli.load import fleet, judge, schedule, worker
from provledger_cli.load.histogram import Histogram, index_of, upper_of
from provledger_cli.load.plot import latency_curve
from provledger_cli.load.schedule import Traffic, arrivals

LEDGER = "tenants/load/ledgers/load"
DURATIONS = st.lists(st.floats(0, 3600, allow_nan=False), max_size=200)


# --- histogram


@given(st.integers(0, 2**50))
def test_bucket_holds_its_value_to_one_part_in_64(value: int) -> None:
    index = index_of(value)
    assert value <= upper_of(index) <= value + value // 64
    assert index == 0 or upper_of(index - 1) < value


@given(DURATIONS.filter(bool), st.floats(0.01, 1.0))
def test_quantile_is_that_of_the_sorted_list_or_a_little_more(
    durations: list[float], share: float
) -> None:
    histogram = Histogram()
    for each in durations:
        histogram.record(each)
    ordered = sorted(round(each * 1e6) for each in durations)
    exact = ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]
    assert exact <= histogram.quantile_ms(share) * 1000 + 1e-3
    assert histogram.quantile_ms(share) * 1000 <= exact * (1 + 1 / 64) + 1e-3
    assert histogram.max_ms * 1000 == pytest.approx(ordered[-1])


@given(DURATIONS, DURATIONS)
def test_sum_of_histograms_is_the_histogram_of_all(one: list[float], two: list[float]) -> None:
    parts = []
    for durations in (one, two, one + two):
        histogram = Histogram()
        for each in durations:
            histogram.record(each)
        parts.append(histogram)
    parts[0].add(Histogram.from_json(parts[1].to_json()))
    assert parts[0].summary() == parts[2].summary()
    assert sorted(parts[0].to_json()["counts"]) == sorted(parts[2].to_json()["counts"])  # type: ignore[call-overload]


# --- schedule


def traffic(**options: Any) -> Traffic:
    return Traffic(**{"ledgers": [(LEDGER, 1.0)], **options})


def test_schedule_depends_on_its_seed_alone() -> None:
    one = list(arrivals(traffic(), 100, 5, "seed"))
    assert one == list(arrivals(traffic(), 100, 5, "seed"))
    assert one != list(arrivals(traffic(), 100, 5, "other"))


@given(st.floats(1, 500), st.booleans(), st.integers())
def test_arrivals_come_in_order_and_at_their_rate(rate: float, poisson: bool, seed: int) -> None:
    times = [each.at_s for each in arrivals(traffic(poisson=poisson), rate, 4, str(seed))]
    assert times == sorted(times)
    assert all(0 <= at_s < 4 for at_s in times)
    spread = 6 * math.sqrt(4 * rate) if poisson else 1.0
    assert abs(len(times) - 4 * rate) <= spread + 1


def test_mixes_are_drawn_by_weight() -> None:
    mixed = traffic(
        kinds=schedule.parse_kinds("single=3,batch=1"),
        sizes=schedule.parse_sizes("100,2000=3"),
        ledgers=[("a", 1.0), ("b", 9.0)],
    )
    drawn = list(arrivals(mixed, 1000, 5, "1"))
    for name, share in (("single", 0.75), (2000, 0.75), ("b", 0.9)):
        found = sum(name in each for each in drawn) / len(drawn)
        assert found == pytest.approx(share, abs=0.05)
    assert Traffic.from_json(mixed.to_json()) == mixed


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (schedule.parse_kinds, "single,other"),
        (schedule.parse_kinds, "single=0"),
        (schedule.parse_kinds, "single=nan"),
        (schedule.parse_kinds, ""),
        (schedule.parse_sizes, "0"),
        (schedule.parse_sizes, "1e3"),
        (schedule.parse_sizes, "9999999"),
        (schedule.parse_sizes, "\u00b2\u00b2\u00b2"),
        (schedule.parse_sizes, "9" * 5000),
        (schedule.parse_rates, "100,50"),
        (schedule.parse_rates, "0"),
        (schedule.parse_rates, "inf"),
        (schedule.parse_rates, "fast"),
    ],
)
def test_options_that_cannot_be_are_refused(parse: Any, text: str) -> None:
    with pytest.raises(InputError, match="--"):
        parse(text)


@given(st.floats(1e-6, 1e6))
def test_next_rate_is_always_more(rate: float) -> None:
    following = schedule.next_rate(rate)
    assert rate < following <= 2 * rate
    assert following < 1 or following == int(following)


# --- judgement


def step(rate: float = 100, p95: float = 10, **options: Any) -> dict[str, Any]:
    return {
        "rate_per_s": rate,
        "seconds": 1.0,
        "throughput_per_s": rate,
        "kept_up": True,
        "sent": int(rate),
        "answered": int(rate),
        "not_sent": 0,
        "failed": {},
        "latency_ms": {"p50": p95 / 2, "p95": p95, "p99": 2 * p95},
        "answer_ms": {"p95": p95, "p99": 2 * p95},
        "refused": {},
        "longest_gap_ms": p95,
        "generator_late": False,
        **options,
    }


def memory(highest_mib: float | None) -> dict[str, Any]:
    return {"service": "ledger", "start_mib": 1, "end_mib": 1, "highest_mib": highest_mib}


WORSE_P99: dict[str, Any] = {
    "latency_ms": {"p50": 5, "p95": 10, "p99": 25},
    "answer_ms": {"p95": 10, "p99": 25},
}


@pytest.mark.parametrize(
    ("bounds", "steps", "word"),
    [
        ({}, [step()], "holds"),
        ({}, [step(answered=0)], "could not tell"),
        ({"max_p95_ms": 10}, [step(p95=10)], "holds"),
        ({"max_p95_ms": 10}, [step(p95=10), step(200, 11)], "does not hold"),
        ({"max_p95_ms": 10}, [step(p95=11, answer_ms={"p95": 9})], "could not tell"),
        ({"max_p95_ms": 10}, [step(p95=11, answer_ms={"p95": 10.5})], "does not hold"),
        ({"max_p99_ms": 20}, [step(p95=10)], "holds"),
        ({"max_p99_ms": 19}, [step(p95=10)], "does not hold"),
        ({"max_p99_ms": 19}, [step(answer_ms={"p99": 18})], "could not tell"),
        ({"max_p99_ms": 19}, [step(answered=0)], "could not tell"),
        ({"max_refused": 0.0}, [step()], "holds"),
        ({"max_refused": 0.01}, [step(refused={"OVERLOADED": 1})], "holds"),
        ({"max_refused": 0.01}, [step(), step(refused={"OVERLOADED": 2})], "does not hold"),
        ({"max_refused": 0.5}, [step(sent=0)], "could not tell"),
        ({"max_gap_ms": 10}, [step(longest_gap_ms=10)], "holds"),
        ({"max_gap_ms": 10}, [step(longest_gap_ms=11)], "does not hold"),
        ({"max_gap_ms": 10}, [step(longest_gap_ms=11, generator_late=True)], "could not tell"),
        ({"max_memory_mib": 10, "memory": [memory(10), memory(9)]}, [step()], "holds"),
        ({"max_memory_mib": 10, "memory": [memory(9), memory(11)]}, [step()], "does not hold"),
        ({"max_memory_mib": 10, "memory": [memory(None)]}, [step()], "could not tell"),
        ({"max_memory_mib": 10, "memory": []}, [step()], "could not tell"),
        ({"max_p95_ms": 10}, [step(answered=0)], "could not tell"),
        ({"min_rate": 100}, [step(50), step(100)], "holds"),
        ({"min_rate": 101}, [step(100)], "could not tell"),
        ({"min_rate": 90}, [step(100, throughput_per_s=80)], "does not hold"),
        ({"min_rate": 90}, [step(100, throughput_per_s=80, generator_late=True)], "could not tell"),
        # A service that answered all that chance sent is not to blame for its being less.
        (
            {"min_rate": 98},
            [step(100, sent=95, answered=95, throughput_per_s=94)],
            "could not tell",
        ),
        ({"min_rate": 98}, [step(100, sent=95, answered=90, throughput_per_s=90)], "does not hold"),
        # What is under way at the end of a step is so at any time; a queue that grows is not.
        ({"min_rate": 100}, [step(100, p95=40, throughput_per_s=97)], "holds"),
        ({"min_rate": 100}, [step(100, p95=10, throughput_per_s=97)], "does not hold"),
        ({"min_rate": 100}, [step(100, 4000, throughput_per_s=50, kept_up=False)], "does not hold"),
        ({"max_failed": 0.0}, [step()], "holds"),
        ({"max_failed": 0.01}, [step(failed={"UNAVAILABLE": 2})], "does not hold"),
        ({"max_failed": 0.01}, [step(failed={"UNAVAILABLE": 1})], "holds"),
        ({"max_failed": 0.5}, [step(sent=0)], "could not tell"),
        # What was due and not sent is nowhere: of it, nothing can be said to hold.
        ({"max_failed": 0.0}, [step(), step(200, not_sent=1)], "could not tell"),
        ({"max_refused": 0.0}, [step(not_sent=1)], "could not tell"),
        ({"max_p95_ms": 10}, [step(not_sent=1)], "could not tell"),
        ({"max_failed": 0.0}, [step(not_sent=1, failed={"X": 1})], "does not hold"),
        ({"max_refused": 0.0}, [step(not_sent=1, refused={"X": 1})], "does not hold"),
        ({"max_p95_ms": 9}, [step(not_sent=1)], "does not hold"),
        ({"baseline": [step(p95=9)]}, [step(p95=10)], "holds"),
        ({"baseline": [step(p95=8)]}, [step(p95=10)], "does not hold"),
        ({"baseline": [step()]}, [step(**WORSE_P99)], "does not hold"),
        ({"baseline": [step(**WORSE_P99)]}, [step()], "holds"),
        ({"baseline": [step()]}, [step(refused={"OVERLOADED": 1})], "does not hold"),
        ({"baseline": [step(sent=1000)]}, [step(sent=1000, refused={"X": 1})], "holds"),
        ({"baseline": [step(refused={"X": 10})]}, [step(refused={"X": 12})], "holds"),
        ({"baseline": [step(refused={"X": 10})]}, [step(refused={"X": 13})], "does not hold"),
        ({"baseline": [step(100), step(200)]}, [step(100)], "holds"),
        ({"baseline": [step(100)]}, [step(100, throughput_per_s=70)], "does not hold"),
        ({"baseline": [step(50)]}, [step(100)], "could not tell"),
        ({"max_p95_ms": 1, "min_rate": 500}, [step()], "does not hold"),
    ],
)
def test_judgement(bounds: Any, steps: Any, word: str) -> None:
    assert judge.verdict(judge.judge(steps, **bounds), steps) == word


def made(rate: float, answered: int, in_time: int, took_s: list[float]) -> dict[str, Any]:
    """The document of a step of ten seconds; latencies are spread over the answers."""
    of = fleet.Step(rate, 10.0, sent=round(rate * 10), answered=answered, in_time=in_time)
    for place in range(answered):
        each_s = took_s[place * len(took_s) // answered]
        of.latency.record(each_s)
        of.answer.record(each_s)
    return of.document()


def test_answers_after_a_step_are_not_its_rate() -> None:
    """A service that does 100 a second has answered 200 a second ten seconds later."""
    queued = made(200, 2000, 1000, [place / 100 for place in range(1000)])
    (rate,) = judge.judge([queued], min_rate=180)
    assert (rate.word, rate.detail) == ("does not hold", "best 100.0/s, at least 180.0/s")
    kept = made(100, 1000, 1000, [0.005])
    rate = judge.judge([queued], baseline=[kept | {"rate_per_s": 200, "throughput_per_s": 200}])[-1]
    assert (rate.check, rate.word) == ("baseline rate", "does not hold")


def test_step_keeps_up_with_answers_that_all_take_long() -> None:
    """What was sent within the last moments cannot be answered before the end."""
    assert made(100, 1000, 700, [3.0])["kept_up"]
    assert made(100, 1000, 890, [0.5])["kept_up"]
    assert not made(100, 1000, 890, [0.001, 1.2])["kept_up"]
    assert not made(100, 0, 0, [])["kept_up"]
    assert made(0, 0, 0, [])["kept_up"], "nothing was due"


def test_event_that_ended_after_the_load_says_nothing() -> None:
    kill = {"event": "kill", "service": "witness"}
    rotate = {"event": "rotate", "at_s": 1.0, "took_s": 1.5, "epoch": 2}
    during = [{**kill, "at_s": 1.9, "took_s": 0.0}, rotate]
    assert judge.in_the_middle(during, [], 2.5) == []
    rotation, later = judge.in_the_middle(during, [{**kill, "at_s": 8.0}], 2.0)
    assert (rotation.check, rotation.word) == ("rotate in the middle", "could not tell")
    assert (later.check, later.word) == ("kill in the middle", "could not tell")
    assert "8.0 s after the start, the load 2.0 s" in later.detail


def test_report_of_before_can_be_a_baseline() -> None:
    before = step(answered_per_s=100.0)
    del before["throughput_per_s"], before["kept_up"]
    found = judge.judge([step()], baseline=judge.steps_of({"steps": [before]}))
    assert {each.word for each in found} == {"holds"}


def test_a_client_that_hears_nothing_counts_it_until_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who was answered once and never again was without an answer from then on."""
    tally = worker.Tally(100.0, 110.0)
    arrival = schedule.Arrival(0.0, "single", LEDGER, 1)
    gaps = []
    for now_s in (102.0, 103.0, 104.5):
        monkeypatch.setattr(worker, "clock", lambda now_s=now_s: now_s)
        tally.begin(0.0, 1)
        tally.done(arrival, 101.0, 101.5, 1)
        gaps.append(tally.longest_gap_s)
    tally.ended()
    assert [*gaps, tally.longest_gap_s] == [2.0, 2.0, 2.0, 5.5]


def test_latency_is_lateness_and_what_the_service_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one within a bound that their sum passes says who made the difference."""
    tally = worker.Tally(0.0, 10.0)
    monkeypatch.setattr(worker, "clock", lambda: 7.0)
    tally.done(schedule.Arrival(0.0, "single", LEDGER, 1), 1.0, 3.0, 1)
    assert tally.latency.max_ms == 6000
    assert tally.answer.max_ms == 4000


@pytest.mark.parametrize(
    "document", [None, {}, {"steps": [{}]}, {"steps": 3}, {"steps": [{**step(), "refused": []}]}]
)
def test_baseline_that_is_no_report_is_refused(document: Any) -> None:
    with pytest.raises(InputError, match="--baseline"):
        judge.steps_of(document)


# --- plot


@given(
    st.lists(
        st.tuples(st.floats(1, 1e5), st.floats(0.001, 1e5), st.integers(0, 100), st.booleans()),
        max_size=8,
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
)
def test_plot_is_a_drawing_of_every_step_that_has_answers(points: Any, title: str) -> None:
    steps = [
        step(rate, p95, answered=answered, sent=100, generator_late=late)
        for rate, p95, answered, late in points
    ]
    drawing = ET.fromstring(latency_curve(steps, title))
    svg = "{http://www.w3.org/2000/svg}"
    circles = drawing.findall(f"{svg}circle")
    assert len(circles) == 3 * sum(answered > 0 for _, _, answered, _ in points)
    for circle in circles:
        assert 0 <= float(circle.get("cx", "-1")) <= 720
        assert 0 <= float(circle.get("cy", "-1")) <= 420
    assert len(drawing.findall(f"{svg}rect")) == 1 + sum(answer < 100 for _, _, answer, _ in points)


def test_plot_rises_with_latency() -> None:
    drawing = ET.fromstring(latency_curve([step(100, 5), step(200, 50)], "t"))
    heights = [float(c.get("cy", "0")) for c in drawing.iter("{http://www.w3.org/2000/svg}circle")]
    assert heights[1] < heights[0]
