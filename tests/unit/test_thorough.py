"""The list of what a quick run leaves out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.thorough import THOROUGH

TESTS = Path(__file__).resolve().parents[1]


def test_each_file_that_is_left_out_is_there() -> None:
    assert {name for name in THOROUGH if not (TESTS / name).is_file()} == set()


def test_ci_leaves_out_nothing() -> None:
    assert "make test ARGS=--thorough\n" in (TESTS.parent / ".ci" / "run").read_text()


def test_workers_run_what_is_named_with_the_seed_that_is_told(tmp_path: Path) -> None:
    # Setting up is all they are to do: what they collect is the question, and with which seed.
    (tmp_path / "told.py").write_text(
        "def pytest_collection_finish(session):\n"
        "    config = session.config\n"
        "    if hasattr(config, 'workerinput'):\n"
        "        open(__file__ + '.seed', 'w').write(str(config.option.fault_seed))\n"
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "told", "-n", "1", "--setup-plan"),
            *("-p", "no:cacheprovider", "tests/faults/test_clock.py"),
        ],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = re.search(r"--fault-seed (\d+)", ran.stdout)
    assert told is not None, ran.stdout
    assert "1 worker [0 items]" not in ran.stdout
    assert re.search(r"1 worker \[\d+ items\]", ran.stdout), ran.stdout
    assert (tmp_path / "told.py.seed").read_text() == told[1]
