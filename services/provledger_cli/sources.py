"""Files read line by line in constant memory, plain or gzip, with the way done so far.

Whether a file is compressed is told by its first bytes (RFC 1952 §2.3.1), not by its name.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final, cast

from provledger_cli.failures import CommandError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BUFFER_BYTES: Final = 256 * 1024


class LineSource:
    """The lines of a file, or of standard input where the path is `-`."""

    def __init__(self, path: Path, *, max_line_bytes: int) -> None:
        self._path = path
        self._limit = max_line_bytes
        self.name = ""
        """The file's name without the ending of compression: the same lines either way.

        Empty for standard input and pipes: nothing tells one from another.
        """
        if str(path) == "-":
            self._raw: IO[bytes] = sys.stdin.buffer
            self.size_bytes = 0
        else:
            try:
                self._raw = path.open("rb", buffering=0)
                found = os.fstat(self._raw.fileno())
            except OSError as error:
                raise CommandError(
                    f"{path} cannot be read: {error.strerror}", hint="check the file's name"
                ) from None
            is_file = stat.S_ISREG(found.st_mode)
            self.size_bytes = found.st_size if is_file else 0
            # /dev/stdin and /dev/fd/63 are whatever a shell has put there this time.
            if is_file and path.parts[:2] not in (("/", "dev"), ("/", "proc")):
                self.name = path.name.removesuffix(".gz")
        buffered = cast(
            io.BufferedReader,
            self._raw
            if hasattr(self._raw, "peek")
            else io.BufferedReader(cast(io.RawIOBase, self._raw), _BUFFER_BYTES),
        )
        self._reader: IO[bytes] = buffered
        self.compressed = buffered.peek(2)[:2] == _GZIP_MAGIC
        if self.compressed:
            self._reader = io.BufferedReader(
                cast(io.RawIOBase, gzip.GzipFile(fileobj=buffered)), _BUFFER_BYTES
            )

    def __enter__(self) -> LineSource:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        if str(self._path) != "-":
            self._reader.close()
            self._raw.close()

    @property
    def position_bytes(self) -> int:
        """How much of the file was read, as it lies on disk."""
        return self._raw.tell() if self.size_bytes else 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, each with its LF if it has one.

        Of a line that is too long, only the first `max_line_bytes` + 1 bytes are yielded; the rest
        is passed over.

        Raises:
            CommandError: for a compressed file that is damaged.
        """
        limit = self._limit + 1
        try:
            while line := self._reader.readline(limit):
                if len(line) == limit and not line.endswith(b"\n"):
                    while rest := self._reader.readline(_BUFFER_BYTES):
                        if rest.endswith(b"\n"):
                            break
                yield line
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise CommandError(
                f"{self._path} is damaged: the compressed data ends early or does not add up",
                hint="fetch the file again; an import that is run again goes on where it was",
            ) from None
