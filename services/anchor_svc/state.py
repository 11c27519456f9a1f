"""What a log is at this moment, for everybody who waits for it to move on.

One object for each log, on one event loop. Each part is an immutable value that is replaced; who
reads two of them without awaiting in between sees them as of one moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from anchor_svc.proofs import View
from provledger.errors import UnavailableError
from provledger.hashing import Hasher, suite
from provledger.policy import Policy

NO_SINKS = -1
"""Anchored size of a log without sinks."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What never changes about a log. uid: 16 bytes."""

    uid: bytes
    origin: str
    suite: str

    @property
    def name(self) -> str:
        """Resource name, `logs/{uid hex}`."""
        return f"logs/{self.uid.hex()}"

    @property
    def hasher(self) -> Hasher:
        """Hash of the log's tree."""
        return suite(self.suite).tree


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A signed head: tree size, root (32 bytes), and the note that says so."""

    size: int
    root: bytes
    note: bytes


class LogState:
    """The newest signed, published and anchored heads, and how to wait for newer ones.

    view: newest signed one, with the tree; None until the first is signed.
    published: newest published one. anchored: newest one that enough sinks hold.
    anchored_size: its size, 0 before the first, -1 if there are no sinks.
    policy: what was promised of anchoring. overdue: whether that is broken at the moment.
    """

    def __init__(self, *, has_sinks: bool, policy: Policy | None = None) -> None:
        self.view: View | None = None
        self.published: SignedCheckpoint | None = None
        self.anchored: SignedCheckpoint | None = None
        self.policy: Policy | None = policy
        self.overdue = False
        self._has_sinks = has_sinks
        self._changed = asyncio.Event()

    @property
    def anchored_size(self) -> int:
        """Tree size that enough sinks have acknowledged; 0 before the first, -1 without sinks."""
        if not self._has_sinks:
            return NO_SINKS
        return 0 if self.anchored is None else self.anchored.size

    @property
    def published_size(self) -> int:
        """Tree size of the newest published checkpoint; 0 before the first."""
        return 0 if self.published is None else self.published.size

    @property
    def signed_size(self) -> int:
        """Tree size of the newest signed checkpoint; 0 before the first."""
        return 0 if self.view is None else self.view.size

    def signed_view(self) -> View:
        """The newest signed head with its tree.

        Raises:
            UnavailableError: the log is new, and its first head is not signed yet.
        """
        if self.view is None:
            raise UnavailableError(
                "NOT_SIGNED_YET", "the log has no signed checkpoint yet", retry_delay_s=1.0
            )
        return self.view

    def set_view(self, view: View) -> None:
        """A newer head was signed, or the same one was read again."""
        self.view = view
        self._notify()

    def set_published(self, checkpoint: SignedCheckpoint) -> None:
        """A newer head was published."""
        self.published = checkpoint
        self._notify()

    def set_anchored(self, checkpoint: SignedCheckpoint) -> None:
        """A newer head is held by enough sinks."""
        self.anchored = checkpoint
        self._notify()

    def set_overdue(self, overdue: bool) -> None:
        """Something published waits for longer than the policy allows, or no longer does."""
        self.overdue = overdue
        self._notify()

    def changed(self) -> asyncio.Event:
        """An event that the next change sets. Take it before looking, and wait afterwards."""
        return self._changed

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
