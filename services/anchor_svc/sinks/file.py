"""`file:///dir`: checkpoints in a directory, one file each, never overwritten.

::

    <dir>/<origin, percent-encoded>/00000000000000000501.checkpoint    tree size, 20 digits
                                    latest                             the largest of them

Each is a signed note, readable with standard tools. With `file:///dir?git=1`, `dir` is a git
repository (made if it is none) in which each of them is a commit, for `git push` to carry away: the
history holds all of them, its newest tree the newest of each log. A directory on another machine,
or one that is copied away, is what makes this worth something; on our own disk it is as good as our
disk.

A file is written under another name, synced, and linked into place, which fails if the name is
taken: then its bytes must be ours. `latest` only moves forward; a larger one than ours means that
our log was rolled back, or that somebody writes there. So does a smaller one that is new to us and
no part of our tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from anchor_svc import files
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, SinkIntegrityError
from anchor_svc.sinks.git import Repository
from anchor_svc.sinks.history import check_earlier, read_held
from anchor_svc.sinks.thread import SinkThread
from provledger import checkpoint as checkpoints
from provledger import jcs
from provledger.settings import ConfigError

KIND: Final = "file"
LATEST: Final = "latest"
SUFFIX: Final = ".checkpoint"
_NAMES: Final = "[0-9]" * 20 + SUFFIX
_NAME: Final = re.compile(rf"([0-9]{{20}}){re.escape(SUFFIX)}")


class FileSink:
    """Checkpoints in the directory `root`."""

    def __init__(self, uri: str, root: Path, *, git: bool = False) -> None:
        self.uri = uri
        self._root = root
        self._repository = Repository(root) if git else None
        self._thread = SinkThread("file-sink")

    @classmethod
    def from_uri(cls, uri: str) -> FileSink:
        """The sink of `file:///absolute/directory[?git=1]`; raises ConfigError for others."""
        parts = urlsplit(uri)
        path = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or parts.fragment:
            raise ConfigError("sinks: a file sink looks like file:///absolute/directory")
        if parts.query not in ("", "git=1"):
            raise ConfigError("sinks: a file sink knows ?git=1 and nothing else")
        if not path.is_absolute() or "\0" in str(path):
            raise ConfigError("sinks: the directory of a file sink must be absolute")
        return cls(uri, path, git=bool(parts.query))

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Write the checkpoint, unless it is there; see `AnchorSink`."""
        try:
            await self._check_earlier(checkpoint, thorough=False)
            return await self._thread.run(lambda: self._write(checkpoint))
        except OSError as error:
            raise SinkError(f"the directory cannot be used: {error.strerror}") from error

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        """Look at `latest`, and at the names of all; see `Remembering`."""
        try:
            await self._check_earlier(checkpoint, thorough=True)
            return await self._thread.run(lambda: self._holds(checkpoint))
        except OSError as error:
            raise SinkError(f"the directory cannot be used: {error.strerror}") from error

    async def origins(self, prefix: str) -> Collection[str]:
        """Read the names of the directories; see `Listing`."""
        try:
            return await self._thread.run(lambda: self._origins(prefix))
        except OSError as error:
            raise SinkError(f"the directory cannot be used: {error.strerror}") from error

    async def checkpoint_of(self, origin: str) -> bytes | None:
        """Read `latest`, or the largest by its name; see `Listing`."""
        try:
            return await self._thread.run(lambda: self._checkpoint_of(origin))
        except OSError as error:
            raise SinkError(f"the directory cannot be used: {error.strerror}") from error

    async def close(self) -> None:
        """Let the thread end; what it is doing is not waited for."""
        self._thread.close()

    async def _check_earlier(self, checkpoint: PublishedCheckpoint, *, thorough: bool) -> None:
        for held in await self._thread.run(lambda: self._newest(checkpoint, thorough=thorough)):
            await check_earlier(checkpoint, held)

    def _newest(
        self, checkpoint: PublishedCheckpoint, *, thorough: bool
    ) -> list[checkpoints.Checkpoint]:
        """The largest checkpoints there are of the log, smaller than this one and larger than what
        it acknowledged, or thorough: as large. By `latest`, and by the names where that is lost,
        or may be."""
        directory = self._directory(checkpoint)
        # What it acknowledged it may have lost since, or somebody put something else there.
        least = max(1, checkpoint.known_size if thorough else checkpoint.known_size + 1)
        found = []
        with contextlib.suppress(FileNotFoundError):
            data = (directory / LATEST).read_bytes()
            found.append(read_held(data, LATEST, checkpoint.origin))
        if thorough or not found:
            size = _largest(directory)
            if least <= size < checkpoint.size:
                name = _name(size)
                held = read_held((directory / name).read_bytes(), name, checkpoint.origin)
                if held.size != size:
                    raise SinkIntegrityError(
                        f"the checkpoint in {name} is of tree size {held.size}"
                    )
                found.append(held)
        return [each for each in found if least <= each.size < checkpoint.size]

    def _directory(self, checkpoint: PublishedCheckpoint) -> Path:
        return self._root / quote(checkpoint.origin, safe="")

    def _origins(self, prefix: str) -> list[str]:
        begins = quote(prefix, safe="")
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root) as entries:
            return [unquote(each.name) for each in entries if each.name.startswith(begins)]
        return []

    def _checkpoint_of(self, origin: str) -> bytes | None:
        directory = self._root / quote(origin, safe="")
        with contextlib.suppress(FileNotFoundError):
            return (directory / LATEST).read_bytes()
        size = _largest(directory)
        return (directory / _name(size)).read_bytes() if size else None

    def _write(self, checkpoint: PublishedCheckpoint) -> Evidence:
        directory = self._directory(checkpoint)
        files.make_dirs(directory)
        name = _name(checkpoint.size)
        self._check_latest(directory / LATEST, checkpoint)
        _write_once(directory / name, checkpoint)
        files.write_atomic(directory / LATEST, checkpoint.note, directory)
        evidence = {
            "name": f"{directory.name}/{name}",
            "sha256": hashlib.sha256(checkpoint.note).hexdigest(),
            "size": str(checkpoint.size),
        }
        if self._repository is not None:
            paths = [f"{directory.name}/{name}", f"{directory.name}/{LATEST}"]
            message = f"{checkpoint.origin}: checkpoint of tree size {checkpoint.size}"
            evidence["commit"] = self._repository.commit(paths, message, once=_NAMES)
        return Evidence(KIND, jcs.encode(evidence))

    def _holds(self, checkpoint: PublishedCheckpoint) -> bool:
        directory = self._directory(checkpoint)
        self._check_latest(directory / LATEST, checkpoint)
        # `latest` may have been lost; the files say the same by their names.
        largest = _largest(directory)
        if largest > checkpoint.size:
            raise SinkIntegrityError(f"there is {_name(largest)}, a checkpoint larger than ours")
        with contextlib.suppress(FileNotFoundError):
            if (directory / _name(checkpoint.size)).read_bytes() != checkpoint.note:
                raise _other(checkpoint)
        return largest >= max(1, checkpoint.known_size)

    def _check_latest(self, path: Path, checkpoint: PublishedCheckpoint) -> None:
        try:
            latest = read_held(path.read_bytes(), LATEST, checkpoint.origin)
        except FileNotFoundError:
            return
        if latest.size == checkpoint.size and latest.root != checkpoint.root:
            # Its file may be gone.
            raise _other(checkpoint)
        if latest.size > checkpoint.size:
            raise SinkIntegrityError(
                f"there is a checkpoint of tree size {latest.size}, larger than ours of "
                f"{checkpoint.size}: our log was rolled back, or somebody else writes there",
                held_size=latest.size,
            )


def _name(size: int) -> str:
    return f"{size:020}{SUFFIX}"


def _largest(directory: Path) -> int:
    """The size that the largest checkpoint there has by its name, 0 if there is none.

    There may be millions: none but that is kept of them, and a start waits for this. What is
    called otherwise, such as somebody's copy, is none.
    """
    largest = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for each in entries:
            if found := _NAME.fullmatch(each.name):
                largest = max(largest, int(found[1]))
    return largest


def _other(checkpoint: PublishedCheckpoint) -> SinkIntegrityError:
    return SinkIntegrityError(f"another checkpoint of tree size {checkpoint.size} is there already")


def _write_once(path: Path, checkpoint: PublishedCheckpoint) -> None:
    """Put the note at `path`, which must be free or hold the very same bytes."""
    temporary = files.write_scratch(checkpoint.note, path.parent)
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.read_bytes() != checkpoint.note:
            raise _other(checkpoint) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    files.sync_dir(path.parent)
