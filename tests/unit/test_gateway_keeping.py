"""What the gateway keeps in memory and shares among readers."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway_svc.compressing import Compressor
from gateway_svc.directory import CHUNK_BYTES, DirectoryLog
from gateway_svc.keeping import Kept, Once
from provledger.tiles import encode_bundle, parse_path


def test_the_least_recently_used_goes_first() -> None:
    kept: Kept[int, str] = Kept("test", 3 * 1512)
    for number in (1, 2, 3):
        kept.put(number, str(number), 1000)
    assert kept.get(1) == "1"
    kept.put(4, "4", 1000)
    assert [kept.get(number) for number in (1, 2, 3, 4)] == ["1", None, "3", "4"]
    kept.put(1, "other", 500)
    assert kept.bytes == 2 * 1512 + 1012
    kept.put(5, "5", 10_000)
    assert kept.get(5) is None
    assert kept.bytes <= 3 * 1512


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    once: Once[str, int] = Once()
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 7

    waiting = [asyncio.ensure_future(once.do("x", work)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == [7, 7]


def test_nothing_is_kept_for_longer_than_it_may() -> None:
    now_s = 0.0
    kept: Kept[int, str] = Kept("test", 10_000, max_age_s=10, monotonic=lambda: now_s)
    kept.put(1, "1", 100)
    now_s = 9.9
    assert kept.get(1) == "1"
    now_s = 10.0
    assert kept.get(1) is None
    kept.put(1, "new", 100)
    assert kept.get(1) == "new"
    assert kept.bytes == 612


class SlowDisk(ThreadPoolExecutor):
    """Reads wait until `ready` is set."""

    def __init__(self) -> None:
        super().__init__(4)
        self.ready = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(lambda: (self.ready.wait(10), fn(*args, **kwargs))[1])


async def test_a_reader_who_gives_up_does_not_spoil_what_is_kept(tmp_path: Path) -> None:
    """His file is closed, and its number soon is that of another one."""
    bundles = [encode_bundle([bytes([each]) * 1400] * 256) for each in (1, 2)]
    assert len(bundles[0]) > CHUNK_BYTES
    path = tmp_path / "tile" / "entries"
    path.mkdir(parents=True)
    for number, bundle in enumerate(bundles):
        (path / f"00{number}").write_bytes(bundle)
    disk = SlowDisk()
    log, compressor = DirectoryLog(tmp_path, disk), Compressor(1 << 20)

    async def read(name: str) -> bytes:
        tile = parse_path(f"tile/entries/{name}")
        content = await log.tile(tile)
        try:
            return gzip.decompress(await compressor.gzipped(name, tile, content))
        finally:
            content.close()

    impatient = asyncio.create_task(read("000"))
    patient = asyncio.create_task(read("000"))
    for _ in range(3):
        await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    others = [os.open(path / "001", os.O_RDONLY) for _ in range(8)]
    disk.ready.set()
    try:
        assert await patient == bundles[0]
        assert await read("000") == bundles[0]
    finally:
        for fd in others:
            os.close(fd)
        compressor.close()
        disk.shutdown()
