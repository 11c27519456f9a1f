"""What a log is at this moment, for everybody who waits for it to move on.

One object for each log, on one event loop. Each part is an immutable value that is replaced; who
reads two of them without awaiting in between sees them as of one moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from anchor_svc.namedsinks import Foreign
from anchor_svc.proofs import View
from anchor_svc.quorum import Quorum
from provledger.errors import DataLossError, StatusError, UnavailableError
from provledger.hashing import SUITES, Hasher, suite
from provledger.keyset import MAX_CLOCK_AHEAD_NS
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
        """Hash of the log's tree.

        Raises:
            DataLossError: the log's row names a suite that never was one.
        """
        if self.suite not in SUITES:
            raise DataLossError("LOG_ROW_CHANGED", "the row of the log names an unknown suite")
        return suite(self.suite).tree


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A signed head: tree size, root (32 bytes), and the note that says so."""

    size: int
    root: bytes
    note: bytes


@dataclass(slots=True, eq=False)
class Promise:
    """What makes a checkpoint anchored for the log (`tenant` empty) or one tenant, and how far.

    anchored: the newest checkpoint that enough sinks hold. overdue: whether something published
    waits for longer than the policy allows. since_ns: when the policy was set, Unix nanoseconds; of
    that of the settings, when the log first knew of it.
    """

    tenant: str
    quorum: Quorum
    anchored: SignedCheckpoint | None = None
    overdue: bool = False
    since_ns: int = 0

    @property
    def policy(self) -> Policy | None:
        """The policy, None if every sink must hold a checkpoint."""
        return self.quorum.policy

    @property
    def anchored_size(self) -> int:
        """Tree size of `anchored`; 0 before the first, -1 if there are no sinks."""
        if self.anchored is not None:
            return self.anchored.size
        return 0 if self.quorum.has_sinks else NO_SINKS


class LogState:
    """The newest signed, published and anchored heads, and how to wait for newer ones.

    view: newest signed one, with the tree; None until the first is signed.
    published: newest published one. promises: what counts as anchored, by tenant; the one of the
    log, which is always there, under "".
    """

    def __init__(self, quorum: Quorum | None = None) -> None:
        self.view: View | None = None
        self.published: SignedCheckpoint | None = None
        self.promises: dict[str, Promise] = {"": Promise("", quorum or Quorum(None, ()))}
        # Why nothing may be signed: the log was restored, and nobody has confirmed it yet.
        self.held: StatusError | None = None
        # Sinks that policies of tenants named, now or once: what they return is for these alone.
        self.foreign = Foreign()
        # By how much our clock was ahead of the database's when they were last compared.
        self._ahead_ns = 0
        self._changed = asyncio.Event()

    def promise(self, tenant: str = "") -> Promise:
        """What holds for a tenant: its own, or that of the log."""
        return self.promises.get(tenant) or self.promises[""]

    def tenant_promises(self) -> list[Promise]:
        """What holds for tenants with a policy of their own."""
        return [promise for tenant, promise in self.promises.items() if tenant]

    @property
    def anchored_size(self) -> int:
        """Anchored tree size by the log's own policy; 0 before the first, -1 without sinks."""
        return self.promises[""].anchored_size

    @property
    def published_size(self) -> int:
        """Tree size of the newest published checkpoint; 0 before the first."""
        return 0 if self.published is None else self.published.size

    @property
    def signed_size(self) -> int:
        """Tree size of the newest signed checkpoint; 0 before the first."""
        return 0 if self.view is None else self.view.size

    def check_held(self) -> None:
        """Raise why nothing may be signed, if that is so."""
        if self.held is not None:
            raise self.held

    def compare_clock(self, now_ns: int, database_ns: int | None) -> None:
        """Take note of what our clock and the database's say; None if it has none of its own."""
        self._ahead_ns = 0 if database_ns is None else now_ns - database_ns

    def check_clock(self) -> None:
        """Return unless what we date would be of a time after the end of its key, once replaced.

        Raises:
            UnavailableError: CLOCK_SKEW.
        """
        if self._ahead_ns > MAX_CLOCK_AHEAD_NS:
            seconds = self._ahead_ns // 1_000_000_000
            raise UnavailableError(
                "CLOCK_SKEW",
                f"the clock of this anchor is {seconds} s ahead of its database's; set it",
                metadata={"aheadSeconds": str(seconds)},
                retry_delay_s=5.0,
            )

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

    def set_promises(self, promises: dict[str, Promise], foreign: Foreign) -> None:
        """Other policies hold from now on."""
        self.promises = promises
        self.foreign = foreign
        self._notify()

    def set_anchored(self, promise: Promise, checkpoint: SignedCheckpoint) -> None:
        """A newer head is held by the sinks that a policy asks for."""
        promise.anchored = checkpoint
        self._notify()

    def set_overdue(self, promise: Promise, *, overdue: bool) -> None:
        """Something published waits for longer than a policy allows, or no longer does."""
        promise.overdue = overdue
        self._notify()

    def changed(self) -> asyncio.Event:
        """An event that the next change sets. Take it before looking, and wait afterwards."""
        return self._changed

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
