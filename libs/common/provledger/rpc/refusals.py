"""What a call that is refused is answered with, and the decoders that refuse."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from provledger import logs
from provledger.errors import STATUS_ERRORS, InvalidArgumentError, StatusError
from provledger.rpc.errors import CODES, DETAILS_KEY, as_status_error, internal_error, to_status

log = logs.get(__name__)

Decoder = Callable[[bytes], Any]

_BRIEF_STEP_S: Final = 0.01
_BRIEF_KINDS: Final = 1024


class Refusal(NamedTuple):
    """The arguments of gRPC's `abort`."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...]


def strict(decode: Decoder) -> Decoder:
    """A deserializer whose failure is an error of ours, instead of gRPC's answer UNKNOWN."""

    def decode_strictly(data: bytes) -> Any:
        try:
            return decode(data)
        except (DecodeError, ValueError):
            raise malformed() from None

    return decode_strictly


def short(decode: Decoder, most_bytes: int) -> Decoder:
    """The same for what may be sent by everybody."""
    decode_strictly = strict(decode)

    def decode_short(data: bytes) -> Any:
        if len(data) > most_bytes:
            raise malformed()
        return decode_strictly(data)

    return decode_short


def malformed() -> StatusError:
    """The error of bytes that are no message of an RPC."""
    return InvalidArgumentError("MALFORMED_REQUEST", "the request is not a message of this RPC")


def brief(method: str, error: StatusError) -> Refusal:
    """What a call is refused with that is not worth more than a look, nor a line in the log.

    Making a status takes longer than all else that is done for such a call. So those that say
    nothing but when to come back are remembered, and delays rounded up for there to be few of them.
    """
    delay_s = error.retry_delay_s
    if delay_s is None or error.metadata or error.violations:
        return refusal(method, error)
    return _brief(error.code, error.reason, error.message, math.ceil(delay_s / _BRIEF_STEP_S))


@lru_cache(maxsize=_BRIEF_KINDS)
def _brief(code: str, reason: str, message: str, steps: int) -> Refusal:
    error = STATUS_ERRORS[code](reason, message, retry_delay_s=steps * _BRIEF_STEP_S)
    status = to_status(error)
    return Refusal(CODES[code], status.message, ((DETAILS_KEY, status.SerializeToString()),))


def refusal(method: str, exc: Exception, *, writes: bool = False) -> Refusal:
    """What a call that failed is aborted with, once its failure is logged.

    gRPC keeps the exception that its `abort` raises in the state of the call, and by its traceback
    the frames that it went through: a cycle, which stays until Python looks for those, seldom
    here. So at that time nothing large may hang on them, neither the request nor `exc`, by whose
    traceback the servicer's frames hold it too: `abort` is called after `except`.

    Raises:
        CancelledError: gRPC could not send what was written, by a handler that `writes`. The caller
            hung up: nobody can be told, and it is no fault of ours. Of any other handler, gRPC's
            error is one.
    """
    if writes and isinstance(exc, grpc.aio.InternalError):
        raise asyncio.CancelledError from exc
    error = as_status_error(exc)
    if error.code == "INTERNAL":
        log.error("rpc.internal_error", exc_info=exc, method=method)
    elif error.code == "DATA_LOSS":
        log.error("rpc.data_loss", exc_info=exc, method=method, reason=error.reason)
    else:
        log.debug("rpc.refused", method=method, code=error.code, reason=error.reason)
    try:
        status = to_status(error)
    except Exception as broken:  # an error that cannot be encoded must not become a leak
        log.error("rpc.status_not_encodable", exc_info=broken, method=method)
        status, error = to_status(internal_error()), internal_error()
    details = ((DETAILS_KEY, status.SerializeToString()),)
    return Refusal(CODES[error.code], status.message, details)
