"""Which alarms of a monitor are news, and when one is over."""

from __future__ import annotations

from provledger_cli.alarms import CONSISTENCY, Alarm, Look, Standing

FILE = "checkpoint held.checkpoint"


def of(kind: str, check: str, message: str = "") -> Alarm:
    return Alarm(kind, message, check)


def test_an_alarm_is_news_once_for_each_check() -> None:
    standing = Standing()
    assert standing.begins(of("checkpoint_signature", FILE))
    assert not standing.begins(of("checkpoint_signature", FILE, "said otherwise"))
    assert standing.begins(of("checkpoint_signature", CONSISTENCY))
    assert standing.begins(of("behind", FILE))
    assert [alarm.message for alarm in standing.alarms] == ["said otherwise", "", ""]


def test_an_alarm_is_over_when_its_check_holds_and_not_before() -> None:
    standing = Standing()
    one, other = of("checkpoint_signature", CONSISTENCY), of("behind", FILE)
    assert standing.begins(one)
    assert standing.begins(other)
    assert standing.cleared_by(Look(unknown={"log": "no answer"})) == []
    assert standing.cleared_by(Look(held={"freshness": "grown"}, alarms=[other])) == []
    assert standing.cleared_by(Look(held={CONSISTENCY: "joined"})) == [one]
    assert standing.alarms == [other]
    assert standing.begins(one)


def test_what_a_check_found_before_does_not_hold_with_an_alarm_of_it() -> None:
    told: list[Alarm] = []
    look = Look(held={CONSISTENCY: "joined", FILE: "joined"}, tell=told.append)
    alarm = of("tiles_damaged", CONSISTENCY)
    look.add(alarm)
    assert (look.alarms, told, list(look.held)) == ([alarm], [alarm], [FILE])
