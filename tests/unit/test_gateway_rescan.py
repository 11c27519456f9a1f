"""How often a gateway looks for logs: not once for each who asks for the index or for readiness."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway_svc.directory import RESCAN_S, DirectoryLog, DirectorySource
from gateway_svc.published import Published
from gateway_svc.remote import RemoteSource
from gateway_svc.source import Census, Source
from provledger.errors import UnavailableError
from tests.support.places import MemoryPlace
from tests.support.tiled import signed_checkpoint

ASKERS = 20
UIDS = ("a" * 32, "b" * 32)


class Logs:
    """Two logs, a source of them at a time that is set, and how often they were looked for."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.source: Source
        self.looks: list[object] = []
        self.put: Callable[[str], object]
        self.away: Callable[[bool], object]


@pytest.fixture(params=["directory", "remote"])
async def logs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Logs:
    made = Logs()
    if request.param == "remote":
        place = MemoryPlace()
        made.looks = place.asked  # type: ignore[assignment]
        made.put = lambda uid: place.logs.update({uid: {"checkpoint": signed(uid)}})
        made.away = lambda away: setattr(place, "away", away)
        made.source = RemoteSource(place, max_age_s=60, cache_bytes=0, monotonic=lambda: made.now_s)
    else:
        root, hidden = tmp_path / "logs", tmp_path / "hidden"
        root.mkdir()
        listed, read = os.listdir, DirectoryLog.read

        def put(uid: str) -> None:
            (root / uid).mkdir()
            (root / uid / "checkpoint").write_bytes(signed(uid))

        def list_names(path: Path) -> list[str]:
            made.looks.append("names")
            return listed(path)

        def read_log(log: DirectoryLog) -> Published:
            made.looks.append(log)
            return read(log)

        monkeypatch.setattr(os, "listdir", list_names)
        monkeypatch.setattr(DirectoryLog, "read", read_log)
        made.put = put
        made.away = lambda away: root.rename(hidden) if away else hidden.rename(root)
        made.source = DirectorySource(tmp_path, monotonic=lambda: made.now_s)
    for uid in UIDS:
        made.put(uid)
    return made


def signed(uid: str) -> bytes:
    return signed_checkpoint(f"log.test/{uid}", [b"x"])


async def test_all_who_ask_at_once_are_told_what_one_look_has_found(logs: Logs) -> None:
    source = logs.source
    for asked in (source.census, source.logs):
        logs.now_s += RESCAN_S
        await asked()
        once = len(logs.looks)
        logs.now_s += RESCAN_S
        logs.looks.clear()
        await asyncio.gather(
            *(ask() for _ in range(ASKERS) for ask in (source.census, source.logs))
        )
        assert await source.find("c" * 32) is None
        assert 0 < len(logs.looks) <= once
        logs.looks.clear()
        logs.now_s += RESCAN_S * 0.9
        assert await source.census() == Census(2)
        assert len(await source.logs()) == 2
        assert logs.looks == []
    logs.put("c" * 32)
    logs.now_s += RESCAN_S
    assert await source.census() == Census(3)
    assert [one.origin[-1] for one in await source.logs()] == ["a", "b", "c"]


async def test_so_they_are_where_it_fails(logs: Logs) -> None:
    source = logs.source
    assert await source.census() == Census(2)
    logs.away(True)
    logs.now_s += RESCAN_S
    logs.looks.clear()
    asked: list[Callable[[], Awaitable[object]]] = [source.census, source.logs]
    errors = await asyncio.gather(
        *(ask() for _ in range(ASKERS) for ask in asked), return_exceptions=True
    )
    assert {type(error) for error in errors} == {UnavailableError}
    assert len({id(error) for error in errors}) == len(errors)
    with pytest.raises(UnavailableError):
        await source.find("c" * 32)
    assert logs.looks == ["names"]
    logs.away(False)
    logs.now_s += RESCAN_S
    assert await source.census() == Census(2)
