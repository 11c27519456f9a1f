"""Whether what a service answers is what it was asked: by names, ids and content.

What belongs to another request may well verify, so that nothing later would notice. Signatures and
hashes are not looked at: that is for `provledger.verify`. In the BASIC view a receipt shows its
ledger and its type only, and that two drafts did not get the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from provledger import jcs, names
from provledger.api.common.v1 import common_pb2
from provledger.errors import InternalError, InvalidJSONError, ReceiptFormatError
from provledger.statement import read_bound

_MUTATION: Final = "mutation"
_ACTIONS: Final = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}
_NULL: Final = b"null"
_STATED: Final = (
    *("name", "ledger", "request id", "receipt type", "action", "resource type", "resource id"),
    *("actor", "media type", "payload hash"),
)


def bad_response(message: str) -> InternalError:
    """The error for an answer that is none to what was asked."""
    return InternalError("BAD_RESPONSE", message)


def check_name(answered: str, asked: str) -> None:
    """Raise InternalError unless what was answered is what was asked for."""
    if answered != asked:
        raise bad_response(f"asked for {asked}, the answer is {answered!r}")


def check_listed(receipts: Iterable[common_pb2.Receipt], ledger: str) -> None:
    """Raise InternalError if a receipt in a list is not of the ledger that was asked for."""
    prefix = f"{ledger}/receipts/"
    for receipt in receipts:
        if not receipt.name.startswith(prefix):
            raise bad_response(f"asked for receipts of {ledger}, among them is {receipt.name!r}")


def has_reached(receipt: common_pb2.Receipt, state: common_pb2.AnchorState) -> bool:
    """Whether a receipt in the FULL view, which was waited for, has got as far as `state`.

    A service that has no word of its sinks at that moment shows as logged what is anchored.

    Raises:
        InternalError: it does not even show that it is logged, by its state and a proof.
    """
    if state <= common_pb2.ANCHOR_STATE_PENDING:
        return True
    if receipt.anchor_state < common_pb2.ANCHOR_STATE_LOGGED or not receipt.proofs:
        raise bad_response("the receipt was waited for until it is logged, and has no proof of it")
    return receipt.anchor_state >= state


def check_results(
    results: Sequence[common_pb2.AppendResult], drafts: Sequence[common_pb2.Draft], ledger: str
) -> None:
    """Raise InternalError unless these are the outcomes of these drafts, one for each in order."""
    if len(results) != len(drafts):
        raise bad_response("the answer has another number of results")
    request_ids: dict[str, str] = {}
    for result, draft in zip(results, drafts, strict=True):
        outcome = result.WhichOneof("outcome")
        if outcome is None:
            raise bad_response("a result is neither a receipt nor an error")
        if outcome == "error":
            continue
        check_recorded(result.receipt, draft, ledger)
        request_id = draft.request_id
        if request_ids.setdefault(result.receipt.name, request_id) != request_id:
            raise bad_response("two drafts were answered with one receipt")


def check_recorded(receipt: common_pb2.Receipt, draft: common_pb2.Draft, ledger: str) -> None:
    """Raise InternalError unless a receipt is one of this draft, as far as its view shows.

    What is compared is part of what the service compares a repeat with, so that the receipt of an
    earlier request with the same id passes, too.
    """
    if not receipt.name.startswith(f"{ledger}/receipts/"):
        raise _not_of("ledger")
    if receipt.receipt_type != _receipt_type(draft):
        raise _not_of("receipt type")
    if receipt.statement:
        _check_statement(receipt, draft, ledger)
        # No service masks what it answers an append with: anything could be behind it.
        if not receipt.commitment.secret:
            raise bad_response("the receipt does not show its payload")
        if not _holds_payload(receipt, draft):
            raise _not_of("payload")


def _receipt_type(draft: common_pb2.Draft) -> str:
    if draft.HasField("mutation"):
        return _MUTATION
    return draft.document.receipt_type


def _check_statement(receipt: common_pb2.Receipt, draft: common_pb2.Draft, ledger: str) -> None:
    try:
        said = read_bound(receipt.statement)
    except ReceiptFormatError as error:
        raise bad_response(f"the receipt cannot be read: {error}") from error
    is_mutation = draft.HasField("mutation")
    content = draft.mutation if is_mutation else draft.document
    stated = (
        *(receipt.name, said.ledger, said.request_id, said.receipt_type, said.action),
        *(said.resource_type, said.resource_id, said.actor_id, said.media_type),
        said.payload_hash,
    )
    asked = (
        names.receipt_name(ledger, said.receipt_id),
        *(ledger, draft.request_id, _receipt_type(draft)),
        _ACTIONS.get(draft.mutation.action, "") if is_mutation else "",
        *(content.resource_type, content.resource_id, draft.actor.id),
        said.media_type if is_mutation else draft.document.media_type,
        receipt.payload_hash,
    )
    if stated != asked:
        pairs = zip(_STATED, stated, asked, strict=True)
        raise _not_of(next(name for name, one, other in pairs if one != other))


def _holds_payload(receipt: common_pb2.Receipt, draft: common_pb2.Draft) -> bool:
    """Whether the payload that a receipt shows is ours. The patch is left out: it is the
    witness's in most cases, and between the same states."""
    if draft.HasField("mutation"):
        new, previous = draft.mutation.new_state or _NULL, draft.mutation.previous_state or _NULL
        # They stand last in canonical order. A quote within a text has a backslash before it, so
        # that whatever ends so has these states.
        return receipt.payload.endswith(_states(new, previous)) or (
            receipt.payload.endswith(_states(_canonical(new), _canonical(previous)))
        )
    document = draft.document
    if receipt.payload == document.payload:
        return True
    is_json = names.is_json_media_type(document.media_type)
    return is_json and receipt.payload == _canonical(document.payload)


def _states(new: bytes, previous: bytes) -> bytes:
    return b',"newState":%b,"previousState":%b}' % (new, previous)


def _canonical(data: bytes) -> bytes:
    """JSON text as the witness writes it; as it is, where it is none: then it is not recorded."""
    try:
        return jcs.canonicalize(data)[1]
    except InvalidJSONError:
        return data


def _not_of(what: str) -> InternalError:
    return bad_response(f"the receipt is not of the draft that was sent: it has another {what}")
