"""What the client returns besides receipts themselves (`provledger.receipt.Receipt`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from provledger.errors import StatusError
from provledger.receipt import Receipt


class AnchorState(StrEnum):
    """How far a receipt has got on its way out of the operator's reach."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    LOGGED = "logged"
    ANCHORED = "anchored"


@dataclass(frozen=True, slots=True)
class ReceiptSummary:
    """Identity, position and hashes of a receipt. Hashes are 32 bytes, `ledger_uid` is 16.

    `previous_hash` is None at seq 0; `t_ns` is in Unix nanoseconds.
    """

    name: str
    receipt_type: str
    ledger_uid: bytes
    suite: str
    seq: int
    t_ns: int
    previous_hash: bytes | None
    payload_hash: bytes
    receipt_hash: bytes
    kid: str
    anchor_state: AnchorState


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Outcome of one draft: either `summary` or `error` is there.

    `index` is the draft's place among those given. `receipt` is there too if it was asked for.
    `repeated` says that the request id was known and this is the earlier receipt.
    """

    index: int
    request_id: str
    summary: ReceiptSummary | None = None
    receipt: Receipt | None = None
    error: StatusError | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class ReceiptFilter:
    """Conditions on the receipts of a ledger, joined by AND; "" and 0 mean any.

    `resource_id` needs `resource_type`. Times are Unix nanoseconds; the end is exclusive.
    """

    resource_type: str = ""
    resource_id: str = ""
    actor_id: str = ""
    receipt_type: str = ""
    start_t_ns: int = 0
    end_t_ns: int = 0


@dataclass(frozen=True, slots=True)
class ReceiptPage:
    """Some receipts in chain order; `next_page_token` is "" at the end.

    `tree_size` is that of the checkpoint their proofs lead to, 0 if there is none. `summaries` are
    of the same receipts.
    """

    receipts: tuple[Receipt, ...]
    next_page_token: str
    tree_size: int
    summaries: tuple[ReceiptSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """A hash chain. `seq` is its last receipt's, `logged_seq` the last one in a checkpoint, or -1.

    `uid` is 16 bytes, `receipt_hash` 32, `created_at_ns` Unix nanoseconds. `read_only_reason` is
    "" while it takes entries. `log` is `logs/{log}` at the anchor, "" from an older service.
    """

    name: str
    uid: bytes
    suite: str
    log_origin: str
    seq: int
    receipt_hash: bytes
    logged_seq: int
    created_at_ns: int
    read_only_reason: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A ledger's head, a DSSE envelope as JSON text, and the signed checkpoint it names."""

    head: bytes
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class RangeReport:
    """What a check of the stored chain covered; a broken row raises DataLossError instead.

    `receipt_hash` is that of `checked_seq`, 32 bytes, empty where that is -1.
    `places_checked`: the places in the log that are stored for the receipts are what the log says;
    False if it could not be asked about all of them. Where the range has no rows, both are of the
    row before it.
    """

    start_seq: int
    checked_seq: int
    checked_count: int
    head_seq: int
    receipt_hash: bytes
    places_checked: bool
