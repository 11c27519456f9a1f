"""What one flush adds to a log, and the states a head goes through (design §4, "Log").

::

    intended    size and root stored, in the transaction that stores the entries
    signed      the note stored: the first signature for that size, and the only one released
    published   partial tiles and `checkpoint` written: served, and handed to sinks

A head is intended before the key is asked, so that after a crash it is signed for the same size and
root, and nothing new is admitted before. Roots of two sizes always come from one tree that only
grows: no two heads are signed that no consistency proof joins.

Pure: no clock, no disk, no database. `committer` carries it out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anchor_svc.storage import EntryPiece, Flush, RunStart
from anchor_svc.submission import LedgerState, Submission, admit
from anchor_svc.tree import TILE_WIDTH, Edge, Growth
from provledger import jcs
from provledger.hashing import Hasher
from provledger.note import is_key_name
from provledger.settings import ConfigError

MAX_ORIGIN_BYTES = 255

# What clients escape in a URL, or take for the end of its path (RFC 3986 §2).
_NOT_PLAIN = re.compile(r"""[^!-~]|[%?#\\"<>^`{|}]""")
# A checkpoint that begins like another protocol's text could be taken for one (formats §12).
_RESERVED_ORIGINS = ("cosignature/", "c2sp.org/", "subtree/")


@dataclass(frozen=True, slots=True)
class LeafRun:
    """Consecutive entries of one ledger at consecutive places of the log."""

    start_seq: int
    start_index: int
    count: int


@dataclass(frozen=True, slots=True)
class Logged:
    """What the log held, before a flush, of the seqs of one submission.

    runs: those that hold them, in order. leaf_hashes: theirs, from the submission's first seq on.
    """

    runs: Sequence[RunStart] = ()
    leaf_hashes: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """A flush as it will be stored, and the tree with it."""

    flush: Flush
    edge: Edge
    growth: Growth


class FlushPlan:
    """Collects what submissions add, one after the other; nothing happens until it is stored."""

    def __init__(self, edge: Edge, hasher: Hasher) -> None:
        self._edge = edge
        self._hasher = hasher
        self._entries: list[bytes] = []
        self._leaf_hashes: list[bytes] = []
        self._runs: list[RunStart] = []
        self.states: dict[bytes, LedgerState] = {}
        """Ledgers that change, as they will be."""

    @property
    def leaves(self) -> int:
        """How many entries are new."""
        return len(self._entries)

    def admit(self, base: LedgerState, submission: Submission, logged: Logged) -> list[LeafRun]:
        """Take a submission in; where its entries are, or will be, in the log.

        `base` is the ledger's state before this flush.

        Raises:
            FailedPreconditionError: as `submission.admit`; the plan is as before then.
        """
        uid = submission.ledger_uid
        state = self.states.get(uid, base)
        runs = [*logged.runs, *_last_run(base), *(r for r in self._runs if r.ledger_uid == uid)]
        found = clip_runs(runs, submission.start_seq, min(submission.end_seq, state.seq + 1))
        hashes = list(logged.leaf_hashes)
        for run in found:
            first = max(run.start_index - self._edge.size, 0)
            last = run.start_index + run.count - self._edge.size
            hashes += self._leaf_hashes[first : max(last, 0)]
        known = admit(state, submission, hashes)
        if known == len(submission.entries):
            return found
        return _join([*found, self._append(state, submission, known)])

    def latch(self, base: LedgerState, seq: int) -> None:
        """Take no more of a ledger, for good: it showed another history at `seq`."""
        state = self.states.get(base.ledger_uid, base)
        if state.forked_seq is None:
            self.states[base.ledger_uid] = replace(state, forked_seq=seq)

    def finish(self, now_ns: int) -> Planned:
        """The flush, with the tree as it will be; `now_ns` is when its head was intended."""
        edge, growth = self._edge.extend(self._leaf_hashes, self._entries, self._hasher)
        flush = Flush(
            old_size=self._edge.size,
            size=edge.size,
            root=edge.root(self._hasher),
            pieces=_pieces(self._edge.size, self._entries),
            runs=tuple(self._runs),
            ledgers=tuple(self.states.values()),
            now_ns=now_ns,
        )
        return Planned(flush, edge, growth)

    def _append(self, state: LedgerState, submission: Submission, known: int) -> LeafRun:
        count = len(submission.entries) - known
        run = LeafRun(state.seq + 1, self._edge.size + len(self._entries), count)
        self._entries += submission.entries[known:]
        self._leaf_hashes += submission.leaf_hashes[known:]
        run_start_seq = state.run_start_seq
        if state.seq < 0 or state.log_index + 1 != run.start_index:
            run_start_seq = run.start_seq
            self._runs.append(RunStart(state.ledger_uid, run.start_seq, run.start_index))
        self.states[state.ledger_uid] = replace(
            state,
            seq=state.seq + count,
            receipt_hash=submission.receipt_hashes[-1],
            log_index=run.start_index + count - 1,
            run_start_seq=run_start_seq,
        )
        return run


def clip_runs(runs: Sequence[RunStart], start_seq: int, end_seq: int) -> list[LeafRun]:
    """Where seqs from `start_seq` to before `end_seq` are, given all runs that hold some of them.

    `runs` are in order of seq, and may repeat; each reaches to the beginning of the next.
    """
    found = []
    for place, run in enumerate(runs):
        following = runs[place + 1].start_seq if place + 1 < len(runs) else end_seq
        first, last = max(run.start_seq, start_seq), min(following, end_seq)
        if first < last:
            found.append(LeafRun(first, run.start_index + first - run.start_seq, last - first))
    return found


def first_entry(
    log_uid: bytes, origin: str, suite_name: str, keys: Sequence[tuple[str, bytes]]
) -> bytes:
    """Leaf 0 of a log: what it is, and the keys (kid, thumbprint) of its first checkpoints."""
    return jcs.encode(
        {
            "log": {
                "v": "1",
                "uid": log_uid.hex(),
                "origin": origin,
                "suite": suite_name,
                "keys": [{"kid": kid, "jkt": jkt.hex()} for kid, jkt in keys],
            }
        }
    )


def make_origin(prefix: str, log_uid: bytes) -> str:
    """The origin of a log: `prefix/uid`, so that no two installations share one.

    Raises:
        ConfigError: for a prefix that makes no good origin (c2sp.org/tlog-checkpoint), or one that
            is no URL as it stands: nobody could ask a gateway for that log.
    """
    origin = f"{prefix}/{log_uid.hex()}"
    problem = ""
    if not is_key_name(origin) or not origin.isprintable():
        problem = "holds a space, '+' or a control character"
    elif not prefix or prefix.startswith("/") or prefix.endswith("/") or "://" in prefix:
        problem = "must be a URL without its scheme, and without a slash at its end"
    elif _NOT_PLAIN.search(prefix) or {"", ".", ".."} & set(prefix.split("/")):
        problem = (
            "holds what no URL holds as it is written, or '%', '?', '#', '//', '.' or '..' in its "
            "path; logs that are there keep their origins, so another can be set"
        )
    elif len(origin.encode()) > MAX_ORIGIN_BYTES:
        problem = f"is too long: with the uid, origins have at most {MAX_ORIGIN_BYTES} bytes"
    elif origin.startswith(_RESERVED_ORIGINS):
        problem = "is reserved by another protocol"
    if problem:
        raise ConfigError(f"origin_prefix: {problem}")
    return origin


def _last_run(state: LedgerState) -> list[RunStart]:
    """The run that a ledger's last entry is in."""
    if state.seq < 0:
        return []
    start_index = state.log_index - (state.seq - state.run_start_seq)
    return [RunStart(state.ledger_uid, state.run_start_seq, start_index)]


def _join(runs: Sequence[LeafRun]) -> list[LeafRun]:
    """The same places, neighbouring runs made one."""
    joined = [runs[0]]
    for run in runs[1:]:
        last = joined[-1]
        if last.start_index + last.count == run.start_index:
            joined[-1] = LeafRun(last.start_seq, last.start_index, last.count + run.count)
        else:
            joined.append(run)
    return joined


def _pieces(start_index: int, entries: Sequence[bytes]) -> tuple[EntryPiece, ...]:
    """Entries in pieces that never cross the border of a tile: whole pieces go as tiles fill."""
    pieces = []
    place = 0
    while place < len(entries):
        index = start_index + place
        count = TILE_WIDTH - index % TILE_WIDTH
        pieces.append(EntryPiece(index, entries[place : place + count]))
        place += count
    return tuple(pieces)
