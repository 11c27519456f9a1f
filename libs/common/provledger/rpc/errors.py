"""Errors across gRPC: AIP-193 rich statuses (google.rpc.Status) to and from our exceptions.

Outbound, every status carries exactly one ErrorInfo with the domain "provledger", a BadRequest
where fields are to blame and a RetryInfo where waiting helps. Inbound, the same exception is
rebuilt on the caller's side. One table maps the other families of `provledger.errors`; whatever
it does not know becomes INTERNAL without any detail, since a stranger's message may hold a payload.

The status travels in one trailer, and default header limits are about 8 KiB after base64, so a
status is kept below `MAX_STATUS_BYTES`: violations that do not fit are counted, not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from provledger import errors
from provledger.errors import (
    STATUS_ERRORS,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    StatusError,
)

DOMAIN: Final = "provledger"
DETAILS_KEY: Final = "grpc-status-details-bin"
MAX_STATUS_BYTES: Final = 4096
MESSAGE_TOO_LARGE: Final = "MESSAGE_TOO_LARGE"
PEER_CANCELLED: Final = "PEER_CANCELLED"
CORE_ERROR: Final = "Internal error from Core"
"""What gRPC says, as INTERNAL, where a message is written to a stream that just ended."""

_RETRIED: Final = frozenset(
    {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED"}
)
# gRPC says INTERNAL for some broken connections; its text tells them from a fault of the service.
_BROKEN_CONNECTION: Final = (
    *("RST_STREAM", "Stream removed", "GOAWAY", "Socket closed"),
    CORE_ERROR,
)

_MAX_MESSAGE_BYTES: Final = 768
_MAX_VALUE_BYTES: Final = 256
_MAX_METADATA: Final = 16
_MAX_DETAILS: Final = 16

CODES: Final[dict[str, grpc.StatusCode]] = {code.name: code for code in grpc.StatusCode}
_NAMES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}

# From the most to the least derived class; the first that fits decides.
_INPUT_REASONS: Final[tuple[tuple[type[errors.InputError], str], ...]] = (
    (errors.InvalidJSONError, "INVALID_JSON"),
    (errors.PatchError, "INVALID_PATCH"),
    (errors.CheckpointError, "INVALID_CHECKPOINT"),
    (errors.NoteError, "INVALID_NOTE"),
    (errors.TileError, "INVALID_TILE"),
    (errors.EnvelopeError, "INVALID_ENVELOPE"),
    (errors.IdentifierError, "INVALID_IDENTIFIER"),
    (errors.ReceiptFormatError, "INVALID_RECEIPT"),
    (errors.KeyFormatError, "INVALID_KEY"),
    (errors.InputError, "INVALID_INPUT"),
)
_VERIFICATION_REASONS: Final[tuple[tuple[type[errors.VerificationError], str], ...]] = (
    (errors.InvalidProofError, "INVALID_PROOF"),
    (errors.InvalidSignatureError, "INVALID_SIGNATURE"),
    (errors.VerificationError, "VERIFICATION_FAILED"),
)
# Our own credentials failed further in: no answer to, and no fault of, the caller in front.
_NOT_PASSED_ON: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"})


def internal_error() -> InternalError:
    """What a caller is told about a fault of ours: nothing but that."""
    return InternalError("INTERNAL", "internal error; the server's log has the details")


def as_status_error(exc: BaseException, *, field: str = "") -> StatusError:
    """The StatusError that `exc` is answered with; INTERNAL without detail if unknown.

    `field` is the request field that was being read (`items[3].payload`); it is put in front of
    the field or pointer that an InputError itself names.
    """
    if isinstance(exc, StatusError):
        if getattr(exc, "remote", False) and exc.code in _NOT_PASSED_ON:
            return internal_error()
        return exc
    if isinstance(exc, errors.InputError):
        return _from_input_error(exc, field)
    if isinstance(exc, errors.VerificationError):
        reason = next(r for kind, r in _VERIFICATION_REASONS if isinstance(exc, kind))
        metadata = {"check": exc.check} if exc.check else {}
        return errors.DataLossError(reason, str(exc), metadata=metadata)
    if isinstance(exc, errors.KMSError):
        return _from_kms_error(exc)
    if isinstance(exc, grpc.RpcError):
        return as_status_error(from_rpc_error(exc))
    if isinstance(exc, TimeoutError):
        return errors.DeadlineExceededError("TIMED_OUT", "the answer did not come in time")
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        return as_status_error(exc.exceptions[0], field=field)
    return internal_error()


def _from_input_error(exc: errors.InputError, field: str) -> InvalidArgumentError:
    reason = next(r for kind, r in _INPUT_REASONS if isinstance(exc, kind))
    own = getattr(exc, "field", "")
    where = f"{field}.{own}" if field and own else field or own
    metadata: dict[str, str] = {}
    pointer = getattr(exc, "pointer", None)
    if pointer:
        metadata["pointer"] = str(pointer)
    index = getattr(exc, "index", None)
    if index is not None:
        metadata["index"] = str(index)
    description = str(getattr(exc, "message", exc)) if own else str(exc)
    violations = [FieldViolation(where, description, reason)] if where else []
    message = f"{field}: {exc}" if field else str(exc)
    return InvalidArgumentError(reason, message, metadata=metadata, violations=violations)


def _from_kms_error(exc: errors.KMSError) -> StatusError:
    """A KMS error says by attribute what it is to a caller: `code`, `reason`, `retry_delay_s`."""
    kind = STATUS_ERRORS.get(str(getattr(exc, "code", "")), errors.UnavailableError)
    delay = getattr(exc, "retry_delay_s", None)
    return kind(
        str(getattr(exc, "reason", "") or "KMS_ERROR"),
        str(exc),
        retry_delay_s=float(delay) if delay is not None else None,
    )


def to_status(exc: BaseException) -> status_pb2.Status:
    """The rich status for `exc`, below `MAX_STATUS_BYTES`."""
    error = as_status_error(exc)
    code = CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    status = status_pb2.Status(code=code.value[0], message=_clip(error.message, _MAX_MESSAGE_BYTES))
    info = error_details_pb2.ErrorInfo(reason=_clip(error.reason, 63), domain=DOMAIN)
    for key, value in list(error.metadata.items())[:_MAX_METADATA]:
        info.metadata[_clip(key, 64)] = _clip(value, _MAX_VALUE_BYTES)
    _pack(status, info)
    if error.retry_delay_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(max(0, int(error.retry_delay_s * 1_000_000_000)))
        _pack(status, retry)
    if error.violations:
        room = MAX_STATUS_BYTES - status.ByteSize() - 128
        _pack(status, _bad_request(error.violations, room))
    return status


def _bad_request(
    violations: Iterable[FieldViolation], room_bytes: int
) -> error_details_pb2.BadRequest:
    """As many violations as fit, and one that counts the rest."""
    bad = error_details_pb2.BadRequest()
    left_out = 0
    for violation in violations:
        if left_out:
            left_out += 1
            continue
        added = bad.field_violations.add(
            field=_clip(violation.field, _MAX_VALUE_BYTES),
            description=_clip(violation.description, _MAX_VALUE_BYTES),
            reason=_clip(violation.reason, 63),
        )
        # 96 bytes stay free for the line that counts what was left out.
        room_bytes -= added.ByteSize() + 3
        if room_bytes < 96:
            del bad.field_violations[-1]
            left_out = 1
    if left_out:
        bad.field_violations.add(
            description=f"and {left_out} more, not shown", reason="VIOLATIONS_TRUNCATED"
        )
    return bad


def _pack(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _clip(text: str, limit_bytes: int) -> str:
    """At most `limit_bytes` of UTF-8; lone surrogates, which have none, become "?"."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return data.decode()
    return data[: limit_bytes - 3].decode("utf-8", "ignore") + "..."


def from_status(status: status_pb2.Status) -> StatusError:
    """Rebuild the typed exception from a rich status; without ErrorInfo the reason is the code."""
    name = _NAMES.get(status.code, "UNKNOWN")
    reason, metadata = name, {}
    violations: list[FieldViolation] = []
    retry_delay_s: float | None = None
    for packed in status.details[:_MAX_DETAILS]:
        kind = packed.TypeName()
        try:
            if kind == "google.rpc.ErrorInfo":
                info = error_details_pb2.ErrorInfo.FromString(packed.value)
                if info.domain == DOMAIN and info.reason:
                    reason, metadata = info.reason, dict(info.metadata)
            elif kind == "google.rpc.BadRequest":
                bad = error_details_pb2.BadRequest.FromString(packed.value)
                violations += [
                    FieldViolation(item.field, item.description, item.reason)
                    for item in bad.field_violations
                ]
            elif kind == "google.rpc.RetryInfo":
                retry = error_details_pb2.RetryInfo.FromString(packed.value)
                retry_delay_s = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9)
        except DecodeError:
            continue
    return _build(name, reason, status.message, metadata, violations, retry_delay_s)


def _build(
    code: str,
    reason: str,
    message: str,
    metadata: dict[str, str],
    violations: list[FieldViolation],
    retry_delay_s: float | None,
) -> StatusError:
    error = STATUS_ERRORS.get(code, InternalError)(
        reason,
        message,
        metadata=metadata,
        violations=violations,
        retry_delay_s=retry_delay_s,
    )
    # Marks what another service said, see `_NOT_PASSED_ON`.
    error.remote = True  # type: ignore[attr-defined]
    return error


status_to_pb: Final[Callable[[BaseException], status_pb2.Status]] = to_status
"""Per-item status inside a batch response; the same bytes as a failed RPC would carry."""

status_from_pb: Final[Callable[[status_pb2.Status], StatusError]] = from_status
"""Per-item status of a batch response as an exception."""


def from_rpc_error(exc: grpc.RpcError) -> StatusError:
    """The typed exception for a failed call (grpc.RpcError or grpc.aio.AioRpcError)."""
    call: Any = exc
    code: grpc.StatusCode = call.code() or grpc.StatusCode.UNKNOWN
    message: str = call.details() or ""
    status = _details(call.trailing_metadata(), code)
    if status is not None:
        return from_status(status)
    reason, name = code.name, code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "essage larger than max" in message:
        reason = MESSAGE_TOO_LARGE
    elif code is grpc.StatusCode.CANCELLED or (
        code is grpc.StatusCode.UNAVAILABLE and "error code: REFUSED_STREAM" in message
    ):
        # We did not cancel (that is asyncio.CancelledError): the peer is going down, or has more
        # calls waiting for it than gRPC keeps.
        reason, name = PEER_CANCELLED, "UNAVAILABLE"
    return _build(name, reason, message, {}, [], None)


def naming(error: StatusError, reason: str, peer: str) -> StatusError:
    """The error to pass on when `peer` was called: what gRPC says of a connection names no service.

    `reason` is given to it then, and the address, which is no caller's business, left out.
    What the peer said itself stays as it is.
    """
    if (error.code, error.reason) != ("UNAVAILABLE", "UNAVAILABLE"):
        return error
    return errors.UnavailableError(reason, f"{peer} does not answer", retry_delay_s=0.5)


def is_retryable(error: StatusError) -> bool:
    """Whether repeating the same call, or the same draft, may succeed and does no harm.

    Clients send such drafts again, and the ledger service lets none overtake them meanwhile: by
    one rule, or what the one takes for final would be sent again behind what came later.
    """
    if error.code in _RETRIED:
        return error.reason != MESSAGE_TOO_LARGE
    return error.code == "INTERNAL" and any(text in error.message for text in _BROKEN_CONNECTION)


def copied(error: StatusError) -> StatusError:
    """The same error once more, for one that is kept and raised again and again.

    Each raise adds to an exception's traceback, and a traceback keeps the variables of all calls in
    it alive: of an error that is raised for every request, the requests. The copy has none.
    """
    return type(error)(
        error.reason,
        error.message,
        metadata=error.metadata,
        violations=error.violations,
        retry_delay_s=error.retry_delay_s,
    )


def _details(trailers: Any, code: grpc.StatusCode) -> status_pb2.Status | None:
    """The rich status among the trailers, if it is readable and agrees with the code."""
    for key, value in trailers or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            return status if status.code == code.value[0] else None
    return None
