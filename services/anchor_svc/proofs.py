"""Proofs and entries, read from tiles and from the edge of the tree, and checked before they leave.

A proof is made of hashes that lie on a disk we do not trust. So it is checked here against the root
of the signed checkpoint it is for; what does not hold is DATA_LOSS and never given away. The check
is made once for each tile: nodes inside of a tile are computed from its hashes, not read, so that
what held for one leaf of the tile holds for all of them. A tile whose own root was on the way of a
proof that held is *confirmed*, and proofs through confirmed tiles alone need no check at all.

Left to others: which index an entry has (`storage`), which checkpoint to take (`reader`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from anchor_svc.tilestore import TileStore, damaged
from anchor_svc.tree import TILE_WIDTH, Edge, split_hashes
from provledger import merkle, tiles
from provledger.errors import DataLossError, InvalidProofError
from provledger.hashing import HASH_BYTES, Hasher, constructor_of
from provledger.proof import TreeReader

TILE_HEIGHT: Final = 8
MAX_CACHED_TILES: Final = 512
"""Tiles in the cache: 16 KiB each, 8 MiB in all."""


class HashTile:
    """The hashes of a tile and all perfect nodes above them, which are made when first asked for.

    confirmed: a proof that held against a signed checkpoint went through this tile's root, or the
    tile is part of an edge that makes the root of one.
    """

    __slots__ = ("_hasher", "_levels", "confirmed")

    def __init__(self, data: bytes, hasher: Hasher, *, confirmed: bool = False) -> None:
        self._hasher = hasher
        # By height above the tile's own level, each concatenated.
        self._levels: tuple[bytes, ...] = (data,)
        self.confirmed = confirmed

    def node(self, height: int, place: int) -> bytes:
        """Node `place` at a height of 0 to 8 above the tile's level, 32 bytes."""
        levels = self._levels if height < len(self._levels) else self._fill()
        start = place * HASH_BYTES
        return levels[height][start : start + HASH_BYTES]

    def path(self, place: int) -> bytes:
        """In a full tile, the eight siblings on the way from a hash to the root, concatenated."""
        levels = self._levels if len(self._levels) > TILE_HEIGHT else self._fill()
        siblings = []
        for nodes in levels[:TILE_HEIGHT]:
            start = (place ^ 1) * HASH_BYTES
            siblings.append(nodes[start : start + HASH_BYTES])
            place >>= 1
        return b"".join(siblings)

    def _fill(self) -> tuple[bytes, ...]:
        levels = list(self._levels[:1])
        for _ in range(TILE_HEIGHT):
            levels.append(_perfect_level_above(levels[-1], self._hasher))
        # Assigned as a whole: another thread sees all of it, or makes the same once more.
        self._levels = tuple(levels)
        return self._levels


class TileCache:
    """Full tiles of one log, the least recently used going first. Safe for use by many threads."""

    def __init__(self, store: TileStore, hasher: Hasher, max_tiles: int = MAX_CACHED_TILES) -> None:
        self.store = store
        self.hasher = hasher
        self._max_tiles = max_tiles
        self._tiles: OrderedDict[tuple[int, int], HashTile] = OrderedDict()
        self._lock = threading.Lock()

    def tile(self, level: int, index: int) -> HashTile:
        """A full tile; DataLossError if there is none on disk."""
        key = (level, index)
        with self._lock:
            found = self._tiles.get(key)
            if found is not None:
                self._tiles.move_to_end(key)
                return found
        read = HashTile(self.store.read_tile(level, index), self.hasher)
        with self._lock:
            found = self._tiles.setdefault(key, read)
            while len(self._tiles) > self._max_tiles:
                self._tiles.popitem(last=False)
        return found

    def forget(self, keys: Sequence[tuple[int, int]]) -> None:
        """Drop tiles that turned out damaged, so that a repaired file is read again."""
        with self._lock:
            for key in keys:
                self._tiles.pop(key, None)


class View:
    """A signed checkpoint with all that is needed to prove things about it and earlier ones.

    size, root, note: of the checkpoint. edge: of the tree at that size or later; never changes.
    """

    __slots__ = ("_cache", "_edge_tiles", "edge", "note", "root", "size")

    def __init__(self, size: int, root: bytes, note: bytes, edge: Edge, cache: TileCache) -> None:
        self.size = size
        self.root = root
        self.note = note
        self.edge = edge
        self._cache = cache
        self._edge_tiles = [
            HashTile(b"".join(hashes), cache.hasher, confirmed=True) for hashes in edge.levels
        ]

    def prover(self, size: int, root: bytes) -> Prover:
        """What makes proofs for a tree of this size or smaller, with this root.

        Raises:
            DataLossError: the stored tree does not have that root.
        """
        return Prover(self, size, root, self._cache)

    def newest_prover(self) -> Prover:
        """What makes proofs for the checkpoint of this view."""
        return self.prover(self.size, self.root)

    def tile(self, level: int, index: int) -> HashTile:
        """The tile that holds these hashes, from the edge or from disk."""
        if level < len(self._edge_tiles) and index == self.edge.size >> (TILE_HEIGHT * (level + 1)):
            return self._edge_tiles[level]
        return self._cache.tile(level, index)


class Prover:
    """Proofs for one tree size. For one thread, and for one request."""

    def __init__(self, view: View, size: int, root: bytes, cache: TileCache) -> None:
        self.size = size
        self.root = root
        self._view = view
        self._cache = cache
        self._hasher = cache.hasher
        self._reader = TreeReader(self._node, cache.hasher)
        # Tiles used since the last check.
        self._used: dict[tuple[int, int], HashTile] = {}
        # Full tiles of leaves that a checked path went through, with the path above each. The very
        # object that was checked: the cache may have dropped it, and the file may have changed.
        self._checked: dict[int, tuple[HashTile, bytes]] = {}
        # The last bundle that was read, by its index: entries are mostly wanted in order.
        self._bundle: tuple[int, list[bytes]] | None = None
        if self._reader.root_at(size) != root:
            raise self._data_loss(f"the stored tree does not have the root of tree size {size}")

    def inclusion(self, index: int) -> bytes:
        """Siblings of leaf `index`, below `size`, from leaf to root, concatenated.

        Raises:
            DataLossError: the proof does not hold; a damaged tile is named if it can be found.
        """
        tile_index, place = divmod(index, TILE_WIDTH)
        if tile_index >= self.size // TILE_WIDTH:
            return self._checked_path(index)
        tile, above = self._checked_tile(tile_index)
        return tile.path(place) + above

    def leaf_hash(self, index: int) -> bytes:
        """The hash of leaf `index`, below `size`; raises as `inclusion` does."""
        tile_index, place = divmod(index, TILE_WIDTH)
        if tile_index < self.size // TILE_WIDTH:
            return self._checked_tile(tile_index)[0].node(0, place)
        self._checked_path(index)
        return self._used[0, tile_index].node(0, place)

    def consistency(self, old_size: int, old_root: bytes) -> list[bytes]:
        """Proof that this tree extends an earlier one.

        Raises:
            DataLossError: it does not, as far as the stored tree goes.
        """
        self._used.clear()
        hashes = self._reader.consistency(old_size, self.size)
        try:
            merkle.verify_consistency(
                old_size, self.size, hashes, old_root, self.root, self._hasher
            )
        except InvalidProofError as error:
            raise self._data_loss(f"no proof leads from tree size {old_size} on") from error
        return hashes

    def entry(self, index: int) -> bytes:
        """The entry at `index`.

        Raises:
            DataLossError: it is not the one that was logged there.
        """
        entry = self._view.edge.entry(index)
        if entry is None:
            tile_index, place = divmod(index, TILE_WIDTH)
            if self._bundle is None or self._bundle[0] != tile_index:
                self._bundle = (tile_index, self._cache.store.read_bundle(tile_index))
            entry = self._bundle[1][place]
        if merkle.leaf_hash(entry, self._hasher) != self.leaf_hash(index):
            raise damaged(tiles.entries_path(index // TILE_WIDTH), f"has another entry {index}")
        return entry

    def _checked_tile(self, tile_index: int) -> tuple[HashTile, bytes]:
        """A tile of leaves that is full at this size, and the path from its root upwards."""
        known = self._checked.get(tile_index)
        if known is None:
            path = self._checked_path(tile_index * TILE_WIDTH)
            known = (self._used[0, tile_index], path[TILE_HEIGHT * HASH_BYTES :])
            self._checked[tile_index] = known
        return known

    def _checked_path(self, index: int) -> bytes:
        """The siblings of a leaf, checked unless all tiles on the way are confirmed."""
        self._used.clear()
        leaf = self._node(0, index)
        hashes = self._reader.inclusion(index, self.size)
        if not all(tile.confirmed for tile in self._used.values()):
            try:
                merkle.verify_inclusion(index, self.size, leaf, hashes, self.root, self._hasher)
                self._confirm(index)
            except InvalidProofError as error:
                raise self._data_loss(f"no proof leads to log index {index}") from error
        return b"".join(hashes)

    def _confirm(self, index: int) -> None:
        """Confirm the tiles on the checked path of a leaf whose roots are on it: the full ones.

        The path passes by the hash through which it enters an upper tile, so that this one is
        compared with the root of the tile below. Raises InvalidProofError if they differ.
        """
        below: HashTile | None = None
        level = 0
        while (place := index >> (TILE_HEIGHT * level)) < self.size >> (TILE_HEIGHT * level):
            tile = self._used.get((level, place >> TILE_HEIGHT))
            if tile is None:
                return
            if below is not None and below.node(TILE_HEIGHT, 0) != tile.node(0, place % TILE_WIDTH):
                raise InvalidProofError("a tile is not the one its parent says")
            if (place | (TILE_WIDTH - 1)) + 1 > self.size >> (TILE_HEIGHT * level):
                return
            tile.confirmed = True
            below, level = tile, level + 1

    def _node(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index = index >> (TILE_HEIGHT - height)
        tile = self._view.tile(tile_level, tile_index)
        self._used[tile_level, tile_index] = tile
        return tile.node(height, index - (tile_index << (TILE_HEIGHT - height)))

    def _data_loss(self, what: str) -> DataLossError:
        suspects = [key for key, tile in self._used.items() if not tile.confirmed]
        self._cache.forget(suspects)
        for level, index in suspects:
            if disagrees_below(self._cache.store, level, index, self._hasher):
                return damaged(tiles.tile_path(level, index), "does not fit what is below it")
        paths = ", ".join(tiles.tile_path(level, index) for level, index in suspects[:8])
        return DataLossError("TREE_DAMAGED", f"{what}; look at {paths or 'the stored checkpoints'}")


def disagrees_below(store: TileStore, level: int, index: int, hasher: Hasher) -> bool:
    """Whether a full tile differs from what the level below it, or its entries, make of it.

    Slow: it reads up to 256 tiles. For finding out what is damaged, once something is.
    """
    try:
        hashes = split_hashes(store.read_tile(level, index))
        if level == 0:
            below = merkle.leaf_hashes(store.read_bundle(index), hasher)
        else:
            first = index * TILE_WIDTH
            below = [
                tile_root(store.read_tile(level - 1, first + place), hasher)
                for place in range(TILE_WIDTH)
            ]
    except DataLossError:
        return True
    return list(hashes) != below


def tile_root(data: bytes, hasher: Hasher) -> bytes:
    """The root of a full tile, which is one hash of the level above."""
    return merkle.root_of_hashes(split_hashes(data), hasher)


def _perfect_level_above(nodes: bytes, hasher: Hasher) -> bytes:
    """Parents of neighbouring hashes, both concatenated; a last one without partner has none."""
    new = constructor_of(hasher)
    pair = 2 * HASH_BYTES
    starts = range(0, len(nodes) - HASH_BYTES, pair)
    if new is None:
        return b"".join([hasher(b"\x01" + nodes[start : start + pair]) for start in starts])
    return b"".join([new(b"\x01" + nodes[start : start + pair]).digest() for start in starts])
