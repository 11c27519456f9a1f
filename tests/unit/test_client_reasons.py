"""What a call that ran out of time says of the attempts before."""

from __future__ import annotations

from provledger.client.calls import with_reason_before
from provledger.errors import DeadlineExceededError, UnavailableError

OURS = DeadlineExceededError("TIMED_OUT", "the answer did not come in time")
DRAINING = UnavailableError("DRAINING", "the service stops")


def test_a_passed_deadline_tells_of_the_attempt_before_it_and_goes_on_telling() -> None:
    told = with_reason_before(OURS, DRAINING)
    assert isinstance(told, DeadlineExceededError)
    assert (told.reason, "DRAINING: the service stops" in told.message) == ("TIMED_OUT", True)
    assert with_reason_before(OURS, told) is told


def test_what_the_service_itself_said_is_kept() -> None:
    of_service = DeadlineExceededError("WITNESS_LATE", "the witness", metadata={"kid": "w"})
    assert with_reason_before(of_service, OURS) is of_service
    told = with_reason_before(of_service, DRAINING)
    assert (told.reason, told.metadata) == ("WITNESS_LATE", {"kid": "w"})
    assert told.message.startswith("the witness")


def test_any_other_error_and_the_first_one_are_themselves() -> None:
    assert with_reason_before(DRAINING, OURS) is DRAINING
    assert with_reason_before(OURS, None) is OURS
