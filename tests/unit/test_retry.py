"""Retry policy: bounded, jittered, patient."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from provledger.retry import NO_RETRY, RetryPolicy, honour


@given(
    seed=st.integers(),
    attempts=st.integers(1, 200),
    base_s=st.floats(0.001, 1.0),
    cap_s=st.floats(0.001, 10.0),
    budget_s=st.floats(0.0, 100.0),
)
def test_waits_stay_within_attempts_cap_and_budget(
    seed: int, attempts: int, base_s: float, cap_s: float, budget_s: float
) -> None:
    policy = RetryPolicy(attempts, base_s, cap_s, budget_s)
    delays = list(policy.delays(random.Random(seed)))
    assert len(delays) <= attempts - 1
    assert sum(delays) <= budget_s + 1e-9
    for number, delay_s in enumerate(delays):
        assert 0.0 <= delay_s <= min(cap_s, base_s * 2.0**number)


def test_ceilings_double_up_to_the_cap() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    policy = RetryPolicy(attempts=6, base_s=0.1, cap_s=0.5, budget_s=100.0)
    assert list(policy.delays(Highest())) == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_no_retry_never_waits() -> None:
    assert list(NO_RETRY.delays(random.Random(1))) == []


def test_a_servers_wish_is_never_undercut() -> None:
    rng = random.Random(1)
    assert all(2.0 <= honour(2.0, rng) <= 2.5 for _ in range(100))
