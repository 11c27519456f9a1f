"""Only archives of the kind that we write are read, and damage to them ends in errors of ours."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest

from provledger_cli.backups import archive, tarstream

LONG = "keys/" + "/".join(["k" * 90] * 3)
FILES = {"config.json": b"{}", LONG: b"y" * 512, "import.key": b""}


def written(compress: bool = False) -> bytes:
    file = io.BytesIO()
    with archive.writing(file, compress=compress) as writer:
        for name, data in FILES.items():
            writer.add_bytes(name, data)
    return file.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    return {name: file.read(size) for name, size, file in tarstream.members(io.BytesIO(data))}


def of(kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> bytes:
    """A header and contents, made by somebody else."""
    info = tarfile.TarInfo("tiles/x")
    info.type, info.size = kind, len(data)
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def _resum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def _sparse() -> bytes:
    """Twenty gigabytes in 512 bytes."""
    header = bytearray(of(tarfile.GNUTYPE_SPARSE))
    header[483:495] = b"\x80" + (20 << 30).to_bytes(11, "big")
    return _resum(header)


@pytest.mark.parametrize("compress", [False, True])
def test_what_we_write_is_read(compress: bool) -> None:
    assert read(written(compress)) == FILES


def test_members_need_not_be_read() -> None:
    assert [name for name, _, _ in tarstream.members(io.BytesIO(written()))] == list(FILES)


def test_sizes_beyond_eight_gibibytes_stand_in_records() -> None:
    info = tarfile.TarInfo("db/ledger.sqlite3")
    info.size = 1 << 40
    data = io.BytesIO(info.tobuf(tarfile.PAX_FORMAT))
    assert next(tarstream.members(data))[:2] == ("db/ledger.sqlite3", 1 << 40)


END = bytes(1024)
DAMAGED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no end": of,
    "half a header": lambda: written()[:300],
    "half a member": lambda: of(data=b"x" * 600)[:-400],
    "another checksum": lambda: of().replace(b"tiles/x", b"tiles/y") + END,
    "a link": lambda: of(tarfile.SYMTYPE, linkname="/etc/passwd") + END,
    "a directory": lambda: of(tarfile.DIRTYPE) + END,
    "a device": lambda: of(tarfile.CHRTYPE) + END,
    "a long name of GNU": lambda: of(tarfile.GNUTYPE_LONGNAME, b"x" * 200) + of() + END,
    "a sparse file of GNU": lambda: _sparse() + END,
    "a sparse file of pax": lambda: of(b"x", b"22 GNU.sparse.major=1\n") + of() + END,
    "records without a file": lambda: of(b"x", b"11 path=abc\n") + END,
    "records of records": lambda: of(b"x", b"9 path=a\n") * 2 + of() + END,
    "records that are too long": lambda: of(b"x", b"9 path=a\n" * 2000) + of() + END,
    "records that claim to be": lambda: of(b"x", size=600 << 20) + END,
    "a record of another length": lambda: of(b"x", b"99 path=a\n") + of() + END,
    "a record without a key": lambda: of(b"x", b"6 abc\n") + of() + END,
    "a size that is none": lambda: of(b"x", b"12 size=0x12\n") + of() + END,
    "a negative size": lambda: of(b"x", b"11 size=-1\n") + of() + END,
    "a size of thirty digits": lambda: of(b"x", b"39 size=" + b"9" * 30 + b"\n") + of() + END,
    "a name that is no text": lambda: of(b"x", b"9 path=\xff\n") + of() + END,
    "a size in another writing": lambda: of(size=9 << 30) + END,
    "half a compressed file": lambda: written(True)[:-30],
    "compressed damage": lambda: written(True)[:40] + b"\xff" * 40 + written(True)[80:],
    "a damaged head of gzip": lambda: b"\x1f\x8b\xff" + written(True)[3:],
    "compressed nothing": lambda: gzip.compress(b""),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_others_are_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(tarstream.TarError):
        read(make())


def test_long_headers_are_not_read() -> None:
    """A few megabytes of gzip are gigabytes of zeros."""

    class Counted(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    file = Counted(of(b"x", bytes(4 << 20)))
    with pytest.raises(tarstream.TarError, match="too long"):
        next(tarstream.members(file))
    assert file.read_bytes < 2000
