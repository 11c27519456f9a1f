"""A place in memory where the logs of a gateway are, and a log of large bundles in it."""

from __future__ import annotations

import asyncio

from gateway_svc.remote import PIECE_BYTES, Piece
from gateway_svc.source import Redirect
from provledger import tiles
from provledger.errors import StatusError, UnavailableError
from tests.support.tiled import signed_checkpoint, tile_files


class MemoryPlace:
    """Logs in memory; `asked` counts, `away` fails, checkpoints of those in `refused` too."""

    def __init__(self, **logs: dict[str, bytes]) -> None:
        self.logs = logs
        self.asked: list[str] = []
        self.away = False
        self.refused: dict[str, StatusError] = {}

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise UnavailableError("STORAGE_UNAVAILABLE", "away")

    async def names(self) -> list[str]:
        self._ask("names")
        return list(self.logs)

    async def checkpoint(self, name: str) -> bytes | None:
        self._ask("checkpoint")
        await asyncio.sleep(0)
        if name in self.refused:
            raise self.refused[name]
        return self.logs[name].get("checkpoint")

    async def piece(
        self, name: str, tile: tiles.TilePath, offset: int, tag: str | None
    ) -> Piece | None:
        self._ask(f"{tile.path}@{offset}")
        await asyncio.sleep(0)
        data = self.logs[name].get(tile.path)
        if data is None:
            return None
        return Piece(data[offset : offset + PIECE_BYTES], len(data), f"tag-{hash(data)}")

    async def redirect(self, name: str, tile: tiles.TilePath) -> Redirect | None:
        return None

    async def close(self) -> None:
        return None


ENTRIES = [bytes([number % 251]) * 3000 for number in range(600)]
"""Bundles of three quarters of a mebibyte: three pieces and a bit."""


def memory_log(size: int = 600) -> dict[str, bytes]:
    signed = signed_checkpoint("log.test/x", ENTRIES[:size])
    return {**tile_files(ENTRIES, size), "checkpoint": signed}
