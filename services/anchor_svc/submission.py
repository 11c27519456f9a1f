"""What may join a log: pure decisions about the entries of one ledger (design §5, "Anchor").

A ledger's entries join a log in the order of their chain: the next one has seq = last + 1 and a
`prev` that is the last receipt hash, the first one has seq 0 and no `prev`. What is there already
is recognised by its leaf hash. Another entry for a place that is taken is a *fork*: two histories
of one ledger. A fork is never repaired here; it latches the ledger for good, so that somebody
looks. An entry for the next place whose `prev` is not the last receipt hash is refused, and nothing
more: it is no second history of anything that is logged, and anybody can make one up.

Trust: nothing a submitter sends is believed, but no ledger is bound to who submits it. Whoever may
submit can put well-formed entries of any ledger at the end of its chain, or latch it.

Left to others: where the states come from and go to (`storage`), what a batch of submissions adds
to the log (`checkpointing`), who may call (`provledger.rpc.auth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provledger import merkle
from provledger.entry import MAX_ENTRY_BYTES, Entry, parse_entry, receipt_hash
from provledger.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    ReceiptFormatError,
)
from provledger.hashing import Hasher, suite

MAX_ENTRIES = 1000
"""Most entries of one submission."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Consecutive entries of one ledger that form a chain among themselves.

    `prev` is that of the first entry (32 bytes, or None at seq 0). `receipt_hashes` and
    `leaf_hashes` are 32 bytes each, one for every entry.
    """

    ledger_uid: bytes
    suite: str
    start_seq: int
    prev: bytes | None
    entries: Sequence[bytes]
    receipt_hashes: Sequence[bytes]
    leaf_hashes: Sequence[bytes]

    @property
    def end_seq(self) -> int:
        """Seq after the last entry."""
        return self.start_seq + len(self.entries)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """How far a log holds one ledger.

    seq, log_index: of its last entry, -1 if there is none.
    receipt_hash: of that entry, 32 bytes; empty if there is none.
    run_start_seq: where the last run of entries at consecutive indices began.
    forked_seq: where another history was seen; None while there is only one.
    """

    ledger_uid: bytes
    suite: str
    seq: int = -1
    receipt_hash: bytes = b""
    log_index: int = -1
    run_start_seq: int = 0
    forked_seq: int | None = None


class LedgerForkedError(FailedPreconditionError):
    """The ledger has two histories. `seq` is the first place at which they were seen to differ."""

    def __init__(self, ledger_uid: bytes, seq: int) -> None:
        ledger = ledger_uid.hex()
        super().__init__(
            "LEDGER_FORKED",
            f"the log holds another history of ledger {ledger} at seq {seq}; nothing more of it "
            "is logged until an operator has found out why",
            metadata={"ledgerUid": ledger, "seq": str(seq)},
        )
        self.seq = seq


def parse_submission(
    ledger_uid: bytes, suite_name: str, start_seq: int, entries: Sequence[bytes], tree: Hasher
) -> Submission:
    """Read a submission and check all that can be checked without the log.

    `tree` is the hash of the log's tree.

    Raises:
        InvalidArgumentError: naming the field, if the entries are not 1 to 1,000 entries of this
            ledger and suite with consecutive seqs from `start_seq`, each chained to the one before.
    """
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise invalid("entries", f"must be 1 to {MAX_ENTRIES:,} entries")
    if start_seq < 0:
        raise invalid("start_seq", "must not be negative")
    first = _parse(entries[0], 0)
    previous = first.prev
    hashes: list[bytes] = []
    for place, data in enumerate(entries):
        entry = _parse(data, place) if place else first
        if entry.ledger_uid != ledger_uid:
            raise invalid(f"entries[{place}]", "is an entry of another ledger")
        if entry.suite != suite_name:
            raise invalid(f"entries[{place}]", "is of another suite than the submission says")
        if entry.seq != start_seq + place:
            raise invalid(f"entries[{place}]", "does not have the seq of its place")
        if entry.prev != previous:
            raise invalid(f"entries[{place}]", "does not follow from the entry before it")
        previous = receipt_hash(suite_name, data)
        hashes.append(previous)
    return Submission(
        ledger_uid=ledger_uid,
        suite=suite_name,
        start_seq=start_seq,
        prev=first.prev,
        entries=entries,
        receipt_hashes=hashes,
        leaf_hashes=merkle.leaf_hashes(entries, tree),
    )


def check_suite(ledger_suite: str, log_suite: str) -> None:
    """Check that a ledger of one suite may join a log of the other: their trees must be alike.

    Raises:
        FailedPreconditionError: reason SUITE_MISMATCH.
    """
    if suite(ledger_suite).tree is not suite(log_suite).tree:
        raise FailedPreconditionError(
            "SUITE_MISMATCH",
            f"a ledger of suite {ledger_suite} cannot join a log of suite {log_suite}",
            metadata={"ledgerSuite": ledger_suite, "logSuite": log_suite},
        )


def admit(state: LedgerState, submission: Submission, logged: Sequence[bytes]) -> int:
    """Decide what of a submission is new: the place of its first new entry, or its length.

    `logged` are the leaf hashes (32 bytes) that the log holds from the submission's first seq on,
    as far as it reaches.

    Raises:
        LedgerForkedError: if the ledger is latched, or this submission shows a second history.
        FailedPreconditionError: reason SEQ_GAP, with `expectedSeq`, if entries are missing before
            it; reason PREV_MISMATCH if it follows from another entry than the last one; reason
            SUITE_MISMATCH if the ledger was logged under another suite.
    """
    if state.forked_seq is not None:
        raise LedgerForkedError(state.ledger_uid, state.forked_seq)
    if state.suite != submission.suite:
        raise FailedPreconditionError(
            "SUITE_MISMATCH",
            f"the ledger is logged under suite {state.suite}, not {submission.suite}",
            metadata={"ledgerSuite": state.suite},
        )
    expected = state.seq + 1
    if submission.start_seq > expected:
        raise FailedPreconditionError(
            "SEQ_GAP",
            f"the next entry of this ledger is seq {expected}, not {submission.start_seq}",
            metadata={"expectedSeq": str(expected), "ledgerUid": state.ledger_uid.hex()},
        )
    known = min(expected - submission.start_seq, len(submission.entries))
    for place in range(known):
        if logged[place] != submission.leaf_hashes[place]:
            raise LedgerForkedError(state.ledger_uid, submission.start_seq + place)
    # The first new entry must continue what is logged. Where it follows an entry of the same
    # submission, that was compared above, and the chain inside the submission was checked before.
    if known == 0 and (submission.prev or b"") != state.receipt_hash:
        ledger = state.ledger_uid.hex()
        raise FailedPreconditionError(
            "PREV_MISMATCH",
            f"entry {expected} of ledger {ledger} does not follow from the last one that the log "
            "holds; nothing of it is logged",
            metadata={"ledgerUid": ledger, "seq": str(expected)},
        )
    return known


def invalid(field: str, description: str) -> InvalidArgumentError:
    """The error for one bad field of a request."""
    return InvalidArgumentError(
        "INVALID_FIELD",
        f"{field}: {description}",
        metadata={"field": field},
        violations=[FieldViolation(field, description)],
    )


def _parse(data: bytes, place: int) -> Entry:
    if len(data) > MAX_ENTRY_BYTES:
        raise invalid(f"entries[{place}]", f"must be at most {MAX_ENTRY_BYTES:,} bytes")
    try:
        return parse_entry(data)
    except ReceiptFormatError as error:
        raise invalid(f"entries[{place}]", error.message) from error
