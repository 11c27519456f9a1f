"""To and from protobuf. The only module, with the servicer, that knows how messages look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.rpc import status_pb2

from ledger_svc.chain import BatchRow, HeadState, LedgerInfo, Stored, receipt_name
from ledger_svc.storage import ListQuery
from ledger_svc.witnessing import SUITES_TO_PB
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import FieldViolation, InvalidArgumentError, StatusError
from provledger.hashing import HASH_BYTES
from provledger.rpc.errors import as_status_error, status_to_pb

SUITES_FROM_PB: Final = {number: name for name, number in SUITES_TO_PB.items()}

_TEXT_CONDITIONS: Final = ("resource_type", "resource_id", "actor_id", "receipt_type")

BASIC: Final = common_pb2.RECEIPT_VIEW_BASIC
FULL: Final = common_pb2.RECEIPT_VIEW_FULL
PENDING: Final = common_pb2.ANCHOR_STATE_PENDING
LOGGED: Final = common_pb2.ANCHOR_STATE_LOGGED
ANCHORED: Final = common_pb2.ANCHOR_STATE_ANCHORED


def view_from_pb(
    view: common_pb2.ReceiptView, default: common_pb2.ReceiptView
) -> common_pb2.ReceiptView:
    """The view asked for, or the method's default.

    Raises:
        InvalidArgumentError: a value that we do not know.
    """
    if view == common_pb2.RECEIPT_VIEW_UNSPECIFIED:
        return default
    if view not in (BASIC, FULL):
        raise violation("view", "must be BASIC or FULL")
    return view


def check_wait_for(state: common_pb2.AnchorState) -> None:
    """Refuse a state that nothing can be waited for to get to.

    Raises:
        InvalidArgumentError: neither LOGGED nor ANCHORED, nor none.
    """
    if state not in (common_pb2.ANCHOR_STATE_UNSPECIFIED, PENDING, LOGGED, ANCHORED):
        raise violation("wait_for", "must be LOGGED or ANCHORED")


def suite_from_pb(suite: common_pb2.Suite, default: str) -> str:
    """The name of a suite, or the default where none is said.

    Raises:
        InvalidArgumentError: a value that we do not know.
    """
    if suite == common_pb2.SUITE_UNSPECIFIED:
        return default
    name = SUITES_FROM_PB.get(suite)
    if name is None:
        raise violation("suite", "is not a suite we know")
    return name


def query_from_pb(request: ledger_pb2.ListReceiptsRequest) -> ListQuery:
    """The conditions of a listing.

    Raises:
        InvalidArgumentError: a resource id without its type, a negative time, or a NUL.
    """
    for field in _TEXT_CONDITIONS:
        # No receipt has one, and PostgreSQL takes none in text.
        if "\0" in getattr(request, field):
            raise violation(field, "must not contain a NUL")
    if request.resource_id and not request.resource_type:
        raise violation("resource_type", "is required with a resource_id")
    if request.start_t_ns < 0:
        raise violation("start_t_ns", "must not be negative")
    if request.end_t_ns < 0:
        raise violation("end_t_ns", "must not be negative")
    return ListQuery(
        resource_type=request.resource_type,
        resource_id=request.resource_id,
        actor_id=request.actor_id,
        receipt_type=request.receipt_type,
        start_t_ns=request.start_t_ns,
        end_t_ns=request.end_t_ns,
    )


def ledger_to_pb(ledger: LedgerInfo, state: HeadState) -> ledger_pb2.Ledger:
    """A ledger with its head."""
    return ledger_pb2.Ledger(
        name=ledger.name,
        uid=ledger.uid,
        suite=SUITES_TO_PB[ledger.suite],
        log_origin=ledger.log_origin,
        seq=state.head.seq,
        receipt_hash=state.head.receipt_hash,
        logged_seq=state.logged_seq,
        created_at_ns=ledger.created_at_ns,
        read_only_reason=state.read_only_reason,
        log=ledger.log_name,
    )


def fill_receipt(
    receipt: common_pb2.Receipt,
    ledger: LedgerInfo,
    ledger_name: str,
    suite: common_pb2.Suite,
    stored: Stored,
    kid: str,
    anchor_state: common_pb2.AnchorState,
) -> None:
    """Fill in a receipt in the BASIC view. What all of a ledger share is given, made once.

    The message is filled where it stands in its answer, member by member: a third of the cost of
    making it and having it copied, once for each message around it.
    """
    row = stored.row
    receipt.name = receipt_name(ledger_name, row.receipt_id)
    receipt.receipt_type = row.receipt_type
    receipt.ledger_uid = ledger.uid
    receipt.suite = suite
    receipt.seq = row.seq
    receipt.t_ns = row.t_ns
    if stored.previous_hash:
        receipt.previous_hash = stored.previous_hash
    receipt.payload_hash = row.payload_hash
    receipt.receipt_hash = row.receipt_hash
    receipt.kid = kid
    receipt.anchor_state = anchor_state


def complete_receipt(
    receipt: common_pb2.Receipt, stored: Stored, batch: BatchRow, path: Sequence[bytes]
) -> None:
    """Add to a BASIC receipt what the FULL view has more, but for the proofs."""
    row = stored.row
    receipt.statement = row.statement
    receipt.payload = row.payload
    signature = receipt.signature
    signature.body = batch.body
    signature.sig = batch.sig
    signature.index = row.batch_index
    signature.path.extend(path)
    commitment = receipt.commitment
    commitment.profile = row.profile
    commitment.size = row.commitment_size
    commitment.secret = row.secret


def add_proof(
    receipt: common_pb2.Receipt,
    proof: anchor_pb2.IndexedProof,
    answer: anchor_pb2.BatchGetInclusionProofsResponse,
) -> None:
    """Add a proof of inclusion that stands alone, without evidence."""
    added = receipt.proofs.add(
        origin=answer.origin, log_index=proof.log_index, checkpoint=answer.checkpoint
    )
    hashes = proof.hashes
    added.hashes.extend(
        [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
    )


def add_evidence(
    receipt: common_pb2.Receipt, answer: anchor_pb2.BatchGetInclusionProofsResponse
) -> None:
    """Add what the sinks keep for the checkpoint of the proof that was added last."""
    receipt.proofs[-1].evidence.extend(answer.evidence)


def item_status(error: Exception, field: str) -> status_pb2.Status:
    """The status of one draft that was refused; `field` is where it stands in the request."""
    return status_to_pb(in_field(error, field))


def in_field(error: Exception, field: str) -> StatusError:
    """An error about a draft as one about the request that holds it at `field`."""
    status = as_status_error(error, field=field)
    if status is not error or not isinstance(error, InvalidArgumentError):
        return status
    violations = tuple(
        FieldViolation(
            f"{field}.{item.field}" if item.field else field, item.description, item.reason
        )
        for item in error.violations
    )
    prefixed = InvalidArgumentError(
        error.reason,
        f"{field}: {error.message}",
        metadata=error.metadata,
        violations=violations or [FieldViolation(field, error.message, error.reason)],
    )
    prefixed.__cause__ = error
    return prefixed


def violation(field: str, description: str, reason: str = "INVALID_FIELD") -> InvalidArgumentError:
    """The error for one bad field of a request."""
    return InvalidArgumentError(
        reason,
        f"{field}: {description}",
        violations=[FieldViolation(field, description, reason)],
    )
