"""Holding back what would be refused: how much gets through, and when it ends."""

from __future__ import annotations

import random

import pytest

from provledger.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.throttle import MAX_TENANTS, THROTTLED, Throttle, Throttles, is_refusal

FULL = ResourceExhaustedError("OVERLOADED", "full", retry_delay_s=0.7)


class Service:
    """Answers so many calls a second, in pretended time, and refuses the others."""

    def __init__(self, capacity_per_s: float) -> None:
        self.capacity_per_s = capacity_per_s
        self.tokens = 0.0
        self.seen = 0
        self.answered = 0

    def call(self, passed_s: float) -> StatusError | None:
        self.seen += 1
        if self.tokens < 1.0:
            return FULL
        self.tokens -= 1.0
        self.answered += 1
        return None


def run(
    throttle: Throttle, service: Service, rate_per_s: float, from_s: float, seconds: float
) -> list[StatusError]:
    """Send at a rate; the errors of what was held back."""
    rng = random.Random(3)
    held_back: list[StatusError] = []
    for n in range(round(rate_per_s * seconds)):
        now_s = from_s + n / rate_per_s
        passed_s = 1 / rate_per_s
        service.tokens = min(20.0, service.tokens + passed_s * service.capacity_per_s)
        try:
            throttle.check(now_s, rng.random())
        except ResourceExhaustedError as error:
            held_back.append(error)
        else:
            throttle.ended(now_s, service.call(passed_s))
    return held_back


@pytest.mark.parametrize("times", [2.0, 10.0])
def test_service_sees_little_more_than_it_answers(times: float) -> None:
    """At twice the load, and at ten times: all it can do is done, and few calls are refused."""
    throttle, service = Throttle(), Service(1000.0)
    run(throttle, service, 1000.0 * times, 0.0, 4.0)
    service.seen = service.answered = 0
    held_back = run(throttle, service, 1000.0 * times, 4.0, 6.0)
    assert service.answered > 0.95 * 6000
    assert service.seen < 1.3 * service.answered
    assert held_back
    assert {(error.reason, error.retry_delay_s) for error in held_back} == {(THROTTLED, 0.7)}


def test_nothing_is_held_back_from_a_service_that_refuses_nothing() -> None:
    """However slow it is: a call counts when it has ended."""
    throttle = Throttle()
    for n in range(10_000):
        throttle.check(n / 1000, 0.0)  # 10,000 in flight
    for n in range(10_000):
        throttle.ended(10.0 + n / 1000, None)
        throttle.check(10.0 + n / 1000, 0.0)


def test_one_refusal_silences_nobody() -> None:
    throttle = Throttle()
    for n in range(5):
        throttle.check(0.0, 0.0)
        throttle.ended(n / 10, FULL)


def test_it_ends_when_there_is_room_again() -> None:
    throttle, service = Throttle(), Service(0.0)
    run(throttle, service, 500.0, 0.0, 3.0)
    service.capacity_per_s = 10_000.0
    run(throttle, service, 500.0, 3.0, 6.0)
    assert not run(throttle, service, 500.0, 9.0, 2.0)


def test_only_refusals_for_want_of_room_count() -> None:
    assert is_refusal(FULL)
    assert is_refusal(UnavailableError("PEER_CANCELLED", "too many wait"))
    assert not is_refusal(ResourceExhaustedError("MESSAGE_TOO_LARGE", "too large"))
    assert not is_refusal(ResourceExhaustedError(THROTTLED, "never sent"))
    assert not is_refusal(UnavailableError("AWAY", "away"))
    throttle = Throttle()
    for n in range(1000):
        throttle.ended(n / 1000, InvalidArgumentError("BAD", "bad"))
        throttle.check(n / 1000, 0.0)


def test_tenants_have_their_own_and_are_forgotten() -> None:
    throttles = Throttles()
    first = throttles.of("t0")
    assert throttles.of("t0") is first
    for n in range(MAX_TENANTS):
        throttles.of(f"t{n + 1}")
    assert throttles.of("t0") is not first


def test_calls_in_flight_are_bounded() -> None:
    throttle = Throttle(max_in_flight=2)
    throttle.check(0.0, 0.9)
    throttle.check(0.0, 0.9)
    with pytest.raises(ResourceExhaustedError) as caught:
        throttle.check(0.0, 0.9)
    assert caught.value.reason == THROTTLED
    assert caught.value.retry_delay_s
    throttle.ended(0.1, None)
    throttle.check(0.1, 0.9)
