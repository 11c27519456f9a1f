"""With its seed, one test of tests/faults makes its choices again, whichever ran before it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.conftest import Attack, seed_of


def _first_requests(attack: Attack) -> list[str]:
    """What one writer of a new workload would send first."""
    work = attack.workload()
    rng = random.Random(f"{work._seed} 0")
    return [str(work._draft(f"0-{n}-{work._seed}", rng)) for n in range(3)]


def test_requests_hang_on_the_test_and_not_on_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Attack(Cluster(tmp_path / "data"), tmp_path / "record", 7)
    again = Attack(Cluster(tmp_path / "again"), tmp_path / "record-again", 7)
    try:
        monkeypatch.setattr(Attack, "node_id", "test_one")
        ones = [_first_requests(attack), _first_requests(attack)]
        monkeypatch.setattr(Attack, "node_id", "test_two")
        two = _first_requests(attack)
        # Picked alone, with -k.
        assert _first_requests(again) == two
        assert len({repr(each) for each in (*ones, two)}) == 3
    finally:
        attack.close()
        again.close()


def test_runs_with_other_seeds_make_other_choices() -> None:
    assert len({seed_of(seed, test) for seed in (1, 2) for test in ("a", "b")}) == 4
