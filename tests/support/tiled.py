"""Whole logs as c2sp.org/tlog-tiles files in memory, made by the plain definition."""

from __future__ import annotations

from collections.abc import Sequence

from provledger import merkle, tiles
from provledger.hashing import Hasher, sha256


def tile_files(
    entries: Sequence[bytes], size: int | None = None, hasher: Hasher = sha256
) -> dict[str, bytes]:
    """All files of the tree over the first `size` entries but the checkpoint, by path."""
    size = len(entries) if size is None else size
    hashes = merkle.leaf_hashes(entries[:size], hasher)
    files = {}
    for start in range(0, size, 256):
        part = entries[start : min(start + 256, size)]
        files[tiles.entries_path(start // 256, len(part))] = tiles.encode_bundle(part)
    level = 0
    while hashes:
        for start in range(0, len(hashes), 256):
            tile = hashes[start : start + 256]
            files[tiles.tile_path(level, start // 256, len(tile))] = b"".join(tile)
        full = len(hashes) // 256
        hashes = [
            merkle.root_of_hashes(hashes[at * 256 : (at + 1) * 256], hasher) for at in range(full)
        ]
        level += 1
    return files


class MemoryFiles:
    """`LogFiles` over a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def partial_widths(self, path: str) -> Sequence[int]:
        prefix = f"{path}.p/"
        return [int(name.removeprefix(prefix)) for name in self.files if name.startswith(prefix)]


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)
