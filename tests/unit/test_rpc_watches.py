"""Watches are ended between two messages, and never in the middle of the first one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from provledger.errors import UnavailableError
from provledger.rpc.watches import Watches


class Context:
    """What gRPC gives a servicer; after some messages none goes until `flow` is set."""

    def __init__(self, goes: int = 0) -> None:
        self.goes = goes
        self.writing = asyncio.Event()
        self.flow = asyncio.Event()
        self.sent: list[int] = []
        self.is_cancelled = False

    async def write(self, message: int) -> None:
        if len(self.sent) >= self.goes:
            self.writing.set()
            await self.flow.wait()
        self.sent.append(message)

    def cancelled(self) -> bool:
        return self.is_cancelled


async def _two_messages(request: Any, context: Any) -> None:
    await context.write(1)
    await context.write(2)
    await asyncio.Event().wait()


def _begin(watches: Watches, context: Context) -> asyncio.Task[Any]:
    return asyncio.ensure_future(watches.ending(_two_messages)(b"", context))


async def _refusal(watch: asyncio.Task[Any]) -> str:
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError) as caught:
            await watch
    return caught.value.reason


async def test_the_first_message_goes_out_whole() -> None:
    watches, context = Watches(), Context()
    watch = _begin(watches, context)
    await context.writing.wait()
    watches.end()
    await asyncio.sleep(0)
    assert not watch.done()
    context.flow.set()
    assert await _refusal(watch) == "SERVER_DRAINING"
    assert context.sent == [1]


async def test_a_later_message_that_cannot_go_does_not_hold_up_the_end() -> None:
    watches, context = Watches(), Context(goes=1)
    watch = _begin(watches, context)
    await context.writing.wait()
    watches.end()
    assert await _refusal(watch) == "SERVER_DRAINING"
    assert context.sent == [1]


async def test_those_that_come_later_end_at_once() -> None:
    watches, context = Watches(), Context()
    watches.end()
    assert await _refusal(_begin(watches, context)) == "SERVER_DRAINING"
    assert not context.writing.is_set()


async def test_who_went_away_himself_is_told_nothing() -> None:
    watches, context = Watches(), Context()
    watch = _begin(watches, context)
    await context.writing.wait()
    context.is_cancelled = True
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    watches.end()
