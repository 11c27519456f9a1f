"""A log that takes its time with every tile delays no look for ever, and hides nothing by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from provledger.monitoring import LogView
from provledger_cli.tlog.logfiles import DirFiles
from provledger_cli.watching.monitor import STEP_S, Monitor, Wanted
from provledger_cli.watching.remembered import Memory
from tests.support.chain import sample_chain
from tests.support.tiled import signed_checkpoint, vkey, write_log
from tests.support.watched import ENTRIES, ORIGIN, kinds


class Slow(DirFiles):
    """A log in a directory; each of `slow` takes longer than a step may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.now_s = 0.0
        self.slow: Sequence[str] = ()
        self.asked: list[str] = []

    def read(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path.startswith(tuple(self.slow)):
            self.now_s += 1.2 * STEP_S
        return super().read(path)


@pytest.fixture
def files(tmp_path: Path) -> Slow:
    (tmp_path / "log").mkdir()
    return Slow(tmp_path / "log")


def watch(files: Slow, origin: str, tmp_path: Path, **options: object) -> Monitor:
    view = LogView([vkey(origin)])
    return Monitor(
        view,
        files,
        Memory(tmp_path / "state.json", view),
        Wanted(**options),  # type: ignore[arg-type]
        expect_s=STEP_S,
        monotonic=lambda: files.now_s,
    )


def test_a_slow_log_is_not_waited_for_without_end(files: Slow, tmp_path: Path) -> None:
    write_log(files.root, ORIGIN, ENTRIES)
    watch(files, ORIGIN, tmp_path).look()
    # It went back, and whether that is an old copy of its checkpoint is not to be found out.
    (files.root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:100]))
    files.slow, files.asked = ["tile/"], []
    assert kinds(watch(files, ORIGIN, tmp_path).look()) == ["rolled_back"]
    assert len(files.asked) == 2
    # Nor whether it grew.
    write_log(files.root, ORIGIN, [*ENTRIES, b"one more"])
    found = watch(files, ORIGIN, tmp_path).look()
    assert (found.alarms, list(found.unknown)) == ([], ["log"])
    files.slow = ()
    assert watch(files, ORIGIN, tmp_path).look().held


def test_the_next_look_goes_on_with_the_entries_that_are_left(files: Slow, tmp_path: Path) -> None:
    chain = sample_chain((600,))
    export = tmp_path / "export.ndjson"
    export.write_bytes(b"".join(chain.export()))
    monitor = watch(files, chain.origin, tmp_path, expect=[export])
    files.slow = ["tile/0/000", "tile/0/001"]
    for more in range(2):
        # It grows, so that no tile is known from before.
        write_log(files.root, chain.origin, [*chain.leaves, *[b"more"] * more])
        found = monitor.look()
        assert (found.alarms, list(found.unknown)) == ([], [] if more else ["entries"])
    assert found.held["entries"] == "all 601 of ours are where their receipts say"
    assert [path for path in files.asked if path == "tile/0/000"] == ["tile/0/000"]
