"""A data directory that was moved or copied: its own anchors are asked, and no others written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from provledger_cli.embedded import config, running
from provledger_cli.embedded.datadir import SERVICES, DataDir
from provledger_cli.embedded.endpoints import Endpoints, ServiceState
from provledger_cli.failures import CommandError

Move = Callable[[Path, Path], object]


def _copy(before: Path, now: Path) -> None:
    shutil.copytree(before, now, symlinks=True)


@pytest.fixture(params=[Path.rename, _copy], ids=["moved", "copied"])
def move(request: pytest.FixtureRequest) -> Move:
    found: Move = request.param
    return found


def used(path: Path, *sinks: str) -> DataDir:
    """A directory in which services have run, with anchors in it."""
    made = DataDir.at(path)
    running.set_up(made, "", list(sinks))
    (made.keys / "witness-1.pem").touch()
    _ran(made, str(made.path))
    (made.anchors / "ledger.example").mkdir()
    return made


def _ran(data_dir: DataDir, home: str = "") -> None:
    """Leave what a run leaves; without a home, one of an earlier version."""
    services = {
        name: ServiceState("", 0, "stopped", 0, None, str(data_dir.log(name))) for name in SERVICES
    }
    Endpoints("0.1.0", 1, "sqlite", (), services, home).write(data_dir.endpoints)


def forget(data_dir: DataDir) -> None:
    """Leave everything as earlier versions wrote it."""
    _ran(data_dir)
    kept = json.loads(data_dir.config.read_text("utf-8"))
    del kept["data_dir"]
    data_dir.config.write_text(json.dumps(kept), "utf-8")


def sinks(data_dir: DataDir, *given: str) -> tuple[str, ...]:
    """Those of the next start."""
    return running.set_up(data_dir, "", list(given)).sinks


@pytest.mark.parametrize("earlier_version", [False, True])
def test_sinks_inside_go_with_the_directory(
    tmp_path: Path, move: Move, earlier_version: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    away, inside = "file:///mnt/elsewhere", (tmp_path / "m 1" / "more").as_uri() + "?git=1"
    before = used(tmp_path / "m 1", (tmp_path / "m 1" / "anchors").as_uri(), inside, away)
    if earlier_version:
        forget(before)
    move(before.path, tmp_path / "m 2")
    now = DataDir.at(tmp_path / "m 2")
    expected = (now.anchors.as_uri(), (now.path / "more").as_uri() + "?git=1", away)
    loaded = config.load(now)
    assert loaded is not None
    assert loaded.sinks == expected
    assert sinks(now) == expected
    assert "was moved or copied" in " ".join(capsys.readouterr().err.split())
    now.path.rename(tmp_path / "m3")
    assert sinks(DataDir.at(tmp_path / "m3"))[0] == (tmp_path / "m3" / "anchors").as_uri()
    capsys.readouterr()
    assert sinks(DataDir.at(tmp_path / "m3"))[0] == (tmp_path / "m3" / "anchors").as_uri()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("earlier_version", [False, True])
def test_sinks_of_one_that_stayed_are_as_they_were(
    tmp_path: Path, earlier_version: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by a link, and at a link to where it is now: evidence is kept by the URI of a sink."""
    before = used(tmp_path / "m1")
    if earlier_version:
        forget(before)
    default = (before.anchors.as_uri(),)
    (tmp_path / "link").symlink_to(before.path)
    assert sinks(DataDir.at(tmp_path / "link")) == default
    assert sinks(before) == default
    assert sinks(DataDir.at(tmp_path / "link"), (tmp_path / "link/anchors").as_uri()) == default
    before.path.rename(tmp_path / "larger")
    before.path.symlink_to(tmp_path / "larger")
    assert sinks(before) == sinks(DataDir.at(tmp_path / "larger")) == default
    assert capsys.readouterr().err == ""
    before.path.unlink()
    larger = DataDir.at(tmp_path / "larger")
    assert sinks(larger) == (larger.anchors.as_uri(),)


@pytest.mark.parametrize("between", [",", ", ", " ", "\n"])
def test_several_in_one_text_go_each_by_itself(tmp_path: Path, between: str) -> None:
    """Earlier versions took them so, and so does the anchor."""
    before, away = used(tmp_path / "m1"), "file:///mnt/elsewhere"
    kept = json.loads(before.config.read_text("utf-8"))
    kept["sinks"] = [before.anchors.as_uri() + between + away]
    before.config.write_text(json.dumps(kept), "utf-8")
    assert sinks(before) == (before.anchors.as_uri(), away)
    before.path.rename(tmp_path / "m2")
    now = DataDir.at(tmp_path / "m2")
    assert sinks(now) == (now.anchors.as_uri(), away)


def test_those_of_a_restored_directory_stay_with_the_original(tmp_path: Path) -> None:
    original = used(tmp_path / "m1")
    restored = DataDir.at(tmp_path / "restored")
    restored.make()
    kept = {"database_url": "", "sinks": [original.anchors.as_uri()], "fips": False}
    restored.config.write_text(json.dumps(kept), "utf-8")
    assert sinks(restored) == (original.anchors.as_uri(),)
    restored.path.rename(tmp_path / "m2")
    assert sinks(DataDir.at(tmp_path / "m2")) == (original.anchors.as_uri(),)


def test_one_that_ran_since_it_was_copied_does_not_write_to_the_original(tmp_path: Path) -> None:
    """Under an earlier version, which wrote nowhere whether these sinks are meant."""
    original = used(tmp_path / "m1")
    forget(original)
    _copy(original.path, tmp_path / "m2")
    copied = DataDir.at(tmp_path / "m2")
    _ran(copied)
    with pytest.raises(CommandError, match="another data directory") as refused:
        sinks(copied)
    own = copied.anchors.as_uri()
    assert own in refused.value.hint
    assert sinks(copied, own) == sinks(copied) == (own,)


def test_one_that_ran_since_it_was_moved_is_told_of_its_own_anchors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: it may as well be a choice of somebody's, and a restart must not end there."""
    meant = (tmp_path / "mnt" / "anchors").as_uri()
    chosen = used(tmp_path / "m1", meant)
    forget(chosen)
    assert sinks(chosen) == (meant,)
    assert chosen.anchors.as_uri() in capsys.readouterr().err.replace("\n", "")
    assert sinks(chosen) == (meant,)
    assert capsys.readouterr().err == ""


def test_an_earlier_version_that_ran_since_a_move_went_on_in_the_old_anchors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It left the old place in the configuration; what it recorded is known to those alone."""
    before = used(tmp_path / "m1")
    before.path.rename(tmp_path / "m2")
    now = DataDir.at(tmp_path / "m2")
    _ran(now)
    (before.anchors / "ledger.example").mkdir(parents=True)
    loaded = config.load(now)
    assert loaded is not None
    assert loaded.sinks == (before.anchors.as_uri(),)
    assert sinks(now) == (before.anchors.as_uri(),)
    said = capsys.readouterr().err
    assert now.anchors.as_uri() in said.replace("\n", "")
    assert "was moved or copied here" not in said
    assert sinks(now, now.anchors.as_uri()) == sinks(now) == (now.anchors.as_uri(),)


def test_an_earlier_version_that_ran_between_two_moves_went_on_in_the_old_anchors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = used(tmp_path / "m1")
    before.path.rename(tmp_path / "m2")
    _ran(DataDir.at(tmp_path / "m2"))
    (before.anchors / "ledger.example").mkdir(parents=True)
    (tmp_path / "m2").rename(tmp_path / "m3")
    now = DataDir.at(tmp_path / "m3")
    loaded = config.load(now)
    assert loaded is not None
    assert loaded.sinks == (before.anchors.as_uri(),)
    assert sinks(now) == (before.anchors.as_uri(),)
    assert now.anchors.as_uri() in capsys.readouterr().err.replace("\n", "")
    assert sinks(now, now.anchors.as_uri()) == sinks(now) == (now.anchors.as_uri(),)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_two_moves_with_no_earlier_version_in_between_take_the_sinks_along(
    tmp_path: Path, move: Move, earlier_version: bool
) -> None:
    """An earlier version ran before them, if at all; anchors are left at the first place."""
    before = used(tmp_path / "m1")
    if earlier_version:
        _ran(before)
    move(before.path, tmp_path / "m2")
    (before.anchors / "ledger.example").mkdir(parents=True, exist_ok=True)
    (tmp_path / "m2").rename(tmp_path / "m3")
    now = DataDir.at(tmp_path / "m3")
    assert sinks(now) == (now.anchors.as_uri(),)


def test_an_earlier_version_that_ran_since_a_copy_leaves_the_choice(tmp_path: Path) -> None:
    original = used(tmp_path / "m1")
    _copy(original.path, tmp_path / "m2")
    copied = DataDir.at(tmp_path / "m2")
    _ran(copied)
    with pytest.raises(CommandError, match="another data directory") as refused:
        sinks(copied)
    own = copied.anchors.as_uri()
    assert own in refused.value.hint
    assert sinks(copied, own) == sinks(copied) == (own,)


def test_an_earlier_version_that_ran_before_a_move_changes_nothing(
    tmp_path: Path, move: Move
) -> None:
    before, link = used(tmp_path / "m1"), tmp_path / "link"
    link.symlink_to(before.path)
    _ran(DataDir.at(link))
    link.unlink()
    move(before.path, tmp_path / "m2")
    now = DataDir.at(tmp_path / "m2")
    assert sinks(now) == (now.anchors.as_uri(),)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_link_that_is_removed_takes_no_sinks_with_it(
    tmp_path: Path, earlier_version: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Services ran at the new place while the link was left at the one that sinks are named by."""
    before = used(tmp_path / "m1", (tmp_path / "m1" / "anchors").as_uri(), "file:///mnt/elsewhere")
    before.path.rename(tmp_path / "larger")
    before.path.symlink_to(tmp_path / "larger")
    larger = DataDir.at(tmp_path / "larger")
    _ran(larger, "" if earlier_version else str(before.path))
    before.path.unlink()
    if not earlier_version:
        used(tmp_path / "m1")  # another one in its place
    assert sinks(larger) == (larger.anchors.as_uri(), "file:///mnt/elsewhere")
