"""Which alarms of a monitor are news, when one is over, and how its webhook hears of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from provledger_cli.failures import DOES_NOT_HOLD
from provledger_cli.tlog.fetching import FetchError
from provledger_cli.verbs import monitor as verb
from provledger_cli.watching.alarms import CONSISTENCY, Alarm, Look, Standing
from provledger_cli.watching.webhook import MOST_FAILURES, Webhook

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


class _Receiver:
    """What a webhook posts to; refuses alarms of some kinds."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.sent: list[str] = []

    def post(self, body: bytes) -> None:
        kind = json.loads(body)["alarm"]
        self.sent.append(kind)
        if kind in self.refused:
            raise FetchError("status 400")


def test_an_alarm_that_is_refused_keeps_no_other_from_being_told() -> None:
    receiver = _Receiver("stale", "behind")
    hook = Webhook(receiver.post, "o")
    for kind in ("stale", "behind", "split_view"):
        hook.tell(of(kind, FILE))
    assert receiver.sent == ["stale", "behind", "split_view", "stale", "behind"]


def test_what_was_not_told_is_told_again_and_its_failures_are_bounded() -> None:
    kinds = [f"kind-{number}" for number in range(2 * MOST_FAILURES)]
    receiver = _Receiver(*kinds)
    hook = Webhook(receiver.post, "o")
    for kind in kinds:
        hook.tell(of(kind, FILE))
    assert receiver.sent == kinds, "none is tried again while the newest is not taken"
    receiver.sent.clear()
    hook.tell_again()
    assert receiver.sent == kinds[:MOST_FAILURES]
    receiver.refused = set(kinds[:MOST_FAILURES])
    hook.tell_again()
    assert receiver.sent == [*kinds, *kinds[:MOST_FAILURES]], "those that failed are last"
    receiver.refused.clear()
    receiver.sent.clear()
    hook.tell_again()
    hook.tell_again()
    assert receiver.sent == kinds[:MOST_FAILURES]


def test_a_look_that_is_the_only_one_tells_again_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of its alarms, the last may be refused, and nobody comes after it."""
    receiver = _Receiver("stale", "behind")

    class Watch:
        def look(self, tell: Callable[[Alarm], None]) -> Look:
            found = Look(tell=tell)
            found.add(of("stale", FILE))
            found.add(of("behind", FILE))
            receiver.refused.clear()
            return found

    monkeypatch.setattr(verb, "_open_webhook", lambda url: receiver)
    monkeypatch.setattr(verb, "_open", lambda *_, **__: (Watch(), "o"))
    app = typer.Typer()
    app.command()(verb.monitor)
    result = CliRunner().invoke(app, ["https://log", "--vkey", "k", "--once", "--webhook", "x"])
    assert result.exit_code == DOES_NOT_HOLD
    assert receiver.sent == ["stale", "behind", "stale", "behind"]
