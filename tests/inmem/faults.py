"""Makes a stub method fail, as a service that is away or that refuses would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from provledger.errors import StatusError, UnavailableError
from provledger.rpc.errors import CODES, DETAILS_KEY, to_status


def rpc_error(error: StatusError) -> grpc.aio.AioRpcError:
    """What a generated stub raises when the service answers with `error`."""
    status = to_status(error)
    return grpc.aio.AioRpcError(
        CODES[error.code],
        grpc.aio.Metadata(),
        grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString())),
        details=status.message,
    )


class Faults:
    """What goes wrong with the calls of one service.

    `down` refuses every call; `before` and `after` are called with each method's name and request,
    and may raise: before it is worked on, or after, when the answer is lost.
    """

    def __init__(self) -> None:
        self.down = False
        self.before: Callable[[str, Any], None] | None = None
        self.after: Callable[[str, Any], None] | None = None
        self.calls: list[str] = []

    def enter(self, method: str, request: Any) -> None:
        self.calls.append(method)
        if self.down:
            raise rpc_error(UnavailableError("DOWN", "the service is away"))
        self._run(self.before, method, request)

    def leave(self, method: str, request: Any) -> None:
        self._run(self.after, method, request)

    def _run(self, hook: Callable[[str, Any], None] | None, method: str, request: Any) -> None:
        if hook is None:
            return
        try:
            hook(method, request)
        except StatusError as error:
            raise rpc_error(error) from None
