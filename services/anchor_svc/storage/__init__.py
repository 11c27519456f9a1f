"""What the anchor keeps in a database, as values and as one small port.

    logs         one row per log: its size and root, and who may write
    entries      entries not yet in full tiles, in pieces that never cross a tile's border
    ledgers      how far each ledger is in the log
    runs         where each run of a ledger's entries begins, in its chain and in the log
    checkpoints  heads intended, signed (the note is there) and published
    anchors      what each sink returned for a checkpoint: also the sink's cursor
    policies     what makes a checkpoint anchored, every version; operational, since whoever relies
                 on a receipt judges by a policy of their own

Trust: the database is *not* trusted for what the log holds. At start-up the root is recomputed
from tiles and entries, and the ledgers must have as many entries as the log; proofs are checked
against a signed checkpoint before they leave, and the states of ledgers against the entries they
name before anything is admitted or signed by them. Whoever can write here can stop the service,
hide an entry's place or forget a sink's evidence; they cannot rewrite history unnoticed, since
signed checkpoints are with others. `writer_epoch` is operational: a forger of it stops the writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from anchor_svc.submission import LedgerState
from provledger.errors import ProvledgerError

DEFAULT_ALIAS: Final = "default"
"""Alias of the log that `logs/-` means."""


class FencedError(ProvledgerError):
    """Another process has taken the log over; this one must not write to it again."""


@dataclass(frozen=True, slots=True)
class LogRow:
    """A log. `size` and `root` (32 bytes) are the tree's, signed or not yet.

    tiled_size: leaves below it are in full tiles on disk. writer_epoch: raised whenever a process
    takes the log over for writing; only the last one may. alias: `default`, or `tenants/{tenant}`
    for the log of one tenant. database_ns: the database's time at that reading, Unix nanoseconds;
    None where its clock is ours (SQLite).
    """

    log_uid: bytes
    origin: str
    suite: str
    size: int
    root: bytes
    tiled_size: int
    writer_epoch: int
    created_at_ns: int
    alias: str = DEFAULT_ALIAS
    database_ns: int | None = field(default=None, compare=False)

    @property
    def tenant(self) -> str:
        """`tenants/{tenant}` whose own log it is, "" for the one that is shared."""
        return "" if self.alias == DEFAULT_ALIAS else self.alias


@dataclass(frozen=True, slots=True)
class EntryPiece:
    """Entries at consecutive indices of the log, all below one tile of level 0."""

    start_index: int
    entries: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class RunStart:
    """Where a run of a ledger's entries begins; it ends where the ledger's next run begins."""

    ledger_uid: bytes
    start_seq: int
    start_index: int


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A head. `note` is None while it is only intended, `published_at_ns` until it is served."""

    size: int
    root: bytes
    note: bytes | None
    intended_at_ns: int
    published_at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class AnchorRow:
    """Evidence of one sink for one checkpoint."""

    size: int
    sink: str
    kind: str
    acknowledged_at_ns: int
    evidence: bytes


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A version of a policy. tenant: `tenants/{tenant}`, empty for the log's own, or one of the
    names under which the settings are noted (`anchor_svc.namedsinks`).

    version: counts from 1. text: empty in a version that took the policy back.
    """

    tenant: str
    version: int
    text: bytes
    set_at_ns: int
    set_by: str


@dataclass(frozen=True, slots=True)
class Flush:
    """What one flush adds, in one transaction.

    `size` and `root` are those of the tree with it. Where it brings entries, the head is stored
    as intended, before its signature goes anywhere; where it only changes states of ledgers,
    `size` is `old_size`.

    earlier: flushes right before it that bring entries and are on their way too, in order. Which of
    them arrives first does not matter: each stores those before it that are not stored yet.
    """

    old_size: int
    size: int
    root: bytes
    pieces: Sequence[EntryPiece]
    runs: Sequence[RunStart]
    ledgers: Sequence[LedgerState]
    now_ns: int
    earlier: Sequence[Flush] = ()


@dataclass(frozen=True, slots=True)
class Signed:
    """Signed notes to store, by the tree size of their intended heads.

    tiled_size: full tiles are on disk up to there, and entries below it are dropped; 0 if no tile
    was written since the last time.
    """

    notes: Mapping[int, bytes]
    tiled_size: int = 0


NONE_SIGNED: Final = Signed({})


class Storage(Protocol):
    """The port. Writes to a log raise FencedError unless `epoch` is its latest.

    Database faults come out as `provledger.db` says; after one in a write it is not known whether
    the write happened, and the caller reads again.
    """

    async def default_log(self) -> LogRow | None:
        """The log that `logs/-` means, if it has been created."""
        ...

    async def logs(self) -> list[LogRow]:
        """All logs, in order of their making."""
        ...

    async def ledger_count(self) -> int:
        """How many ledgers have entries in any log."""
        ...

    async def create_log(self, log: LogRow, first_entry: bytes) -> LogRow:
        """Create a log with one entry and its head intended, unless there is one of its alias.

        Returns the one there is.
        """
        ...

    async def acquire(self, log_uid: bytes) -> LogRow:
        """Become the log's only writer, by a new epoch: holders of older ones are fenced.

        No epoch is given twice, even if the database forgets one and goes on from an older copy.
        """
        ...

    async def log(self, log_uid: bytes) -> LogRow:
        """The log as it is now; DataLossError if it is gone."""
        ...

    async def leaf_counts(self, log_uid: bytes) -> tuple[int, int]:
        """The log's size, and how many entries its ledgers say they have in it; of one moment.

        DataLossError if the log is gone.
        """
        ...

    async def pieces(self, log_uid: bytes, start_index: int) -> list[EntryPiece]:
        """Stored entries from an index on, in order."""
        ...

    async def ledgers(
        self, log_uid: bytes, ledger_uids: Sequence[bytes]
    ) -> dict[bytes, LedgerState]:
        """States of those of these ledgers that the log knows."""
        ...

    async def runs(
        self, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
    ) -> list[RunStart]:
        """Runs that hold seqs from `start_seq` to before `end_seq`, in order."""
        ...

    async def ledger_runs(
        self, log_uid: bytes, ledger_uid: bytes, start_seq: int, end_seq: int
    ) -> tuple[LedgerState | None, list[RunStart]]:
        """`ledgers` of one and `runs` of it, as of the same moment."""

    async def runs_around(
        self, log_uid: bytes, ledger_uid: bytes, log_index: int
    ) -> tuple[RunStart, RunStart | None] | None:
        """The ledger's last run that begins below an index, and the run after it."""
        ...

    @property
    def lanes(self) -> int:
        """How many flushes and notes can be written at the same time."""
        ...

    async def commit(
        self, log_uid: bytes, epoch: int, flush: Flush, signed: Signed = NONE_SIGNED
    ) -> Mapping[int, bytes]:
        """Store a flush, and notes of earlier heads as `store_notes` does, all or nothing.

        Raises:
            DataLossError: neither this flush nor one of `earlier` follows upon what is stored.
        """
        ...

    async def store_notes(self, log_uid: bytes, epoch: int, signed: Signed) -> Mapping[int, bytes]:
        """Store the notes of intended heads that have none yet; returns the stored ones, by size.

        Raises:
            DataLossError: there is no such intended head.
        """
        ...

    async def checkpoint(self, log_uid: bytes, size: int) -> CheckpointRow | None:
        """The head of exactly this size, signed or only intended."""
        ...

    async def newest_checkpoint(self, log_uid: bytes) -> CheckpointRow | None:
        """The head of the largest size, signed or only intended."""
        ...

    async def newest_signed(self, log_uid: bytes) -> CheckpointRow | None:
        """The signed head of the largest size."""
        ...

    async def newest_published(
        self, log_uid: bytes, *, below: int | None = None
    ) -> CheckpointRow | None:
        """The published head of the largest size, or of the largest below one."""
        ...

    async def mark_published(self, log_uid: bytes, epoch: int, size: int, now_ns: int) -> None:
        """Record that a signed head is served and may go to sinks."""
        ...

    async def add_anchor(self, log_uid: bytes, anchor: AnchorRow) -> AnchorRow:
        """Store a sink's evidence for a checkpoint; what is stored then.

        Of a sink that has some for it already, only cosignatures by further keys are added
        (`anchor_svc.quorum.joined`).
        """
        ...

    async def cursors(self, log_uid: bytes, sinks: Sequence[str]) -> Mapping[str, int]:
        """Largest size that each of these sinks holds, 0 if none."""
        ...

    async def oldest_published(self, log_uid: bytes, above: int) -> int | None:
        """When the first of the heads above a size that are published was, in Unix nanoseconds."""
        ...

    async def oldest_intended(self, log_uid: bytes, above: int) -> int | None:
        """When the first of the heads above a size was decided on, in Unix nanoseconds."""
        ...

    async def anchors(
        self, log_uid: bytes, *, after: tuple[int, str] | None, sink: str, limit: int
    ) -> list[AnchorRow]:
        """Anchors in falling order of (size, sink), after a place in it; of one sink if not ""."""
        ...

    async def evidence(self, log_uid: bytes, size: int) -> list[AnchorRow]:
        """What sinks returned for one checkpoint, in order of sink."""
        ...

    async def add_policy(self, log_uid: bytes, epoch: int, policy: PolicyRow) -> bool:
        """Store a version of a policy; False if there is that version already, by somebody else."""
        ...

    async def policies(self, log_uid: bytes) -> list[PolicyRow]:
        """Every version for the log and for each tenant, in order of tenant and version."""
        ...

    async def policy(self, log_uid: bytes, tenant: str, version: int) -> PolicyRow | None:
        """One version of a policy."""
        ...

    async def close(self) -> None:
        """Finish what was begun and release the database."""
        ...
