"""What is told once in a while."""

from __future__ import annotations

from provledger.seldom import TELL_EVERY_S, Seldom


def test_each_is_told_at_once_and_then_seldom_with_how_often_it_was() -> None:
    now_s = 5.0
    seldom = Seldom(monotonic=lambda: now_s)
    assert [seldom.times("one") for _ in range(4)] == [1, 0, 0, 0]
    now_s += TELL_EVERY_S / 2
    assert [seldom.times(name) for name in ("other", "one", "other")] == [1, 0, 0]
    now_s += TELL_EVERY_S / 2
    assert [seldom.times(name) for name in ("one", "one", "other")] == [5, 0, 0]
    now_s += TELL_EVERY_S
    assert [seldom.times(name) for name in ("one", "other")] == [2, 3]
