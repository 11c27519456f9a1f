"""Requests as bytes, to any RPC, and what there is to say about the errors that come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

TIMEOUT_S: Final = 10.0

NEVER: Final = frozenset(
    {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
)
_NEVER_CODES: Final = frozenset(code.value[0] for code in NEVER)
_DETAILS: Final = "grpc-status-details-bin"


class Asked(NamedTuple):
    """What an RPC answered: messages, as bytes, and the error it ended with, if it did."""

    responses: list[bytes]
    error: Any = None

    @property
    def code(self) -> str:
        """The code of its status."""
        return "OK" if self.error is None else str(self.error.code().name)


def ask(channel: Any, method: Any, data: bytes) -> Asked:
    """Call a method with bytes that may be no message."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    responses: list[bytes] = []
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)
            # Where each message has an answer, one more is sent; else one is the whole.
            messages = [data, data] if method.server_streaming else [data]
            responses.extend(call(iter(messages), timeout=TIMEOUT_S))
        elif method.server_streaming:
            # A watch that began is right; it has no end of its own.
            watch = channel.unary_stream(path)(data, timeout=1.0)
            responses.append(next(watch))
            watch.cancel()
        else:
            responses.append(channel.unary_unary(path)(data, timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        return Asked(responses, error)
    return Asked(responses)


def problem(asked: Asked, method: Any) -> str:
    """What is wrong with an answer, or "": errors must be typed, and say in details what they are.

    Those of single items within an answer too.
    """
    for status in _of_items(asked, method):
        if status.code in _NEVER_CODES or _info(status) is None:
            return f"an item's status is {status}"
    if asked.error is None:
        return ""
    code, text = asked.error.code(), asked.error.details() or ""
    if code in NEVER:
        return f"{code.name}: {text}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and method.server_streaming:
        return ""
    found = details(asked.error)
    if found is None:
        return f"{code.name} without details: {text}"
    if _info(found) is None or found.code != code.value[0] or found.message != text:
        return f"{code.name} whose details are others: {found}"
    return ""


def reason(error: Any) -> str:
    """The reason an error gives (`ErrorInfo`), or "" if it gives none."""
    found = details(error)
    info = None if found is None else _info(found)
    return "" if info is None else str(info.reason)


def details(error: Any) -> status_pb2.Status | None:
    """The status in an error's trailer."""
    packed = [value for key, value in error.trailing_metadata() or () if key == _DETAILS]
    return status_pb2.Status.FromString(packed[0]) if packed else None


def _info(status: Any) -> Any:
    for each in status.details:
        info = error_details_pb2.ErrorInfo()
        if each.Unpack(info):
            return info
    return None


def _of_items(asked: Asked, method: Any) -> Iterator[status_pb2.Status]:
    kind = GetMessageClass(method.output_type)
    fields = kind.DESCRIPTOR.fields_by_name
    for data in asked.responses:
        response: Any = kind.FromString(data)
        results = list(response.results) if "results" in fields else []
        if "result" in fields and response.HasField("result"):
            results.append(response.result)
        for result in results:
            for name in ("error", "rejection"):
                if name in result.DESCRIPTOR.fields_by_name and result.HasField(name):
                    yield getattr(result, name)
