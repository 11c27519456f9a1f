"""How a stream ended, as the service says it.

A write that fails because the service just ended the stream puts INTERNAL, gRPC's own, in the place
of the status, most often when that had come already. But a call tells each status that it gets to
its callbacks, and does so before the next one takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import grpc

from provledger.rpc.errors import CORE_ERROR

COMES_S: Final = 1.0
"""How long the status may take that ended a stream which could not be written to any more."""


class Ending:
    """Of one call, from its beginning."""

    def __init__(self, call: Any) -> None:
        self._status: grpc.aio.AioRpcError | None = None
        self._came = asyncio.Event()
        call.add_done_callback(self._note)

    async def instead_of(self, error: grpc.RpcError) -> grpc.RpcError:
        """The error, or the status (also OK) that it hides, if that comes."""
        if not _is_of_grpc(error):
            return error
        with suppress(TimeoutError):
            async with asyncio.timeout(COMES_S):
                await self._came.wait()
        return error if self._status is None else self._status

    def _note(self, call: Any) -> None:
        if self._status is not None:
            return
        try:
            # Whoever awaited them would find what came after them.
            code, trailers = _at_once(call.code()), _at_once(call.trailing_metadata())
            details = _at_once(call.details())
        except _NotAtOnceError:
            return
        status = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=details)
        if not _is_of_grpc(status):
            self._status = status
            self._came.set()


def _is_of_grpc(error: Any) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == CORE_ERROR


class _NotAtOnceError(Exception):
    """It would have had to be waited for."""


def _at_once(answering: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for, as those of a call that is done."""
    try:
        answering.send(None)
    except StopIteration as answered:
        return answered.value
    answering.close()
    raise _NotAtOnceError
