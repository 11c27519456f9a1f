"""Who must have confirmed what before a restored log signs again."""

from __future__ import annotations

import pytest

from anchor_svc.quorum import Quorum
from anchor_svc.restored import Answer, decide, decide_start
from provledger.errors import FailedPreconditionError, UnavailableError
from provledger.policy import parse_policy

CONFIRMS = Answer("s3:", 500, True)
NEW = Answer("file:new", 0, False)
EMPTIED = Answer("file:old", 480, False)
AWAY = Answer("https:", 500, None, why="no route")
MORE = Answer("https:", 500, None, more="it has cosigned a checkpoint of tree size 501")


@pytest.mark.parametrize("answers", [[CONFIRMS], [CONFIRMS, NEW], [NEW, CONFIRMS, CONFIRMS]])
@pytest.mark.parametrize("accepted", [False, True])
def test_one_that_confirms_and_none_left_open_is_enough(
    answers: list[Answer], accepted: bool
) -> None:
    decide(answers, size=500, accepted=accepted)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([], "no sink that remembers"),
        ([NEW], "no sink that remembers"),
        ([CONFIRMS, AWAY], "does not answer: no route"),
        ([CONFIRMS, EMPTIED], "is it the place it was"),
        ([EMPTIED], "is it the place it was"),
    ],
)
def test_until_then_it_is_held(answers: list[Answer], why: str) -> None:
    with pytest.raises(UnavailableError, match=why) as caught:
        decide(answers, size=500, accepted=False)
    assert caught.value.reason == "RESTORE_NOT_CONFIRMED"
    assert caught.value.retry_delay_s


@pytest.mark.parametrize("answers", [[MORE], [CONFIRMS, MORE], [MORE, AWAY], [EMPTIED, MORE]])
@pytest.mark.parametrize("accepted", [False, True])
def test_one_that_holds_more_stops_it_whatever_was_accepted(
    answers: list[Answer], accepted: bool
) -> None:
    with pytest.raises(FailedPreconditionError, match="tree size 501") as caught:
        decide(answers, size=500, accepted=accepted)
    assert caught.value.reason == "RESTORED_BEHIND"
    # Nothing need have been restored: it is that sink's word, which may be wrong.
    assert "was restored" not in caught.value.message
    assert "with this log's signature" in caught.value.message


@pytest.mark.parametrize("answers", [[], [NEW], [EMPTIED]])
def test_whoever_accepted_it_goes_on_without_sinks_that_remember(answers: list[Answer]) -> None:
    decide(answers, size=500, accepted=True)


def test_one_that_is_away_is_waited_for_even_so() -> None:
    with pytest.raises(UnavailableError):
        decide([AWAY], size=500, accepted=True)


# --- a start that waits

SINKS = {"a": "file:///a", "b": "s3://b", "c": "s3://c"}
A, B = Answer("file:///a", 500, True), Answer("s3://b", 500, True)
B_AWAY = Answer("s3://b", 500, None, why="no route")
C_EMPTY = Answer("s3://c", 0, False)
C_EMPTIED = Answer("s3://c", 480, False)


def start(answers: list[Answer], quorum: str = "", *, anchored: bool = True) -> None:
    lines = [f"sink {name} {uri}" for name, uri in SINKS.items()]
    policy = parse_policy("\n".join([*lines, quorum, ""]).encode()) if quorum else None
    rule = Quorum(policy, SINKS.values())
    decide_start(
        answers,
        lambda heard: rule.could_miss({answer.sink for answer in heard}, ()),
        size=500,
        anchored=anchored,
    )


@pytest.mark.parametrize(
    ("answers", "quorum"),
    [
        # All must hold what is anchored: each of them knows of it.
        ([A], ""),
        ([A, B_AWAY, C_EMPTY], ""),
        ([A], "group g all a b c\nquorum g"),
        # The one that is silent cannot have been enough.
        ([A, B], "group g 2 a b c\nquorum g"),
        ([A, B_AWAY], "quorum a"),
        # A sink that was added lately, and took nothing yet.
        ([A, C_EMPTY], "quorum c"),
    ],
)
def test_start_goes_on_once_nothing_can_have_been_missed(
    answers: list[Answer], quorum: str
) -> None:
    start(answers, quorum)


@pytest.mark.parametrize(
    ("answers", "quorum"),
    [
        ([], ""),
        ([B_AWAY], ""),
        ([C_EMPTY], ""),
        ([A, B_AWAY], "group g 2 a b c\nquorum g"),
        ([A, B], "group g any a b c\nquorum g"),
        ([B], "quorum a"),
        ([A, C_EMPTIED], "quorum c"),
        ([C_EMPTY], "quorum c"),
    ],
)
def test_start_waits_while_something_may_have_been(answers: list[Answer], quorum: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        start(answers, quorum)
    assert caught.value.reason == "START_NOT_CONFIRMED"


def test_start_of_a_log_that_was_never_anchored_is_confirmed_by_an_empty_sink() -> None:
    start([C_EMPTY], anchored=False)
    with pytest.raises(UnavailableError, match="no route"):
        start([B_AWAY], anchored=False)


@pytest.mark.parametrize("anchored", [False, True])
def test_one_that_holds_more_stops_a_start(anchored: bool) -> None:
    more = Answer("s3://b", 500, None, more="it has cosigned a checkpoint of tree size 501")
    with pytest.raises(FailedPreconditionError) as caught:
        start([A, more], anchored=anchored)
    assert caught.value.reason == "RESTORED_BEHIND"


def test_start_that_no_answer_can_confirm_is_told_that_it_is_for_a_policy() -> None:
    """Something else than these sinks can be enough; whether they hold it says nothing."""
    policy = parse_policy(b"sink stamp https://tsa\nquorum stamp\n")
    for answers in ([A], [A, B_AWAY], [A, C_EMPTY]):
        rule = Quorum(policy, SINKS.values())
        with pytest.raises(UnavailableError, match="by a policy, a checkpoint can be anchored"):
            decide_start(
                answers,
                lambda heard, rule=rule: rule.could_miss({one.sink for one in heard}, ()),  # type: ignore[misc]
                size=500,
                anchored=True,
            )


def test_start_tells_what_a_sink_lacks() -> None:
    with pytest.raises(UnavailableError, match=r"s3://c: holds nothing .* and never took anything"):
        start([C_EMPTY])
    with pytest.raises(UnavailableError, match=r"s3://c: holds nothing .* that it once took"):
        start([C_EMPTIED])
