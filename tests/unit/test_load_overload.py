"""What twice the best rate came to: ratios, and what is a failure and what is not."""

from __future__ import annotations

import pytest

from provledger_cli.load import overload, report
from provledger_cli.load.fleet import Step
from provledger_cli.load.histogram import Histogram
from provledger_cli.load.run import Outcome


def step(rate: float, in_time: int, p95_s: float, name: str = "", **counts: int) -> Step:
    made = Step(rate, 10.0, sent=round(rate * 10), answered=in_time, in_time=in_time, name=name)
    made.latency.record(p95_s)
    made.lateness.record(0.0)
    made.refused.update(counts)
    return made


def run(held_back: int = 9500, quiet_s: float = 0.015, again: int = 10_000) -> list[Step]:
    return [
        step(1000, again, 0.05, overload.AGAIN + overload.PLAIN),
        step(2000, 7000, 3.0, overload.PLAIN, OVERLOADED=13_000),
        step(1000, again, 0.05, overload.AGAIN + overload.HELD_BACK),
        step(2000, held_back, 0.1, overload.HELD_BACK, THROTTLED=9000, OVERLOADED=1000),
        step(20, 200, 0.010, overload.ALONE),
        step(2000, 6000, 3.0, overload.BESIDE + overload.PLAIN),
        step(20, 200, 2.0, overload.QUIET + overload.PLAIN),
        step(2000, 8000, 3.0, overload.BESIDE + overload.HELD_BACK),
        step(20, 200, quiet_s, overload.QUIET + overload.HELD_BACK),
    ]


BEST = step(1000, 10_000, 0.05)


async def test_steps_are_twice_the_best_beside_a_quiet_tenant() -> None:
    ran: list[tuple[str, str, float, bool]] = []

    async def flood(name: str, rate: float, hold_back: bool) -> Step:
        ran.append(("flood", name, rate, hold_back))
        return step(rate, 1, 0.1, name)

    async def quiet(name: str, rate: float, hold_back: bool) -> Step:
        ran.append(("quiet", name, rate, hold_back))
        return step(rate, 1, 0.1, name)

    steps = await overload.run(BEST, flood, quiet)
    quiets = [each[1:] for each in ran if each[0] == "quiet"]
    assert quiets[0] == (overload.ALONE, overload.QUIET_PER_S, False)
    floods = [each[2:] for each in ran if each[0] == "flood"]
    again, on, back = (1000, False), (2000.0, False), (2000.0, True)
    assert floods == [again, on, again, back, on, back]
    assert ran[4][:2] == ("quiet", overload.ALONE), "the floods by themselves come first"
    overload.summary(BEST, steps)


def test_summary_tells_refusals_from_what_was_never_sent() -> None:
    found = overload.summary(BEST, run())
    assert found["best_per_s"] == 1000
    assert found["sending_on"]["of_best"] == 0.7
    assert found["holding_back"]["of_best"] == 0.95
    assert found["holding_back"]["of_best_beside_quiet"] == 0.8
    assert found["holding_back"]["sent_per_s"] == 1100
    assert (found["holding_back"]["held_back"], found["holding_back"]["refused"]) == (9000, 1000)
    assert found["quiet_p95_ms"]["beside_sending_on"] == pytest.approx(2000, rel=0.02)


def test_findings_hold_and_do_not() -> None:
    assert [each.word for each in overload.findings(BEST, run())] == ["holds", "holds"]
    less, later = overload.findings(BEST, run(8000, 0.025))
    assert (less.word, later.word) == ("does not hold", "does not hold")
    late = run(9500, 0.025)
    late[-1].not_sent = 1
    assert overload.findings(BEST, late)[1].word == "could not tell"
    assert overload.findings(BEST, run(again=0))[0].word == "could not tell"
    assert overload.findings(BEST, run(8000, again=8800))[0].word == "holds", "the machine slowed"


@pytest.mark.parametrize(
    ("sent", "answered", "word"),
    [(200, 0, "does not hold"), (200, 197, "does not hold"), (200, 198, "holds")],
)
def test_quiet_tenant_who_is_not_answered_was_not_served(
    sent: int, answered: int, word: str
) -> None:
    """The few that were, or none at all, may have been quick."""
    steps = run()
    beside = step(20, answered, 0.001, steps[-1].name, NO_ROOM=sent - answered)
    if not answered:
        beside.latency = Histogram()
    found = overload.findings(BEST, [*steps[:-1], beside])[1]
    assert (found.check, found.word) == ("overload quiet p95", word)
    assert (word == "holds") or f"{answered} of {sent}" in found.detail
    quiet = overload.summary(BEST, [*steps[:-1], beside])
    assert quiet["quiet_answered"]["beside_holding_back"] == answered / sent
    assert (quiet["quiet_p95_ms"]["beside_holding_back"] is None) == (not answered)
    report.show(outcome([*steps[:-1], beside]), [])


def test_quiet_tenant_who_is_not_answered_alone_is_no_measure() -> None:
    steps = run()
    for refused in (200, 3):
        steps[4] = step(20, 200 - refused, 0.010, overload.ALONE, NO_ROOM=refused)
        assert overload.findings(BEST, steps)[1].word == "could not tell"
    steps[4] = Step(20, 10.0, name=overload.ALONE)
    assert overload.findings(BEST, steps)[1].word == "could not tell"
    assert overload.summary(BEST, steps)["quiet_answered"]["alone"] is None


def outcome(steps: list[Step]) -> Outcome:
    return Outcome([BEST], steps, [], [])
