"""Streams end when the wall clock says so, however it got there, and timers with their streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from provledger.errors import UnauthenticatedError
from provledger.rpc.certificate_ends import LOOK_AGAIN_S, ending
from provledger.rpc.watches import Behaviour

END_S = 1000.0


class Clock:
    """A wall clock that is set; it counts the looks at it, and shows each."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.looks = 0
        self.looked = asyncio.Event()

    def __call__(self) -> float:
        self.looks += 1
        self.looked.set()
        return self.now_s


class Context:
    """What gRPC gives a servicer; nothing goes until `flow` is set."""

    def __init__(self) -> None:
        self.flow = asyncio.Event()
        self.flow.set()
        self.sent: list[int] = []

    async def write(self, message: int) -> None:
        await self.flow.wait()
        self.sent.append(message)

    def cancelled(self) -> bool:
        return False


async def _for_ever(request: Any, context: Any) -> None:
    await context.write(1)
    await asyncio.Event().wait()


def _begin(
    inner: Behaviour, context: Context, clock: Clock, look_again_s: float = 0.001
) -> asyncio.Task[Any]:
    run = ending(inner, lambda _: END_S, clock, look_again_s)
    return asyncio.ensure_future(run(b"", context))


async def _looks(clock: Clock, more: int) -> None:
    async with asyncio.timeout(10):
        for _ in range(more):
            clock.looked.clear()
            await clock.looked.wait()


async def _refusal(stream: asyncio.Task[Any]) -> str:
    async with asyncio.timeout(10):
        with pytest.raises(UnauthenticatedError) as caught:
            await stream
    return caught.value.reason


async def test_a_stream_goes_on_to_the_last_second_and_no_further() -> None:
    clock, context = Clock(END_S), Context()
    stream = _begin(_for_ever, context, clock, LOOK_AGAIN_S)
    await _looks(clock, 2)
    assert not stream.done()
    clock.now_s = END_S + 0.001
    assert await _refusal(stream) == "CLIENT_CERTIFICATE_ENDED"
    assert context.sent == [1]


async def test_a_clock_that_is_set_forward_is_noticed() -> None:
    clock = Clock(0.0)
    stream = _begin(_for_ever, Context(), clock)
    await _looks(clock, 3)
    assert not stream.done()
    clock.now_s = END_S + 1.0
    assert await _refusal(stream) == "CLIENT_CERTIFICATE_ENDED"


async def test_a_clock_that_is_set_back_ends_nothing() -> None:
    clock = Clock(END_S - 0.01)
    stream = _begin(_for_ever, Context(), clock, LOOK_AGAIN_S)
    await _looks(clock, 1)
    # The timer of ten milliseconds finds that there is an hour left.
    clock.now_s = END_S - 3600.0
    await _looks(clock, 1)
    await asyncio.sleep(0)
    assert not stream.done()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream


async def test_the_first_message_goes_out_whole() -> None:
    """gRPC cannot tell of an end that comes in its middle (see `watches`)."""
    clock, context = Clock(0.0), Context()
    context.flow.clear()
    stream = _begin(_for_ever, context, clock)
    await _looks(clock, 1)
    clock.now_s = END_S + 1.0
    await _looks(clock, 1)
    assert not stream.done()
    context.flow.set()
    assert await _refusal(stream) == "CLIENT_CERTIFICATE_ENDED"
    assert context.sent == [1]


async def test_the_clock_is_not_looked_at_once_a_stream_is_over() -> None:
    async def short(request: Any, context: Any) -> str:
        await _looks(clock, 2)
        return "answer"

    clock = Clock(0.0)
    assert await _begin(short, Context(), clock) == "answer"
    looks = clock.looks
    await asyncio.sleep(0.05)
    assert clock.looks == looks
