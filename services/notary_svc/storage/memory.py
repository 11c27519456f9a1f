"""In memory, for tests: forgets everything at the end, which a notary must never do."""

from __future__ import annotations

from collections.abc import Collection

from notary_svc.cosigning import Cosigned, origin_id
from notary_svc.memory import Memory
from notary_svc.storage import Decide


class MemoryStorage:
    """For one event loop, on which an update is atomic by itself."""

    def __init__(self) -> None:
        self._latest: dict[str, Cosigned] = {}
        self._vkeys: set[str] = set()

    async def update(self, origin: str, decide: Decide) -> Cosigned:
        """See `Storage.update`."""
        key = origin_id(origin)
        self._latest[key] = decide(self._latest.get(key))
        return self._latest[key]

    async def latest(self, origin_id: str) -> Cosigned | None:
        """See `Storage.latest`."""
        return self._latest.get(origin_id)

    async def memory(self) -> Memory:
        """See `Storage.memory`."""
        return Memory(frozenset(self._vkeys), bool(self._latest))

    async def remember(self, vkeys: Collection[str]) -> None:
        """See `Storage.remember`."""
        self._vkeys.update(vkeys)

    async def close(self) -> None:
        """See `Storage.close`."""
