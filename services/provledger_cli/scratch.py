"""A directory for what is not whole yet, beside the place that it will have.

    .<name>.<12 hex digits>/
        unfinished.lock       locked by who makes it, as long as that process lives; last to go.
                              In it the twelve digits, for it may have been moved
        ...

Who is killed leaves it, and the next command for the same place removes it. Nothing in it is used:
a data directory with that file in it is refused by every command (`config.load`). On a file system
without locks it is made as well, and nobody removes what may be another's.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provledger_cli.failures import CommandError
from provledger_cli.placing import has_name, sync_directory, try_lock

UNFINISHED: Final = "unfinished.lock"
_DIGITS: Final = 12
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Make such a directory for `path`; it is gone afterwards, unless it was moved to its place.

    Raises:
        CommandError: another command has come between.
        OSError: it cannot be made.
    """
    clear(path)
    made = path.with_name(f".{path.name}.{secrets.token_hex(_DIGITS // 2)}")
    made.mkdir(mode=0o700)
    with ExitStack() as at_end:
        at_end.callback(remove, made)
        held = _hold(made)
        at_end.callback(os.close, held)
        os.write(held, made.name[-_DIGITS:].encode())
        yield made


def advice(error: OSError) -> str:
    """What to do where a place cannot have anything made beside it, "" if something else is."""
    if error.errno == errno.EROFS:
        return "that file system is read-only: name a place on another"
    if error.errno == errno.ENAMETOOLONG:
        return f"give it a shorter name: until it is whole, {_DIGITS + 2} characters more are in it"
    return ""


def clear(path: Path) -> None:
    """Remove what commands that were killed have left for `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{_DIGITS}}}")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if pattern.fullmatch(left.name) is None or not left.is_dir():
            continue
        if is_unfinished(left):
            remove_left(left)
        else:
            with suppress(OSError):
                left.rmdir()  # killed before there was a lock; others are not ours


def is_unfinished(directory: Path) -> bool:
    """Whether a directory, wherever it is, was not finished."""
    return (directory / UNFINISHED).exists()


def uid(directory: Path) -> str:
    """The digits of an unfinished directory, wherever it is; "" if it never had any."""
    text = (directory / UNFINISHED).read_text("ascii", errors="replace")
    return text if re.fullmatch(rf"[0-9a-f]{{{_DIGITS}}}", text) else ""


def remove_left(directory: Path) -> None:
    """Remove an unfinished directory, unless somebody is or may be at work on it."""
    with suppress(OSError):
        found = _claim(directory)
        if found is not None:
            try:
                if found.alone:
                    remove(directory)
            finally:
                os.close(found.mark)


@dataclass(frozen=True, slots=True)
class Claimed:
    """An unfinished directory on which nobody is at work, as far as its file system tells.

    mark: an open descriptor. alone: it is locked by us; False on a file system without locks.
    """

    path: Path
    mark: int
    alone: bool

    def take_out(self) -> None:
        """Take it out of its place, for `clear`: by one rename, so that nobody finds half of it.

        Raises:
            CommandError: somebody else may be at work on it.
        """
        if not self.alone:
            raise CommandError(
                f"whether another command is at work on {self.path} cannot be told: its file "
                "system has no locks",
                hint="see that none is, remove that directory, and run it again",
            )
        _take_out(self.path)


@contextmanager
def claimed(path: Path) -> Iterator[Claimed | None]:
    """Keep others from an unfinished directory in its place; None if it is none, or none any more.

    Raises:
        CommandError: somebody is at work on it.
        OSError: its mark cannot be opened.
    """
    try:
        found = _claim(path)
    except BlockingIOError:
        raise CommandError(
            f"another restore into {path} is at work", hint="wait until it has ended"
        ) from None
    try:
        yield found
    finally:
        if found is not None:
            os.close(found.mark)


def remove_own(path: Path) -> None:
    """Remove one that the caller put in its place a moment ago, as far as that is possible."""
    with suppress(OSError):
        remove(_take_out(path))


def _take_out(path: Path) -> Path:
    left = path.with_name(f".{path.name}.{secrets.token_hex(_DIGITS // 2)}")
    os.rename(path, left)
    return left


def remove(directory: Path) -> None:
    """Remove a directory, the mark that it is unfinished last; as far as that is possible."""
    with suppress(OSError):
        for each in directory.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != UNFINISHED:
                each.unlink(missing_ok=True)
        (directory / UNFINISHED).unlink(missing_ok=True)
        directory.rmdir()


def finish(directory: Path) -> None:
    """Take the mark off a directory that has its place; durable on return, or still there.

    It must not come back at a power cut, when somebody has used the directory since.
    """
    mark = directory / UNFINISHED
    digits = mark.read_bytes()
    mark.unlink()
    try:
        sync_directory(directory)
    except BaseException:
        with suppress(OSError):
            mark.write_bytes(digits)
        raise


def give_name(file: Path, path: Path) -> None:
    """Give a whole and synced file its name, durably; nothing that is there is replaced.

    Raises:
        CommandError: `path` is there already.
        OSError: that failed, and `path` is not there.
    """
    there = CommandError(f"{path} is there already", hint="name another file")
    try:
        os.link(file, path)
    except FileExistsError:
        raise there from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # exFAT and some shares have no links, and no other way to leave alone what just appeared.
        if path.exists():
            raise there from None
        os.rename(file, path)
    try:
        sync_directory(path.absolute().parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_tree(directory: Path) -> None:
    """Make everything in a directory durable, files and names."""
    for root, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(Path(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(root))


@contextmanager
def parents(path: Path) -> Iterator[None]:
    """Make the directories above a path, each durable in its own parent.

    If the block raises, those that were made are gone again, unless something is in them.
    """
    made: list[Path] = []
    try:
        for each in reversed([each for each in path.parents if not each.is_dir()]):
            with suppress(FileExistsError):  # another command was faster
                each.mkdir()
                made.append(each)
            sync_directory(each.parent)
        yield
    except BaseException:
        with suppress(OSError):
            while made:
                made.pop().rmdir()
        raise


def _hold(directory: Path) -> int:
    """Mark a new directory as ours."""
    mark = directory / UNFINISHED
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock_if_possible(descriptor)
        if has_name(mark, descriptor):
            return descriptor
    except BlockingIOError:
        pass  # it was taken for one that was left, and is being removed
    os.close(descriptor)
    raise CommandError(
        f"another command has begun with {directory} at the same moment", hint="run one at a time"
    )


def _claim(directory: Path) -> Claimed | None:
    """Lock the mark of an unfinished directory; None if it is not there, or not any more.

    Raises:
        BlockingIOError: somebody is at work on it.
        OSError: it cannot be opened.
    """
    mark = directory / UNFINISHED
    try:
        # Not made: it would be the mark of a directory that was just finished.
        descriptor = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        alone = _lock_if_possible(descriptor)
        if has_name(mark, descriptor):
            return Claimed(directory, descriptor, alone)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock_if_possible(descriptor: int) -> bool:
    """Lock a mark; False on a file system without locks. BlockingIOError: another one has it."""
    try:
        try_lock(descriptor)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
