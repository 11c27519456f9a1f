"""The tiles of one log on disk, as c2sp.org/tlog-tiles lays them out.

::

    <data_dir>/logs/<uid hex>/checkpoint             the newest published checkpoint
                             /tile/<L>/<N>           full hash tiles: written once, never changed
                             /tile/<L>/<N>.p/<W>     partial ones, of published sizes only
                             /tile/entries/<N>       entry bundles, likewise
                             /scratch/               unfinished files

Full tiles are on disk as soon as a signed checkpoint covers them, a little before it is published:
whoever serves this directory must not serve beyond `checkpoint`.

Trust: what is read here is *not* trusted. A forger of these files can make the service refuse to
start or to answer (DATA_LOSS); every proof is checked against a signed checkpoint before it leaves
(`proofs`), and entries against their leaf hash.

Left to others: when to write what (`committer`, `publisher`), what the hashes must be (`tree`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from anchor_svc import files
from anchor_svc.tree import Growth, level_widths
from provledger import tiles
from provledger.errors import DataLossError, TileError
from provledger.hashing import HASH_BYTES


class TileStore:
    """Files of one log. Blocking; for use in threads, by one writer and many readers."""

    def __init__(self, data_dir: Path, log_uid: bytes) -> None:
        self.root = data_dir / "logs" / log_uid.hex()
        self._scratch = self.root / "scratch"
        self._known_dirs: set[Path] = set()

    def open(self) -> None:
        """Make the directory if it is missing, and clear away what was never finished."""
        files.make_dirs(self._scratch)
        files.clear_scratch(self._scratch)

    def write_growth(self, growth: Growth) -> None:
        """Write full tiles and bundles; durable when this returns. Repeating it is harmless."""
        contents = [(tiles.tile_path(tile.level, tile.index), tile.data) for tile in growth.tiles]
        contents += [
            (tiles.entries_path(bundle.index), tiles.encode_bundle(bundle.entries))
            for bundle in growth.bundles
        ]
        self._write(contents)

    def write_partials(
        self,
        hash_tiles: Iterable[tuple[int, int, Sequence[bytes]]],
        bundle: Sequence[bytes],
        size: int,
    ) -> None:
        """Write the partial tiles of a size about to be published: (level, index, hashes), and
        the entries of the last bundle, if it is partial."""
        contents = [
            (tiles.tile_path(level, index, len(hashes)), b"".join(hashes))
            for level, index, hashes in hash_tiles
        ]
        if bundle:
            path = tiles.entries_path(size // tiles.TILE_WIDTH, len(bundle))
            contents.append((path, tiles.encode_bundle(bundle)))
        self._write(contents)

    def drop_partials(self, old_size: int, size: int) -> None:
        """Remove the partial tiles of a published size that are full in a larger one.

        SPEC: partial tiles may go once the full tile is there, which readers fall back to.
        """
        for level, width in enumerate(level_widths(old_size)):
            span = tiles.TILE_WIDTH ** (level + 1)
            index = old_size // span
            if width and size // span > index:
                self._drop(tiles.tile_path(level, index))
                if level == 0:
                    self._drop(tiles.entries_path(index))

    def write_checkpoint(self, note: bytes) -> None:
        """Replace the published checkpoint; durable when this returns."""
        files.write_atomic(self.root / "checkpoint", note, self._scratch)

    def read_checkpoint(self) -> bytes | None:
        """The published checkpoint, None before the first."""
        try:
            return (self.root / "checkpoint").read_bytes()
        except FileNotFoundError:
            return None

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
        try:
            data = (self.root / tiles.tile_path(level, index, width)).read_bytes()
            return tiles.parse_tile(data, width)
        except (FileNotFoundError, TileError):
            return None

    def _read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError as error:
            raise damaged(path, "is missing") from error

    def _write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        try:
            self._write_all(contents)
        except OSError:
            # Perhaps a directory is gone; the next attempt makes what is missing.
            self._known_dirs.clear()
            raise

    def _write_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        dirs: set[Path] = set()
        for name, data in contents:
            path = self.root / name
            if path.parent not in self._known_dirs:
                files.make_dirs(path.parent)
                # Bounded: a thousand tiles share a directory, and partial ones come and go.
                if len(self._known_dirs) > 256:
                    self._known_dirs.clear()
                self._known_dirs.add(path.parent)
            files.move_in(files.write_scratch(data, self._scratch), path)
            dirs.add(path.parent)
        for directory in dirs:
            files.sync_dir(directory)

    def _drop(self, full_path: str) -> None:
        partials = (self.root / full_path).with_name(f"{Path(full_path).name}.p")
        self._known_dirs.discard(partials)
        shutil.rmtree(partials, ignore_errors=True)


def damaged(path: str, what: str) -> DataLossError:
    """The error for a tile or bundle that is not what it was."""
    return DataLossError(
        "TILE_DAMAGED", f"{path} {what}; restore it from a backup", metadata={"tile": path}
    )
