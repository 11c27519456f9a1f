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
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

from provledger_cli import file_kinds
from provledger_cli.backups import contents, manifests, tarstream
from provledger_cli.backups.manifests import Listing, Manifest, ManifestError, Member
from provledger_cli.backups.tarstream import OtherMemberError, TarError
from provledger_cli.failures import DOES_NOT_HOLD, CommandError

MANIFEST: Final = "manifest.json"
_PIECE: Final = 1 << 20
_START_BYTES: Final = 1 << 16
# The name of what every backup begins with.
_FIRST: Final = b"config.json"


class Readable(Protocol):
    """As much of a file as is needed here."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; b"" at the end."""
        ...


class Writer:
    """Writes the members of an archive, one after the other, and the manifest at the end."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._found = Listing()

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
        # Nobody asks for them, and a large log has millions. (Typeshed leaves it out.)
        self._tar.members.clear()  # type: ignore[attr-defined]
        self._found.add(Member(name, size, hashed.digest()))

    def finish(self, about: Mapping[str, Any]) -> Manifest:
        """Write the manifest."""
        manifest = self._found.manifest(about)
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
        CommandError: exit code 1 if it is damaged, incomplete or holds what it should not; 2 if
            it is something else.
    """
    with _reading(path) as raw:
        _refuse_others(path, raw)
        return check(raw, on_progress)


def check(raw: IO[bytes], on_progress: Callable[[int], None] = lambda position: None) -> Manifest:
    """As `verify`, of an archive that is open at its beginning.

    Raises:
        TarError, ManifestError: it is damaged, incomplete or holds what it should not.
    """
    found = Listing()
    manifest: Manifest | None = None
    for name, size, file in tarstream.members(raw):
        if manifest is not None:
            raise ManifestError("something comes after the manifest")
        if name == MANIFEST:
            if size > manifests.MAX_BYTES:
                raise ManifestError("its manifest is too long")
            manifest = manifests.parse(file.read())
        elif contents.is_name(name):
            found.add(Member(name, size, _digest(file)))
        else:
            raise OtherMemberError("it holds something that is no file of a backup")
        on_progress(raw.tell())
    if manifest is None:
        raise ManifestError("it has no manifest: it was cut off")
    manifest.check(found)
    return manifest


def extract(
    path: Path,
    manifest: Manifest,
    place: Callable[[str], IO[bytes] | None],
    on_progress: Callable[[int], None] = lambda position: None,
) -> None:
    """Write members where `place` opens a file for them; None passes a member over.

    Digests are checked again, so that the file cannot change between looking and writing: nothing
    that was written may be used before this returns.

    Raises:
        CommandError: as `verify`; exit code 2 if a file cannot be written.
    """
    found = Listing()
    with _reading(path) as raw:
        for name, size, file in tarstream.members(raw):
            if name == MANIFEST:
                continue
            if not contents.is_name(name):
                raise OtherMemberError("it holds something that is no file of a backup")
            with _writing(name):
                target = place(name)
            hashed = _Hashing(file)
            if target is None:
                while hashed.read(_PIECE):
                    pass
            else:
                _put(hashed, target, name)
            found.add(Member(name, size, hashed.digest()))
            on_progress(raw.tell())
        manifest.check(found)


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: Readable) -> None:
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
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw:
            yield raw
    except OtherMemberError as error:
        raise CommandError(
            "the archive holds something that is no file of a backup",
            hint="take another backup",
            exit_code=DOES_NOT_HOLD,
        ) from error
    except manifests.NewerManifestError as error:
        raise CommandError(
            f"{path} was written by a newer version", hint="restore it with that version"
        ) from error
    except (TarError, ManifestError) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error


def _refuse_others(path: Path, raw: IO[bytes]) -> None:
    """Refuse a file of which nothing is of an archive: it says nothing of any backup."""
    try:
        start = tarstream.beginning(raw, _START_BYTES)
    except TarError:
        return  # it was compressed, and what it was is not known
    cut_off = start and _FIRST.startswith(start[: len(_FIRST)])
    if cut_off or tarstream.is_likely(start):
        return
    hint = "was it fetched whole? name a file that `provledger backup` wrote"
    if not start:
        raise CommandError(f"{path} is empty", hint=hint)
    other = file_kinds.kind_of(start)
    what = f"; it looks like {other}" if other else ""
    raise CommandError(f"{path} is no backup{what}", hint=hint)


def _digest(file: Readable) -> str:
    hashed = hashlib.sha256()
    while piece := file.read(_PIECE):
        hashed.update(piece)
    return hashed.hexdigest()


def _damaged(path: Path, what: str) -> CommandError:
    return CommandError(
        f"{path} is damaged: {what}",
        hint="nothing was written; take another backup",
        exit_code=DOES_NOT_HOLD,
    )
