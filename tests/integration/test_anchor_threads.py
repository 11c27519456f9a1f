"""Files of a log are used in threads only: a disk or bucket that hangs stops nobody else.

Logs are opened while others are served: by CreateLog, and after a failure.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa

from anchor_svc.tilefiles import DirectoryFiles
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import DataLossError
from tests.support.anchoring import LOG_UID, Ledger, OneLog, keys_of, running_log, submit

pytestmark = pytest.mark.timeout(60)


class Watched(DirectoryFiles):
    """A directory that knows what was done on the event loop, which is the main thread."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / "logs" / LOG_UID.hex())
        self.calls = 0
        self.on_the_loop: list[str] = []

    def _note(self, what: str) -> None:
        self.calls += 1
        if threading.current_thread() is threading.main_thread():
            self.on_the_loop.append(what)

    def read(self, path: str) -> bytes | None:
        self._note(f"read {path}")
        return super().read(path)

    def write(self, contents: Iterable[tuple[str, bytes]]) -> None:
        self._note("write")
        super().write(contents)

    def replace_checkpoint(self, note: bytes) -> None:
        self._note("replace checkpoint")
        super().replace_checkpoint(note)

    def drop_partials(self, full_path: str) -> None:
        self._note(f"drop {full_path}")
        super().drop_partials(full_path)


async def test_no_file_is_waited_for_on_the_event_loop(database_url: str, tmp_path: Path) -> None:
    files, ledger = Watched(tmp_path), Ledger()
    ledger.grow(900)
    for start, end in ((0, 300), (300, 900)):
        async with running_log(database_url, tmp_path, files=files) as log:
            await submit(log, ledger, start, end)
            await log.publisher.publish(log.state.signed_view())
            await log.reader.batch_inclusion(ledger.uid, [0, end - 1], 0)
            await log.reader.consistency(1, end + 1)
    assert files.calls > 10
    assert files.on_the_loop == []


class Slow(DirectoryFiles):
    """A directory that keeps readers of one file waiting until `go_on`."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / "logs" / LOG_UID.hex())
        self.slow = ""
        self.go_on = threading.Event()

    def read(self, path: str) -> bytes | None:
        if path == self.slow:
            self.go_on.wait(60)
        return super().read(path)


async def test_slow_tiles_keep_their_readers_waiting_and_nobody_else(tmp_path: Path) -> None:
    url, files, ledger = f"sqlite:///{tmp_path}/log.db", Slow(tmp_path), Ledger()
    ledger.grow(600)
    async with running_log(url, tmp_path, files=files) as log:
        stub = OneLog(log, keys_of(log))
        await submit(log, ledger, 0, 300)
        await log.publisher.publish(log.state.signed_view())
        files.slow = "tile/entries/000"
        request = pb.GetTileRequest(log="logs/-", path=files.slow)
        # More than the event loop has threads, on any machine.
        reading = [asyncio.ensure_future(stub.GetTile(request)) for _ in range(64)]
        try:
            await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await submit(log, ledger, 300, 600)
                await log.publisher.publish(log.state.signed_view())
            assert not any(each.done() for each in reading)
        finally:
            files.go_on.set()
        assert all(each.data for each in await asyncio.gather(*reading))


async def test_nor_for_saying_what_is_wrong(tmp_path: Path) -> None:
    """A stored root that is another makes the start look through what is there."""
    url, files, ledger = f"sqlite:///{tmp_path}/log.db", Watched(tmp_path), Ledger()
    ledger.grow(600)
    async with running_log(url, tmp_path, files=files) as log:
        await submit(log, ledger)
        await log.publisher.publish(log.state.signed_view())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE logs SET root = zeroblob(32)"))
    engine.dispose()
    with pytest.raises(DataLossError) as caught:
        async with running_log(url, tmp_path, files=files):
            pass
    assert caught.value.reason == "ROOT_MISMATCH"
    assert files.on_the_loop == []
