"""A log's files (c2sp.org/tlog-tiles), in a directory, behind a URL or in a bucket.

See `provledger.fsck`.

Nothing that is read here is believed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provledger import tiles
from provledger.hashing import HASH_BYTES
from provledger.settings import ConfigError
from provledger_cli.failures import CommandError
from provledger_cli.tlog.fetching import Fetcher, FetchError

if TYPE_CHECKING:
    from provledger.s3 import Bucket

MAX_CHECKPOINT_BYTES: Final = 1 << 20
_MAX_TILE_BYTES: Final = tiles.TILE_WIDTH * HASH_BYTES
_MAX_BUNDLE_BYTES: Final = tiles.TILE_WIDTH * (tiles.MAX_ENTRY_BYTES + 2)


ELSEWHERE: Final = "tiles-elsewhere"
"""Left by an anchor in a log's directory, if it keeps the log's files in a bucket."""


def elsewhere(root: Path) -> str:
    """The URI of a log's files, if they are not in its directory; else ""."""
    try:
        return (root / ELSEWHERE).read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


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
        return sorted(
            int(name) for name in names if name.isascii() and name.isdigit() and 0 < int(name) < 256
        )


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


class BucketFiles:
    """A log's files below a prefix of a bucket, with the credentials that boto3 finds."""

    def __init__(self, bucket: Bucket, where: str) -> None:
        self._bucket = bucket
        self.where = where

    def read(self, path: str) -> bytes | None:
        """See `LogFiles`; raises UnavailableError."""
        found = self._bucket.get(path, max_bytes=_limit(path) + 1)
        return None if found is None else found.data

    def partial_widths(self, path: str) -> Sequence[int]:
        """See `LogFiles`."""
        names = [key.rpartition("/")[2] for key in self._bucket.keys(f"{path}.p/")]
        return sorted(
            int(name) for name in names if name.isascii() and name.isdigit() and 0 < int(name) < 256
        )


Files = DirFiles | HTTPFiles | BucketFiles


class TimedFiles:
    """A log's files, asked for until a time is over that all of them have together."""

    def __init__(self, files: Files, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._end_s = math.inf

    def allow(self, seconds: float) -> None:
        """Begin anew."""
        self._end_s = self._clock() + seconds

    @property
    def where(self) -> str:
        """Their place, for people."""
        return self._files.where

    def read(self, path: str) -> bytes | None:
        """See `LogFiles`; raises FetchError once the time is over."""
        if self._clock() > self._end_s:
            raise FetchError(f"{self.where}/{path}: the time for this is over")
        return self._files.read(path)

    def partial_widths(self, path: str) -> Sequence[int]:
        """See `LogFiles`."""
        return self._files.partial_widths(path)


def open_files(place: str) -> Files:
    """The files at a URL, in a bucket or in a directory; raises CommandError."""
    if place.startswith("s3://"):
        return _open_bucket(place)
    if place.startswith(("http://", "https://")):
        return HTTPFiles(Fetcher(place))
    root = Path(place)
    if not root.is_dir():
        raise CommandError(
            f"{place} is neither a directory nor http://, https:// or s3://",
            hint="name where `checkpoint` is found",
        )
    return DirFiles(root)


def read_checkpoint(place: str) -> bytes:
    """A checkpoint in a file or at a URL; a longer file is read up to the limit, and one byte more.

    Raises:
        CommandError, FetchError: it cannot be had.
    """
    if place.startswith(("http://", "https://")):
        base, _, name = place.rpartition("/")
        fetcher = Fetcher(base)
        try:
            data = fetcher.get(name, MAX_CHECKPOINT_BYTES)
        finally:
            fetcher.close()
        if data is None:
            raise FetchError(f"{place} is not there")
        return data
    try:
        with Path(place).open("rb") as file:
            return file.read(MAX_CHECKPOINT_BYTES + 1)
    except OSError as error:
        raise CommandError(
            f"{place} cannot be read: {error.strerror}", hint="name a file or a URL"
        ) from error


def _open_bucket(uri: str) -> BucketFiles:
    from provledger.s3 import Bucket, BucketURI

    try:
        return BucketFiles(Bucket(BucketURI.parse(uri, "the bucket")), uri)
    except ConfigError as error:
        raise CommandError(str(error)) from error


def _limit(path: str) -> int:
    if path.startswith("tile/entries/"):
        return _MAX_BUNDLE_BYTES
    return _MAX_TILE_BYTES if path.startswith("tile/") else MAX_CHECKPOINT_BYTES
