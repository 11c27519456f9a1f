"""The growing right edge of a log's Merkle tree, in tiles (RFC 9162 §2.1, c2sp.org/tlog-tiles).

A tile holds 256 hashes of one level; a full tile's own root is one hash of the level above. So
all that is needed to extend a tree of any size, and to know its root, are the hashes in the last,
not yet full tile of each level::

    level 2   [h h]                            each h: root of a full tile of level 1
    level 1   [h h h h h h h]                  each h: root of a full tile of level 0
    level 0   [h h h h h h h h h h h]          each h: leaf hash

That is an `Edge`: an immutable value, so that a flush that fails leaves nothing behind and readers
keep the one they began with. Level l holds (size // 256**l) % 256 hashes.

Left to others: bytes on disk (`tilestore`), proofs (`proofs`), who may add leaves (`submission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provledger import merkle
from provledger.hashing import HASH_BYTES, Hasher

TILE_WIDTH = 256
"""Hashes in a full tile (c2sp.org/tlog-tiles fixes it)."""


@dataclass(frozen=True, slots=True)
class FullTile:
    """A tile that is complete and will never change: 256 hashes of `level`, concatenated."""

    level: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FullBundle:
    """The 256 entries below tile `index` of level 0."""

    index: int
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """What an extension completed: hash tiles from the lowest level up, and entry bundles."""

    tiles: tuple[FullTile, ...]
    bundles: tuple[FullBundle, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """The last tile of each level of a tree, lowest level first, and the entries of the lowest.

    size: leaves in the tree. levels: hashes of 32 bytes. entries: those whose leaf hashes are in
    `levels[0]`.
    """

    size: int
    levels: tuple[tuple[bytes, ...], ...]
    entries: tuple[bytes, ...]

    def root(self, hasher: Hasher) -> bytes:
        """Root of the tree, 32 bytes; H("") when it is empty."""
        return root_of_edge(self.levels, hasher)

    def extend(
        self, leaf_hashes: Sequence[bytes], entries: Sequence[bytes], hasher: Hasher
    ) -> tuple[Edge, Growth]:
        """Append leaves; returns the new edge and the tiles and bundles that are full now."""
        levels = list(self.levels)
        tiles: list[FullTile] = []
        added: Sequence[bytes] = leaf_hashes
        level, below = 0, self.size
        while added:
            if level == len(levels):
                levels.append(())
            first = below // TILE_WIDTH
            hashes = [*levels[level], *added]
            full = len(hashes) // TILE_WIDTH
            roots = []
            for place in range(full):
                tile = hashes[place * TILE_WIDTH : (place + 1) * TILE_WIDTH]
                tiles.append(FullTile(level, first + place, b"".join(tile)))
                roots.append(merkle.root_of_hashes(tile, hasher))
            levels[level] = tuple(hashes[full * TILE_WIDTH :])
            level, added, below = level + 1, roots, first
        kept = [*self.entries, *entries]
        full = len(kept) // TILE_WIDTH
        first = self.size // TILE_WIDTH
        bundles = tuple(
            FullBundle(first + place, tuple(kept[place * TILE_WIDTH : (place + 1) * TILE_WIDTH]))
            for place in range(full)
        )
        edge = Edge(self.size + len(leaf_hashes), tuple(levels), tuple(kept[full * TILE_WIDTH :]))
        return edge, Growth(tuple(tiles), bundles)

    def hashes(self, level: int, index: int) -> tuple[bytes, ...] | None:
        """Hashes of a tile that this edge holds, or None: then it is full, or does not exist."""
        if level < len(self.levels) and index == self.size // TILE_WIDTH ** (level + 1):
            return self.levels[level]
        return None

    def entry(self, log_index: int) -> bytes | None:
        """The entry at an index, or None if it is in a full bundle or beyond the end."""
        place = log_index - (self.size - self.size % TILE_WIDTH)
        return self.entries[place] if 0 <= place < len(self.entries) else None


EMPTY = Edge(0, (), ())


def root_of_edge(levels: Sequence[Sequence[bytes]], hasher: Hasher) -> bytes:
    """Root of the tree whose last tiles are these, lowest level first.

    What is left below a level (less than a full tile) is one more node at the end of that level:
    unpaired last nodes move up unchanged, so that the shape is that of RFC 9162 §2.1.1.
    """
    rest: list[bytes] = []
    for hashes in levels:
        nodes = [*hashes, *rest]
        rest = [merkle.root_of_hashes(nodes, hasher)] if nodes else []
    return rest[0] if rest else hasher(b"")


def level_widths(size: int) -> list[int]:
    """How many hashes the last tile of each level holds in a tree of this size, 0 if none."""
    widths = []
    while size:
        size, width = divmod(size, TILE_WIDTH)
        widths.append(width)
    return widths


def split_hashes(data: bytes) -> tuple[bytes, ...]:
    """The hashes of a tile, 32 bytes each."""
    return tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))
