"""A backup as one file: a tar archive whose last member says what all the others must be.

::

    config.json, key-ledger.pin, import.key     as in the data directory
    db/<service>.sqlite3                        SQLite: one snapshot of each
    db/<service>/<table>.copy                   PostgreSQL: COPY text, in one snapshot of all
    tiles/logs/<uid>/...                        what the snapshot's published checkpoint covers
    keys/<name>.pem                             only if asked for
    manifest.json                               size and SHA-256 of every member; what it is of

Trust: the digests find damage, and a file that was cut off or mixed up. Against somebody who makes
a backup to deceive they say nothing; then the checks of the restored services and their sinks
remain. A backup holds payloads and salts: whoever can read it can read those.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from provledger_cli.failures import DOES_NOT_HOLD, CommandError

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 256 << 20
_VERSION: Final = "1"
_PIECE: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup. sha256: in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is: `about` says when, of what and by which version; see `backup.About`."""

    about: Mapping[str, Any]
    members: tuple[Member, ...]

    def encode(self) -> bytes:
        """Return it as JSON."""
        value = {
            "v": _VERSION,
            "about": dict(self.about),
            "files": [
                {"name": each.name, "size": each.size, "sha256": each.sha256}
                for each in self.members
            ],
        }
        return json.dumps(value, indent=1).encode() + b"\n"


def is_name(name: str) -> bool:
    """Whether a file of that name may be in a backup."""
    return _NAME.fullmatch(name) is not None and ".." not in name


class Writer:
    """Writes the members of an archive, one after the other, and the manifest at the end."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.members: list[Member] = []

    def add_bytes(self, name: str, data: bytes, *, private: bool = False) -> None:
        """Add a member from memory."""
        self.add_stream(name, io.BytesIO(data), len(data), private=private)

    def add_file(self, name: str, path: Path, *, private: bool = False) -> None:
        """Add a file that does not change any more."""
        with path.open("rb") as file:
            self.add_stream(name, file, path.stat().st_size, private=private)

    def add_stream(self, name: str, file: IO[bytes], size: int, *, private: bool = False) -> None:
        """Add a member of a known size."""
        info = tarfile.TarInfo(name)
        info.size = size
        info.mode = 0o600 if private else 0o644
        hashed = _Hashing(file)
        self._tar.addfile(info, hashed)
        self.members.append(Member(name, size, hashed.digest()))

    def finish(self, about: Mapping[str, Any]) -> Manifest:
        """Write the manifest."""
        manifest = Manifest(about, tuple(self.members))
        data = manifest.encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(data)
        info.mode = 0o644
        self._tar.addfile(info, io.BytesIO(data))
        return manifest


@contextmanager
def writing(file: IO[bytes], *, compress: bool) -> Iterator[Writer]:
    """Write an archive into a file."""
    mode: Any = "w|gz" if compress else "w|"
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        yield Writer(tar)


def verify(path: Path, on_progress: Callable[[int], None] = lambda position: None) -> Manifest:
    """Read a whole archive and check every member against the manifest; nothing is written.

    `on_progress` is told how far in the file it is.

    Raises:
        CommandError: exit code 1 if it is damaged, incomplete or holds what it should not.
    """
    found: list[Member] = []
    manifest: Manifest | None = None
    with _reading(path) as (tar, raw):
        for info, file in _members(tar):
            if manifest is not None:
                raise _damaged(path, f"{info.name} comes after the manifest")
            if info.name == MANIFEST:
                if info.size > MAX_MANIFEST_BYTES:
                    raise _damaged(path, "its manifest is too long")
                manifest = _parse(path, file.read())
            else:
                found.append(Member(info.name, info.size, _digest(file)))
            on_progress(raw.tell())
    if manifest is None:
        raise _damaged(path, "it has no manifest: it was cut off")
    if len({each.name for each in found}) != len(found):
        raise _damaged(path, "a file is in it twice")
    expected = {each.name: each for each in manifest.members}
    for each in found:
        if expected.pop(each.name, None) != each:
            raise _damaged(path, f"{each.name} is not what the manifest says")
    if expected:
        raise _damaged(path, f"{min(expected)} is missing")
    return manifest


def extract(
    path: Path,
    manifest: Manifest,
    place: Callable[[str], IO[bytes] | None],
    on_progress: Callable[[int], None] = lambda position: None,
) -> None:
    """Write members where `place` opens a file for them; None passes a member over.

    Digests are checked again, so that the file cannot change between looking and writing.

    Raises:
        CommandError: as `verify`; exit code 2 if a file cannot be written.
    """
    expected = {each.name: each for each in manifest.members}
    with _reading(path) as (tar, raw):
        for info, file in _members(tar):
            if info.name == MANIFEST:
                continue
            target = place(info.name)
            if target is None:
                continue
            hashed = _Hashing(file)
            _put(hashed, target, info.name)
            if expected.get(info.name) != Member(info.name, info.size, hashed.digest()):
                raise _damaged(path, f"{info.name} has changed meanwhile")
            on_progress(raw.tell())


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._hash.update(piece)
        return piece

    def digest(self) -> str:
        return self._hash.hexdigest()


def _put(source: _Hashing, target: IO[bytes], name: str) -> None:
    try:
        while piece := source.read(_PIECE):
            with _writing(name):
                target.write(piece)
        with _writing(name):
            target.flush()
    finally:
        with suppress(OSError):
            target.close()  # what could not be written was said by then


@contextmanager
def _writing(name: str) -> Iterator[None]:
    # Told apart here: that the disk is full says nothing about the archive.
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{name} cannot be written: {error.strerror}", hint="make room, and try again"
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            yield tar, raw
    except (tarfile.TarError, EOFError, OSError) as error:
        # Those of gzip have no number: they are about what was read.
        if isinstance(error, OSError) and error.errno is not None:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from error
        raise _damaged(path, "it is not a whole archive") from error
    except Exception as error:
        # zlib and lzma have errors of their own, which tarfile lets through.
        if type(error).__module__ in ("zlib", "_lzma", "lzma"):
            raise _damaged(path, "its compressed data is damaged") from error
        raise


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for info in tar:
        file = tar.extractfile(info) if info.isreg() else None
        if file is None or not is_name(info.name):
            raise CommandError(
                "the archive holds something that is no file of a backup",
                hint="take another backup",
                exit_code=DOES_NOT_HOLD,
            )
        yield info, file


def _digest(file: IO[bytes]) -> str:
    hashed = hashlib.sha256()
    while piece := file.read(_PIECE):
        hashed.update(piece)
    return hashed.hexdigest()


def _parse(path: Path, data: bytes) -> Manifest:
    try:
        value: Any = json.loads(data)
        if value["v"] != _VERSION:
            raise CommandError(
                f"{path} was written by a newer version", hint="restore it with that version"
            )
        members = tuple(
            Member(str(each["name"]), int(each["size"]), str(each["sha256"]))
            for each in value["files"]
        )
        about = value["about"]
        if not isinstance(about, dict) or not all(_HEX.fullmatch(m.sha256) for m in members):
            raise _damaged(path, "its manifest cannot be read")
        return Manifest(about, members)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "its manifest cannot be read") from error


def _damaged(path: Path, what: str) -> CommandError:
    return CommandError(
        f"{path} is damaged: {what}",
        hint="nothing was written; take another backup",
        exit_code=DOES_NOT_HOLD,
    )
