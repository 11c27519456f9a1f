"""Whether a receipt records what its draft asked to record. No I/O."""

from __future__ import annotations

import json
from typing import Any

from provledger import jcs, patch
from provledger.client import Document, Mutation
from provledger.errors import ProvledgerError
from provledger.names import is_json_media_type
from provledger.receipt import Receipt
from provledger.statement import Statement

_AS_SENT = (
    "resource_type", "resource_id", "actor_id", "actor_type", "occurred_at",
    "origin_service", "trace_id", "upstream_events", "op_id", "op_parent_id",
)  # fmt: skip
"""What a statement says as the draft said it."""


def not_as_sent(draft: Mutation | Document, receipt: Receipt, statement: Statement) -> list[str]:
    """The names of what a receipt has otherwise than its draft had."""
    others = [name for name in _AS_SENT if getattr(statement, name) != getattr(draft, name)]
    if isinstance(draft, Document):
        return others + _not_the_document(draft, receipt, statement)
    return others + _not_the_mutation(draft, receipt, statement)


def _not_the_document(draft: Document, receipt: Receipt, statement: Statement) -> list[str]:
    """JSON is recorded in its canonical form, anything else as the bytes that were sent."""
    others = []
    kind = (draft.receipt_type, draft.receipt_type, draft.media_type)
    if (receipt.receipt_type, statement.receipt_type, statement.media_type) != kind:
        others.append("kind")
    is_json = is_json_media_type(draft.media_type)
    profile = "fields-v1" if is_json else "blob-v1"
    if (statement.profile, statement.action) != (profile, ""):
        others.append("profile")
    if receipt.payload != (jcs.encode(json.loads(draft.payload)) if is_json else draft.payload):
        others.append("payload")
    return others


def _not_the_mutation(draft: Mutation, receipt: Receipt, statement: Statement) -> list[str]:
    others = [] if statement.action == draft.action else ["action"]
    if (statement.receipt_type, statement.media_type) != ("mutation", "application/json"):
        others.append("kind")
    try:
        payload = json.loads(receipt.payload or b"")
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        return [*others, "payload"]
    wanted = {
        "mutationType": draft.action,
        "entityType": draft.resource_type,
        "entityId": draft.resource_id,
        "previousState": draft.previous_state,
        "newState": draft.new_state,
    }
    if draft.diff is not None:
        wanted["diff"] = draft.diff
    elif _leads(payload.get("diff"), draft):
        wanted["diff"] = payload["diff"]
    if "diff" in wanted and receipt.payload == jcs.encode(wanted):
        return others
    names = sorted(wanted.keys() | payload.keys() | {"diff"})
    return others + [
        name
        for name in names
        if name not in wanted
        or name not in payload
        or jcs.encode(wanted[name]) != jcs.encode(payload[name])
    ]


def _leads(diff: Any, draft: Mutation) -> bool:
    """Whether a patch that the witness made leads from the one state to the other."""
    try:
        return jcs.encode(patch.apply(draft.previous_state, diff)) == jcs.encode(draft.new_state)
    except ProvledgerError:
        return False
