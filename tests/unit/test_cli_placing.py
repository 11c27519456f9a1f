"""Where commands write: files whole or not at all, links kept, devices and pipes left in place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provledger_cli import placing
from provledger_cli.datadir import write_atomically
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
