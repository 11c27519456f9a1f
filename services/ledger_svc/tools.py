"""What all append pipelines of a process share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ledger_svc.chain import LedgerInfo, Linked, Seal
from ledger_svc.storage import Storage
from ledger_svc.turns import Turns
from ledger_svc.witnessing import WitnessClient
from provledger.errors import ProvledgerError


class StaleSignatureError(ProvledgerError):
    """A batch whose signature must not be committed any more; it is to be witnessed again."""


class KeyPolicy(Protocol):
    """Which signatures of the witness are taken, by their keys.

    `accepts` is called from the writing thread too.
    """

    def accepts(self, kid: str, epoch: int) -> bool:
        """Whether the key is active or draining."""

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        """As `accepts`, but wait a little: the witness may have heard of a new key before us."""

    def check_signature(self, seal: Seal) -> None:
        """Check that the key which a batch names signed it.

        Raises:
            StaleSignatureError: not while the key was valid, or the key is not taken any more.
            InternalError: WITNESS_ANSWER, it did not.
        """


class AnyKey:
    """Takes every key that the witness uses, and its word for what that signed.

    For a service that hears of no keys.
    """

    def accepts(self, kid: str, epoch: int) -> bool:
        """Always true."""
        return True

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        """Always true."""
        return True

    def check_signature(self, seal: Seal) -> None:
        """Nothing to check by."""


class UnconfirmedError(ProvledgerError):
    """The database may have become another one since it was compared with the log."""


class Flushed(NamedTuple):
    """A flush that has ended."""

    waited_s: float
    """How long its first draft had waited when it began."""
    drafts: int
    size_bytes: int
    took_s: float
    alone: bool
    """Whether no other flush ran when it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Everything a pipeline needs but its ledger.

    check: refuses to append while the log holds more of the ledger than we do.
    seen_seq: the last receipt of the ledger that anybody is known to have recorded; asked under the
        lock of its head, in the writing thread. Raises `UnconfirmedError` if the database may have
        become another one since `check`. doubt: has `check` find out again. look_for: raises why a
        ledger is not stored any more, and returns if it is.
    committed: told of each commit, with the storage's generation before it; must not block.
    keys: whether a batch of a kid and epoch may still be committed.
    clock: Unix nanoseconds. random: so many random bytes.
    turns: who may flush and commit. flushed: told of each flush.
    """

    storage: Storage
    witness: WitnessClient
    check: Callable[[LedgerInfo], Awaitable[None]]
    seen_seq: Callable[[LedgerInfo], int]
    doubt: Callable[[LedgerInfo], None]
    look_for: Callable[[LedgerInfo], Awaitable[None]]
    committed: Callable[[LedgerInfo, Linked, int], None]
    keys: KeyPolicy
    clock: Callable[[], int]
    random: Callable[[int], bytes]
    flush_items: int = 1000
    flush_bytes: int = 6 * 1024 * 1024
    flush_linger_s: float = 0.0
    queue_items: int = 20_000
    queue_bytes: int = 32 * 1024 * 1024
    turns: Turns = field(default_factory=Turns)
    flushed: Callable[[Flushed], None] = lambda _: None
