"""The witness's checks: does a draft hold together, and what exactly would be stated and stored?

Two kinds of drafts (design §4, §5):

* A *mutation* is checked against itself: CREATE has a new state and no previous one, UPDATE has
  both and they differ, DELETE has a previous one and no new one; a given JSON Patch (RFC 6902)
  must turn the one into the other, and without one it is made. Stored is one JSON document::

      {"diff": [...], "entityId": ..., "entityType": ..., "mutationType": "UPDATE",
       "newState": ..., "previousState": ...}                        an absent state is null

* A *document* is any other payload under a receipt type of its own: JSON is parsed strictly and
  stored as its canonical bytes, everything else is stored as it came.

Values are named tuples here, which are made several times faster than frozen dataclasses.

Pure: no clock, no randomness, no I/O. A draft that fails raises InvalidArgumentError whose
violation names the field, relative to the draft, and whose metadata name the pointer. Neither ever
repeats a value. Salts, commitments and statements are made in `witness_svc.statements`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from provledger import disclosure, jcs, names
from provledger.errors import IdentifierError, InvalidJSONError
from witness_svc import patches
from witness_svc.patches import ABSENT, State
from witness_svc.refusals import refusal

MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Limit of a payload: as given, and as stored with everything that a mutation is made of."""

MAX_STATE_DEPTH: Final = jcs.MAX_DEPTH - 3
"""Arrays and objects that a state may nest. The patch of a payload can hold the whole state three
levels down, and the payload keeps the limit of strict JSON as any other does."""

MAX_DIFF_DEPTH: Final = jcs.MAX_DEPTH - 1

MAX_UPSTREAM_EVENTS: Final = 16
MAX_ACTOR_TYPE_BYTES: Final = 64

MUTATION: Final = "mutation"
JSON_MEDIA_TYPE: Final = "application/json"

MUTATION_CHECKS: Final = ("json-strict", "transition", "patch")
JSON_CHECKS: Final = ("json-strict",)
NO_CHECKS: Final[tuple[str, ...]] = ()

# Which of (previous state, new state) an action wants.
_WANTS: Final = {"CREATE": (False, True), "UPDATE": (True, True), "DELETE": (True, False)}

_dumps = orjson.dumps


class Mutation(NamedTuple):
    """A change of an entity; states and diff are JSON text, empty where nothing was given."""

    action: str
    resource_type: str
    resource_id: str
    previous_state: bytes
    new_state: bytes
    diff: bytes


class Document(NamedTuple):
    """Any other payload."""

    receipt_type: str
    media_type: str
    payload: bytes
    resource_type: str
    resource_id: str


class Draft(NamedTuple):
    """What a caller wants recorded. Text that was not said is "", `content` None."""

    request_id: str
    actor_id: str
    actor_type: str
    origin_service: str
    trace_id: str
    upstream_events: tuple[str, ...]
    op_id: str
    op_parent_id: str
    occurred_at: str
    content: Mutation | Document | None


class Checked(NamedTuple):
    """What a draft that passed comes to.

    `payload` is what will be stored; `fields` what will be committed to, as
    `provledger.disclosure.walk` lists it, or None for a payload that is no JSON; `checks` the names
    of the checks made.
    """

    receipt_type: str
    action: str
    resource_type: str
    resource_id: str
    media_type: str
    payload: bytes
    fields: list[tuple[str, Any]] | None
    checks: tuple[str, ...]


def check(draft: Draft, *, system: bool = False) -> Checked:
    """Check a draft.

    Args:
        draft: As the caller gave it.
        system: True lets the receipt types pass that only our own services write.

    Raises:
        InvalidArgumentError: with the first rule that is broken as its reason.
    """
    try:
        _check_identifiers(draft)
        content = draft.content
        if type(content) is Mutation:
            return _check_mutation(content)
        if type(content) is Document:
            return _check_document(content, system=system)
    except IdentifierError as error:
        raise refusal("INVALID_IDENTIFIER", error.field, error.message) from None
    raise refusal("CONTENT_MISSING", "content", "must be a mutation or a document")


def _check_identifiers(draft: Draft) -> None:
    names.check_request_id(draft.request_id)
    names.check_text(draft.actor_id, "actor.id")
    names.check_text(draft.actor_type, "actor.type", max_bytes=MAX_ACTOR_TYPE_BYTES, required=False)
    names.check_text(draft.origin_service, "origin.service", required=False)
    names.check_trace_id(draft.trace_id)
    if len(draft.upstream_events) > MAX_UPSTREAM_EVENTS:
        raise IdentifierError("origin.upstream_events", f"must be at most {MAX_UPSTREAM_EVENTS}")
    for index, event in enumerate(draft.upstream_events):
        names.check_text(event, f"origin.upstream_events[{index}]")
    names.check_op_id(draft.op_id, "op_id")
    names.check_op_id(draft.op_parent_id, "op_parent_id")
    names.check_rfc3339(draft.occurred_at)


def _check_document(document: Document, *, system: bool) -> Checked:
    receipt_type = names.check_receipt_type(document.receipt_type, "document.receipt_type")
    # Not even for ourselves: a mutation that came in as a document would skip its checks.
    if receipt_type == MUTATION or (_is_reserved(receipt_type) and not system):
        raise refusal("RECEIPT_TYPE_RESERVED", "document.receipt_type", "is the system's own")
    media_type = names.check_media_type(document.media_type, "document.media_type")
    names.check_resource_type(document.resource_type, "document.resource_type")
    names.check_resource_id(document.resource_id, "document.resource_id")
    payload = document.payload
    fields = None
    checks: tuple[str, ...] = NO_CHECKS
    if names.is_json_media_type(media_type):
        value, payload = _parse(payload, "document.payload", jcs.MAX_DEPTH)
        fields = _walk(value, "document.payload", mutation=False)
        checks = JSON_CHECKS
    _check_size(payload, "document.payload")
    return Checked(
        receipt_type,
        "",
        document.resource_type,
        document.resource_id,
        media_type,
        payload,
        fields,
        checks,
    )


def _is_reserved(receipt_type: str) -> bool:
    return receipt_type == "erasure" or receipt_type.startswith(("ledger.", "key."))


def _check_mutation(mutation: Mutation) -> Checked:
    entity_type = names.check_resource_type(mutation.resource_type, "mutation.resource_type")
    entity_id = names.check_resource_id(mutation.resource_id, "mutation.resource_id")
    before = _parse_state(mutation.previous_state, "mutation.previous_state")
    after = _parse_state(mutation.new_state, "mutation.new_state")
    previous_text, new_text = before.text, after.text
    _check_transition(mutation.action, previous_text, new_text)
    # Both stand in the payload: no patch is worth looking for where they are too much already.
    _check_length(len(previous_text) + len(new_text), "mutation")
    if mutation.diff:
        _check_size(mutation.diff, "mutation.diff")
        operations = patches.check_given(mutation.diff, MAX_DIFF_DEPTH, before, after)
    elif mutation.action == "UPDATE":
        operations = patches.make(before, after)
    else:
        # Right by construction, whatever was there before.
        operations = [patches.whole(new_text)]
    # The members in the order of RFC 8785 §3.2.3; each part is canonical already.
    payload = (
        b'{"diff":[%b],"entityId":%b,"entityType":%b,'
        b'"mutationType":"%b","newState":%b,"previousState":%b}'
    ) % (
        b",".join(operations),
        _dumps(entity_id),
        _dumps(entity_type),
        mutation.action.encode("ascii"),
        new_text,
        previous_text,
    )
    _check_size(payload, "mutation")
    value = {
        "diff": [orjson.Fragment(operation) for operation in operations],
        "entityId": entity_id,
        "entityType": entity_type,
        "mutationType": mutation.action,
        "newState": _fields_of(after),
        "previousState": _fields_of(before),
    }
    fields = _walk(value, "mutation", mutation=True)
    return Checked(
        MUTATION,
        mutation.action,
        entity_type,
        entity_id,
        JSON_MEDIA_TYPE,
        payload,
        fields,
        MUTATION_CHECKS,
    )


def _fields_of(state: State) -> Any:
    """Return what `_walk` finds the fields of a state in; one that is a single field is text."""
    return state.value if type(state.value) is dict else orjson.Fragment(state.text)


def _check_transition(action: str, previous_text: bytes, new_text: bytes) -> None:
    wants = _WANTS.get(action)
    if wants is None:
        raise refusal("ACTION_INVALID", "mutation.action", "must be CREATE, UPDATE or DELETE")
    for wanted, text, name in (
        (wants[0], previous_text, "previous_state"),
        (wants[1], new_text, "new_state"),
    ):
        if wanted == (text == b"null"):
            raise refusal(
                "STATE_MISSING" if wanted else "STATE_UNEXPECTED",
                f"mutation.{name}",
                f"{'is required' if wanted else 'must be absent'} on {action}",
                action=action,
            )
    if previous_text == new_text:
        raise refusal(
            "STATES_EQUAL",
            "mutation.new_state",
            "must differ from the previous state on UPDATE",
            pointer="",
        )


def _parse_state(data: bytes, field: str) -> State:
    return State(*_parse(data, field, MAX_STATE_DEPTH)) if data else ABSENT


def _parse(data: bytes, field: str, max_depth: int) -> tuple[Any, bytes]:
    _check_size(data, field)
    try:
        return jcs.canonicalize(data, max_depth=max_depth)
    except InvalidJSONError as error:
        raise refusal("INVALID_JSON", field, error.message, pointer=error.pointer) from None


def _walk(value: Any, field: str, *, mutation: bool) -> list[tuple[str, Any]]:
    try:
        return disclosure.walk(value, mutation=mutation)
    except InvalidJSONError as error:
        raise refusal("INVALID_JSON", field, error.message) from None


def _check_size(data: bytes, field: str) -> None:
    _check_length(len(data), field)


def _check_length(length: int, field: str) -> None:
    if length > MAX_PAYLOAD_BYTES:
        raise refusal(
            "PAYLOAD_TOO_LARGE", field, f"must be at most {MAX_PAYLOAD_BYTES} bytes in all"
        )
