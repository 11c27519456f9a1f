"""The list of what a quick run leaves out."""

from __future__ import annotations

from pathlib import Path

from tests.thorough import THOROUGH

TESTS = Path(__file__).resolve().parents[1]


def test_each_file_that_is_left_out_is_there() -> None:
    assert {name for name in THOROUGH if not (TESTS / name).is_file()} == set()


def test_ci_leaves_out_nothing() -> None:
    assert "make test ARGS=--thorough\n" in (TESTS.parent / ".ci" / "run").read_text()
