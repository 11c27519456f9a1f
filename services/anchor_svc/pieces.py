"""Tiles for readers that see neither our disk nor our bucket, in pieces: GetTile.

Given away is what the published checkpoint covers, and nothing else, whatever lies there already.
Bytes are passed on as they were found; readers check them against a signed checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

from anchor_svc.state import LogState
from anchor_svc.tilefiles import disk_unavailable
from anchor_svc.tilestore import TileStore, damaged
from provledger.daemon_threads import DaemonThreads
from provledger.errors import NotFoundError, OutOfRangeError
from provledger.hashing import HASH_BYTES
from provledger.tiles import TILE_WIDTH, TilePath

MAX_PIECE_BYTES: Final = 256 * 1024
_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class TilePiece:
    """Bytes of a tile; `total` is its length, `digest` the SHA-256 of all of it."""

    data: bytes
    total: int
    digest: bytes


class Pieces:
    """Reads pieces for the readers of all logs, in threads of its own.

    The event loop's are for what flushes and publication do with files. A bucket or a disk that is
    slow to give readers their tiles would keep those waiting. For one event loop.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreads(_THREADS, "anchor-pieces")

    def close(self) -> None:
        """Read no more; what is being read is waited for by nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(
        self, store: TileStore, state: LogState, tile: TilePath, offset: int, max_bytes: int
    ) -> TilePiece:
        """A piece of a tile or bundle, at most `MAX_PIECE_BYTES`.

        Raises:
            NotFoundError: no published checkpoint covers it, or it is a partial one of a size that
                was not published, or is full by now.
            DataLossError: a full one is missing, or a hash tile is of a wrong length.
            OutOfRangeError: it ends before `offset`.
            UnavailableError: it cannot be read for now.
        """
        if tile.end > state.published_size:
            raise NotFoundError(
                "TILE_NOT_PUBLISHED",
                f"the published checkpoint, of tree size {state.published_size}, does not cover "
                f"{tile.path}",
                metadata={"tile": tile.path, "treeSize": str(state.published_size)},
            )
        loop = asyncio.get_running_loop()
        try:
            data, digest = await loop.run_in_executor(self._threads, _read, store, tile)
        except OSError as error:
            raise disk_unavailable() from error
        if offset >= len(data):
            raise OutOfRangeError("OFFSET_BEYOND_END", f"{tile.path} has {len(data)} bytes")
        end = offset + min(max_bytes or MAX_PIECE_BYTES, MAX_PIECE_BYTES)
        return TilePiece(data[offset:end], len(data), digest)


def _read(store: TileStore, tile: TilePath) -> tuple[bytes, bytes]:
    data = store.read_file(tile)
    if data is None:
        if tile.width == TILE_WIDTH:
            raise damaged(tile.path, "is missing")
        raise NotFoundError(
            "TILE_NOT_FOUND",
            f"there is no {tile.path}; if the full tile is published, take that",
            metadata={"tile": tile.path},
        )
    if tile.level is not None and len(data) != tile.width * HASH_BYTES:
        raise damaged(tile.path, "is of a wrong length")
    return data, hashlib.sha256(data).digest()
