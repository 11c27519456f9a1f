"""What the benchmarks count, and what they leave out."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from provledger import _ed25519, jwk
from provledger.verify import verify_receipt
from tests.bench import anchor, probed, timing
from tests.bench.inprocess import logged_lines
from tests.support.anchoring import Ledger
from tests.support.chain import key_set


def test_loop_is_watched_while_there_is_work() -> None:
    """Not when the service starts, nor while it waits: a p99 of mostly idle turns says little."""
    notes = [
        (0.0, 0.5, 0.4),
        *((at_s, at_s + 0.001, 0.0) for at_s in (0.6, 0.8, 0.9)),
        # It began before the work did, and was held by it.
        (0.999, 1.05, 0.05),
        (1.5, 1.503, 0.002),
        (1.998, 2.1, 0.1),
        (3.0, 3.9, 0.9),
    ]
    found = probed.held(notes, 1.0, 2.0)
    assert found["busy"]["count"] == 3
    assert found["busy"]["max_ms"] == 100
    assert found["late"]["max_ms"] == 101
    assert found["late"]["min_ms"] == 2


def test_caches_of_the_library_are_emptied() -> None:
    keys = key_set().encode()
    _, lines = logged_lines(2)
    verify_receipt(lines[-1], keys)
    before = sum(cache.cache_info().currsize for cache in timing.bounded_caches())
    library = _ed25519._libsodium.cache_info().currsize
    timing.empty_caches()
    assert before > sum(cache.cache_info().currsize for cache in timing.bounded_caches()) == 0
    assert _ed25519._libsodium.cache_info().currsize == library
    assert any(cache.__module__ == jwk.__name__ for cache in timing.bounded_caches())


def test_what_is_called_before_each_is_called_before_each() -> None:
    said: list[str] = []
    assert len(timing.each(said.append, "ab", lambda: said.append("-"))) == 2
    assert said == ["-", "a", "-", "b"]


class HeldLog:
    """A log whose first counted leaf holds the event loop until others have long been due."""

    def __init__(self, warm_up: int) -> None:
        self.left = warm_up

    async def submit(self, submission: Any) -> None:
        self.left -= 1
        if self.left == -1:
            until_s = time.perf_counter() + 0.1
            while time.perf_counter() < until_s:
                pass


async def test_leaf_counts_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor, "WARM_UP_S", 0.01)
    found = await anchor.at_rate(cast(Any, HeldLog(10)), [Ledger("one")], 1000, 0.05)
    assert found["count"] == 50
    # All fifty were due, by chance a little later, within the tenth of a second that one took.
    assert found["p50_ms"] > 20
