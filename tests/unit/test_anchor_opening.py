"""Sinks that are asked to prove themselves, or to let go, and do neither in time or at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anchor_svc import opening
from anchor_svc.sinks import SinkError
from anchor_svc.sinks.http import check_url
from provledger import note
from provledger.policy import parse_policy
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


def test_no_name_of_a_policy_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is checked in the event loop, which would wait for its writer's name server."""

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    looked_up: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    vkey = note.format_vkey("w.example", note.COSIGNATURE_ED25519, bytes(range(32)))
    text = f"witness w {vkey} http://witness.example/\nquorum w\n"
    with pytest.raises(ConfigError, match="http:// is for a loopback address or localhost"):
        opening.sinks_for([parse_policy(text.encode())], {})
    assert looked_up == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8:80", "[::1]:8080", "localhost", "LocalHost:1"]
)
def test_this_machine_is_asked_in_clear(host: str) -> None:
    assert not check_url(f"http://{host}/prefix")
    assert check_url(f"https://{host}/prefix")


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0.0.0.0", "[::]", "localhost.example", "127.0.0.1.example", "unix", "dns"]
)
def test_others_are_not(host: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        check_url(f"http://{host}/prefix")
