"""Who must have confirmed what before a restored log signs again."""

from __future__ import annotations

import pytest

from anchor_svc.restored import Answer, decide
from provledger.errors import FailedPreconditionError, UnavailableError

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


@pytest.mark.parametrize("answers", [[], [NEW], [EMPTIED]])
def test_whoever_accepted_it_goes_on_without_sinks_that_remember(answers: list[Answer]) -> None:
    decide(answers, size=500, accepted=True)


def test_one_that_is_away_is_waited_for_even_so() -> None:
    with pytest.raises(UnavailableError):
        decide([AWAY], size=500, accepted=True)
