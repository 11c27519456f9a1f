"""What the outside sees: the newest signed checkpoint, at most once in an interval.

Published means: partial tiles of that size are on disk, `checkpoint` says so, the database knows,
and sinks may have it. Flushes commit signed checkpoints as fast as they come; partial tiles are
kept for published sizes only (design §4, "Log"). After a quiet spell a new checkpoint is published
at once, and none stays unpublished for longer than the interval.

Partial tiles that are full by now go last: until the new checkpoint counts as published, the one
before is what everybody is given, with its tiles. What a failure or a kill leaves behind goes with
the next publication, which is why it is known up to which size nothing can be left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from anchor_svc.proofs import View
from anchor_svc.state import LogIdentity, LogState, SignedCheckpoint
from anchor_svc.storage import FencedError, Storage
from anchor_svc.tilestore import TileStore
from anchor_svc.tree import TILE_WIDTH, level_widths
from provledger import logs, telemetry
from provledger.retry import RetryPolicy

log = logs.get(__name__)

_RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.2, cap_s=10.0, budget_s=float("inf"))
_TILE_BITS: Final = 8

_published_size = telemetry.gauge("anchor.published_size", doc="Newest published tree size, by log")


class Publisher:
    """Publishes the checkpoints of one log. Belongs to one event loop.

    interval_s: least time between two publications, in seconds.
    """

    def __init__(
        self,
        identity: LogIdentity,
        storage: Storage,
        store: TileStore,
        state: LogState,
        *,
        epoch: Callable[[], int],
        interval_s: float,
        clock: Callable[[], int],
    ) -> None:
        self._log = identity
        self._storage = storage
        self._store = store
        self._state = state
        self._epoch = epoch
        self._interval_s = interval_s
        self._clock = clock
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        # Below this size, no partial tile is left that a published checkpoint made needless.
        self._swept_size = 0
        # Whether there may be partial tiles of sizes that were never published, beyond it.
        self._interrupted = True
        # Whether the files of what is published are known to be what they should.
        self._is_whole = False

    async def run(self) -> None:
        """Publish for as long as the service runs.

        Raises:
            FencedError: another process has taken the log over.
        """
        delays = _RETRY.delays(self._rng)
        last_s = -self._interval_s
        while True:
            changed = self._state.changed()
            is_published = self._state.signed_size <= self._state.published_size
            if is_published and (self._is_whole or not self._state.published_size):
                await changed.wait()
                continue
            await asyncio.sleep(max(0.0, last_s + self._interval_s - time.monotonic()))
            last_s = time.monotonic()
            try:
                if is_published:
                    await self.mend(self._state.signed_view())
                else:
                    await self.publish(self._state.signed_view())
                self._is_whole = True
                delays = _RETRY.delays(self._rng)
            except FencedError:
                raise
            except Exception as error:
                # Whatever it is, it is of this log: one that cannot publish must not end the rest.
                log.error("anchor.publish_failed", exc_info=error, log=self._log.name)
                await asyncio.sleep(next(delays, 10.0))

    def resume(self, before: int) -> None:
        """At a start. before: the size that was published before the newest one, 0 if none was."""
        self._swept_size = before

    async def publish(self, view: View) -> None:
        """Publish the checkpoint of `view`.

        Raises:
            FencedError: another process has taken the log over.
            StatusError, OSError: it could not be done; doing it again is harmless.
        """
        old_size = self._state.published_size
        if self._swept_size < old_size:
            # Another process, or we, were stopped between publishing it and tidying up.
            await asyncio.to_thread(self._store.sweep_partials, self._swept_size, old_size)
            self._swept_size = old_size
        interrupted, self._interrupted = self._interrupted, True
        await asyncio.to_thread(self._write, view)
        await self._storage.mark_published(self._log.uid, self._epoch(), view.size, self._clock())
        self._state.set_published(SignedCheckpoint(view.size, view.root, view.note))
        _published_size.set(view.size, {"log": self._log.name})
        drop = self._store.sweep_partials if interrupted else self._store.drop_partials
        await asyncio.to_thread(drop, old_size, view.size)
        self._swept_size, self._interrupted = view.size, False

    async def mend(self, view: View) -> None:
        """Write partial tiles and checkpoint of the published `view` anew where they are not what
        they were: missing, damaged, or an older checkpoint.

        Nothing that is signed is made from them, so that no start would find out otherwise. Does
        nothing if `view` is not what is published.

        Raises:
            StatusError, OSError: it could not be done; doing it again is harmless.
        """
        published = self._state.published
        if published is None or view.size != published.size:
            return
        odd = await asyncio.to_thread(self._mend, view)
        for path in odd:
            log.error("anchor.partial_tile_mended", log=self._log.name, tile=path)
        if await asyncio.to_thread(self._store.mend_checkpoint, published.note):
            log.error("anchor.checkpoint_mended", log=self._log.name, size=published.size)

    def _mend(self, view: View) -> list[str]:
        return self._store.mend_partials(*_partials(view), view.size)

    def _write(self, view: View) -> None:
        self._store.write_partials(*_partials(view), view.size)
        self._store.write_checkpoint(view.note)


def _partials(view: View) -> tuple[list[tuple[int, int, list[bytes]]], list[bytes]]:
    """Hash tiles by level and index, and entries, as `TileStore.write_partials` takes them."""
    hash_tiles = []
    for level, width in enumerate(level_widths(view.size)):
        if width:
            index = view.size >> (_TILE_BITS * (level + 1))
            tile = view.tile(level, index)
            hashes = [tile.node(0, place) for place in range(width)]
            hash_tiles.append((level, index, hashes))
    prover = view.newest_prover()
    first = view.size - view.size % TILE_WIDTH
    bundle = [prover.entry(index) for index in range(first, view.size)]
    return hash_tiles, bundle
