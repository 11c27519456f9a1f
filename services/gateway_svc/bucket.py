"""Logs in a bucket, where the anchor keeps its tiles (`tile_store`): `<prefix>/logs/<uid>/...`.

Readers of full tiles may be sent to the store itself, with a URL that is signed by us and holds for
a while; everything else goes through us. Such URLs are given for what is published only, and the
bucket is not public: so nothing is seen early there either.

Needs s3:GetObject and s3:ListBucket.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, TypeVar

from gateway_svc.directory import MAX_CHECKPOINT_BYTES
from gateway_svc.remote import MAX_FETCHES, MAX_LOGS, PIECE_BYTES, Piece
from gateway_svc.source import Redirect
from provledger.daemon_threads import DaemonThreads
from provledger.s3 import Bucket
from provledger.tiles import TilePath

T = TypeVar("T")

_TEMPORARY: Final = "X-Amz-Security-Token="
_TEMPORARY_CACHE_S: Final = 300
"""boto3 asks for new temporary credentials ten minutes before the old ones end."""
_UID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class BucketPlace:
    """See `Place`. signer: makes URLs for readers, which hold for `redirect_s`; 0 for none."""

    def __init__(
        self, bucket: Bucket, *, signer: Bucket | None = None, redirect_s: int = 0
    ) -> None:
        self._bucket = bucket
        self._signer = signer or bucket
        self._redirect_s = redirect_s
        self._threads = DaemonThreads(MAX_FETCHES, "gateway-bucket")

    async def names(self) -> Sequence[str]:
        """See `Place`: the uids of logs."""
        found = await self._run(lambda: list(islice(self._bucket.directories("logs/"), MAX_LOGS)))
        return [name for name in found if _UID.fullmatch(name)]

    async def checkpoint(self, name: str) -> bytes | None:
        """See `Place`."""
        key = f"logs/{name}/checkpoint"
        found = await self._run(lambda: self._bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES))
        return None if found is None else found.data

    async def piece(self, name: str, tile: TilePath, offset: int, tag: str | None) -> Piece | None:
        """See `Place`; the tag is the store's own."""
        key = f"logs/{name}/{tile.path}"
        etag = None if tag is None else f'"{tag}"'
        found = await self._run(lambda: self._bucket.get_piece(key, offset, PIECE_BYTES, etag=etag))
        return None if found is None else Piece(found.data, found.total, found.etag.strip('"'))

    async def redirect(self, name: str, tile: TilePath) -> Redirect | None:
        """See `Place`."""
        if not self._redirect_s:
            return None
        url = self._signer.presigned(f"logs/{name}/{tile.path}", self._redirect_s)
        # Caches forget where they sent readers well before that ends. A URL that was signed with
        # temporary credentials ends with these, whatever it says.
        max_age_s = self._redirect_s // 2
        return Redirect(url, min(max_age_s, _TEMPORARY_CACHE_S) if _TEMPORARY in url else max_age_s)

    async def close(self) -> None:
        """See `Place`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._bucket.close()
        if self._signer is not self._bucket:
            self._signer.close()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
