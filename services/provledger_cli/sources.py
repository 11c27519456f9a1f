"""Files read line by line in constant memory, plain or gzip, with the way done so far.

Whether a file is compressed is told by its first bytes (RFC 1952 §2.3.1), not by its name.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, cast

from provledger_cli.failures import CommandError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BUFFER_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 16 * 1024
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
"""To zlib: a header and trailer of gzip, which it checks, around the data."""


class _StoppedError(Exception):
    """Nothing more is to be read."""


class _Pipe(io.RawIOBase):
    """Something that may have nothing to read for hours, read so that the wait can be ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stopped, self._stop = os.pipe()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, at least one byte, or none at the end.

        Raises:
            _StoppedError: it was stopped.
        """
        ready, _, _ = select.select([self._file.fileno(), self._stopped], [], [])
        if self._stopped in ready:
            raise _StoppedError
        return os.readv(self._file.fileno(), [buffer])

    def stop(self) -> None:
        """End the wait of another thread, and every one to come."""
        os.write(self._stop, b"!")

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            super().close()
            self._file.close()
            os.close(self._stopped)
            os.close(self._stop)


class _Unpacked(io.RawIOBase):
    """What a compressed file holds, up to the very byte at which it is damaged.

    zlib, asked to unpack a piece, drops all of it where it comes upon damage. So its state from
    before is kept, and given the piece again byte by byte.
    """

    def __init__(self, packed: io.BufferedReader[io.RawIOBase]) -> None:
        self._packed = packed
        self._zlib = zlib.decompressobj(wbits=_GZIP_WBITS)
        self._rest = b""  # Read, and not unpacked yet.
        self._damage: zlib.error | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Unpack a part of it; raises EOFError or zlib.error, after all that is before."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, max_bytes: int) -> bytes:
        """What comes next, at least one byte, or none at the end; raises as above."""
        while True:
            if self._damage is not None:
                raise self._damage
            if self._zlib.eof and not self._next_member():
                return b""
            piece = self._rest or self._packed.read1(_PIECE_BYTES)
            data = self._unpack(piece, max_bytes)
            if data:
                return data
            if not piece and not self._zlib.eof and self._damage is None:
                raise EOFError("the compressed data ends early")

    def _next_member(self) -> bool:
        """Whether there is another (RFC 1952 §2.2); zeros between them are passed over."""
        rest = self._zlib.unused_data.lstrip(b"\0")
        while not rest:
            piece = self._packed.read1(_PIECE_BYTES)
            if not piece:
                return False
            rest = piece.lstrip(b"\0")
        self._zlib, self._rest = zlib.decompressobj(wbits=_GZIP_WBITS), rest
        return True

    def _unpack(self, piece: bytes, max_bytes: int) -> bytes:
        before = self._zlib.copy()
        try:
            data = self._zlib.decompress(piece, max_bytes)
        except zlib.error as error:
            self._zlib, self._damage = before, error
            return self._up_to_damage(piece, max_bytes)
        self._rest = self._zlib.unconsumed_tail
        return data

    def _up_to_damage(self, piece: bytes, max_bytes: int) -> bytes:
        """What a piece that is damaged holds before that."""
        data = bytearray()
        try:
            for byte in piece:
                data += self._zlib.decompress(bytes((byte,)), max_bytes - len(data))
                if len(data) == max_bytes:  # To zlib, 0 were no limit.
                    break
        except zlib.error:
            pass
        return bytes(data)


class LineSource:
    """The lines of a file, or of standard input where the path is `-`.

    `is_file`: it is a regular file, and no pipe or terminal. `size_bytes` is 0 if it is not.
    """

    def __init__(self, path: Path, *, max_line_bytes: int) -> None:
        self._path = path
        self._limit = max_line_bytes
        self.name = ""
        """The file's name without the ending of compression: the same lines either way.

        Empty for standard input and pipes: nothing tells one from another.
        """
        self._file = _opened(path)
        found = os.fstat(self._file.fileno())
        self.is_file = stat.S_ISREG(found.st_mode)
        self.size_bytes = found.st_size if self.is_file else 0
        # /dev/stdin and /dev/fd/63 are whatever a shell has put there this time.
        if (
            self.is_file
            and str(path) != "-"
            and path.parts[:2] not in (("/", "dev"), ("/", "proc"))
        ):
            self.name = path.name.removesuffix(".gz")
        self._pipe = None if self.is_file else _Pipe(self._file)
        raw = cast(io.RawIOBase, self._pipe or self._file)
        self._buffered = io.BufferedReader(raw, _BUFFER_BYTES)
        self._ended = False

    def __enter__(self) -> LineSource:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; standard input stays open."""
        # Else closing would wait for a thread that waits for a line.
        self.stop()
        self._buffered.close()

    def stop(self) -> None:
        """Let `lines`, in whatever thread, end after the last line that was read whole."""
        if self._pipe is not None and not self._ended:
            self._pipe.stop()
        self._ended = True

    @property
    def position_bytes(self) -> int:
        """How much of the file was read, as it lies on disk."""
        return self._file.tell() if self.size_bytes else 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, each with its LF if it has one.

        Of a line that is too long, only the first `max_line_bytes` + 1 bytes are yielded; the rest
        is passed over.

        Raises:
            CommandError: for a compressed file that is damaged.
        """
        limit = self._limit + 1
        try:
            reader = self._reader()
            while not self._ended and (line := reader.readline(limit)):
                if len(line) == limit and not line.endswith(b"\n"):
                    while rest := reader.readline(_BUFFER_BYTES):
                        if rest.endswith(b"\n"):
                            break
                yield line
        except _StoppedError:
            # The beginning of a line is not a line.
            return
        except (EOFError, zlib.error):
            raise CommandError(
                f"{self._path} is damaged: the compressed data ends early or does not add up",
                hint="fetch the file again and run the command again",
            ) from None

    def _reader(self) -> IO[bytes]:
        """What the lines are read from: not before they are wanted, since it waits for a byte."""
        if self._buffered.peek(2)[:2] != _GZIP_MAGIC:
            return self._buffered
        return io.BufferedReader(_Unpacked(self._buffered), _BUFFER_BYTES)


def _opened(path: Path) -> io.FileIO:
    if str(path) == "-":
        if sys.stdin is None:
            raise CommandError("standard input is closed", hint="give it something to read")
        # Not sys.stdin.buffer: a thread that waits in it keeps the interpreter from ending.
        return io.FileIO(sys.stdin.fileno(), closefd=False)
    try:
        return io.FileIO(path)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read: {error.strerror}", hint="check the file's name"
        ) from None
