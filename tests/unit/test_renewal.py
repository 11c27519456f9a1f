"""What is made of files follows them, and is never made of what cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provledger import renewal
from provledger.renewal import LOOK_EVERY_S, TELL_EVERY_S, Renewed
from provledger.settings import ConfigError


class Clock:
    """Seconds that pass when told."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Pair:
    """Two files that belong together when they hold the same; `made` counts."""

    def __init__(self, directory: Path) -> None:
        self.one, self.other = directory / "one", directory / "other"
        self.made = 0
        self.between = lambda: None
        self.put(self.one, "a")
        self.put(self.other, "a")
        self.clock = Clock()

    def put(self, path: Path, text: str) -> None:
        staged = path.with_suffix(".new")
        staged.write_text(text)
        os.replace(staged, path)

    def make(self) -> str:
        self.made += 1
        try:
            one = self.one.read_text()
            self.between()
            other = self.other.read_text()
        except OSError as error:
            raise ConfigError(f"{error.filename}: gone") from error
        if one[0] != other[0]:
            raise ConfigError("they do not belong together")
        return one + other

    def renewed(self) -> Renewed[str]:
        return Renewed((self.one, self.other), self.make, clock=self.clock)

    def later(self, renewed: Renewed[str]) -> str:
        self.clock.now_s += LOOK_EVERY_S
        return renewed.look()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_files_that_cannot_be_used_are_refused_at_first(pair: Pair) -> None:
    pair.put(pair.other, "b")
    with pytest.raises(ConfigError, match="belong together"):
        pair.renewed()


def test_nothing_is_read_while_no_file_was_replaced(pair: Pair) -> None:
    renewed = pair.renewed()
    assert {pair.later(renewed) for _ in range(5)} == {"aa"}
    assert pair.made == 1


def test_replaced_files_are_seen_at_the_next_look_and_not_before(pair: Pair) -> None:
    renewed = pair.renewed()
    for path in (pair.one, pair.other):
        pair.put(path, "b")
    pair.clock.now_s += LOOK_EVERY_S - 0.01
    assert renewed.look() == "aa"
    pair.clock.now_s += 0.01
    assert renewed.look() == "bb"
    assert pair.made == 2


def test_a_file_written_in_its_place_is_seen_too(pair: Pair) -> None:
    renewed = pair.renewed()
    pair.one.write_text("a!")
    assert pair.later(renewed) == "a!a"


def test_a_mount_that_is_another_directory_now_is_seen(pair: Pair, tmp_path: Path) -> None:
    """As Kubernetes replaces a Secret: one link, behind which all of its files are."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        for path in ("one", "other"):
            (tmp_path / name / path).write_text(name)
    link = tmp_path / "data"
    link.symlink_to("before")
    pair.one, pair.other = link / "one", link / "other"
    renewed = pair.renewed()
    (tmp_path / "new").symlink_to("after")
    os.replace(tmp_path / "new", link)
    assert pair.later(renewed) == "afterafter"


@pytest.mark.parametrize("half", ["another", "gone"])
def test_half_of_them_leaves_the_last_until_they_can_be_used(
    pair: Pair, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", renewal.__name__)
    renewed = pair.renewed()
    if half == "another":
        pair.put(pair.one, "b")
    else:
        pair.one.unlink()
    for _ in range(5):
        assert pair.later(renewed) == "aa"
    assert told(caplog, "files.unusable") == 1
    pair.clock.now_s += TELL_EVERY_S
    assert renewed.look() == "aa"
    assert told(caplog, "files.unusable") == 2
    for path in (pair.one, pair.other):
        pair.put(path, "b")
    assert pair.later(renewed) == "bb"
    assert told(caplog, "files.renewed") == 1


def test_what_was_read_while_a_file_was_replaced_is_read_again(pair: Pair) -> None:
    renewed = pair.renewed()
    pair.put(pair.one, "a1")
    pair.between = lambda: pair.put(pair.other, "a2")
    assert pair.later(renewed) == "aa"
    pair.between = lambda: None
    assert pair.later(renewed) == "a1a2"


def test_nobody_waits_for_another_one_who_looks(pair: Pair) -> None:
    renewed = pair.renewed()
    pair.put(pair.one, "a1")
    seen: list[str] = []
    pair.between = lambda: seen.append(renewed.look())
    assert pair.later(renewed) == "a1a"
    assert seen == ["aa"]


def told(caplog: pytest.LogCaptureFixture, event: str) -> int:
    return sum(event in record.getMessage() for record in caplog.records)


def test_the_files_are_named_and_not_what_they_hold(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", renewal.__name__)
    renewed = pair.renewed()
    pair.put(pair.one, "a-secret")
    assert pair.later(renewed) == "a-secreta"
    said = str([vars(record) for record in caplog.records])
    assert str(pair.one) in said
    assert "a-secret" not in said
