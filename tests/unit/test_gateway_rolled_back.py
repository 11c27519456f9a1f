"""Older checkpoints than a gateway has shown: of a copy that lags, or of a log put back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_svc import directory
from gateway_svc.directory import DirectoryLog, DirectorySource
from gateway_svc.published import LAG_S, Published, check_visible, read_published
from gateway_svc.remote import RemoteSource
from gateway_svc.source import Log, Redirect, Source
from provledger.errors import UnavailableError
from provledger.tiles import parse_path
from tests.support.places import MemoryPlace
from tests.support.tiled import signed_checkpoint, tile_files

UID = "ab" * 16
ORIGIN = f"log.test/{UID}"
ENTRIES = [b"%d" % number for number in range(600)]
OLD, NEW, NEWER = (signed_checkpoint(ORIGIN, ENTRIES[:size]) for size in (300, 599, 600))
FORKED = signed_checkpoint(ORIGIN, [*ENTRIES[:598], b"other"])
TILE = parse_path("tile/entries/001")


class Gateway:
    """What a gateway reads through, at a time that is set, from where checkpoints can be put."""

    def __init__(self, source: Callable[[Callable[[], float]], Source]) -> None:
        self.now_s = 1000.0
        self.source = source(lambda: self.now_s)
        self.put: Callable[[bytes], object]

    async def log(self) -> Log:
        found = await self.source.find(UID)
        assert found is not None
        return found

    async def size(self, covering: int | None = None) -> int:
        """Of the checkpoint that is shown, asked for anew."""
        self.now_s += 2.0
        return (await (await self.log()).published(covering)).size

    async def refuses(self) -> None:
        """Checkpoints are refused, which /readyz hears of; tiles go on."""
        self.now_s += 2.0
        log = await self.log()
        with pytest.raises(UnavailableError) as caught:
            await log.published()
        census = await self.source.census()
        assert (census.logs, census.unreadable) == (1, 1)
        assert census.because is not None
        assert (caught.value.reason, census.because.reason) == ("CHECKPOINT_ROLLED_BACK",) * 2
        check_visible(TILE, await log.published(TILE.end))
        content = await log.tile(TILE, elsewhere=False)
        assert not isinstance(content, Redirect)
        content.close()

    async def tells_nothing(self) -> bool:
        """Whether /readyz knows of no log that cannot be read."""
        self.now_s += 2.0
        return (await self.source.census()).unreadable == 0


@pytest.fixture(params=["directory", "remote"])
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Gateway:
    if request.param == "remote":
        place = MemoryPlace(**{UID: tile_files(ENTRIES) | {"checkpoint": NEW}})
        made = Gateway(
            lambda monotonic: RemoteSource(place, max_age_s=1, cache_bytes=0, monotonic=monotonic)
        )
        made.put = lambda signed: place.logs[UID].update(checkpoint=signed)
        return made
    root = tmp_path / "logs" / UID
    for path, data in tile_files(ENTRIES).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    made = Gateway(lambda monotonic: DirectorySource(tmp_path, monotonic=monotonic))

    def put(signed: bytes) -> None:
        (root / "new").write_bytes(signed)
        (root / "new").rename(root / "checkpoint")

    made.put = put
    put(NEW)
    return made


async def test_a_copy_that_lags_changes_nothing(gateway: Gateway) -> None:
    """However often readers are given it in turn with the other."""
    assert await gateway.size() == 599
    for _ in range(4):
        gateway.put(OLD)
        assert await gateway.size() == 599
        gateway.now_s += LAG_S * 0.9
        assert await gateway.size(512) == 599
        assert await gateway.tells_nothing()
        gateway.put(NEW)
        assert await gateway.size() == 599


async def test_an_older_log_is_told_from_a_copy_that_lags(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    assert await gateway.size() == 599
    gateway.put(OLD)
    assert await gateway.size() == 599
    gateway.now_s += LAG_S
    for _ in range(3):
        await gateway.refuses()
    assert caplog.text.count("gateway.checkpoint_rolled_back") == 1
    gateway.put(NEWER)
    # Nobody reads what is said to be unreadable: who asks whether it still is, finds out.
    assert await gateway.tells_nothing()
    assert await gateway.size() == 600


async def test_another_history_of_the_same_size_is_refused_at_once(gateway: Gateway) -> None:
    assert await gateway.size() == 599
    gateway.put(FORKED)
    await gateway.refuses()
    gateway.put(NEW)
    assert await gateway.tells_nothing()
    assert await gateway.size() == 599


async def test_more_signatures_are_no_other_history(gateway: Gateway) -> None:
    assert await gateway.size() == 599
    signed = NEW + signed_checkpoint(ORIGIN, ENTRIES[:599], "other").split(b"\n\n")[1]
    gateway.put(signed)
    assert await gateway.size() == 599
    assert (await (await gateway.log()).published()).note == signed


def test_who_looked_earlier_does_not_come_later_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads that look at the same time, while the next checkpoint is put there."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(NEW)
    with ThreadPoolExecutor(1) as threads:
        log = DirectoryLog(tmp_path, threads)
        others: list[threading.Thread] = []

        def slow(signed: bytes) -> Published:
            if not others:
                (tmp_path / "new").write_bytes(NEWER)
                (tmp_path / "new").rename(checkpoint)
                others.append(threading.Thread(target=log.read))
                others[0].start()
                # He is done by then, or waits for us.
                others[0].join(0.2)
            return read_published(signed)

        monkeypatch.setattr(directory, "read_published", slow)
        log.read()
        others[0].join()
    assert "gateway.checkpoint_rolled_back" not in caplog.text
    assert log.read().size == 600
