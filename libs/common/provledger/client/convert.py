"""Between the client's values and the messages of the protos; nothing else does this.

What a service sends is taken as it is; what does not fit a value of ours raises ReceiptFormatError
naming the field. Whether it is true is for `provledger.verify` to say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from provledger import jcs, names
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client.drafts import Document, Draft, Mutation, new_request_id
from provledger.client.values import AnchorState, AppendResult, Ledger, ReceiptSummary
from provledger.disclosure import parse_disclosure
from provledger.errors import (
    FieldViolation,
    IdentifierError,
    InvalidJSONError,
    ReceiptFormatError,
    StatusError,
)
from provledger.receipt import Evidence, Opening, Proof, Receipt, WitnessSignature
from provledger.rpc.errors import status_from_pb

M = TypeVar("M", bound=Message)

_DRAFT: Final = re.compile(r"^draft(?=$|[.:])|\bdrafts\[\d+\]")
"""A draft of a request, where a field of it or the beginning of a message names it."""

_ACTIONS: Final[dict[str, common_pb2.Action]] = {
    "CREATE": common_pb2.ACTION_CREATE,
    "UPDATE": common_pb2.ACTION_UPDATE,
    "DELETE": common_pb2.ACTION_DELETE,
}
_SUITES: Final[dict[int, str]] = {
    common_pb2.SUITE_BLAKE3: "blake3",
    common_pb2.SUITE_BLAKE3_ALL: "blake3-all",
    common_pb2.SUITE_FIPS: "fips",
}
_SUITES_TO_PB: Final[dict[str, common_pb2.Suite]] = {
    "": common_pb2.SUITE_UNSPECIFIED,
    "blake3": common_pb2.SUITE_BLAKE3,
    "blake3-all": common_pb2.SUITE_BLAKE3_ALL,
    "fips": common_pb2.SUITE_FIPS,
}
_STATES: Final[dict[int, AnchorState]] = {
    common_pb2.ANCHOR_STATE_PENDING: AnchorState.PENDING,
    common_pb2.ANCHOR_STATE_LOGGED: AnchorState.LOGGED,
    common_pb2.ANCHOR_STATE_ANCHORED: AnchorState.ANCHORED,
}
_STATES_TO_PB: Final[dict[AnchorState, common_pb2.AnchorState]] = {
    AnchorState.UNKNOWN: common_pb2.ANCHOR_STATE_UNSPECIFIED,
    AnchorState.PENDING: common_pb2.ANCHOR_STATE_PENDING,
    AnchorState.LOGGED: common_pb2.ANCHOR_STATE_LOGGED,
    AnchorState.ANCHORED: common_pb2.ANCHOR_STATE_ANCHORED,
}


def action_to_pb(action: str) -> common_pb2.Action:
    """CREATE, UPDATE or DELETE as its enum value; raises IdentifierError for anything else."""
    value = _ACTIONS.get(action)
    if value is None:
        raise IdentifierError("action", "must be CREATE, UPDATE or DELETE")
    return value


def suite_to_pb(suite: str) -> common_pb2.Suite:
    """A suite's name ("" for the default) as its enum value; raises IdentifierError."""
    value = _SUITES_TO_PB.get(suite)
    if value is None:
        raise IdentifierError("suite", "must be blake3, blake3-all or fips")
    return value


def anchor_state_to_pb(state: AnchorState, field: str = "wait_for") -> common_pb2.AnchorState:
    """An anchor state, or its text, as its enum value; raises IdentifierError for anything else."""
    value = _STATES_TO_PB.get(state) if isinstance(state, str) else None
    if value is None:
        raise IdentifierError(field, f"must be one of {', '.join(_STATES_TO_PB)}")
    return value


def request(kind: type[M], **fields: Any) -> M:
    """Build a message; raises IdentifierError for a value that its field cannot hold."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        raise IdentifierError(_misfit(kind, fields), "is of a wrong type or out of range") from None


def _misfit(kind: type[M], fields: dict[str, Any]) -> str:
    """The name of the first field whose value does not fit."""
    for name, value in fields.items():
        try:
            kind(**{name: value})
        except (TypeError, ValueError):
            return name
    return "request"


def draft_to_pb(draft: Draft) -> common_pb2.Draft:
    """The message for a draft, with a request id of its own if it has none.

    Raises:
        InvalidJSONError: a state, patch or payload that is no JSON value.
        IdentifierError: an action, time or text that cannot be written down, or no draft at all.
    """
    if not isinstance(draft, Mutation | Document):
        raise IdentifierError("draft", "must be a Mutation or a Document")
    try:
        return _draft_to_pb(draft)
    except (TypeError, ValueError):
        raise IdentifierError(_wrong_text(draft), "must be text, and valid Unicode") from None


def _wrong_text(draft: Draft) -> str:
    for item in dataclasses.fields(draft):
        value = getattr(draft, item.name)
        texts = value if item.name == "upstream_events" else (value,)
        if item.type != "str" and item.name != "upstream_events":
            continue
        if not isinstance(texts, tuple) or not all(_is_text(text) for text in texts):
            return item.name
    return "draft"


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _draft_to_pb(draft: Mutation | Document) -> common_pb2.Draft:
    # Member by member: half the cost of keyword arguments, and no message is copied.
    message = common_pb2.Draft()
    message.request_id = draft.request_id or new_request_id()
    actor = message.actor
    actor.id = draft.actor_id
    actor.type = draft.actor_type
    message.op_id = draft.op_id
    message.op_parent_id = draft.op_parent_id
    message.occurred_at = _time_text(draft.occurred_at)
    if draft.origin_service or draft.trace_id or draft.upstream_events:
        message.origin.service = draft.origin_service
        message.origin.trace_id = draft.trace_id
        message.origin.upstream_events.extend(_events(draft.upstream_events))
    if isinstance(draft, Mutation):
        mutation = message.mutation
        mutation.action = action_to_pb(draft.action)
        mutation.resource_type = draft.resource_type
        mutation.resource_id = draft.resource_id
        mutation.previous_state = _json_text(draft.previous_state, "previous_state")
        mutation.new_state = _json_text(draft.new_state, "new_state")
        mutation.diff = _json_text(draft.diff, "diff")
    else:
        document = message.document
        document.receipt_type = draft.receipt_type
        document.media_type = draft.media_type
        document.resource_type = draft.resource_type
        document.resource_id = draft.resource_id
        document.payload = _payload(draft)
    return message


def _events(value: Iterable[str]) -> Iterable[str]:
    # A text is a sequence of texts too: its letters.
    if isinstance(value, str):
        raise IdentifierError("upstream_events", "must be a tuple of texts, not one text")
    return value


def _time_text(value: str | datetime) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, datetime):
        raise IdentifierError("occurred_at", "must be text or a datetime")
    if value.tzinfo is None:
        raise IdentifierError("occurred_at", "must be an aware datetime: give it a time zone")
    return value.isoformat()


def _json_text(value: Any, field: str) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    try:
        return jcs.encode(value)
    except InvalidJSONError as error:
        raise InvalidJSONError(f"{field}: {error.message}", error.pointer) from None


def _payload(draft: Document) -> bytes:
    if isinstance(draft.payload, bytes):
        return draft.payload
    if not names.is_json_media_type(draft.media_type):
        raise IdentifierError("payload", f"must be bytes for {draft.media_type or 'this type'}")
    # Unlike an absent state, None is a JSON document here.
    return b"null" if draft.payload is None else _json_text(draft.payload, "payload")


def suite_from_pb(suite: int) -> str:
    """The name of a suite; raises ReceiptFormatError for one this version does not know."""
    name = _SUITES.get(suite)
    if name is None:
        raise ReceiptFormatError("suite", f"number {suite} is not known to this version")
    return name


def receipt_from_pb(message: common_pb2.Receipt) -> Receipt:
    """A receipt from its FULL view; raises ReceiptFormatError where it cannot be one."""
    ledger, separator, _ = message.name.partition("/receipts/")
    if not separator or not message.statement:
        raise ReceiptFormatError("receipt", "is not in the FULL view")
    commitment = message.commitment
    secret = commitment.secret or None
    signature = message.signature
    return Receipt(
        name=message.name,
        receipt_type=message.receipt_type,
        ledger=ledger,
        ledger_uid=message.ledger_uid,
        suite=suite_from_pb(message.suite),
        seq=message.seq,
        t_ns=message.t_ns,
        timestamp_iso=names.timestamp_iso(message.t_ns),
        previous_hash=message.previous_hash or None,
        payload_hash=message.payload_hash,
        receipt_hash=message.receipt_hash,
        kid=message.kid,
        statement=message.statement,
        payload=None if secret is None else message.payload,
        signature=WitnessSignature(
            signature.body, signature.sig, signature.index, tuple(signature.path)
        ),
        commitment=Opening(
            profile=commitment.profile,
            size=commitment.size,
            secret=secret,
            disclosures=tuple(commitment.disclosures),
            digests=tuple(commitment.digests),
        ),
        fields_mask=None if secret else _mask(commitment.disclosures),
        proofs=tuple([proof_from_pb(proof) for proof in message.proofs]),
    )


def _mask(disclosures: Iterable[str]) -> tuple[str, ...]:
    """What is shown, by its pointers, in UTF-8 order; raises ReceiptFormatError."""
    return tuple(sorted(parse_disclosure(text).pointer for text in disclosures))


def proof_from_pb(message: common_pb2.InclusionProof) -> Proof:
    """An inclusion proof."""
    return Proof(
        origin=message.origin,
        log_index=message.log_index,
        hashes=tuple(message.hashes),
        checkpoint=message.checkpoint,
        evidence=tuple(
            [
                Evidence(item.sink, item.kind, item.acknowledged_at_ns, item.evidence)
                for item in message.evidence
            ]
        ),
    )


def summary_from_pb(message: common_pb2.Receipt) -> ReceiptSummary:
    """Identity, position and hashes of a receipt in any view."""
    return ReceiptSummary(
        name=message.name,
        receipt_type=message.receipt_type,
        ledger_uid=message.ledger_uid,
        suite=suite_from_pb(message.suite),
        seq=message.seq,
        t_ns=message.t_ns,
        previous_hash=message.previous_hash or None,
        payload_hash=message.payload_hash,
        receipt_hash=message.receipt_hash,
        kid=message.kid,
        anchor_state=_STATES.get(message.anchor_state, AnchorState.UNKNOWN),
    )


def about_draft(error: StatusError, field: str) -> StatusError:
    """An error about one of the drafts of a request, as one about `field` of what the caller gave.

    Where the draft stood in the request says nothing to him: it was cut, or shared.
    """
    message = _DRAFT.sub(field, error.message)
    violations = tuple(
        FieldViolation(_DRAFT.sub(field, item.field), item.description, item.reason)
        for item in error.violations
    )
    about = type(error).__new__(type(error), message)
    about.__dict__.update(error.__dict__, message=message, violations=violations)
    return about


def result_from_pb(
    message: common_pb2.AppendResult, *, index: int, request_id: str, full: bool
) -> AppendResult:
    """The outcome of one draft; `index` is its place among those the caller gave."""
    if message.WhichOneof("outcome") != "receipt":
        error = about_draft(status_from_pb(message.error), f"drafts[{index}]")
        return AppendResult(index=index, request_id=request_id, error=error)
    return AppendResult(
        index=index,
        request_id=request_id,
        summary=summary_from_pb(message.receipt),
        receipt=receipt_from_pb(message.receipt) if full else None,
        repeated=message.repeated_request,
    )


def ledger_from_pb(message: ledger_pb2.Ledger) -> Ledger:
    """A ledger."""
    return Ledger(
        name=message.name,
        uid=message.uid,
        suite=suite_from_pb(message.suite),
        log_origin=message.log_origin,
        seq=message.seq,
        receipt_hash=message.receipt_hash,
        logged_seq=message.logged_seq,
        created_at_ns=message.created_at_ns,
        read_only_reason=message.read_only_reason,
        log=message.log,
    )
