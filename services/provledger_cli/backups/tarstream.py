"""Reads tar archives of the kind that `backup` writes (POSIX.1-2001, pax), and no others.

::

    512 bytes      name 0+100, size in octal 124+12, checksum 148+8, type 156, "ustar" 257+6,
                   prefix of the name 345+155
    contents       filled up to a multiple of 512
    ...
    512 zeros

A size or a name for which a header has no room stands in records before it (type x). Links, devices
and sparse files are refused, so that what is read is never more than the bytes of the archive; and
long records, so that none of it takes memory but what the caller reads. `tarfile` knows much more
than we write, keeps every header, believes their lengths, and ends at damaged ones with whatever it
comes upon.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from provledger.errors import ProvledgerError

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_PIECE: Final = 1 << 20
_MAX_RECORDS_BYTES: Final = 16 << 10
_OCTAL: Final = re.compile(rb"[0-7]{1,12}")
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,4}) ([^=\n]+)=")
_SIZE: Final = re.compile(rb"[0-9]{1,18}")
_FILE: Final = frozenset({b"0", b"\x00"})
_RECORDS: Final = b"x"


class TarError(ProvledgerError):
    """These bytes are no archive that we write."""


class OtherMemberError(TarError):
    """It holds something that is no file."""


class Contents:
    """The contents of one member, to be read once and before the next one."""

    def __init__(self, file: _Source, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """At most that many bytes; b"" at the end. Raises TarError if the archive ends before."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise TarError("it was cut off")
        self._left -= len(data)
        return data


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    kind: bytes


def members(raw: IO[bytes]) -> Iterator[tuple[str, int, Contents]]:
    """Name, size in bytes and contents of every file, in order.

    raw: an archive, compressed by gzip or not, at its beginning.

    Raises:
        TarError: it is damaged or of another kind.
        OSError: it cannot be read.
    """
    file = _Source(raw)
    records: dict[bytes, bytes] = {}
    while (block := file.read(_BLOCK)) != _ZEROS:
        header = _header(block)
        if header.kind == _RECORDS and not records:
            records = _records(file, header.size)
            continue
        if header.kind not in _FILE:
            raise OtherMemberError("it holds something that is no file")
        name, size = _named(header, records)
        records = {}
        contents = Contents(file, size)
        yield name, size, contents
        while contents.read(_PIECE):
            pass
        Contents(file, -size % _BLOCK).read()
    if records:
        raise TarError("a header in it is damaged")


def beginning(raw: IO[bytes], size: int) -> bytes:
    """The first bytes of an archive or of what was taken for one, no longer compressed.

    Raises:
        TarError: it is compressed, and damaged.
        OSError: it cannot be read.
    """
    try:
        return _Source(raw).read(size)
    finally:
        raw.seek(0)


def is_likely(start: bytes) -> bool:
    """Whether the first bytes are those of an archive, one of them damaged perhaps.

    A compressed one is not read as such where a bit of what it begins with was flipped.
    """
    alike = sum(one == other for one, other in zip(start, b"\x1f\x8b\x08", strict=False))
    return start[257:262] == b"ustar" or alike > 1


class _Source:
    """The archive's bytes, no longer compressed."""

    def __init__(self, raw: IO[bytes]) -> None:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self._file = gzip.GzipFile(fileobj=raw, mode="rb") if compressed else raw

    def read(self, size: int) -> bytes:
        """So many bytes, or less at the end."""
        try:
            return self._file.read(size)
        except EOFError as error:
            raise TarError("it was cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TarError("its compressed data is damaged") from error


def _header(block: bytes) -> _Header:
    if len(block) < _BLOCK:
        raise TarError("it was cut off")
    # The checksum counts as blanks in itself.
    if _octal(block[148:156]) != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise TarError("a header in it is damaged")
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _Header(prefix + b"/" + name if prefix else name, _octal(block[124:136]), block[156:157])


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if _OCTAL.fullmatch(text) is None:
        raise TarError("a header in it is damaged")
    return int(text, 8)


def _records(file: _Source, size: int) -> dict[bytes, bytes]:
    """Records of the next header: "LENGTH KEY=VALUE\\n", the length being that of all of it."""
    if size > _MAX_RECORDS_BYTES:
        raise TarError("a header in it is too long")
    data = Contents(file, size).read()
    Contents(file, -size % _BLOCK).read()
    found = {}
    at = 0
    while at < size:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match is not None else 0
        if match is None or match.end() >= end or end > size or data[end - 1] != ord("\n"):
            raise TarError("a header in it is damaged")
        found[match[2]] = data[match.end() : end - 1]
        at = end
    if any(key.startswith(b"GNU.") for key in found):
        raise OtherMemberError("it holds something that is no file")
    return found


def _named(header: _Header, records: dict[bytes, bytes]) -> tuple[str, int]:
    size = records.get(b"size", b"%d" % header.size)
    if _SIZE.fullmatch(size) is None:
        raise TarError("a header in it is damaged")
    try:
        return records.get(b"path", header.name).decode("utf-8"), int(size)
    except UnicodeDecodeError:
        raise TarError("a name in it cannot be read") from None
