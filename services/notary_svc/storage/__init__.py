"""What was cosigned last for each origin.

Trust: whoever can write here can make the notary cosign a second history, by setting a size back:
this database is what the notary is trusted for. It is not restored from a backup without asking the
logs' other cosigners for their sizes first. A process that runs holds it against what it has
released (`released`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from notary_svc.cosigning import Cosigned
from notary_svc.memory import Memory

Decide = Callable[[Cosigned | None], Cosigned]
"""What to store in place of what is there, or an exception, which stores nothing. Pure: it may be
called again after a conflict."""


class Storage(Protocol):
    """The port; `tests/storage/test_notary_storage.py` is what each implementation must do."""

    async def update(self, origin: str, decide: Decide) -> Cosigned:
        """Replace what is stored for an origin, atomically; durable once this returns.

        Raises:
            whatever `decide` raises; StatusError if the database cannot be used.
        """
        ...

    async def latest(self, origin_id: str) -> Cosigned | None:
        """What was cosigned last, by `cosigning.origin_id`."""
        ...

    async def memory(self) -> Memory:
        """Whose memory this is, and whether it holds anything."""
        ...

    async def remember(self, vkeys: Collection[str]) -> None:
        """Be the memory of these keys, too; durable once this returns."""
        ...

    async def close(self) -> None:
        """Release what is open."""
        ...
