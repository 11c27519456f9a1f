"""Where the logs come from: the port that the gateway reads through.

A source finds logs by their prefix, says what is published of one, and hands out tiles. It is asked
for visible tiles only (`published.check_visible`). Two implementations: `directory`, on the
anchor's disk or a copy of it, and `remote`, in a bucket or behind the anchor's RPCs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway_svc.published import Published
from provledger.errors import DataLossError, NotFoundError, StatusError, UnavailableError
from provledger.hashing import HASH_BYTES
from provledger.tiles import TILE_WIDTH, TilePath

LENGTH_BYTES: Final = 2
"""Of the length before each entry of a bundle."""


class Content(Protocol):
    """The bytes of a tile. Must be closed."""

    @property
    def length(self) -> int:
        """How many."""
        ...

    @property
    def etag(self) -> str:
        """Strong entity tag."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """All of them; to be used once."""
        ...

    def share(self) -> Content:
        """The same bytes for somebody else, who closes them himself. Before `chunks` only."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a reader finds a tile himself, and for how many seconds caches may remember that."""

    url: str
    max_age_s: int


class Log(Protocol):
    """One log."""

    async def published(self, covering: int | None = None) -> Published:
        """The checkpoint published last; or an earlier one, if it covers that many leaves.

        Raises:
            StatusError: it cannot be had. DataLossError: what is there is none.
        """
        ...

    async def tile(self, tile: TilePath, *, elsewhere: bool = True) -> Content | Redirect:
        """A tile or bundle that a published checkpoint covers, or where it is, if `elsewhere`.

        Raises:
            NotFoundError: a partial one that was never published, or is full by now.
            DataLossError: a full one that is missing, one of a wrong length, or a bundle that was
                read as a whole and does not hold its entries.
            StatusError: it cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class Census:
    """How many logs there are, and how many of them cannot be read now, and why."""

    logs: int
    unreadable: int = 0
    because: StatusError | None = None


class Source(Protocol):
    """The logs there are. What was served once is not denied later: it cannot be read, or can."""

    async def find(self, prefix: str) -> Log | None:
        """The log that is served below a path.

        Raises:
            StatusError: it is none that we know, and some log that we do not know cannot be read.
        """
        ...

    async def logs(self) -> Sequence[Published]:
        """What is published of each log, by origin. Raises StatusError."""
        ...

    async def census(self) -> Census:
        """How many logs there are, as of a moment ago. Raises StatusError."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


def vanished() -> UnavailableError:
    """The error for logs that were served, and are not there."""
    return UnavailableError(
        "STORAGE_UNAVAILABLE",
        "what was published here is not found now: is its storage mounted, and whole?",
        retry_delay_s=1.0,
    )


def missing(tile: TilePath) -> NotFoundError | DataLossError:
    """The error for a tile that is covered but not there."""
    if tile.width == TILE_WIDTH:
        return damaged(tile, "is missing")
    # SPEC: partial tiles are there for published sizes only, and may go once the full one is.
    return NotFoundError(
        "TILE_NOT_FOUND",
        f"there is no {tile.path}; if the full tile is published, take that",
        metadata={"tile": tile.path},
    )


def check_length(tile: TilePath, length: int) -> None:
    """Refuse a tile or bundle that cannot be whole. Raises DataLossError."""
    if tile.level is None:
        whole = length >= LENGTH_BYTES * tile.width
    else:
        whole = length == tile.width * HASH_BYTES
    if not whole:
        raise damaged(tile, "is of a wrong length")


def check_entries(tile: TilePath, bundle: bytes) -> None:
    """Refuse a bundle that does not hold just its entries. Raises DataLossError.

    SPEC: c2sp.org/tlog-tiles, a bundle is a sequence of entries, each with a u16 length before it.
    """
    at = 0
    try:
        for _ in range(tile.width):
            at += LENGTH_BYTES + (bundle[at] << 8 | bundle[at + 1])
    except IndexError:
        raise damaged(tile, "is cut off") from None
    if at != len(bundle):
        raise damaged(tile, "is of a wrong length")


def damaged(tile: TilePath, what: str) -> DataLossError:
    """The error for a tile that is not what it was."""
    return DataLossError(
        "TILE_DAMAGED",
        f"{tile.path} {what}; restore it from a backup",
        metadata={"tile": tile.path},
    )
