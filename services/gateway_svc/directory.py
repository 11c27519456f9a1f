"""Logs in a directory, as the anchor lays them out: `<data_dir>/logs/<uid>/checkpoint`, `tile/...`.

Files are read where they lie. Nearly all are read at once, in the event loop and in one call: it
takes less time than to ask a thread. Large bundles are read by a thread, piece by piece.

Trust: what is read here is passed on unchecked; readers check it against the signed checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway_svc.published import Published, Shown, prefix_of, read_published
from gateway_svc.source import Census, check_entries, check_length, missing, vanished
from provledger import logs
from provledger.errors import NotFoundError, StatusError, UnavailableError
from provledger.rpc.errors import copied
from provledger.tiles import TilePath

log = logs.get(__name__)

MAX_CHECKPOINT_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 256 * 1024
"""Most that is read at once: a bundle of 256 entries of a kibibyte, or 32 hash tiles."""
MAX_LOGS: Final = 10_000
MAX_LOOKED_AT: Final = 10_000
"""Bundles of which it is remembered that they are whole."""
THREADS: Final = 4
RESCAN_S: Final = 1.0
"""How often the directory is looked through for logs at most, in seconds."""

_UID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileContent:
    """An open file, whose bytes are those of a tile."""

    __slots__ = ("_fd", "_threads", "etag", "length")

    def __init__(self, fd: int, length: int, etag: str, threads: Executor) -> None:
        self._fd = fd
        self._threads = threads
        self.length = length
        self.etag = etag

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, at most `CHUNK_BYTES` at a time; fewer than `length` if the file is cut."""
        if self.length <= CHUNK_BYTES:
            yield os.read(self._fd, self.length)
            return
        loop, left = asyncio.get_running_loop(), self.length
        while left > 0:
            wanted = min(left, CHUNK_BYTES)
            chunk = await loop.run_in_executor(self._threads, os.read, self._fd, wanted)
            if not chunk:
                return
            left -= len(chunk)
            yield chunk

    def share(self) -> FileContent:
        """See `Content`; raises UnavailableError if no more files may be open."""
        try:
            fd = os.dup(self._fd)
        except OSError as error:
            raise _unreadable(error) from error
        return FileContent(fd, self.length, self.etag, self._threads)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class LookedAt:
    """Bundles that are read at once, which were found to hold their entries: once for each content.

    To follow the lengths in a bundle takes a tenth of the time that it takes to serve it.
    """

    def __init__(self) -> None:
        self._etags: dict[tuple[Path, str], str] = {}

    def check(self, root: Path, tile: TilePath, etag: str, fd: int, length: int) -> None:
        """Look at a file, unless that was done. Raises DataLossError, OSError."""
        key = (root, tile.path)
        if self._etags.get(key) == etag:
            return
        check_entries(tile, os.pread(fd, length, 0))
        if len(self._etags) >= MAX_LOOKED_AT:
            self._etags.clear()
        self._etags[key] = etag


class DirectoryLog:
    """One log below the directory. The checkpoint is read again whenever it was replaced."""

    def __init__(
        self,
        root: Path,
        threads: Executor,
        looked_at: LookedAt | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._looked_at = LookedAt() if looked_at is None else looked_at
        self._threads = threads
        self._checkpoint = str(root / "checkpoint")
        # For looking and showing together, since threads look too: of two who look, the one who
        # found the older checkpoint must not come later with it.
        self._lock = threading.Lock()
        # What was read, and of which file.
        self._read: tuple[tuple[int, int, int], Published] | None = None
        self._shown = Shown(monotonic)

    @property
    def name(self) -> str:
        """That of its directory."""
        return self._root.name

    async def published(self, covering: int | None = None) -> Published:
        """The checkpoint that lies there now: looking is cheap."""
        with self._lock:
            found, shown = self._found(), self._shown.last
            if covering is not None and shown is not None and covering <= shown.size:
                return shown
            return self._shown.take(found)

    def read(self) -> Published:
        """As `published`, at once."""
        with self._lock:
            return self._shown.take(self._found())

    def _found(self) -> Published:
        read = self._read
        try:
            if read is None or _identity(os.stat(self._checkpoint)) != read[0]:
                with open(self._checkpoint, "rb") as file:
                    # Of the file that is read: it may be another one by now.
                    seen = _identity(os.fstat(file.fileno()))
                    read = (seen, read_published(file.read(MAX_CHECKPOINT_BYTES)))
                self._read = read
        except FileNotFoundError:
            if read is not None:
                # It is replaced in one step, and never removed.
                raise vanished() from None
            raise NotFoundError(
                "CHECKPOINT_NOT_FOUND", "nothing of this log is published yet"
            ) from None
        except OSError as error:
            raise _unreadable(error) from error
        return read[1]

    async def tile(self, tile: TilePath, *, elsewhere: bool = True) -> FileContent:
        """A tile's file, open; it is nowhere else."""
        try:
            fd = os.open(self._root / tile.path, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            raise missing(tile) from None
        except OSError as error:
            raise _unreadable(error) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise missing(tile)
            check_length(tile, status.st_size)
            # Files are replaced, never written to: another content has another time.
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            if tile.level is None and status.st_size <= CHUNK_BYTES:
                self._looked_at.check(self._root, tile, etag, fd, status.st_size)
        except OSError as error:
            os.close(fd)
            raise _unreadable(error) from error
        except BaseException:
            os.close(fd)
            raise
        return FileContent(fd, status.st_size, etag, self._threads)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look through the directory found: what is published, and why other logs are unread."""

    published: Sequence[Published] = ()
    failed: Sequence[StatusError] = ()


class DirectorySource:
    """All logs below the anchor's data directory."""

    def __init__(self, data_dir: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._logs_dir = data_dir / "logs"
        self._monotonic = monotonic
        self._by_prefix: dict[str, DirectoryLog] = {}
        self._by_uid: dict[str, DirectoryLog] = {}
        self._looked_at = LookedAt()
        # Why logs that we do not know cannot be read: all of them, or one after another.
        self._unread: list[StatusError] = []
        self._seen = _Seen()
        self._scanned_s = float("-inf")
        self._failed: StatusError | None = None
        self._lock = asyncio.Lock()
        # Our own, so that nothing else in the process can keep us waiting.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gateway-files")

    async def find(self, prefix: str) -> DirectoryLog | None:
        """The log of a prefix; the directory is looked through again for one we do not know."""
        found = self._by_prefix.get(prefix)
        if found is None:
            await self._look_through()
            found = self._by_prefix.get(prefix)
            if found is None and self._unread:
                # It may be that of a log which nobody could read yet.
                raise copied(self._unread[0])
        return found

    async def logs(self) -> Sequence[Published]:
        """What was published of each log a moment ago."""
        await self._look_through()
        seen = self._seen
        if seen.failed and not seen.published:
            raise copied(seen.failed[0])
        return seen.published

    async def census(self) -> Census:
        """See `Source`."""
        await self._look_through()
        seen = self._seen
        failed = len(seen.failed)
        because = copied(seen.failed[0]) if seen.failed else None
        return Census(len(seen.published) + failed, failed, because)

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_through(self) -> None:
        """Look what logs there are, unless that was done a moment ago. Raises StatusError."""
        # Who asks while somebody else looks waits for what he finds.
        async with self._lock:
            if self._monotonic() - self._scanned_s >= RESCAN_S:
                self._failed = None
                try:
                    await asyncio.get_running_loop().run_in_executor(self._threads, self._scan)
                except StatusError as error:
                    self._failed = error
                self._scanned_s = self._monotonic()
            if self._failed is not None:
                raise copied(self._failed)

    def _scan(self) -> None:
        names = self._names()
        # Of what was served, nothing is dropped: who asks for it hears why it cannot be read.
        served = set(self._by_prefix.values())
        by_prefix: dict[str, DirectoryLog] = {}
        unread: list[StatusError] = []
        read: dict[DirectoryLog, Published | StatusError] = {}
        for name in names[:MAX_LOGS]:
            each = self._by_uid.setdefault(name, self._log(name))
            found = read[each] = _read(each)
            if isinstance(found, Published):
                by_prefix[prefix_of(found.origin)] = each
            elif each not in served and isinstance(found, UnavailableError):
                # Nobody knows yet which paths lead there.
                unread.append(found)
        # One that cannot be read takes the others from nobody.
        self._unread = unread
        self._by_prefix = self._by_prefix | by_prefix
        self._seen = self._seen_by(read)

    def _seen_by(self, read: dict[DirectoryLog, Published | StatusError]) -> _Seen:
        """What was read of the logs, and of those that are not there any more."""
        published: list[Published] = []
        failed = list(self._unread)
        for each in self._by_prefix.values():
            found = read[each] if each in read else _read(each)
            if isinstance(found, Published):
                published.append(found)
            else:
                failed.append(found)
        return _Seen(sorted(published, key=lambda item: item.origin), failed)

    def _log(self, name: str) -> DirectoryLog:
        root = self._logs_dir / name
        return DirectoryLog(root, self._threads, self._looked_at, monotonic=self._monotonic)

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._logs_dir) if _UID.fullmatch(name))
        except FileNotFoundError:
            if self._by_prefix:
                raise vanished() from None
            return []
        except OSError as error:
            raise _unreadable(error) from error


def _read(each: DirectoryLog) -> Published | StatusError:
    """What is published of a log, or why that cannot be read: told, unless it is nothing yet."""
    try:
        return each.read()
    except StatusError as error:
        if not isinstance(error, NotFoundError):
            log.error("gateway.log_unreadable", exc_info=error, log=each.name)
        return copied(error)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """Which file it is, besides when it was written: both change when it is replaced."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def _unreadable(error: OSError) -> UnavailableError:
    return UnavailableError(
        "STORAGE_UNAVAILABLE",
        f"the tiles cannot be read for now: {error.strerror}",
        retry_delay_s=1.0,
    )
