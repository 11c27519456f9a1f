"""What the witness must have stated of a draft: whether its answer is one that verifiers will take.

A statement that is not canonical, or is of another ledger, draft or payload hash, would be a part
of the chain that no verifier takes, and that nobody could take out again. The first one of each
kind in an answer is read as verifiers read it. Those behind it are written once more here, by a
template, with what the witness decides taken from the answer, and compared, which takes a quarter
of the time::

    {"_type":...,"predicate":{"action":...,"actor":
    <actor>,"checks":[...],"commitmentProfile":...,"ledger":...,"ledgerUid":...,"mediaType":...,
    <members of the draft, with principal and receipt id>,"salt":"
    <salt>","witnessedAtNs":"...","predicateType":...,"subject":[{"digest":{"...":"
    <payload hash>"},"name":...}]}

The lines are the same for all of a kind but for what stands in <>. Any other text is read, too, so
that the template decides nothing: it must only never write what a reader would refuse.

Whether payload and secret open the commitment is asked where that costs little: of a payload that
is no JSON, and of what this service itself writes (`opens`), since a genesis or a key event that
does not verify would spoil all that comes behind it. Of other JSON it would take more than all the
ledger's own work for a receipt: only lengths are looked at, and `verify` and `VerifyRange` find the
rest (docs/trust.md).
"""

from __future__ import annotations

from json.encoder import encode_basestring as _quote
from typing import Final, NamedTuple

from ledger_svc.admission import MAX_PAYLOAD_BYTES
from ledger_svc.chain import Candidate, LedgerInfo
from provledger import jcs, logs, names
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.disclosure import (
    BLOB_PROFILE,
    BLOB_SALT_BYTES,
    FIELDS_PROFILE,
    FIELDS_SECRET_BYTES,
    MAX_FIELDS,
    MIN_LIST_SIZE,
    commit_blob,
    commit_fields,
)
from provledger.errors import InternalError, InvalidJSONError, ReceiptFormatError
from provledger.hashing import HASH_BYTES
from provledger.statement import (
    DIGEST_NAMES,
    MAX_STATEMENT_BYTES,
    PREDICATE_TYPE,
    SALT_BYTES,
    STATEMENT_TYPE,
    Check,
    parse_statement,
)

log = logs.get(__name__)

_MUTATION: Final = "mutation"
_JSON: Final = "application/json"
_ACTIONS: Final[dict[int, str]] = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}
_LIST_SIZES: Final = frozenset(
    1 << bits for bits in range(MIN_LIST_SIZE.bit_length() - 1, MAX_FIELDS.bit_length())
)
_HEX: Final = b"0123456789abcdef"
_SALT_CHARS: Final = 2 * SALT_BYTES


class _Kind(NamedTuple):
    """What is the same in all statements of an answer with this action or this media type."""

    profile: str
    before_actor: str
    behind_actor: str
    behind_salt: str


class Stated:
    """Holds the statements of one answer to the drafts that it is the answer to.

    opens: whether every document is to open its commitment, JSON too.
    """

    def __init__(self, ledger: LedgerInfo, *, opens: bool = False) -> None:
        self._ledger = ledger
        self._opens = opens
        self._kinds: dict[int | str, _Kind] = {}

    def candidate(
        self,
        draft: common_pb2.Draft,
        receipt_id: bytes,
        principal: str,
        witnessed: witness_pb2.WitnessedStatement,
        leaf_hash: bytes,
    ) -> Candidate:
        """What may be stored of a draft that passed; not whether the statement is that leaf.

        Raises:
            InternalError: WITNESS_ANSWER, naming the first thing at odds.
        """
        content: common_pb2.Mutation | common_pb2.Document
        what: int | str
        if draft.WhichOneof("content") == "mutation":
            content = draft.mutation
            receipt_type, what = _MUTATION, content.action
        else:
            content = draft.document
            receipt_type, what = content.receipt_type, content.media_type
        statement, payload_hash = witnessed.statement, witnessed.payload_hash
        request_id, actor = draft.request_id, draft.actor
        actor_id, actor_type = actor.id, actor.type
        resource_type, resource_id = content.resource_type, content.resource_id
        kind = self._kinds.get(what)
        if kind is not None:
            type_text, id_text = _quote(resource_type), _quote(resource_id)
            type_member = f',"type":{_quote(actor_type)}' if actor_type else ""
            front = (
                f'{kind.before_actor}{{"id":{_quote(actor_id)}{type_member}}}{kind.behind_actor}'
                f'{_said(draft)}"principal":{_quote(principal)},'
                f'"receiptId":"{names.receipt_id_text(receipt_id)}",'
                f'"receiptType":{_quote(receipt_type)},"requestId":{_quote(request_id)},'
                f'"resourceId":{id_text},"resourceType":{type_text},"salt":"'
            ).encode()
            salt = statement[len(front) : len(front) + _SALT_CHARS]
            back = (
                f'{kind.behind_salt}{payload_hash.hex()}"}},'
                f'"name":{type_text[:-1]}/{id_text[1:]}}}]}}'
            ).encode()
            if (
                statement != front + salt + back
                or salt.translate(None, _HEX)
                or len(statement) > MAX_STATEMENT_BYTES
                or len(payload_hash) != HASH_BYTES
            ):
                kind = None
        if kind is None:
            kind = self._kinds[what] = _read(self._ledger, draft, receipt_id, principal, witnessed)
        if witnessed.receipt_type != receipt_type:
            raise refuse_answer("a receipt type is not the one stated")
        payload, secret = witnessed.payload, witnessed.secret
        size = witnessed.commitment_size
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise refuse_answer(f"a payload is longer than {MAX_PAYLOAD_BYTES} bytes")
        if kind.profile is FIELDS_PROFILE:
            if len(secret) != FIELDS_SECRET_BYTES or size not in _LIST_SIZES:
                raise refuse_answer("a secret or a commitment has a wrong size")
            if self._opens and receipt_type is not _MUTATION:
                _open_json(draft.document, witnessed)
        else:
            if len(secret) != BLOB_SALT_BYTES or size:
                raise refuse_answer("a secret or a commitment has a wrong size")
            _open_blob(draft.document, witnessed)
        return Candidate(
            receipt_id,
            request_id,
            receipt_type,
            resource_type,
            resource_id,
            actor_id,
            statement,
            payload,
            secret,
            payload_hash,
            size,
            leaf_hash,
            witnessed.batch_index,
        )


def _said(draft: common_pb2.Draft) -> str:
    """The members between media type and principal, each with a comma behind it."""
    occurred_at, op_id, op_parent_id = draft.occurred_at, draft.op_id, draft.op_parent_id
    said = f'"occurredAt":{_quote(occurred_at)},' if occurred_at else ""
    if op_id:
        said += f'"opId":{_quote(op_id)},'
    if op_parent_id:
        said += f'"opParentId":{_quote(op_parent_id)},'
    if draft.HasField("origin"):
        origin = draft.origin
        service, trace_id, upstream = origin.service, origin.trace_id, origin.upstream_events
        parts = f',"service":{_quote(service)}' if service else ""
        if trace_id:
            parts += f',"traceId":{_quote(trace_id)}'
        if upstream:
            parts += f',"upstream":[{",".join(map(_quote, upstream))}]'
        if parts:
            said += f'"origin":{{{parts[1:]}}},'
    return said


def _read(
    ledger: LedgerInfo,
    draft: common_pb2.Draft,
    receipt_id: bytes,
    principal: str,
    witnessed: witness_pb2.WitnessedStatement,
) -> _Kind:
    """Read a statement, compare it with its draft, member by member, and return its kind.

    Raises:
        InternalError: WITNESS_ANSWER, naming the first member at odds, never a value.
    """
    try:
        stated = parse_statement(witnessed.statement)
    except ReceiptFormatError as error:
        raise refuse_answer(f"a {error}") from error
    content: common_pb2.Mutation | common_pb2.Document
    receipt_type, media_type, action = _MUTATION, _JSON, ""
    if draft.WhichOneof("content") == "mutation":
        content = draft.mutation
        action = _ACTIONS.get(content.action, "none")
    else:
        content = draft.document
        receipt_type, media_type = content.receipt_type, content.media_type
    profile = FIELDS_PROFILE if names.is_json_media_type(media_type) else BLOB_PROFILE
    origin = draft.origin
    asked = {
        "ledger": ledger.name,
        "ledger_uid": ledger.uid,
        "receipt_id": names.receipt_id_text(receipt_id),
        "request_id": draft.request_id,
        "payload_hash": witnessed.payload_hash,
        "receipt_type": receipt_type,
        "action": action,
        "resource_type": content.resource_type,
        "resource_id": content.resource_id,
        "actor_id": draft.actor.id,
        "actor_type": draft.actor.type,
        "principal": principal,
        "origin_service": origin.service,
        "trace_id": origin.trace_id,
        "upstream_events": tuple(origin.upstream_events),
        "op_id": draft.op_id,
        "op_parent_id": draft.op_parent_id,
        "occurred_at": draft.occurred_at,
        "media_type": media_type,
        "profile": profile,
    }
    for member, value in asked.items():
        if getattr(stated, member) != value:
            raise refuse_answer(f"a statement has another {member.replace('_', ' ')}")
    member = f'"action":"{action}",' if action else ""
    return _Kind(
        profile,
        f'{{"_type":"{STATEMENT_TYPE}","predicate":{{{member}"actor":',
        f',"checks":[{",".join(map(_check_text, stated.checks))}],"commitmentProfile":"{profile}",'
        f'"ledger":"{ledger.name}","ledgerUid":"{ledger.uid.hex()}",'
        f'"mediaType":{_quote(media_type)},',
        f'","witnessedAtNs":"{stated.witnessed_at_ns}"}},"predicateType":"{PREDICATE_TYPE}",'
        f'"subject":[{{"digest":{{"{DIGEST_NAMES[profile]}":"',
    )


def _check_text(check: Check) -> str:
    return (
        f'{{"name":{_quote(check.name)},"result":{_quote(check.result)},'
        f'"version":{_quote(check.version)}}}'
    )


def _open_blob(document: common_pb2.Document, witnessed: witness_pb2.WitnessedStatement) -> None:
    """Check that a payload that is no JSON is the one sent, and opens its commitment."""
    if witnessed.payload != document.payload:
        raise refuse_answer("a payload is not the one sent")
    made = commit_blob(document.media_type, witnessed.payload, witnessed.secret)
    if made.root != witnessed.payload_hash:
        raise refuse_answer("payload and secret do not open a commitment")


def _open_json(document: common_pb2.Document, witnessed: witness_pb2.WitnessedStatement) -> None:
    """The same for one that is JSON, which is stored as its canonical text."""
    try:
        value, payload = jcs.canonicalize(document.payload)
        made = commit_fields(value, witnessed.secret)
    except InvalidJSONError as error:
        raise refuse_answer("a payload has passed that is no JSON") from error
    if witnessed.payload != payload:
        raise refuse_answer("a payload is not the one sent")
    if (made.root, made.size) != (witnessed.payload_hash, witnessed.commitment_size):
        raise refuse_answer("payload and secret do not open a commitment")


def refuse_answer(why: str) -> InternalError:
    """Log why an answer cannot be used; the error for the caller."""
    log.error("witness.answer_refused", why=why)
    return InternalError("WITNESS_ANSWER", f"the witness's answer cannot be used: {why}")
