"""What the service said at a stream's end is found where gRPC's own error stands in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from provledger.client import ending
from provledger.client.ending import Ending
from provledger.rpc.errors import CORE_ERROR

SAID = (grpc.StatusCode.UNAUTHENTICATED, "ended")
ORDERLY = (grpc.StatusCode.OK, "")
OWN = (grpc.StatusCode.INTERNAL, CORE_ERROR)
FAULT = (grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")

Status = tuple[grpc.StatusCode, str]


class Call:
    """A call that gets one status after another, as gRPC's do."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def set(self, status: Status) -> None:
        self._status = status
        for callback in self._callbacks:
            callback(self)

    async def _known(self) -> Status:
        assert self._status is not None
        return self._status

    async def code(self) -> grpc.StatusCode:
        return (await self._known())[0]

    async def details(self) -> str:
        return (await self._known())[1]

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(("key", "of the service"))


def raised(status: Status) -> grpc.aio.AioRpcError:
    none = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(status[0], none, none, details=status[1])


async def found(ending: Ending, status: Status) -> Status:
    async with asyncio.timeout(10):
        error: Any = await ending.instead_of(raised(status))
    return error.code(), error.details()


@pytest.mark.parametrize("said", [SAID, ORDERLY, FAULT])
@pytest.mark.parametrize("comes_first", [True, False])
async def test_the_status_is_found_whichever_came_first(said: Status, comes_first: bool) -> None:
    call = Call()
    of_call = Ending(call)
    for status in (said, OWN) if comes_first else (OWN, said):
        call.set(status)
    error: Any = await of_call.instead_of(raised(OWN))
    assert (error.code(), error.details()) == said
    assert list(error.trailing_metadata()) == [("key", "of the service")]


async def test_one_that_is_late_is_waited_for() -> None:
    call = Call()
    of_call = Ending(call)
    call.set(OWN)
    asyncio.get_running_loop().call_later(0.01, call.set, SAID)
    assert await found(of_call, OWN) == SAID


async def test_one_that_does_not_come_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "COMES_S", 0.01)
    call = Call()
    of_call = Ending(call)
    call.set(OWN)
    assert await found(of_call, OWN) == OWN


@pytest.mark.parametrize("status", [SAID, FAULT])
async def test_what_is_no_error_of_grpcs_own_stays(status: Status) -> None:
    call = Call()
    of_call = Ending(call)
    call.set(ORDERLY)
    assert await found(of_call, status) == status
