"""Tiles of c2sp.org/tlog-tiles: a log's Merkle tree and entries as static files.

::

    tile/<L>/<N>[.p/<W>]          hashes of level 8*L: 256 of 32 bytes, or W of them
    tile/entries/<N>[.p/<W>]      entries: 256 times u16 length || entry, or W times
    <N> = x001/x234/067           for 1234067: groups of three digits, all but the last marked

Hash i of tile n at level l is the root of the leaves from (256n + i) * 256^l on, 256^l of them.
Tiles hold hashes of perfect subtrees only, so that a full tile never changes. Where tiles are
stored and who may read them is decided elsewhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provledger.errors import TileError
from provledger.hashing import HASH_BYTES

TILE_HEIGHT = 8
TILE_WIDTH = 256
"""Hashes in a full tile, entries in a full bundle."""

MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535
"""Longest entry that a bundle can hold; longer ones cannot be logged."""

_MAX_INDEX = 2**63 - 1
# At most seven groups: 2^63-1 has 19 digits.
_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[0-9]{1,3}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """Coordinates of a tile; `width` is 256 for a full one, 1 to 255 for a partial one."""

    level: int
    index: int
    width: int


@dataclass(frozen=True, slots=True)
class TilePath:
    """What a path names: a tile, or where `level` is None an entry bundle."""

    level: int | None
    index: int
    width: int

    @property
    def end(self) -> int:
        """Leaves that a tree must have for this to be part of it.

        SPEC: nothing of entries that no checkpoint covers may be exposed.
        """
        return (self.index * TILE_WIDTH + self.width) << (TILE_HEIGHT * (self.level or 0))

    @property
    def path(self) -> str:
        """The path below the log's prefix."""
        if self.level is None:
            return entries_path(self.index, self.width)
        return tile_path(self.level, self.index, self.width)


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where a perfect subtree's hash comes from: the root over hashes `start` to `stop` (not
    included) of the tile. `stop - start` is a power of two; 1 means that it is stored as it is."""

    level: int
    index: int
    start: int
    stop: int


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Path of a tile below the log's prefix. Raises TileError for impossible coordinates."""
    if type(level) is not int or not 0 <= level <= MAX_LEVEL:
        raise TileError(f"tile level must be an integer from 0 to {MAX_LEVEL}")
    return f"tile/{level}/{_index_path(index)}{_partial(width)}"


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Path of an entry bundle below the log's prefix. Raises TileError."""
    return f"tile/entries/{_index_path(index)}{_partial(width)}"


def parse_path(path: str) -> TilePath:
    """Read the path of a tile or bundle below the log's prefix.

    There is one way to write each, so that nothing is known by two names. Raises TileError.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise TileError("this is not the path of a tile")
    level = None if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("/", "").replace("x", ""))
    named = TilePath(level, index, int(match["width"] or TILE_WIDTH))
    if match["width"] is not None and named.width == TILE_WIDTH:
        raise TileError("a partial tile has at most 255 hashes")
    # Building the path checks what is left: the bounds, and groups of zeros in front.
    if named.path != path:
        raise TileError("this is not how the path of that tile is written")
    return named


def partial_width(size: int, level: int) -> int:
    """Width of the last tile at `level` for a tree of `size` leaves if it is partial, else 0.

    SPEC: floor(s / 256**l) mod 256; 0 means that there is no partial tile.
    """
    _check_size(size)
    if type(level) is not int or not 0 <= level <= MAX_LEVEL:
        raise TileError(f"tile level must be an integer from 0 to {MAX_LEVEL}")
    return (size >> (TILE_HEIGHT * level)) % TILE_WIDTH


def tiles_for_size(size: int, old_size: int = 0) -> Iterator[Tile]:
    """The tiles of a tree of `size` leaves, level by level, from the left.

    With `old_size`, only those that the tree of that size did not have, or had narrower: what
    is to be written when the tree grows.
    """
    _check_size(size)
    _check_size(old_size)
    if old_size > size:
        raise TileError("the old size is larger than the new one")
    return _tiles(size, old_size)


def _tiles(size: int, old_size: int) -> Iterator[Tile]:
    level = 0
    while size:
        # A level has `size` hashes now; the tiles before this one were full at `old_size`.
        first = old_size // TILE_WIDTH
        for index in range(first, size // TILE_WIDTH):
            yield Tile(level, index, TILE_WIDTH)
        width = size % TILE_WIDTH
        if width and size != old_size:
            yield Tile(level, size // TILE_WIDTH, width)
        size >>= TILE_HEIGHT
        old_size >>= TILE_HEIGHT
        level += 1


def node_place(level: int, index: int) -> NodePlace:
    """Where the hash of perfect subtree (level, index) of `provledger.proof` is kept."""
    if type(level) is not int or type(index) is not int or level < 0 or index < 0:
        raise TileError("a node has a level and an index from 0 on")
    tile_level, above = divmod(level, TILE_HEIGHT)
    first = index << above
    tile_index, start = divmod(first, TILE_WIDTH)
    return NodePlace(tile_level, tile_index, start, start + (1 << above))


def parse_tile(data: bytes, width: int = TILE_WIDTH) -> list[bytes]:
    """The hashes (32 bytes each) of a tile of that width. Raises TileError."""
    _check_width(width)
    if not isinstance(data, bytes) or len(data) != width * HASH_BYTES:
        raise TileError(f"a tile of width {width} has {width * HASH_BYTES} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as a bundle: each with its length in two bytes before it. Raises TileError."""
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise TileError(f"a bundle has 1 to {TILE_WIDTH} entries")
    parts = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
        parts.append(struct.pack(">H", len(entry)))
        parts.append(entry)
    return b"".join(parts)


def decode_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises TileError when it is cut off, empty or over-full."""
    if not isinstance(data, bytes):
        raise TileError("a bundle must be given as bytes")
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        if len(entries) == TILE_WIDTH:
            raise TileError(f"a bundle has 1 to {TILE_WIDTH} entries")
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise TileError("bundle is cut off")
        entries.append(data[start:at])
    if not entries:
        raise TileError("bundle is empty")
    return entries


def _index_path(index: int) -> str:
    if type(index) is not int or not 0 <= index <= _MAX_INDEX:
        raise TileError("tile index must be an integer from 0 to 2^63-1")
    path = f"{index % 1000:03}"
    while index >= 1000:
        index //= 1000
        path = f"x{index % 1000:03}/{path}"
    return path


def _partial(width: int) -> str:
    _check_width(width)
    return "" if width == TILE_WIDTH else f".p/{width}"


def _check_width(width: int) -> None:
    if type(width) is not int or not 1 <= width <= TILE_WIDTH:
        raise TileError(f"tile width must be an integer from 1 to {TILE_WIDTH}")


def _check_size(size: int) -> None:
    if type(size) is not int or not 0 <= size <= _MAX_INDEX:
        raise TileError("tree size must be an integer from 0 to 2^63-1")
