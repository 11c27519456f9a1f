"""Repeats: whether a request id that was seen before came with the same content (design §5).

Compared are the fields the caller gave, with the stored statement and payload:

    content kind, action, receipt type, media type, resource, actor, operation ids,
    origin service and upstream events                          always
    states, payload                                             as canonical JSON, or byte for byte
    diff, occurred_at                                           only if given: the witness may have
                                                                made the first, nobody the second

Never compared: the trace id, which a retry may have anew, and the principal, for a client may
come back under another certificate. This is the one place of the ledger where a payload is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NoReturn

from provledger import jcs, names
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    AlreadyExistsError,
    FieldViolation,
    InvalidArgumentError,
    InvalidJSONError,
)
from provledger.statement import Statement, parse_statement

REQUEST_ID_REUSED: Final = "REQUEST_ID_REUSED"

# A diff stands one level deeper in the payload than by itself, and brings its operations' fields.
_MAX_FIELDS: Final = 4 * jcs.MAX_FIELDS
_MAX_DEPTH: Final = jcs.MAX_DEPTH + 4

_ACTIONS: Final = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}


def check_same(draft: common_pb2.Draft, statement: bytes, payload: bytes) -> None:
    """Check that a draft says what the stored receipt of its request id says.

    Raises:
        AlreadyExistsError: REQUEST_ID_REUSED, with the request id and the first field that
            differs as metadata.
        InvalidArgumentError: the draft's JSON cannot be read; fields are relative to the draft.
    """
    stored = parse_statement(statement)
    for field, same in _comparisons(draft, stored, payload):
        if not same:
            _refuse(draft.request_id, field)


def _comparisons(
    draft: common_pb2.Draft, stored: Statement, payload: bytes
) -> Iterator[tuple[str, bool]]:
    """Every comparison by its field, cheap ones first; made one after the other."""
    if draft.WhichOneof("content") == "mutation":
        mutation = draft.mutation
        yield "mutation", stored.is_mutation
        yield "mutation.action", _ACTIONS.get(mutation.action) == stored.action
        yield "mutation.resource_type", mutation.resource_type == stored.resource_type
        yield "mutation.resource_id", mutation.resource_id == stored.resource_id
    else:
        document = draft.document
        yield "document", not stored.is_mutation
        yield "document.receipt_type", document.receipt_type == stored.receipt_type
        yield "document.media_type", document.media_type == stored.media_type
        yield "document.resource_type", document.resource_type == stored.resource_type
        yield "document.resource_id", document.resource_id == stored.resource_id
    yield "actor.id", draft.actor.id == stored.actor_id
    yield "actor.type", draft.actor.type == stored.actor_type
    yield "op_id", draft.op_id == stored.op_id
    yield "op_parent_id", draft.op_parent_id == stored.op_parent_id
    yield "origin.service", draft.origin.service == stored.origin_service
    yield "origin.upstream_events", tuple(draft.origin.upstream_events) == stored.upstream_events
    if draft.occurred_at:
        yield "occurred_at", draft.occurred_at == stored.occurred_at
    if draft.WhichOneof("content") == "mutation":
        yield from _compare_states(draft.mutation, payload)
    elif names.is_json_media_type(stored.media_type):
        value = _canonical(draft.document.payload, "document.payload")
        yield "document.payload", value == payload
    else:
        yield "document.payload", draft.document.payload == payload


def _compare_states(mutation: common_pb2.Mutation, payload: bytes) -> Iterator[tuple[str, bool]]:
    stored = jcs.parse(payload, max_depth=_MAX_DEPTH, max_fields=_MAX_FIELDS)
    for field, given, member in (
        ("mutation.previous_state", mutation.previous_state, "previousState"),
        ("mutation.new_state", mutation.new_state, "newState"),
    ):
        # An absent state and the JSON text `null` mean the same.
        canonical = _canonical(given, field) if given else b"null"
        yield field, canonical == jcs.encode(stored[member])
    if mutation.diff:
        given = _parse(mutation.diff, "mutation.diff")
        same = jcs.encode(_without_from(given)) == jcs.encode(_without_from(stored["diff"]))
        yield "mutation.diff", same


def _without_from(operations: Any) -> Any:
    """Operations without the value a `replace` was checked against, which is not stored by all."""
    if not isinstance(operations, list):
        return operations
    return [
        {name: value for name, value in operation.items() if name != "from"}
        if isinstance(operation, dict) and operation.get("op") == "replace"
        else operation
        for operation in operations
    ]


def _canonical(data: bytes, field: str) -> bytes:
    return jcs.encode(_parse(data, field))


def _parse(data: bytes, field: str) -> Any:
    try:
        return jcs.parse(data)
    except InvalidJSONError as error:
        raise InvalidArgumentError(
            "INVALID_JSON",
            f"{field}: {error}",
            metadata={"pointer": error.pointer} if error.pointer else None,
            violations=[FieldViolation(field, str(error), "INVALID_JSON")],
        ) from error


def _refuse(request_id: str, field: str) -> NoReturn:
    raise AlreadyExistsError(
        REQUEST_ID_REUSED,
        f"request id {request_id} was used before with other content: {field} differs",
        metadata={"requestId": request_id, "field": field},
    )
