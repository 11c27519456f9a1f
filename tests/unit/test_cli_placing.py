"""Where commands write: files whole or not at all, links kept, devices and pipes left in place."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from provledger_cli import failures, placing
from provledger_cli.embedded.datadir import write_atomically
from provledger_cli.failures import CommandError


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    target = tmp_path / "deep" / "target"
    target.write_bytes(b"old")
    held = target.open("rb")
    link = tmp_path / "link"
    link.symlink_to("deep/target")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (target.read_bytes(), held.read()) == (b"new", b"old")
    held.close()
    assert [item.name for item in tmp_path.rglob(".*")] == []


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"new")
    assert os.read(reader, 100) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_device_is_written_into(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert stat.S_ISCHR(link.stat().st_mode)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "full", b"new")


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o600])
def test_what_is_not_whole_is_closed_to_others(tmp_path: Path, umask: int, mode: int) -> None:
    target = tmp_path / "target"
    with placing.replacing(target, mode=mode) as file:
        file.write(b"payload")
        file.flush()
        (scratch,) = tmp_path.iterdir()
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.stat().st_mode) == mode & ~umask


def test_what_a_killed_command_left_is_removed_by_the_next_to_the_same_place(
    tmp_path: Path,
) -> None:
    target, elsewhere = tmp_path / "e.ndjson", tmp_path / "precious"
    left = ".e.ndjson.0123456789ab"
    others = [".d.ndjson.0123456789ab", ".e.ndjson.0123", "e.ndjsonx"]
    for name in (left, *others, "precious"):
        (tmp_path / name).write_bytes(b"payload")
    (tmp_path / ".e.ndjson.aaaaaaaaaaaa").symlink_to(elsewhere)
    (tmp_path / ".e.ndjson.bbbbbbbbbbbb").mkdir()
    os.mkfifo(tmp_path / ".e.ndjson.cccccccccccc")
    (tmp_path / "link").symlink_to(target)
    placing.write(tmp_path / "link", b"new")
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {
        *("e.ndjson", "link", "precious", *others),
        *(f".e.ndjson.{digit * 12}" for digit in "abc"),
    }
    assert elsewhere.read_bytes() == b"payload"


def test_commands_that_write_to_the_same_place_leave_each_other_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with placing.replacing(target) as first:
        first.write(b"first")
        with placing.replacing(target) as second:
            second.write(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_was_removed_before_it_had_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command looks for what was left between the two, and holds it or has removed it."""
    lock = fcntl.flock
    taken: list[Path] = []

    def late(descriptor: int, operation: int) -> None:
        if len(taken) < 2:
            (path,) = set(tmp_path.iterdir()) - set(taken)
            taken.append(path)
            if len(taken) == 1:
                raise BlockingIOError
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    placing.write(tmp_path / "target", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert len(taken) == 2


def test_a_file_system_without_locks_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    left = tmp_path / ".target.0123456789ab"
    left.write_bytes(b"somebody may be at work on it")
    placing.write(tmp_path / "target", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert left.exists()


def test_a_directory_is_refused_before_any_work(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "none" / "x"):
        with pytest.raises(CommandError, match="directory"):
            placing.claim(given)
        with pytest.raises(CommandError, match="directory"):
            write_atomically(given, b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_many_names_and_is_written_once(
    name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    placing.write(Path(name), b"\x00data")
    assert capfdbinary.readouterr().out == b"\x00data"
    with pytest.raises(CommandError, match="only one"):
        placing.claim(Path(name), None, Path("-"))


def test_a_file_named_like_the_dash_can_be_given(tmp_path: Path) -> None:
    assert not placing.is_stdout(tmp_path / "-")
    assert not placing.is_stdout(None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_what_cannot_be_written_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """A full disk does not tell which file it was."""
    with pytest.raises(OSError, match="No space left") as caught:
        placing.write(Path("/dev/full"), b"x")
    assert failures.report(caught.value) == failures.COULD_NOT_TELL
    said = capfd.readouterr().err
    assert "error: /dev/full: No space left on device" in said
    assert "next: make room there" in said


def test_two_things_do_not_go_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written as a whole: the second would be all that is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/out")
    (tmp_path / "way").symlink_to("deep")
    out = tmp_path / "deep" / "out"
    for other in (out, tmp_path / "link", tmp_path / "way" / "out", Path("deep/../deep/out")):
        with pytest.raises(CommandError, match="two things cannot go to one file"):
            placing.claim(out, None, other)
    out.write_bytes(b"there already")
    with pytest.raises(CommandError, match="two things cannot go to one file"):
        placing.claim(tmp_path / "head", Path("link"), out)
    placing.claim(out, tmp_path / "head", None, tmp_path / "checkpoint")
    placing.claim(Path("/dev/null"), Path("/dev/null"))  # it takes as many as there are
