"""The tiles of one log, as c2sp.org/tlog-tiles lays them out, wherever the files are (`tilefiles`).

::

    logs/<uid hex>/checkpoint             the newest published checkpoint
                  /tile/<L>/<N>           full hash tiles: written once, never changed
                  /tile/<L>/<N>.p/<W>     partial ones, of published sizes only
                  /tile/entries/<N>       entry bundles, likewise
                  /tiles-elsewhere        in the directory, if all of the above is in a bucket

Full tiles are there as soon as a signed checkpoint covers them, a little before it is published:
whoever serves these files must not serve beyond `checkpoint`.

Trust: what is read here is *not* trusted. A forger of these files can make the service refuse to
start or to answer (DATA_LOSS); every proof is checked against a signed checkpoint before it leaves
(`proofs`), and entries against their leaf hash.

Left to others: when to write what (`committer`, `publisher`), what the hashes must be (`tree`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from anchor_svc.files import make_dirs, sync_dir, write_atomic
from anchor_svc.tilefiles import DirectoryFiles, TileFiles, damaged
from anchor_svc.tree import Growth, level_widths
from provledger import logs, tiles
from provledger.errors import TileError
from provledger.hashing import HASH_BYTES
from provledger.logdirs import GIVEN_UP

log = logs.get(__name__)

__all__ = ["TileStore", "damaged"]

ELSEWHERE: Final = "tiles-elsewhere"
"""A file of this name says where a log's files are, if they are not beside it."""


class TileStore:
    """Files of one log. Blocking; for use in threads, by one writer and many readers.

    root: the log's directory on this machine. `files` are there unless they are given; what a
    restore leaves (`restored`) is there in any case, and `ELSEWHERE` if files are not.
    """

    def __init__(self, data_dir: Path, log_uid: bytes, files: TileFiles | None = None) -> None:
        self.root = data_dir / "logs" / log_uid.hex()
        self._files = files or DirectoryFiles(self.root)

    def open(self) -> None:
        """Make ready to write, and clear away what was never finished; also an operator's word that
        the log is lost, which must not outlive a database that knows it again.

        Raises StatusError, OSError: the files cannot be used.
        """
        self._files.open()
        self._take_back()
        place = self.root / ELSEWHERE
        if self._files.elsewhere:
            # Who looks into the directory, as a backup does, should not take it for all there is.
            make_dirs(self.root)
            write_atomic(place, self._files.elsewhere.encode() + b"\n", self.root)
        else:
            place.unlink(missing_ok=True)

    def _take_back(self) -> None:
        try:
            (self.root / GIVEN_UP).unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        sync_dir(self.root)
        log.warning("anchor.given_up_ended", log=self.root.name)

    def write_growth(self, growth: Growth) -> None:
        """Write full tiles and bundles; durable when this returns. Repeating it is harmless."""
        contents = [(tiles.tile_path(tile.level, tile.index), tile.data) for tile in growth.tiles]
        contents += [
            (tiles.entries_path(bundle.index), tiles.encode_bundle(bundle.entries))
            for bundle in growth.bundles
        ]
        self._files.write(contents)

    def write_partials(
        self,
        hash_tiles: Iterable[tuple[int, int, Sequence[bytes]]],
        bundle: Sequence[bytes],
        size: int,
    ) -> None:
        """Write the partial tiles of a size about to be published: (level, index, hashes), and
        the entries of the last bundle, if it is partial."""
        self._files.write(_partials(hash_tiles, bundle, size))

    def mend_partials(
        self,
        hash_tiles: Iterable[tuple[int, int, Sequence[bytes]]],
        bundle: Sequence[bytes],
        size: int,
    ) -> list[str]:
        """Write those anew that are not what `write_partials` wrote; returns their paths.

        Raises:
            DataLossError: the files are where nothing that is there can be replaced.
        """
        odd = [
            (path, data)
            for path, data in _partials(hash_tiles, bundle, size)
            if self._files.read(path) != data
        ]
        self._files.write(odd)
        return [path for path, _ in odd]

    def drop_partials(self, old_size: int, size: int) -> None:
        """Remove the partial tiles of a published size that are full in a larger one.

        SPEC: partial tiles may go once the full tile is there, which readers fall back to.
        """
        for level, width in enumerate(level_widths(old_size)):
            span = tiles.TILE_WIDTH ** (level + 1)
            index = old_size // span
            if width and size // span > index:
                self._drop(level, index)

    def sweep_partials(self, old_size: int, size: int) -> None:
        """Remove the partial tiles of any size, published or not, that are full in a larger one
        and were not yet in an older one: asks for each of these tiles."""
        span = tiles.TILE_WIDTH
        level = 0
        while span <= size:
            for index in range(old_size // span, size // span):
                self._drop(level, index)
            level, span = level + 1, span * tiles.TILE_WIDTH

    def write_checkpoint(self, note: bytes) -> None:
        """Replace the published checkpoint; durable when this returns."""
        self._files.replace_checkpoint(note)

    def mend_checkpoint(self, note: bytes) -> bool:
        """Write the published checkpoint anew if it is not `note`; whether it was.

        Raises:
            UnavailableError: CHECKPOINT_OVERTAKEN, it is a larger one.
        """
        if self._files.read("checkpoint") == note:
            return False
        self._files.replace_checkpoint(note)
        return True

    def read_checkpoint(self) -> bytes | None:
        """The published checkpoint, None before the first."""
        return self._files.read("checkpoint")

    def read_file(self, tile: tiles.TilePath) -> bytes | None:
        """The file of a tile or bundle, full or partial, as it is; None if there is none."""
        return self._files.read(tile.path)

    def read_tile(self, level: int, index: int) -> bytes:
        """A full tile, 8,192 bytes.

        Raises:
            DataLossError: naming the tile, if it is missing or of another length.
        """
        path = tiles.tile_path(level, index)
        data = self._read(path)
        if len(data) != tiles.TILE_WIDTH * HASH_BYTES:
            raise damaged(path, "is of a wrong length")
        return data

    def read_bundle(self, index: int) -> list[bytes]:
        """The 256 entries of a full bundle.

        Raises:
            DataLossError: naming the bundle, if it is missing or cannot be read.
        """
        path = tiles.entries_path(index)
        try:
            entries = tiles.decode_bundle(self._read(path))
        except TileError as error:
            raise damaged(path, "cannot be read") from error
        if len(entries) != tiles.TILE_WIDTH:
            raise damaged(path, "holds too few entries")
        return entries

    def read_partial(self, level: int, index: int, width: int) -> list[bytes] | None:
        """The hashes of a partial tile, or None if there is no such file of the right length."""
        data = self._files.read(tiles.tile_path(level, index, width))
        try:
            return None if data is None else tiles.parse_tile(data, width)
        except TileError:
            return None

    def _drop(self, level: int, index: int) -> None:
        self._files.drop_partials(tiles.tile_path(level, index))
        if level == 0:
            self._files.drop_partials(tiles.entries_path(index))

    def _read(self, path: str) -> bytes:
        data = self._files.read(path)
        if data is None:
            raise damaged(path, "is missing")
        return data


def _partials(
    hash_tiles: Iterable[tuple[int, int, Sequence[bytes]]], bundle: Sequence[bytes], size: int
) -> list[tuple[str, bytes]]:
    contents = [
        (tiles.tile_path(level, index, len(hashes)), b"".join(hashes))
        for level, index, hashes in hash_tiles
    ]
    if bundle:
        path = tiles.entries_path(size // tiles.TILE_WIDTH, len(bundle))
        contents.append((path, tiles.encode_bundle(bundle)))
    return contents
