"""The chain: what a stored receipt is, and how a witnessed batch is linked to the last one.

Pure: no I/O, no clock, no gRPC. Byte formats are `provledger.entry` and
`provledger.witness_batch`; what is checked of a stored chain is `ledger_svc.audit`'s.

    tNs = max(now, last tNs + 1), strictly increasing along the chain (design §4, "Entry")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger_svc.batch_tree import BatchTree
from provledger import jcs, keyset, names
from provledger.disclosure import BLOB_PROFILE, FIELDS_PROFILE
from provledger.entry import ENTRY_CONTEXT, encode_entry
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidProofError,
    UnavailableError,
)
from provledger.hashing import HASH_BYTES
from provledger.hashing import suite as get_suite
from provledger.witness_batch import signature_digest

LEDGER_ROLLED_BACK: Final = "LEDGER_ROLLED_BACK"
GENESIS_REQUEST_ID: Final = "genesis"
GENESIS_TYPE: Final = "ledger.created"
GENESIS_RESOURCE_TYPE: Final = "Ledger"
GENESIS_ACTOR_ID: Final = "ledger_svc"
GENESIS_ACTOR_TYPE: Final = "service"

MAX_SIGNATURE_AGE_NS: Final = 60_000_000_000
"""A batch signed longer ago than this is not committed but witnessed again."""
MAX_CLOCK_AHEAD_NS: Final = keyset.MAX_CLOCK_AHEAD_NS
"""A clock this far ahead of the database's or the witness's is not believed."""
STEP_ALARM_NS: Final = 1_000_000_000
"""A clock this far behind the last entry is worth an alarm; replicas may differ by less."""


@dataclass(frozen=True, slots=True)
class LedgerInfo:
    """What is fixed when a ledger is made. `uid` is 16 bytes, `name` its full resource name."""

    uid: bytes
    tenant: str
    ledger: str
    suite: str
    log_name: str
    log_origin: str
    created_at_ns: int

    @property
    def name(self) -> str:
        """`tenants/{tenant}/ledgers/{ledger}`."""
        return f"tenants/{self.tenant}/ledgers/{self.ledger}"

    @property
    def tenant_name(self) -> str:
        """`tenants/{tenant}`."""
        return f"tenants/{self.tenant}"


@dataclass(frozen=True, slots=True)
class Head:
    """The last receipt of a chain. `seq` is -1 and the hash empty before the genesis."""

    seq: int
    receipt_hash: bytes
    t_ns: int


EMPTY_HEAD: Final = Head(-1, b"", 0)


@dataclass(frozen=True, slots=True)
class HeadState:
    """A head as stored, with how far the log has it and why it is read-only ("" if it is not)."""

    head: Head
    logged_seq: int
    read_only_reason: str


class Row(NamedTuple):
    """One stored receipt: the columns of `entries`, in their order.

    Small columns come first, so that SQLite finds them on the row's first page.
    """

    ledger_uid: bytes
    seq: int
    t_ns: int
    receipt_id: bytes
    receipt_hash: bytes
    payload_hash: bytes
    batch_seq: int
    batch_index: int
    commitment_size: int
    request_id: str
    receipt_type: str
    resource_type: str
    resource_id: str
    actor_id: str
    secret: bytes
    statement: bytes
    payload: bytes

    @property
    def profile(self) -> str:
        """The commitment's profile: only `blob-v1` has a list of size 0."""
        return FIELDS_PROFILE if self.commitment_size else BLOB_PROFILE


class BatchRow(NamedTuple):
    """The signed batch of one flush: the columns of `batches`, in their order.

    `batch_seq` is the seq of the first receipt of the flush. The signed batch may hold statements
    of other flushes and ledgers: `leaf_hashes` are ours, from `first_index` on, and `siblings`
    what else their paths need (`ledger_svc.batch_tree`), 32 bytes each.
    """

    ledger_uid: bytes
    batch_seq: int
    kid: str
    first_index: int
    body: bytes
    sig: bytes
    leaf_hashes: bytes
    siblings: bytes


class Stored(NamedTuple):
    """A row with the hash of the receipt before it (None at seq 0)."""

    row: Row
    previous_hash: bytes | None


class Candidate(NamedTuple):
    """A witnessed draft that waits for its place in the chain. Hashes are 32 bytes."""

    receipt_id: bytes
    request_id: str
    receipt_type: str
    resource_type: str
    resource_id: str
    actor_id: str
    statement: bytes
    payload: bytes
    secret: bytes
    payload_hash: bytes
    commitment_size: int
    leaf_hash: bytes
    batch_index: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The witness's signature over a batch, our part of it, and who made it when."""

    suite: str
    body: bytes
    sig: bytes
    first_index: int
    leaf_hashes: bytes
    siblings: bytes
    kid: str
    epoch: int
    thumbprint: bytes
    signed_at_ns: int

    def digest(self) -> bytes:
        """The 32 bytes by which entries bind this signature."""
        return signature_digest(self.suite, self.body, self.sig)


@dataclass(frozen=True, slots=True)
class Linked:
    """What a flush adds to a chain: rows, their entry bytes, the batch, and the new head.

    `signed_at_ns` is when the witness signed, by its own clock.
    """

    rows: list[Row]
    entries: list[bytes]
    batch: BatchRow
    head: Head
    signed_at_ns: int


def link(
    ledger: LedgerInfo, head: Head, seal: Seal, candidates: Sequence[Candidate], now_ns: int
) -> Linked:
    """Give each candidate its place behind `head`. At least one; this is the hot loop."""
    uid, uid_hex, suite = ledger.uid, ledger.uid.hex(), ledger.suite
    hasher = get_suite(suite).H
    signature_hex = seal.digest().hex()
    first_seq = seq = head.seq + 1
    t_ns = max(now_ns, head.t_ns + 1)
    previous = head.receipt_hash or None
    rows: list[Row] = []
    entries: list[bytes] = []
    for item in candidates:
        entry = encode_entry(
            suite, uid_hex, seq, t_ns, previous, item.leaf_hash, item.payload_hash, signature_hex
        )
        previous = hasher(ENTRY_CONTEXT + entry)
        entries.append(entry)
        rows.append(
            Row(
                uid,
                seq,
                t_ns,
                item.receipt_id,
                previous,
                item.payload_hash,
                first_seq,
                item.batch_index,
                item.commitment_size,
                item.request_id,
                item.receipt_type,
                item.resource_type,
                item.resource_id,
                item.actor_id,
                item.secret,
                item.statement,
                item.payload,
            )
        )
        seq += 1
        t_ns += 1
    batch = BatchRow(
        uid,
        first_seq,
        seal.kid,
        seal.first_index,
        seal.body,
        seal.sig,
        seal.leaf_hashes,
        seal.siblings,
    )
    last = rows[-1]
    head = Head(last.seq, last.receipt_hash, last.t_ns)
    return Linked(rows, entries, batch, head, seal.signed_at_ns)


def tree_of(batch: BatchRow, size: int, suite: str) -> BatchTree:
    """The kept part of a batch tree of `size` leaves.

    Raises:
        InvalidProofError: what is stored cannot be part of such a tree.
    """
    leaves, siblings = split_hashes(batch.leaf_hashes), split_hashes(batch.siblings)
    return BatchTree(size, batch.first_index, leaves, siblings, get_suite(suite).H)


def split_hashes(data: bytes) -> list[bytes]:
    """Concatenated hashes one by one.

    Raises:
        InvalidProofError: they are not 32 bytes each.
    """
    if len(data) % HASH_BYTES:
        raise InvalidProofError("hashes are not 32 bytes each")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def entry_of(
    ledger: LedgerInfo, stored: Stored, leaf_hash: bytes, signature_hex: str
) -> tuple[bytes, bytes]:
    """Rebuild (entry bytes, receipt hash) of a stored receipt, from its columns and its batch."""
    row = stored.row
    entry = encode_entry(
        ledger.suite,
        ledger.uid.hex(),
        row.seq,
        row.t_ns,
        stored.previous_hash,
        leaf_hash,
        row.payload_hash,
        signature_hex,
    )
    return entry, get_suite(ledger.suite).H(ENTRY_CONTEXT + entry)


def check_clock(now_ns: int, database_ns: int, signed_at_ns: int) -> None:
    """Refuse a clock that is more than five minutes ahead of the database's or the witness's.

    The witness's own may be no further ahead of the database's: what it signs would be dated after
    the end of its key, once that is rotated, and count no more. Ours is not asked there: it may
    have stepped back, which is no reason to stop, or be ahead itself.

    Raises:
        UnavailableError: CLOCK_SKEW. Nothing is written; another replica may be right.
    """
    witness_ahead_ns = signed_at_ns - database_ns
    if witness_ahead_ns > MAX_CLOCK_AHEAD_NS:
        seconds = witness_ahead_ns // 1_000_000_000
        raise UnavailableError(
            "CLOCK_SKEW",
            f"the clock of the witness is {seconds} s ahead of the database's; set it",
            metadata={"witnessAheadSeconds": str(seconds)},
            retry_delay_s=5.0,
        )
    ahead_ns = max(now_ns - database_ns, now_ns - signed_at_ns)
    if ahead_ns > MAX_CLOCK_AHEAD_NS:
        seconds = ahead_ns // 1_000_000_000
        raise UnavailableError(
            "CLOCK_SKEW",
            f"the clock of this ledger service is {seconds} s ahead of its neighbours'; set it",
            metadata={"aheadSeconds": str(seconds)},
            retry_delay_s=5.0,
        )


def check_writable(ledger: LedgerInfo, state: HeadState) -> None:
    """Refuse to append to a ledger that was latched read-only.

    Raises:
        FailedPreconditionError: LEDGER_READ_ONLY, with the reason as metadata.
    """
    if state.read_only_reason:
        raise FailedPreconditionError(
            "LEDGER_READ_ONLY",
            f"{ledger.name} takes no more entries: {state.read_only_reason}",
            metadata={"ledger": ledger.name, "because": state.read_only_reason},
        )


def check_not_rolled_back(
    ledger: LedgerInfo, stored: Head, known: Head, seen_seq: int = -1
) -> None:
    """Refuse to append where the database holds less than this process knows to have been there.

    known: the last receipt it has answered for itself. seen_seq: the last one of anybody's that it
    has heard of.

    Raises:
        DataLossError: LEDGER_ROLLED_BACK.
    """
    least_seq = max(known.seq, seen_seq)
    if stored.seq < least_seq or (stored.seq == known.seq and stored != known):
        raise DataLossError(
            LEDGER_ROLLED_BACK,
            f"{ledger.name} ends at {stored.seq} in the database, but {least_seq} was acknowledged:"
            " an older copy of the database was put in place; restore the newer one",
            metadata={
                "ledger": ledger.name,
                "storedSeq": str(stored.seq),
                "acknowledgedSeq": str(least_seq),
            },
        )


def genesis_payload(
    suite: str, log_origin: str, log_uid: bytes, log_key: bytes, witness_key: bytes
) -> bytes:
    """The payload of seq 0, JCS bytes: what the ledger is bound to from its first entry on.

    `log_key` and `witness_key` are RFC 7638 thumbprints, 32 bytes each.
    """
    return jcs.encode(
        {
            "v": "1",
            "suite": suite,
            "logOrigin": log_origin,
            "logUid": log_uid.hex(),
            "logKey": log_key.hex(),
            "witnessKey": witness_key.hex(),
            "predecessor": None,
        }
    )


def receipt_name(ledger_name: str, receipt_id: bytes) -> str:
    """Full resource name of a receipt; the caller vouches for the UUIDv7."""
    text = receipt_id.hex()
    return f"{ledger_name}/receipts/{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def receipt_ids(now_ns: int, random: bytes) -> list[bytes]:
    """One UUIDv7 for each ten bytes of `random`, all of this millisecond."""
    return [names.uuid7(now_ns, random[start : start + 10]) for start in range(0, len(random), 10)]
