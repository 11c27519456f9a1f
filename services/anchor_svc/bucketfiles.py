"""The files of a log in a bucket: `<prefix>/logs/<uid hex>/...`, the same names as in a directory.

Every write is conditional. A tile is put only where nothing is; if something is, it must be the
same bytes: a write of ours whose answer was lost, or one that an earlier process made before it
was killed. The checkpoint is replaced only if it is still the one we saw last, so that a process
that was fenced while its request was under way cannot put an older one back.

Objects carry the caching headers of c2sp.org/tlog-tiles, so that readers may be sent to them.

Trust: as for any files of a log, see `tilestore`. Who may write to the prefix can stop the service;
who may read it sees full tiles a moment before the checkpoint that covers them is published, so the
bucket should not be public: the gateway gives away what is published.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Final

from anchor_svc.tilefiles import damaged, refuse_larger
from provledger import tiles
from provledger.errors import StatusError, UnavailableError
from provledger.s3 import Bucket

MAX_CHECKPOINT_BYTES: Final = 256 * 1024
MAX_FILE_BYTES: Final = tiles.TILE_WIDTH * (tiles.MAX_ENTRY_BYTES + 2)
IMMUTABLE: Final = "public, max-age=31536000, immutable"
_ATTEMPTS: Final = 4


class BucketFiles:
    """Files of one log. threads: shared by all logs, for writing several tiles at once."""

    def __init__(self, bucket: Bucket, log_uid: bytes, threads: Executor) -> None:
        self._bucket = bucket
        self._prefix = f"logs/{log_uid.hex()}/"
        self._threads = threads
        # Of the checkpoint that was there when we looked last; owned by the publisher's thread.
        self._etag: str | None = None

    @property
    def elsewhere(self) -> str:
        """See `TileFiles`: the URI that `provledger log fsck --tiles` takes."""
        return self._bucket.uri.join(self._prefix).text

    def open(self) -> None:
        """See `TileFiles`: nothing is unfinished in a bucket."""

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """See `TileFiles`."""
        writes = [self._threads.submit(self._write, path, data) for path, data in contents]
        # All have ended before any failure is reported: nothing goes on behind the caller's back.
        failures = [error for error in (write.exception() for write in writes) if error]
        if failures:
            raise failures[0]

    def read(self, path: str) -> bytes | None:
        """See `TileFiles`."""
        found = self._bucket.get(self._prefix + path, max_bytes=MAX_FILE_BYTES + 1)
        return None if found is None else found.data

    def replace_checkpoint(self, note: bytes) -> None:
        """See `TileFiles`.

        Raises:
            UnavailableError: CHECKPOINT_OVERTAKEN, a larger one is there.
        """
        key = f"{self._prefix}checkpoint"
        for _ in range(_ATTEMPTS):
            self._etag = self._bucket.replace(
                key, note, self._etag, ContentType="text/plain; charset=utf-8"
            )
            if self._etag is not None:
                return
            # Not the one we saw last: our own, whose answer was lost, or another process's.
            found = self._bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES)
            if found is not None:
                if found.data == note:
                    self._etag = found.etag
                    return
                refuse_larger(found.data, note)
                self._etag = found.etag
        raise UnavailableError(
            "STORAGE_UNAVAILABLE",
            "the published checkpoint changes all the time: who writes there?",
        )

    def drop_partials(self, full_path: str) -> None:
        """See `TileFiles`."""
        try:
            self._bucket.delete(list(self._bucket.keys(f"{self._prefix}{full_path}.p/")))
        except StatusError:
            return

    def _write(self, path: str, data: bytes) -> None:
        stored = self._bucket.put_new(
            self._prefix + path,
            data,
            ContentType="application/octet-stream",
            CacheControl=IMMUTABLE,
        )
        if not stored and self.read(path) != data:
            raise damaged(path, "is in the bucket already, with another content")
