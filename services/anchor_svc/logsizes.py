"""How large the logs of a process are, for the keys service: by that it writes down from which to
which size a checkpoint key counts, for good.

So nothing unverified may get in here. A log that is closed since its database is older than what
was published (DATABASE_BEHIND) is as large as the published checkpoint says only if a checkpoint
key that counts now has signed that: its file is not trusted (`tilestore`).
"""

from __future__ import annotations

from collections.abc import Callable

from anchor_svc.openlogs import DamagedLog, OpenLogs
from provledger import checkpoint as checkpoints
from provledger.errors import KeyFormatError, NoteError
from provledger.keyset import KeyPurpose, KeySet


class LogSizes:
    """Origins and signed sizes of all logs, also of those that are kept closed: a key that ends
    signed them, too. Belongs to one event loop.

    keys: what the keys service last said is active or draining.
    """

    def __init__(self, logs: OpenLogs, keys: Callable[[], KeySet]) -> None:
        self._logs = logs
        self._keys = keys
        # Of published checkpoints that were verified already, by the whole note.
        self._verified: dict[bytes, int] = {}

    def __call__(self) -> list[tuple[str, int]]:
        """As they are now; a closed one that nobody has signed yet is left out."""
        closed = [(each.row.origin, self._closed_size(each)) for each in self._logs.damaged()]
        return [
            *((origin, size) for origin, size in closed if size),
            *((one.identity.origin, one.state.signed_size) for one in self._logs.all()),
        ]

    def _closed_size(self, closed: DamagedLog) -> int:
        return max(closed.signed_size, self._published_size(closed.published, closed.row.origin))

    def _published_size(self, published: bytes, origin: str) -> int:
        """The size of a checkpoint whose signature verifies; 0 of any other."""
        if not published:
            return 0
        if (known := self._verified.get(published)) is not None:
            return known
        try:
            vkeys = [key.vkey(origin) for key in self._keys().for_purpose(KeyPurpose.CHECKPOINT)]
            verified, _ = checkpoints.open_checkpoint(published, vkeys, origin)
        except (NoteError, KeyFormatError):
            # Perhaps its key is announced later.
            return 0
        self._verified[published] = verified.size
        return verified.size
