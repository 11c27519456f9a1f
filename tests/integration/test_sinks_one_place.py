"""Sinks that are one place: a directory under two names, and many logs in one repository."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from anchor_svc.sinks import PublishedCheckpoint, open_sink
from anchor_svc.sinks.file import FileSink
from tests.conformance.sink_suite import published
from tests.integration.test_anchor_quorum import _hurry
from tests.support.anchoring import Ledger, eventually, running_log, submit
from tests.support.notary import TinyLog

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


async def test_a_directory_under_two_names_is_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one is overtaken between its look and its write, and goes on from there."""
    ledger, looked, overtaken = Ledger(), threading.Event(), threading.Event()
    sinks = [open_sink(f"file://{tmp_path}/sink{query}") for query in ("", "?git=1")]
    write = FileSink._write

    def slow(sink: FileSink, checkpoint: PublishedCheckpoint) -> object:
        if sink is sinks[1] and checkpoint.size == 6:
            looked.set()
            assert overtaken.wait(30.0)
        return write(sink, checkpoint)

    monkeypatch.setattr(FileSink, "_write", slow)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=sinks, background=True, prepare=_hurry
    ) as log:
        await eventually(lambda: log.state.anchored_size == 1)
        for size in (6, 11):
            ledger.grow(5)
            await submit(log, ledger, size - 6)
            await eventually(lambda: log.relays._cursors[sinks[0].uri] == size)  # noqa: B023
            await eventually(looked.is_set)
        overtaken.set()
        await eventually(lambda: log.state.anchored_size == 11)
        assert [each.trouble for each in await log.relays.status()] == [None, None]


async def test_logs_take_turns_in_one_repository(tmp_path: Path) -> None:
    """Each has a sink of its own there, as tenants' logs have."""
    logs = [TinyLog(f"log.test/{number}") for number in range(4)]
    uri = f"file://{tmp_path}/sink?git=1"

    async def commit(log: TinyLog) -> list[bytes]:
        sink = open_sink(uri)
        try:
            return [
                (await sink.anchor(published(size, known_size=size, log=log))).data
                for size in (1, 2, 3)
            ]
        finally:
            await sink.close()

    found = await asyncio.gather(*(commit(log) for log in logs))
    assert len({data for each in found for data in each}) == len(logs) * 3
