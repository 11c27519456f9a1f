"""Logs by the anchor's own word, where neither its disk nor a bucket can be read: three RPCs.

The anchor gives away what its published checkpoint covers, so that we see no more than readers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway_svc.remote import MAX_LOGS, PIECE_BYTES, Piece
from gateway_svc.source import Redirect
from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.errors import NotFoundError
from provledger.rpc.channel import call
from provledger.tiles import TilePath

_PAGE: Final = 1000
_GONE: Final = frozenset({"TILE_NOT_FOUND", "LOG_NOT_FOUND"})


class AnchorPlace:
    """See `Place`. The channel belongs to the caller."""

    def __init__(self, channel: Any, *, deadline_s: float) -> None:
        self._stub = anchor_pb2_grpc.AnchorServiceStub(channel)
        self._deadline_s = deadline_s

    async def names(self) -> Sequence[str]:
        """See `Place`: `logs/{log}`."""
        found: list[str] = []
        token = ""
        while len(found) < MAX_LOGS:
            request = anchor_pb2.ListLogsRequest(page_size=_PAGE, page_token=token)
            page = await call(self._stub.ListLogs, request, timeout_s=self._deadline_s)
            # What is damaged is not served; the anchor refuses each question about it.
            served = (each for each in page.logs if each.state != anchor_pb2.LOG_STATE_DAMAGED)
            found += [each.name for each in served]
            token = page.next_page_token
            if not token:
                break
        return found

    async def checkpoint(self, name: str) -> bytes | None:
        """See `Place`."""
        request = anchor_pb2.GetCheckpointRequest(log=name, published=True)
        try:
            answer = await call(self._stub.GetCheckpoint, request, timeout_s=self._deadline_s)
        except NotFoundError:
            return None
        signed: bytes = answer.checkpoint
        return signed

    async def piece(self, name: str, tile: TilePath, offset: int, tag: str | None) -> Piece | None:
        """See `Place`; the tag is a digest."""
        request = anchor_pb2.GetTileRequest(
            log=name, path=tile.path, offset=offset, max_bytes=PIECE_BYTES
        )
        try:
            answer = await call(self._stub.GetTile, request, timeout_s=self._deadline_s)
        except NotFoundError as error:
            if error.reason in _GONE:
                return None
            raise
        return Piece(answer.data, answer.total_bytes, answer.digest.hex()[:32])

    async def redirect(self, name: str, tile: TilePath) -> Redirect | None:
        """See `Place`: readers cannot ask the anchor."""
        return None

    async def close(self) -> None:
        """See `Place`: nothing is ours."""
