"""Generations of connections: one ends when a connection is lost or another server answers."""

from __future__ import annotations

from provledger.db import Continuity


def test_one_cut_ends_one_generation() -> None:
    """All connections break together and are noticed one by one."""
    known = Continuity()
    made = [known.reached("a") for _ in range(4)]
    assert made == [0, 0, 0, 0]
    for generation in made:
        known.lost(generation)
    assert known.generation == 1


def test_cut_after_a_cut_is_another() -> None:
    known = Continuity()
    known.lost(known.reached("a"))
    known.lost(known.reached("a"))
    assert known.generation == 2


def test_another_server_begins_a_generation() -> None:
    """Nobody need have had a connection to the one of before that broke."""
    known = Continuity()
    assert [known.reached(server) for server in "aabba"] == [0, 0, 1, 1, 2]
    known.lost(0)
    assert known.generation == 2
