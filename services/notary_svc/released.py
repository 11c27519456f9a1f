"""What a notary has released since it started, against which it holds what its database says.

A database becomes an older one under a running notary: a standby that lagged takes over, a server
goes back to a point in time, a row is set back. By what such a one holds, a second history would be
cosigned. So what was released, or read as stored, is remembered for each origin, and nothing is
cosigned or shown by a database that holds less of it, or something else in its place.

A process that starts remembers nothing: then its database is all there is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from notary_svc.cosigning import Cosigned
from provledger.errors import DataLossError


@dataclass(frozen=True, slots=True)
class Head:
    """size: of the tree. root: 32 bytes."""

    size: int
    root: bytes


class Released:
    """The largest head of each origin, by its id; one for each that was ever trusted, at most. Safe
    in any thread: updates are decided in the storage's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}

    def of(self, origin_id: str) -> Head | None:
        """What is known to be stored."""
        return self._heads.get(origin_id)

    def add(self, origin_id: str, stored: Cosigned) -> None:
        """Remember what was committed; what is smaller is known by the larger one."""
        with self._lock:
            known = self._heads.get(origin_id)
            if known is None or stored.size > known.size:
                self._heads[origin_id] = Head(stored.size, stored.root)


def check_found(found: Cosigned | None, released: Head | None) -> None:
    """Check what is stored against what was known before it was read.

    Raises:
        DataLossError: DATABASE_BEHIND, it is less, or another history.
    """
    if released is None:
        return
    size = 0 if found is None else found.size
    if size < released.size:
        raise DataLossError(
            "DATABASE_BEHIND",
            f"the database says that size {size} was cosigned last, and {released.size} was: it is "
            "an older one; bring the right one back, and do not restart before that",
        )
    if found is not None and size == released.size and found.root != released.root:
        raise DataLossError(
            "DATABASE_BEHIND",
            f"the database holds another history than the one cosigned at size {size}: it is not "
            "the one it was; bring the right one back, and do not restart before that",
        )
