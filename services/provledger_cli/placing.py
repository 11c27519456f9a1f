"""Where a command puts what it makes: files, devices and pipes, standard output.

A regular file is replaced as a whole, so that readers see the old one or the new one. A symbolic
link stays, and the file it leads to is replaced. Until then what is written is in a file beside it
(`.NAME.` and 12 hex digits), closed to others and locked; who is killed leaves it, and the next
command that writes to the same place removes it. What is no file, such as a pipe or /dev/null, is
written into: to put a file in its place would take it from everybody else. `-` is standard output,
and what the command has to say goes to stderr then.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from provledger_cli import output
from provledger_cli.failures import CommandError

_DIGITS: Final = 12
# Opened anew, a file behind these would be written from its start, over what is there.
_STDOUT: Final = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


def is_stdout(path: Path | None) -> bool:
    """Whether a path that was given means standard output."""
    return str(path) in _STDOUT


def claim(*paths: Path | None) -> None:
    """Look at the places that were given to a command before it does its work.

    Raises:
        CommandError: one is a directory or lies in none, or two are one place: standard output, or
            a file, by whichever of its names.
    """
    given = [path for path in paths if path is not None]
    to_stdout = sum(is_stdout(path) for path in given)
    if to_stdout > 1:
        raise CommandError("only one thing can go to standard output", hint="name a file")
    if to_stdout:
        output.answer_on_stderr()
    files: set[str] = set()
    for path in given:
        if is_stdout(path):
            continue
        target, is_file = _target(path)
        if not is_file:
            continue
        name = os.path.realpath(target)
        if name in files:
            # Each replaces the file: what came first would be gone, without a word.
            raise CommandError(f"two things cannot go to one file: {path}", hint="name two files")
        files.add(name)


def writing(path: Path, *, mode: int = 0o666) -> AbstractContextManager[IO[bytes]]:
    """A place that was given to a command, open to be written; see `replacing`."""
    return output.stdout_bytes() if is_stdout(path) else replacing(path, mode=mode)


def write(path: Path, data: bytes) -> None:
    """Write all of it to a place that was given to a command; an OSError names it."""
    try:
        with writing(path, mode=0o644) as file:
            file.write(data)
    except OSError as error:
        if error.filename is None:  # such as of a disk that is full, which tells of no path
            error.filename = "standard output" if is_stdout(path) else str(path)
        raise


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` if all goes well, durable then; or what is there.

    mode: of a new file, less the umask.

    Raises:
        CommandError: it is a directory, or lies in none.
    """
    target, is_file = _target(path)
    if not is_file:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
            yield file
        return
    _clear(target)
    scratch, descriptor = _scratch(target, mode)
    try:
        # Its lock ends when it is closed, which is when it has its name.
        with os.fdopen(descriptor, "wb") as file:
            wanted = _close_to_others(descriptor)
            yield file
            file.flush()
            if wanted is not None:
                os.fchmod(descriptor, wanted)
            os.fsync(descriptor)
            os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def _scratch(target: Path, mode: int) -> tuple[Path, int]:
    """A new file beside `target` under our lock: its path and its open descriptor."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(_DIGITS // 2)}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            try_lock(descriptor)
            if has_name(path, descriptor):
                return path, descriptor
        except BlockingIOError:
            pass  # another command has come between, and removes it
        except OSError:
            return path, descriptor  # a file system without locks, on which nothing is removed
        os.close(descriptor)


def _close_to_others(descriptor: int) -> int | None:
    """Take everybody else's rights to a file away; the mode it had, None if it stays as it is."""
    had = stat.S_IMODE(os.fstat(descriptor).st_mode)
    with suppress(OSError):  # some file systems have one mode for all
        if had & 0o077:
            os.fchmod(descriptor, 0o600)
            return had
    return None


def _clear(target: Path) -> None:
    """Remove what commands that were killed have left for `target`, as far as that is possible."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{_DIGITS}}}")
    with suppress(OSError):
        for left in target.parent.iterdir():
            if pattern.fullmatch(left.name) is not None and left.is_file():
                _remove_left(left)


def _remove_left(left: Path) -> None:
    """Remove such a file, unless somebody is at work on it."""
    with suppress(OSError):
        descriptor = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try_lock(descriptor)
            # Whoever was at work on it may have given it its name meanwhile.
            if has_name(left, descriptor):
                left.unlink()
        finally:
            os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file without waiting.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: it cannot be told whether somebody has; the file system may have no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except PermissionError as error:  # what SMB makes of it
        raise BlockingIOError(error.errno, error.strerror) from error


def has_name(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(path: Path) -> tuple[Path, bool]:
    """What is written to, and whether that is a regular file, there already or not."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise CommandError(f"{path} is a directory", hint="name a file in it")
    if not stat.S_ISREG(kind):
        return path, False
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not target.parent.is_dir():
        raise CommandError(
            f"{target} cannot be written: there is no directory {target.parent}",
            hint="make it, or name another file",
        )
    return target, True
