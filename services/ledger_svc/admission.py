"""Admission: what is asked of a request before anything is spent on its drafts.

Only what is cheap and what the ledger itself depends on: the request id, the sizes, the counts.
Identifiers, JSON and patches are the witness's to check, strictly and once; a payload is not
parsed here. Pure: protobuf messages are looked at, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from provledger import names
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import FieldViolation, InvalidArgumentError
from provledger.rpc.bounds import Limit, Limits, field_name

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
MAX_BATCH_ITEMS: Final = 1000
MAX_PAGE_SIZE: Final = 1000
DEFAULT_PAGE_SIZE: Final = 50

# All identifiers at their limits, and some: 1,024 + 20 * 256 + the rest.
_MAX_AROUND_PAYLOAD_BYTES: Final = 16 * 1024


def check_draft(draft: common_pb2.Draft) -> int:
    """Admit one draft; its size in bytes.

    Raises:
        IdentifierError: the request id is missing or has a wrong form.
        InvalidArgumentError: no content, or more bytes than are allowed; fields are relative to
            the draft.
    """
    names.check_request_id(draft.request_id)
    size = draft.ByteSize()
    kind = draft.WhichOneof("content")
    if kind is None:
        raise _violation("REQUIRED", "mutation", "either a mutation or a document is required")
    # Most drafts are far below any limit, and one comparison says so.
    if size <= MAX_PAYLOAD_BYTES:
        return size
    if kind == "mutation":
        mutation = draft.mutation
        states = {
            "mutation.previous_state": len(mutation.previous_state),
            "mutation.new_state": len(mutation.new_state),
            "mutation.diff": len(mutation.diff),
        }
        payload = sum(states.values())
        largest = max(states, key=states.__getitem__)
        what = f"both states and the diff together must be at most {MAX_PAYLOAD_BYTES} bytes"
    else:
        payload = len(draft.document.payload)
        largest = "document.payload"
        what = f"must be at most {MAX_PAYLOAD_BYTES} bytes"
    if payload > MAX_PAYLOAD_BYTES:
        raise _violation("PAYLOAD_TOO_LARGE", largest, what)
    if size - payload > _MAX_AROUND_PAYLOAD_BYTES:
        raise _violation("DRAFT_TOO_LARGE", "", "what stands beside the payload is too large")
    return size


def check_batch_size(drafts: Sequence[object]) -> None:
    """Admit the number of drafts of one request.

    Raises:
        InvalidArgumentError: naming `drafts`.
    """
    if not 1 <= len(drafts) <= MAX_BATCH_ITEMS:
        raise _violation(
            "INVALID_BATCH_SIZE",
            "drafts",
            f"must be 1 to {MAX_BATCH_ITEMS} drafts, not {len(drafts)}",
            {"limit": str(MAX_BATCH_ITEMS), "size": str(len(drafts))},
        )


def _far_too_many() -> InvalidArgumentError:
    return _violation(
        "INVALID_BATCH_SIZE",
        "drafts",
        f"must be 1 to {MAX_BATCH_ITEMS} drafts, not many more",
        {"limit": str(MAX_BATCH_ITEMS)},
    )


LIMITS: Final[Limits] = {
    field_name(ledger_pb2.AppendBatchRequest, "drafts"): Limit(MAX_BATCH_ITEMS, _far_too_many),
    field_name(ledger_pb2.AppendStreamRequest, "drafts"): Limit(MAX_BATCH_ITEMS, _far_too_many),
}
"""What is refused before it is parsed; the error then does not know how many there are."""


def page_size(requested: int) -> int:
    """The number of results of a page (AIP-158): 0 is the default, too many is cut.

    Raises:
        InvalidArgumentError: a negative size.
    """
    if requested < 0:
        raise _violation("PAGE_SIZE", "page_size", "must not be negative")
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _violation(
    reason: str, field: str, description: str, metadata: dict[str, str] | None = None
) -> InvalidArgumentError:
    message = f"{field}: {description}" if field else description
    return InvalidArgumentError(
        reason,
        message,
        metadata=metadata,
        violations=[FieldViolation(field, description, reason)],
    )
