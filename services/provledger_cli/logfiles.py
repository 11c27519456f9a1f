"""The files of a log (c2sp.org/tlog-tiles), in a directory or behind a URL; see `provledger.fsck`.

Nothing that is read here is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from provledger import tiles
from provledger.hashing import HASH_BYTES
from provledger_cli.failures import CommandError
from provledger_cli.fetching import Fetcher

MAX_CHECKPOINT_BYTES: Final = 1 << 20
_MAX_TILE_BYTES: Final = tiles.TILE_WIDTH * HASH_BYTES
_MAX_BUNDLE_BYTES: Final = tiles.TILE_WIDTH * (tiles.MAX_ENTRY_BYTES + 2)


class DirFiles:
    """A log's files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        """The directory, for people."""
        return str(self.root)

    def read(self, path: str) -> bytes | None:
        """See `LogFiles`. A file longer than any can be is read up to that, and one byte more."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(_limit(path) + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def partial_widths(self, path: str) -> Sequence[int]:
        """See `LogFiles`."""
        directory = self.root / f"{path}.p"
        try:
            names = [each.name for each in directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if name.isdigit() and 0 < int(name) < 256)


class HTTPFiles:
    """A log's files below a URL, as they are published."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    @property
    def where(self) -> str:
        """The URL, for people."""
        return self._fetcher.url

    def read(self, path: str) -> bytes | None:
        """See `LogFiles`; raises FetchError."""
        return self._fetcher.get(path, _limit(path))

    def partial_widths(self, path: str) -> Sequence[int]:
        """See `LogFiles`: nobody lists them over HTTP."""
        return ()


Files = DirFiles | HTTPFiles


def open_files(place: str) -> Files:
    """The files at a URL or in a directory; raises CommandError."""
    if place.startswith(("http://", "https://")):
        return HTTPFiles(Fetcher(place))
    root = Path(place)
    if not root.is_dir():
        raise CommandError(
            f"{place} is neither a directory nor a URL", hint="name where `checkpoint` is found"
        )
    return DirFiles(root)


def _limit(path: str) -> int:
    if path.startswith("tile/entries/"):
        return _MAX_BUNDLE_BYTES
    return _MAX_TILE_BYTES if path.startswith("tile/") else MAX_CHECKPOINT_BYTES
