"""Logs that are somewhere else: in a bucket (`bucket`), or behind the anchor's RPCs (`anchor`).

What is immutable is fetched once and kept, as far as there is room: a gateway with nothing but an
address answers from memory what is asked for often. Files come in pieces of at most `PIECE_BYTES`,
so that a request holds no more than one, however large the bundle and slow the reader. A checkpoint
is asked for again when it is older than `max_age_s`, once for all who wait, who are told together
if it does not come; tiles that the one we have covers need none that is newer, and are served while
the place is away.

Trust: what is fetched is passed on unchecked; readers check it against the signed checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from gateway_svc.keeping import Failure, Kept, Once, in_time
from gateway_svc.published import Published, Shown, prefix_of, read_published
from gateway_svc.source import (
    Census,
    Content,
    Redirect,
    check_entries,
    check_length,
    missing,
    vanished,
)
from provledger import logs
from provledger.errors import DataLossError, NotFoundError, StatusError
from provledger.rpc.errors import copied
from provledger.tiles import TILE_WIDTH, TilePath

log = logs.get(__name__)

PIECE_BYTES: Final = 256 * 1024
MAX_LOGS: Final = 10_000
MAX_FETCHES: Final = 32
"""Requests to the place at once; who comes later waits his turn, or until his deadline."""
PIECE_MAX_AGE_S: Final = 600.0
"""How long a piece is kept at most: one that was damaged may have been brought back whole."""
RESCAN_S: Final = 1.0
"""How often the place is asked what logs there are at most, in seconds."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file; `total` is its length, `tag` names the content of all of it."""

    data: bytes
    total: int
    tag: str


class Place(Protocol):
    """Where files of logs are. Each method raises StatusError if it cannot be asked."""

    async def names(self) -> Sequence[str]:
        """What the place calls its logs, at most `MAX_LOGS`."""
        ...

    async def checkpoint(self, name: str) -> bytes | None:
        """The published checkpoint of a log, None before the first."""
        ...

    async def piece(self, name: str, tile: TilePath, offset: int, tag: str | None) -> Piece | None:
        """A piece of at most `PIECE_BYTES` of a visible tile, None if there is no such file.

        With `tag`, a piece of that content and no other.
        """
        ...

    async def redirect(self, name: str, tile: TilePath) -> Redirect | None:
        """Where a reader gets a full tile himself, if that is how it is done here."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class RemoteContent:
    """A tile or bundle, of which the first piece is here."""

    __slots__ = ("_first", "_rest", "etag", "length")

    def __init__(self, first: Piece, rest: Callable[[int, str], AsyncIterator[bytes]]) -> None:
        self._first = first
        self._rest = rest
        self.length = first.total
        self.etag = f'"{first.tag}"'

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `Content`; raises StatusError if the place goes away in between."""
        yield self._first.data
        if len(self._first.data) < self.length:
            async for data in self._rest(len(self._first.data), self._first.tag):
                yield data

    def share(self) -> RemoteContent:
        """See `Content`: nothing is open."""
        return self

    def close(self) -> None:
        """Nothing is open."""


class RemoteLog:
    """One log at the place. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        place: Place,
        kept: Kept[tuple[str, str, int], Piece],
        fetches: asyncio.Semaphore,
        *,
        max_age_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.name = name
        self._place = place
        self._kept = kept
        self._fetches = fetches
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._once: Once[tuple[str, int], Piece] = Once()
        self._lock = asyncio.Lock()
        self._seen_s = float("-inf")
        self._failure = Failure(max_age_s, monotonic)
        # Partial tiles that were gone when they were asked for.
        self._given_way = 0
        self._shown = Shown(monotonic)

    @property
    def known(self) -> Published | None:
        """The checkpoint that we have shown last."""
        return self._shown.last

    @property
    def is_contradicted(self) -> bool:
        """Whether the place had another one when it was asked last."""
        return self._shown.is_contradicted

    async def published(self, covering: int | None = None) -> Published:
        """See `Log`."""
        known = self.known
        if known is not None and covering is not None and covering <= known.size:
            return known
        asked_s = self._monotonic()
        if known is not None and asked_s - self._seen_s < self._max_age_s:
            return known
        async with self._lock:
            # An answer to a question that was put after ours is as good as one of our own.
            if self.known is None or self._seen_s < asked_s:
                # So is no answer to one that we have waited for: the next may take as long.
                self._failure.check(asked_s)
                begun_s, given_way = self._monotonic(), self._given_way
                with self._failure.kept():
                    await self._look()
                # What gave way meanwhile may have done so behind the checkpoint that we got.
                if given_way == self._given_way:
                    self._seen_s = begun_s
        if self.known is None:
            raise NotFoundError("CHECKPOINT_NOT_FOUND", "nothing of this log is published yet")
        return self.known

    async def tile(self, tile: TilePath, *, elsewhere: bool = True) -> Content | Redirect:
        """See `Log`."""
        if elsewhere and tile.width == TILE_WIDTH:
            redirect = await self._place.redirect(self.name, tile)
            if redirect is not None:
                return redirect
        first = await self._piece(tile, 0, None)
        check_length(tile, first.total)

        async def rest(offset: int, tag: str) -> AsyncIterator[bytes]:
            while offset < first.total:
                piece = await self._piece(tile, offset, tag)
                if piece.tag != tag or not piece.data:
                    raise DataLossError("TILE_DAMAGED", f"{tile.path} changed while it was read")
                offset += len(piece.data)
                yield piece.data

        return RemoteContent(first, rest)

    async def _look(self) -> None:
        async with _asking(self._fetches):
            signed = await self._place.checkpoint(self.name)
        known = self.known
        if signed is None:
            if known is not None:
                raise vanished()
            return
        if known is None or signed != known.note:
            known = read_published(signed)
        self._shown.take(known)

    async def _piece(self, tile: TilePath, offset: int, tag: str | None) -> Piece:
        key = (self.name, tile.path, offset)
        piece = self._kept.get(key)
        if piece is not None and tag in (None, piece.tag):
            return piece
        return await self._once.do((tile.path, offset), lambda: self._fetch(tile, offset, tag))

    async def _fetch(self, tile: TilePath, offset: int, tag: str | None) -> Piece:
        async with _asking(self._fetches):
            piece = await self._place.piece(self.name, tile, offset, tag)
        if piece is None:
            if tile.width < TILE_WIDTH:
                # It gave way to the full one, which a newer checkpoint than ours covers: whoever
                # asks for that next must not be told that it is not published yet.
                self._seen_s = float("-inf")
                self._given_way += 1
            raise missing(tile)
        # What cannot be whole is not kept: the next reader finds it repaired.
        check_length(tile, piece.total)
        if tile.level is None and len(piece.data) == piece.total:
            check_entries(tile, piece.data)
        self._kept.put((self.name, tile.path, offset), piece, len(piece.data))
        return piece


class RemoteSource:
    """All logs at a place. max_age_s: how old a checkpoint may be; cache_bytes: for pieces."""

    def __init__(
        self,
        place: Place,
        *,
        max_age_s: float,
        cache_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._kept: Kept[tuple[str, str, int], Piece] = Kept(
            "pieces", cache_bytes, max_age_s=PIECE_MAX_AGE_S, monotonic=monotonic
        )
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._by_name: dict[str, RemoteLog] = {}
        self._by_prefix: dict[str, RemoteLog] = {}
        # Logs that were served, and that the place names no more.
        self._unlisted: set[str] = set()
        # Why logs that we do not know cannot be read, by what the place calls them.
        self._unread: dict[str, StatusError] = {}
        self._scanned_s = float("-inf")
        self._failed: StatusError | None = None
        self._lock = asyncio.Lock()

    async def find(self, prefix: str) -> RemoteLog | None:
        """See `Source`; the place is asked again for a log that we do not know."""
        if prefix not in self._by_prefix:
            await self._scan()
        found = self._by_prefix.get(prefix)
        if found is None and self._unread:
            # It may be that of a log which nobody could read yet.
            raise copied(next(iter(self._unread.values())))
        return found

    async def census(self) -> Census:
        """See `Source`."""
        await self._scan()
        contradicted = await self._contradicted()
        because = [*self._unread.values(), *([vanished()] if self._unlisted else [])]
        because += contradicted.values()
        unread = len(self._unread)
        return Census(
            len(self._by_prefix) + unread,
            len(self._unlisted | contradicted.keys()) + unread,
            because[0] if because else None,
        )

    async def logs(self) -> Sequence[Published]:
        """See `Source`."""
        await self._scan()
        found = await asyncio.gather(
            *(each.published() for each in self._by_prefix.values()), return_exceptions=True
        )
        errors = [one for one in found if isinstance(one, BaseException)]
        for error in errors:
            log.error("gateway.log_unreadable", exc_info=error)
        published = [one for one in found if isinstance(one, Published)]
        errors += map(copied, self._unread.values())
        if errors and not published:
            raise errors[0]
        return sorted(published, key=lambda item: item.origin)

    async def close(self) -> None:
        """See `Source`."""
        await self._place.close()

    async def _scan(self) -> None:
        """Ask what logs there are, unless that was done a moment ago. Raises StatusError."""
        # Who asks while somebody else looks waits for what he finds.
        async with self._lock:
            if self._monotonic() - self._scanned_s >= RESCAN_S:
                self._failed = None
                try:
                    await self._look_through()
                except StatusError as error:
                    self._failed = error
                self._scanned_s = self._monotonic()
            if self._failed is not None:
                raise copied(self._failed)

    async def _look_through(self) -> None:
        async with _asking(self._fetches):
            names = await self._place.names()
        new = [self._log(name) for name in names if name not in self._by_name]
        # Of what was served, nothing is dropped: who asks for it hears why it cannot be read.
        known = list(self._by_name.values())
        self._unlisted = self._by_name.keys() - set(names) if len(names) < MAX_LOGS else set()
        # An origin never changes: only logs that are new to us are asked for theirs.
        results = await asyncio.gather(*(one.published() for one in new), return_exceptions=True)
        unread: dict[str, StatusError] = {}
        for one, result in zip(new, results, strict=True):
            if isinstance(result, Published):
                self._by_name[one.name] = one
                known.append(one)
            elif isinstance(result, NotFoundError):
                continue  # made, but not published
            elif isinstance(result, StatusError):
                log.error("gateway.log_unreadable", exc_info=result, log=one.name)
                # A damaged one is not denied to anybody: nobody was shown it.
                if not isinstance(result, DataLossError):
                    unread[one.name] = copied(result)
            else:
                raise result
        # One that cannot be read takes the others from nobody.
        self._unread = unread
        self._by_prefix = {prefix_of(one.known.origin): one for one in known if one.known}

    async def _contradicted(self) -> dict[str, StatusError]:
        """Logs of which the place has an older checkpoint than was shown, and what readers hear.

        They are asked about: nobody else may do so any more, once it is told that they are none.
        """
        doubted = [one for one in self._by_name.values() if one.is_contradicted]
        found = await asyncio.gather(*(one.published() for one in doubted), return_exceptions=True)
        errors: dict[str, StatusError] = {}
        for one, result in zip(doubted, found, strict=True):
            if isinstance(result, StatusError):
                errors[one.name] = result
            elif isinstance(result, BaseException):
                raise result
        return errors

    def _log(self, name: str) -> RemoteLog:
        return RemoteLog(
            name,
            self._place,
            self._kept,
            self._fetches,
            max_age_s=self._max_age_s,
            monotonic=self._monotonic,
        )


@asynccontextmanager
async def _asking(fetches: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of the requests to the place that there may be. Raises StatusError."""
    async with fetches:
        with in_time("STORAGE_UNAVAILABLE", "where the logs are read from"):
            yield
