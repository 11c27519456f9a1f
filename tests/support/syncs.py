"""Sees which files were synced before they had their name, and which names were made durable.

A power cut leaves of a file what was synced, and of a directory the names that were there when it
was synced last. So a file that is promised is written, synced, named, and its directory synced, in
this order: `Syncs.check` says whether that is so, by what went through `os` in this process. That
services do so as a whole is seen by strace (`tests/faults/test_synced.py`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Syncs:
    """Records from when it is made, for as long as `monkeypatch` holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._moments = itertools.count(1)
        # Of a file or directory by its inode: when it was synced last, and its size then.
        self._synced: dict[tuple[int, int], tuple[int, int]] = {}
        # Of a path: when it got its name, and whether the file was synced as it was.
        self._named: dict[Path, tuple[int, bool]] = {}
        self._gone: dict[Path, int] = {}
        fsync = os.fsync

        def synced(file: Any) -> None:
            fsync(file)
            status = os.fstat(file)
            self._synced[status.st_dev, status.st_ino] = (next(self._moments), status.st_size)

        monkeypatch.setattr(os, "fsync", synced)
        for name in ("replace", "rename", "link"):
            monkeypatch.setattr(os, name, self._naming(getattr(os, name)))
        monkeypatch.setattr(os, "mkdir", self._making(os.mkdir))
        monkeypatch.setattr(os, "unlink", self._removing(os.unlink))

    def check(self, path: Path, below: Path) -> None:
        """Check that a file is there for good now, and so is each directory above it that was made
        below another one."""
        status = path.stat()
        at, size = self._synced.get((status.st_dev, status.st_ino), (0, -1))
        named, whole = self._named.get(path, (at, True))
        assert size == status.st_size, f"{path.name} is not synced"
        assert whole, f"{path.name} is synced after it has its name"
        self._check_kept(path, named)
        for directory in path.parents:
            if directory == below:
                return
            if directory in self._named:
                self._check_kept(directory, self._named[directory][0])
        raise AssertionError(f"{path} is not below {below}")

    def check_gone(self, path: Path) -> None:
        """Check that a file that was removed does not come back."""
        self._check_kept(path, self._gone[path])

    def _check_kept(self, path: Path, moment: int) -> None:
        status = path.parent.stat()
        at, _ = self._synced.get((status.st_dev, status.st_ino), (0, 0))
        assert at > moment, f"the name of {path.name} is not synced"

    def _naming(self, call: Callable[..., None]) -> Callable[..., None]:
        def named(source: Any, target: Any, **options: Any) -> None:
            status = os.stat(source)
            _, size = self._synced.get((status.st_dev, status.st_ino), (0, -1))
            call(source, target, **options)
            self._named[Path(target)] = (next(self._moments), size == status.st_size)

        return named

    def _making(self, call: Callable[..., None]) -> Callable[..., None]:
        def made(path: Any, *arguments: Any, **options: Any) -> None:
            call(path, *arguments, **options)
            # An inode that is used again was not synced under its new name.
            status = os.stat(path)
            self._synced.pop((status.st_dev, status.st_ino), None)
            self._named[Path(path)] = (next(self._moments), True)

        return made

    def _removing(self, call: Callable[..., None]) -> Callable[..., None]:
        def removed(path: Any, **options: Any) -> None:
            call(path, **options)
            self._gone[Path(path) if "dir_fd" not in options else Path()] = next(self._moments)

        return removed
