"""Repeats: whether a request id that was seen before came with the same content (design §5).

Compared are the fields the caller gave, with the stored statement and payload:

    content kind, action, receipt type, media type, resource, actor, operation ids,
    origin service and upstream events                          always
    states, payload                                             as canonical JSON, or byte for byte
    diff, occurred_at                                           only if given: the witness may have
                                                                made the first, nobody the second

What cannot be read in a stored payload, for somebody took it out by hand or damaged it, is other
content than anybody's (docs/trust.md, "Personal data").

Never compared: the trace id, which a retry may have anew, and the principal, for a client may
come back under another certificate. This is the one place of the ledger where a payload is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, NoReturn

from provledger import jcs, names
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    AlreadyExistsError,
    FieldViolation,
    InvalidArgumentError,
    InvalidJSONError,
    ReceiptFormatError,
)
from provledger.statement import Statement, parse_statement

REQUEST_ID_REUSED: Final = "REQUEST_ID_REUSED"

# A diff stands one level deeper in the payload than by itself, and brings its operations' fields.
_MAX_FIELDS: Final = 4 * jcs.MAX_FIELDS
_MAX_DEPTH: Final = jcs.MAX_DEPTH + 4

_STATES: Final = {"previous_state": "previousState", "new_state": "newState"}
_DIFF: Final = "diff"

_UNREADABLE: Final = b""
"""A member that is not in the stored payload: no canonical text equals it."""

_ACTIONS: Final = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}


class Content:
    """What a stored receipt says, by its statement and payload.

    It is read once, for however many drafts are held against it: a call of a few kilobytes may
    bring a thousand repeats of a receipt of a megabyte. `damaged` is the column that turned out to
    hold something unreadable, "" while none did.
    """

    def __init__(self, statement: bytes, payload: bytes) -> None:
        self._statement_bytes = statement
        self.payload = payload
        self.damaged = ""
        self._members: dict[str, bytes] = {}

    @cached_property
    def statement(self) -> Statement:
        """The statement. Raises ReceiptFormatError."""
        try:
            return parse_statement(self._statement_bytes)
        except ReceiptFormatError:
            self.damaged = "statement"
            raise

    def check(self, draft: common_pb2.Draft) -> None:
        """Check that a draft says what the receipt of its request id says.

        Raises:
            AlreadyExistsError: REQUEST_ID_REUSED, with the request id and the first field that
                differs as metadata.
            InvalidArgumentError: the draft's JSON cannot be read; fields are relative to the draft.
            ReceiptFormatError: the stored statement cannot be read.
        """
        for field, same in _comparisons(draft, self):
            if not same:
                _refuse(draft.request_id, field)

    def member(self, name: str, *, diff: bool) -> bytes:
        """A member of a mutation's payload, encoded. diff: whether that is needed, too.

        Only what was encoded is kept: values take many times the room. It is empty where the
        payload has no such member.
        """
        if name not in self._members:
            parsed = self._parsed()
            for state in _STATES.values():
                self._keep(parsed, state)
            if diff:
                self._keep(parsed, _DIFF)
        return self._members[name]

    def _parsed(self) -> dict[str, Any]:
        try:
            parsed = jcs.parse(self.payload, max_depth=_MAX_DEPTH, max_fields=_MAX_FIELDS)
        except InvalidJSONError:
            # It is not the draft's, of which this error would be told.
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def _keep(self, parsed: dict[str, Any], name: str) -> None:
        if name not in parsed:
            self.damaged = "payload"
            self._members[name] = _UNREADABLE
            return
        value = parsed[name]
        self._members[name] = jcs.encode(_without_from(value) if name == _DIFF else value)


def _comparisons(draft: common_pb2.Draft, content: Content) -> Iterator[tuple[str, bool]]:
    """Every comparison by its field, cheap ones first; made one after the other."""
    stored = content.statement
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
        yield from _compare_states(draft.mutation, content)
    elif names.is_json_media_type(stored.media_type):
        value = _canonical(draft.document.payload, "document.payload")
        yield "document.payload", value == content.payload
    else:
        yield "document.payload", draft.document.payload == content.payload


def _compare_states(mutation: common_pb2.Mutation, content: Content) -> Iterator[tuple[str, bool]]:
    diff = bool(mutation.diff)
    for field, member in _STATES.items():
        given: bytes = getattr(mutation, field)
        # An absent state and the JSON text `null` mean the same.
        canonical = _canonical(given, f"mutation.{field}") if given else b"null"
        yield f"mutation.{field}", canonical == content.member(member, diff=diff)
    if diff:
        operations = _without_from(_parse(mutation.diff, "mutation.diff"))
        yield "mutation.diff", jcs.encode(operations) == content.member(_DIFF, diff=True)


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
