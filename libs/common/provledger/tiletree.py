"""A log's tree read from tiles that nobody vouches for, each checked before it is used.

What vouches is a signed root. The last, partial tiles of all levels make that root when they are
folded together, so they are checked at once, and first; every full tile is checked against one hash
of the tile above it, up to one of those. So whatever comes out of here is part of the tree that was
signed, and what cannot be had or does not fit is LogDamagedError, naming the tile.

Left to others: where the files come from (`provledger.fsck.LogFiles`), the signature.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NoReturn

from provledger import merkle, tiles
from provledger.errors import LogDamagedError, TileError
from provledger.fsck import TILE, LogFiles
from provledger.hashing import HASH_BYTES, Hasher, sha256
from provledger.proof import TreeReader

MAX_CACHED_TILES: Final = 256
"""Full tiles kept, about 20 KiB each."""


class TileTree:
    """The tree of `size` leaves with this `root` (32 bytes). Not safe for several threads.

    Raises:
        LogDamagedError: at once, if the last tiles do not make the root.
    """

    def __init__(self, files: LogFiles, size: int, root: bytes, hasher: Hasher = sha256) -> None:
        self._files = files
        self.hasher = hasher
        self.size = size
        self.root = root
        self._edge = self._read_edge()
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._reader = TreeReader(self._node, hasher)

    def leaf_hash(self, index: int) -> bytes:
        """Hash of one leaf of the tree; raises LogDamagedError."""
        return self._node(0, index)

    def root_at(self, size: int) -> bytes:
        """Root of the first `size` leaves; raises LogDamagedError."""
        return self._reader.root_at(size)

    def consistency(self, old_size: int) -> list[bytes]:
        """Proof that this tree extends its first `old_size` leaves; raises LogDamagedError."""
        return self._reader.consistency(old_size, self.size)

    def _read_edge(self) -> dict[tuple[int, int], list[bytes]]:
        edge = {}
        rest: list[bytes] = []
        level, below = 0, self.size
        path = tiles.tile_path(0, 0, 1)
        while below:
            index, width = divmod(below, tiles.TILE_WIDTH)
            hashes: list[bytes] = []
            if width:
                path = tiles.tile_path(level, index, width)
                hashes = edge[level, index] = self._read(level, index, width)
            nodes = [*hashes, *rest]
            rest = [merkle.root_of_hashes(nodes, self.hasher)] if nodes else []
            level, below = level + 1, index
        found = rest[0] if rest else self.hasher(b"")
        if found != self.root:
            _fail(path, f"and those below do not make the signed root of tree size {self.size}")
        return edge

    def _node(self, level: int, index: int) -> bytes:
        place = tiles.node_place(level, index)
        hashes = self._tile(place.level, place.index)
        if place.stop - place.start == 1:
            return hashes[place.start]
        return merkle.root_of_hashes(hashes[place.start : place.stop], self.hasher)

    def _tile(self, level: int, index: int) -> list[bytes]:
        """A tile that is part of the tree: of the edge, or full and checked."""
        known = self._edge.get((level, index)) or self._cache.get((level, index))
        if known is not None:
            return known
        hashes = self._read(level, index, tiles.TILE_WIDTH)
        above, place = divmod(index, tiles.TILE_WIDTH)
        if merkle.root_of_hashes(hashes, self.hasher) != self._tile(level + 1, above)[place]:
            _fail(tiles.tile_path(level, index), "does not fit the tile above it")
        self._cache[level, index] = hashes
        if len(self._cache) > MAX_CACHED_TILES:
            self._cache.popitem(last=False)
        return hashes

    def _read(self, level: int, index: int, width: int) -> list[bytes]:
        path = tiles.tile_path(level, index, width)
        data = self._files.read(path)
        if data is None and width < tiles.TILE_WIDTH:
            # SPEC: partial tiles may go once the full tile is there, which readers fall back to.
            full = self._files.read(tiles.tile_path(level, index))
            data = None if full is None else full[: width * HASH_BYTES]
        if data is None:
            _fail(path, "is missing")
        try:
            return tiles.parse_tile(data, width)
        except TileError:
            _fail(path, "is of a wrong length")


def _fail(path: str, what: str) -> NoReturn:
    raise LogDamagedError(f"{path} {what}", check=TILE, path=path)
