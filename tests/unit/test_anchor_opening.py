"""Sinks that are asked to prove themselves, or to let go, and do neither in time or at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anchor_svc import opening
from anchor_svc.sinks import SinkError
from provledger.settings import ConfigError


class Odd:
    """A sink of somebody's own, in the part that is asked here."""

    uri = "odd://x"

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work

    async def check(self) -> None:
        await self._work()

    async def close(self) -> None:
        await self._work()


def _raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


async def _never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("work", [_never, _raising(ValueError("x")), _raising(SinkError("away"))])
async def test_no_sink_keeps_an_anchor_from_starting(
    work: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """One that never answered kept it for good, and ended it by what nobody foresaw."""
    sinks: list[Any] = [Odd(work), Odd(_never)]
    async with asyncio.timeout(30):
        await opening.prove(sinks, 0.01)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["anchor.sink_not_proven"] * 2


async def test_a_sink_that_is_not_what_it_should_be_is_refused() -> None:
    sink: Any = Odd(_raising(ConfigError("the bucket locks nothing")))
    with pytest.raises(ConfigError, match="locks nothing"):
        await opening.prove([sink], 30.0)


async def test_no_sink_keeps_the_others_from_being_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opening, "_CLOSE_S", 0.01)
    sinks: list[Any] = [Odd(_never), Odd(_raising(ValueError("x")))]
    async with asyncio.timeout(30):
        await opening.close_sinks(sinks)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["anchor.sink_not_closed"] * 2
