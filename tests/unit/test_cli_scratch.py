"""Directories for what is not whole yet: their lock tells whose they are, where there are locks."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from provledger_cli import scratch
from provledger_cli.embedded import datadir
from provledger_cli.failures import CommandError

LEFT = ".b.tar.0123456789ab"


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", none)
        yield


def left(path: Path) -> Path:
    """One of a command that was killed, or is at work."""
    path.mkdir()
    (path / scratch.UNFINISHED).write_text(path.name[-12:])
    return path


def test_a_file_system_without_locks_can_be_written_to(tmp_path: Path, without_locks: None) -> None:
    """What may be another's stays there; what is our own does not."""
    others = left(tmp_path / LEFT)
    for _ in range(2):
        with scratch.beside(tmp_path / "b.tar") as made:
            assert scratch.uid(made) == made.name[-12:]
            (made / "archive").write_bytes(b"payload")
        assert list(tmp_path.iterdir()) == [others]


def test_what_may_be_at_work_is_not_taken_out(tmp_path: Path, without_locks: None) -> None:
    target = left(tmp_path / "new")
    with scratch.claimed(target) as found:
        assert found is not None
        with pytest.raises(CommandError, match="cannot be told"):
            found.take_out()
    assert scratch.is_unfinished(target)


def test_a_lock_that_there_cannot_be_is_not_held(tmp_path: Path, without_locks: None) -> None:
    with pytest.raises(CommandError, match="cannot be locked: No locks") as caught:
        datadir.lock(tmp_path / "supervisor.lock")
    assert "no locks" in caught.value.hint


@pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_has_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def held(descriptor: int, operation: int) -> None:
        raise OSError(refusal, os.strerror(refusal))

    target = left(tmp_path / "new")
    monkeypatch.setattr(fcntl, "flock", held)
    assert datadir.lock(tmp_path / "supervisor.lock") is None
    with pytest.raises(CommandError, match="is at work"), scratch.claimed(target):
        pass
    scratch.remove_left(target)
    assert scratch.is_unfinished(target)


def test_one_that_cannot_be_marked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        if Path(path).name == scratch.UNFINISHED:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, mode)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(OSError, match="No space"), scratch.beside(tmp_path / "b.tar"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_directories_above_are_kept_where_something_is_in_them(tmp_path: Path) -> None:
    target = tmp_path / "x" / "y" / "new"
    with suppress(ZeroDivisionError), scratch.parents(target):
        (tmp_path / "x" / "others").write_bytes(b"")
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["others"]
    with scratch.parents(target):
        pass
    assert target.parent.is_dir()


def test_what_has_no_mark_any_more_is_not_removed(tmp_path: Path) -> None:
    """Its owner has put it in its place, or it was never ours."""
    (tmp_path / LEFT / "keys").mkdir(parents=True)
    scratch.remove_left(tmp_path / LEFT)
    scratch.remove_left(tmp_path / "away")
    assert (tmp_path / LEFT / "keys").is_dir()
    assert not scratch.is_unfinished(tmp_path / LEFT)
