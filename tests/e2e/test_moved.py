"""A data directory elsewhere: what its anchors know goes with it, and a copy has its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.commands import Installation

MUTATION = json.dumps(
    {
        "action": "CREATE",
        "resource_type": "Item",
        "resource_id": "42",
        "actor_id": "tester",
        "new_state": {"number": 1},
    }
).encode()


@contextmanager
def running(work: Path) -> Iterator[Installation]:
    """The services of the data directory in `work`, as long as the block lasts."""
    installation = Installation(work)
    try:
        installation.run("up")
        yield installation
    finally:
        installation.run("down", check=False)


def record(installation: Installation) -> None:
    installation.run("append", "--tenant", "demo", stdin=MUTATION)
    installation.run("status", "--wait", "60")


def anchors(work: Path) -> dict[Path, bytes]:
    root = work / "data" / "anchors"
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_older_databases_are_noticed_after_a_move_and_a_copy_writes_nothing_outside(
    tmp_path: Path,
) -> None:
    original, copied, moved = (tmp_path / name for name in ("original", "copied", "moved"))
    original.mkdir()
    moved.mkdir()
    with running(original) as installation:
        record(installation)
    shutil.copytree(original, copied, symlinks=True)
    for part in ("db", "tiles"):
        shutil.copytree(original / "data" / part, tmp_path / "older" / part)
    with running(original) as installation:
        record(installation)
    held = anchors(original)

    with running(copied) as installation:
        record(installation)
    assert anchors(original) == held
    with running(original) as installation:
        record(installation)

    for part in ("db", "tiles"):
        shutil.rmtree(original / "data" / part)
        shutil.copytree(tmp_path / "older" / part, original / "data" / part)
    (original / "data").rename(moved / "data")
    with running(moved) as installation:
        refused = installation.run("append", "--tenant", "demo", stdin=MUTATION, check=False)
        assert refused.code == 2
        assert "RESTORED_BEHIND" in refused.talk + json.dumps(refused.json)
        assert installation.run("status", "--wait", "1", check=False).code != 0
    assert not (original / "data").exists()
