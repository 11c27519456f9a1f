"""Entry bundles as gzip, for readers that accept it: each is compressed once and kept.

SPEC: c2sp.org/tlog-tiles lets entry bundles be compressed by content negotiation. Hash tiles are
never: hashes do not shrink.
"""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway_svc.answers import Scope
from gateway_svc.keeping import Kept, Once
from gateway_svc.source import Content, check_entries
from provledger.tiles import TilePath

MAX_INPUT_BYTES: Final = 1024 * 1024
"""Longer bundles go out as they are: they would have to be in memory as a whole."""
_LEVEL: Final = 6
_Key = tuple[str, str]


class Compressor:
    """Compressed bundles. Belongs to one event loop. max_bytes: of all that are kept, 0: none."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: Kept[_Key, bytes] = Kept("gzip", max_bytes)
        self._once: Once[_Key, bytes] = Once()
        # One, so that no more than one core is ever busy with it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-gzip")

    def takes(self, content: Content) -> bool:
        """Whether it is one that we compress."""
        return bool(self._max_bytes) and content.length <= MAX_INPUT_BYTES

    async def gzipped(self, path: str, tile: TilePath, content: Content) -> bytes:
        """The bytes of a bundle, compressed. path: with that of its log.

        Raises:
            DataLossError: it does not hold its entries, or was cut while it was read.
            StatusError: it cannot be had.
        """
        key = (path, content.etag)
        found = self._kept.get(key)
        if found is None:
            # Others wait for it too, when its first reader may have given up and closed his own.
            found = await self._once.do(key, lambda: self._compress(key, tile, content.share()))
        return found

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _compress(self, key: _Key, tile: TilePath, content: Content) -> bytes:
        try:
            data = b"".join([chunk async for chunk in content.chunks()])
        finally:
            content.close()
        check_entries(tile, data)
        loop = asyncio.get_running_loop()
        # No time in it: every gateway makes the same bytes.
        packed = await loop.run_in_executor(
            self._thread, lambda: gzip.compress(data, _LEVEL, mtime=0)
        )
        self._kept.put(key, packed, len(packed))
        return packed


def accepts_gzip(scope: Scope) -> bool:
    """Whether the client takes gzip (RFC 9110 §12.5.3)."""
    given = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    weights: dict[str, bool] = {}
    for item in given.decode("latin-1").split(","):
        coding, _, weight = item.partition(";")
        weights[coding.strip().lower()] = weight.replace(" ", "").lower() not in _REFUSED
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))


_REFUSED: Final = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})
