"""Files that are either there as a whole, durable, or not there at all.

A file is written under another name, synced, moved into place by one rename, and its directory
synced: after a power cut at any moment the old content, the new one or nothing is found, and what
was reported as written is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes, scratch: Path) -> None:
    """Put `data` at `path`, replacing what is there; durable when this returns.

    `scratch` is a directory of the same file system for the unfinished file.
    """
    move_in(write_scratch(data, scratch), path)
    sync_dir(path.parent)


def write_scratch(data: bytes, scratch: Path) -> Path:
    """Write `data` to a new file in `scratch` and sync it; returns its path."""
    # Random, since a container's processes often share one number.
    temporary = scratch / f".{secrets.token_hex(8)}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def move_in(temporary: Path, path: Path) -> None:
    """Rename a scratch file to its place; nothing of it stays behind on failure."""
    try:
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirs(path: Path) -> None:
    """Make a directory and those above it, each durable in its parent; those that are there count
    as durable, so none is left that is not."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        try:
            sync_dir(directory.parent)
        except OSError:
            with contextlib.suppress(OSError):
                directory.rmdir()
            raise


def clear_scratch(scratch: Path) -> None:
    """Remove what earlier processes left unfinished."""
    for leftover in scratch.glob("*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()
