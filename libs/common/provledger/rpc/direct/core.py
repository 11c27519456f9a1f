"""What we use of gRPC's core: the part of `cygrpc` over which grpc's own servers are written.

It is no public interface. grpc's synchronous server has used these names, in this way, since 2018;
where one of them is missing, importing this fails, and listeners use grpc.aio instead (ADR 0047).
"""

from __future__ import annotations

from typing import Any, Final

from grpc._cython import cygrpc  # type: ignore[attr-defined]

CompletionQueue: Final[Any] = cygrpc.CompletionQueue
CompletionType: Final[Any] = cygrpc.CompletionType
Server: Final[Any] = cygrpc.Server
auth_context: Final[Any] = cygrpc.auth_context

_ReceiveClose: Final[Any] = cygrpc.ReceiveCloseOnServerOperation
_ReceiveMessage: Final[Any] = cygrpc.ReceiveMessageOperation
_SendInitialMetadata: Final[Any] = cygrpc.SendInitialMetadataOperation
_SendMessage: Final[Any] = cygrpc.SendMessageOperation
_SendStatus: Final[Any] = cygrpc.SendStatusFromServerOperation

_NO_FLAGS: Final = 0


def receive_close() -> Any:
    """Hear of the end of a call; the operation says then whether it was `cancelled`."""
    return _ReceiveClose(_NO_FLAGS)


def receive_message() -> Any:
    """Receive one message; the operation has it as `message`, None if there is none any more."""
    return _ReceiveMessage(_NO_FLAGS)


def send_initial_metadata() -> Any:
    """Send the headers of the answer, without any of ours."""
    return _SendInitialMetadata(None, _NO_FLAGS)


def send_message(data: bytes) -> Any:
    """Send one message."""
    return _SendMessage(data, _NO_FLAGS)


def send_status(code: int, details: str, trailers: Any) -> Any:
    """Send the status, by its number, and the trailing metadata, as pairs or None."""
    return _SendStatus(trailers, code, details.encode("utf-8", "replace"), _NO_FLAGS)
