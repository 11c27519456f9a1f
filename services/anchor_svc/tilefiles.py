"""Where the files of a log are: the port, and a directory.

Files of tiles are *immutable*: what a name stands for never changes, so that writing it again is
harmless. Only `checkpoint` is replaced. Another place is `bucketfiles`, a bucket.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from anchor_svc import files
from provledger import checkpoint as checkpoints
from provledger import note as notes
from provledger.errors import DataLossError, NoteError, UnavailableError

DISK_UNAVAILABLE: Final = "DISK_UNAVAILABLE"


def disk_unavailable() -> UnavailableError:
    """What a caller hears where OSError stands in the way of its call."""
    return UnavailableError(
        DISK_UNAVAILABLE, "the files of the log cannot be used for now", retry_delay_s=1.0
    )


class TileFiles(Protocol):
    """Files by their path below the log's prefix. Blocking; one writer, many readers.

    Raises OSError or UnavailableError while the place cannot be used; what was to be written is
    there or not then, and is written again.
    """

    @property
    def elsewhere(self) -> str:
        """The place, if it is not the log's own directory; without anything secret."""
        ...

    def open(self) -> None:
        """Make ready to write."""
        ...

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write immutable files by path; all are durable when this returns.

        Raises:
            DataLossError: there is one with another content, where that can be seen.
        """
        ...

    def read(self, path: str) -> bytes | None:
        """A file, None if there is none."""
        ...

    def replace_checkpoint(self, note: bytes) -> None:
        """Replace `checkpoint`; durable when this returns, and never seen half written.

        Raises:
            UnavailableError: CHECKPOINT_OVERTAKEN, a larger one is there.
        """
        ...

    def drop_partials(self, full_path: str) -> None:
        """Remove the partial tiles of a full one; what cannot be removed now stays."""
        ...


class DirectoryFiles:
    """Files below a directory; unfinished ones are in `scratch/` there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / "scratch"
        self._known_dirs: set[Path] = set()

    @property
    def elsewhere(self) -> str:
        """See `TileFiles`."""
        return ""

    def open(self) -> None:
        """Make the directory if it is missing, and clear away what was never finished."""
        files.make_dirs(self._scratch)
        # An earlier process may have been stopped before it did.
        files.sync_dir(self._root.parent)
        files.clear_scratch(self._scratch)

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """See `TileFiles`; what is there is replaced by the same."""
        try:
            self._write(contents)
        except OSError:
            # Perhaps a directory is gone; the next attempt makes what is missing.
            self._known_dirs.clear()
            raise

    def read(self, path: str) -> bytes | None:
        """See `TileFiles`."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def replace_checkpoint(self, note: bytes) -> None:
        """See `TileFiles`.

        Two processes at the same moment may pass each other: no lock is held from the look to the
        rename, since a shared volume may have none. The next start mends what that leaves.
        """
        try:
            found = self.read("checkpoint")
        except OSError:
            # A bad sector: what takes its place is elsewhere.
            found = None
        if found is not None:
            refuse_larger(found, note)
        files.write_atomic(self._root / "checkpoint", note, self._scratch)

    def drop_partials(self, full_path: str) -> None:
        """See `TileFiles`."""
        partials = (self._root / full_path).with_name(f"{Path(full_path).name}.p")
        self._known_dirs.discard(partials)
        shutil.rmtree(partials, ignore_errors=True)

    def _write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        dirs: set[Path] = set()
        for name, data in contents:
            path = self._root / name
            self._make_dir(path.parent)
            files.move_in(files.write_scratch(data, self._scratch), path)
            dirs.add(path.parent)
        for directory in dirs:
            files.sync_dir(directory)

    def _make_dir(self, path: Path) -> None:
        """Make a directory below the root, durable in its parent.

        One that is there is so once this process has seen to it: whoever made it may have been
        stopped, or have failed, in between.
        """
        if path in self._known_dirs or path == self._root:
            return
        self._make_dir(path.parent)
        path.mkdir(exist_ok=True)
        files.sync_dir(path.parent)
        # Bounded: a thousand tiles share a directory, and partial ones come and go.
        if len(self._known_dirs) > 256:
            self._known_dirs.clear()
        self._known_dirs.add(path)


def damaged(path: str, what: str) -> DataLossError:
    """The error for a tile or bundle that is not what it was."""
    return DataLossError(
        "TILE_DAMAGED", f"{path} {what}; restore it from a backup", metadata={"tile": path}
    )


def refuse_larger(found: bytes, ours: bytes) -> None:
    """Refuse to put a checkpoint in place of a larger one; one that cannot be read is replaced.

    Raises:
        UnavailableError: CHECKPOINT_OVERTAKEN.
    """
    try:
        there = checkpoints.parse(notes.parse(found).text).size
    except NoteError:
        return
    size = checkpoints.parse(notes.parse(ours).text).size
    if there > size:
        raise UnavailableError(
            "CHECKPOINT_OVERTAKEN",
            f"a checkpoint of tree size {there} is published already, and ours is of {size}: "
            "another process writes to this log",
        )
