"""The line format of `import` and `append`: one JSON object for each mutation.

    {"action": "UPDATE", "resource_type": "Version", "resource_id": "redis/8.8.2",
     "actor_id": "bot", "occurred_at": "2024-04-08T18:43:54+00:00", "upstream_event": "git:221b…",
     "previous_state": {…}, "new_state": {…}}

Also known, all optional: `request_id`, `diff` (JSON Patch), `origin` (the name of a service, or
{"service", "trace_id", "upstream_events"}), `op_id`, `op_parent_id`. A member that is not known
is an error, so that a typing mistake is never dropped in silence.

The line is parsed strictly (`provledger.jcs`), once; states go on as JSON text. What identifiers
and patches must look like is for the service to say.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final

import orjson

from provledger import jcs
from provledger.api.common.v1 import common_pb2
from provledger.client.convert import action_to_pb
from provledger.errors import IdentifierError, InvalidJSONError

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""A line beyond this could not fit a message with its states."""

MEMBERS: Final = frozenset(
    "action resource_type resource_id actor_id occurred_at upstream_event previous_state new_state "
    "request_id diff origin op_id op_parent_id".split()
)
_TEXT_MEMBERS: Final = (
    "request_id actor_id occurred_at op_id op_parent_id resource_type resource_id upstream_event"
).split()
_ORIGIN_MEMBERS: Final = frozenset("service trace_id upstream_events".split())
_REQUEST_ID_CONTEXT: Final = b"provledger/import/v1\n"
# The states stand one level deep in the line; the service holds them to its own limits.
_MAX_DEPTH: Final = jcs.MAX_DEPTH + 2
_MAX_FIELDS: Final = 4 * jcs.MAX_FIELDS

_REQUIRED_MEMBERS: Final = ("resource_type", "resource_id", "actor_id")

RequestIds = Callable[[int], str]


class MemberError(IdentifierError):
    """A member of a line that cannot be taken; `reason` is the one a service would give."""

    def __init__(self, field: str, message: str, reason: str = "INVALID_FIELD") -> None:
        super().__init__(field, message)
        self.reason = reason


def request_ids(key: bytes, source: str) -> RequestIds:
    """Make the request ids of a file's lines: 32 hex digits of HMAC-SHA256 (RFC 2104).

    Over the file's name and the line's number, so that the same line of the same file is known
    again. A digest of its content would do that too, and would tell everybody who can guess it.
    """
    name = source.encode("utf-8", "surrogateescape")
    prefix = _REQUEST_ID_CONTEXT + len(name).to_bytes(4, "big") + name

    def request_id(line_number: int) -> str:
        message = prefix + line_number.to_bytes(8, "big")
        return hmac.digest(key, message, hashlib.sha256)[:16].hex()

    return request_id


def no_request_ids(line_number: int) -> str:
    """Make none: for lines whose source has no name, so that each must bring its own."""
    return ""


def draft_from_line(line: bytes, default_request_id: str) -> common_pb2.Draft:
    """The draft that a line stands for.

    Raises:
        InvalidJSONError: with the pointer of what is not strict JSON.
        MemberError: naming the member that is unknown, missing or not of its type.
    """
    members = jcs.parse(line, max_depth=_MAX_DEPTH, max_fields=_MAX_FIELDS)
    if type(members) is not dict:
        raise InvalidJSONError("a line must be a JSON object")
    if not members.keys() <= MEMBERS:
        unknown = min(members.keys() - MEMBERS)
        raise MemberError(unknown[:64], f"is not a member of the line format; known are {_known()}")
    get = members.get
    for name in _TEXT_MEMBERS:
        value = get(name)
        if value is not None and type(value) is not str:
            raise MemberError(name, "must be text")
    action = _action(get("action"))
    for name in _REQUIRED_MEMBERS:
        # What is there and empty is for the service to refuse.
        if get(name) is None:
            raise MemberError(name, "is required", "REQUIRED")
    draft = common_pb2.Draft()
    draft.request_id = get("request_id") or default_request_id
    draft.actor.id = get("actor_id") or ""
    draft.occurred_at = get("occurred_at") or ""
    draft.op_id = get("op_id") or ""
    draft.op_parent_id = get("op_parent_id") or ""
    upstream = get("upstream_event")
    if upstream is not None:
        draft.origin.upstream_events.append(upstream)
    mutation = draft.mutation
    mutation.resource_type = get("resource_type") or ""
    mutation.resource_id = get("resource_id") or ""
    mutation.action = action
    previous, new, diff = get("previous_state"), get("new_state"), get("diff")
    if previous is not None:
        mutation.previous_state = orjson.dumps(previous)
    if new is not None:
        mutation.new_state = orjson.dumps(new)
    if diff is not None:
        mutation.diff = orjson.dumps(diff)
    if "origin" in members:
        _origin(draft, members["origin"])
    return draft


def _known() -> str:
    return ", ".join(sorted(MEMBERS))


def _action(value: Any) -> common_pb2.Action:
    if value is None:
        raise MemberError("action", "is required: CREATE, UPDATE or DELETE", "REQUIRED")
    try:
        return action_to_pb(value if isinstance(value, str) else "")
    except IdentifierError as error:
        raise MemberError(error.field, error.message, "ACTION_INVALID") from None


def _origin(draft: common_pb2.Draft, value: Any) -> None:
    if isinstance(value, str):
        draft.origin.service = value
        return
    if not isinstance(value, dict):
        raise MemberError("origin", "must be the name of a service, or an object")
    if not value.keys() <= _ORIGIN_MEMBERS:
        unknown = min(value.keys() - _ORIGIN_MEMBERS)
        raise MemberError(f"origin.{unknown[:64]}", "is not a member of an origin")
    for name in ("service", "trace_id"):
        text = value.get(name, "")
        if not isinstance(text, str):
            raise MemberError(f"origin.{name}", "must be text")
        setattr(draft.origin, name, text)
    events = value.get("upstream_events", [])
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise MemberError("origin.upstream_events", "must be a list of text")
    draft.origin.upstream_events.extend(events)
