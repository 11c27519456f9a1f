"""Between the protocol's messages (`provledger.api.witness.v1`) and the witness's own values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from provledger import names
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2 as pb
from provledger.errors import FieldViolation, IdentifierError, InvalidArgumentError
from provledger.rpc.bounds import Limit, Limits, field_name
from provledger.rpc.errors import status_to_pb
from witness_svc.checks import MAX_UPSTREAM_EVENTS, Document, Draft, Mutation
from witness_svc.statements import Made, Place
from witness_svc.witness import Answer, Item

_ACTIONS: Final = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}
_SUITES: Final = {
    common_pb2.SUITE_BLAKE3: "blake3",
    common_pb2.SUITE_BLAKE3_ALL: "blake3-all",
    common_pb2.SUITE_FIPS: "fips",
}


def place_from_pb(request: pb.WitnessBatchRequest, now_ns: int, *, max_items: int) -> Place:
    """Return what the statements of a call share.

    Raises:
        InvalidArgumentError: for a bad ledger, uid or suite, no items or too many of them: faults
            of the call itself, and not of one draft.
    """
    try:
        names.parse_ledger_name(request.ledger)
        names.check_uid(request.ledger_uid, "ledger_uid")
    except IdentifierError as error:
        raise _invalid("INVALID_IDENTIFIER", error.field, error.message) from None
    suite = _SUITES.get(request.suite)
    if suite is None:
        raise _invalid("SUITE_INVALID", "suite", "must be a suite that this witness knows")
    if not 1 <= len(request.items) <= max_items:
        raise _invalid_size(max_items)
    return Place(request.ledger, request.ledger_uid, suite, now_ns)


def limits(max_items: int) -> Limits:
    """What of a call is refused before it is parsed."""
    return {
        field_name(pb.WitnessBatchRequest, "items"): Limit(
            max_items, lambda: _invalid_size(max_items)
        ),
    }


def _invalid_size(max_items: int) -> InvalidArgumentError:
    return _invalid("INVALID_BATCH_SIZE", "items", f"must be 1 to {max_items}")


def items_from_pb(request: pb.WitnessBatchRequest) -> Iterator[Item]:
    """Return the items one by one, so that no call is converted in one go."""
    for item in request.items:
        yield Item(item.receipt_id, item.principal, draft_from_pb(item.draft))


def draft_from_pb(draft: common_pb2.Draft) -> Draft:
    """Return a draft; what is wrong with it is left to the checks."""
    actor = draft.actor
    service = trace_id = ""
    upstream_events: tuple[str, ...] = ()
    if draft.HasField("origin"):
        origin = draft.origin
        service = origin.service
        trace_id = origin.trace_id
        # One more than allowed is enough to be refused for; the others are not even looked at.
        upstream_events = tuple(origin.upstream_events[: MAX_UPSTREAM_EVENTS + 1])
    return Draft(
        draft.request_id,
        actor.id,
        actor.type,
        service,
        trace_id,
        upstream_events,
        draft.op_id,
        draft.op_parent_id,
        draft.occurred_at,
        _content_from_pb(draft),
    )


def _content_from_pb(draft: common_pb2.Draft) -> Mutation | Document | None:
    kind = draft.WhichOneof("content")
    if kind == "mutation":
        mutation = draft.mutation
        return Mutation(
            _ACTIONS.get(mutation.action, ""),
            mutation.resource_type,
            mutation.resource_id,
            mutation.previous_state,
            mutation.new_state,
            mutation.diff,
        )
    if kind == "document":
        document = draft.document
        return Document(
            document.receipt_type,
            document.media_type,
            document.payload,
            document.resource_type,
            document.resource_id,
        )
    return None


def answer_to_pb(answer: Answer) -> pb.WitnessBatchResponse:
    """Return the response to a call."""
    response = pb.WitnessBatchResponse()
    add = response.results.add
    index = answer.first_index
    for outcome in answer.outcomes:
        if isinstance(outcome, Made):
            _fill(add().witnessed, outcome, index)
            index += 1
        else:
            add().rejection.CopyFrom(status_to_pb(outcome))
    batch = answer.batch
    if batch is not None:
        response.body = batch.body
        response.sig = batch.sig
        response.leaf_hashes = batch.leaf_hashes
        response.kid = batch.kid
        response.epoch = batch.epoch
        response.signed_at_ns = batch.signed_at_ns
    return response


def _fill(witnessed: pb.WitnessedStatement, made: Made, index: int) -> None:
    """Fill in a result where it stands: made apart, it would be copied with all its bytes."""
    commitment = made.commitment
    witnessed.statement = made.statement
    witnessed.payload = made.payload
    witnessed.receipt_type = made.receipt_type
    witnessed.profile = commitment.profile
    witnessed.commitment_size = commitment.size
    witnessed.secret = commitment.secret
    witnessed.payload_hash = commitment.root
    witnessed.batch_index = index


def _invalid(reason: str, field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        reason,
        f"{field}: {description}",
        metadata={"field": field},
        violations=(FieldViolation(field, description, reason),),
    )
