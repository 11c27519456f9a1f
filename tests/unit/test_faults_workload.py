"""The clients of tests/faults write down every refusal that no fault excuses, the watcher's too,
and excuse none for good."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.errors import StatusError
from provledger.rpc.channel import channel
from tests.faults import workload
from tests.faults.onlookers import Onlookers
from tests.faults.record import Record, read
from tests.faults.workload import Workload

ASKED = 3


class _Anchor(anchor_pb2_grpc.AnchorServiceServicer):
    """One that refuses to show a checkpoint."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self.asked = 0

    async def GetCheckpoint(self, request: Any, context: Any) -> Any:
        self.asked += 1
        await context.abort(self._code, "denied")


async def _watch(work: Onlookers, anchor: _Anchor) -> None:
    """Let the watcher ask a few times."""
    server = grpc.aio.server()
    anchor_pb2_grpc.add_AnchorServiceServicer_to_server(anchor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}") as opened:
        watching = asyncio.create_task(work.watch(anchor_pb2_grpc.AnchorServiceStub(opened)))
        async with asyncio.timeout(30.0):
            while anchor.asked < ASKED and not watching.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    await server.stop(0.0)


@pytest.mark.parametrize(
    ("code", "excused", "noted"),
    [
        (grpc.StatusCode.INTERNAL, False, True),
        (grpc.StatusCode.NOT_FOUND, False, True),
        (grpc.StatusCode.DATA_LOSS, False, True),
        (grpc.StatusCode.DATA_LOSS, True, False),
        (grpc.StatusCode.UNAVAILABLE, False, False),
    ],
)
def test_the_watcher_notes_refusals(
    tmp_path: Path, code: grpc.StatusCode, excused: bool, noted: bool
) -> None:
    record = Record(tmp_path / "record")
    excuses: Callable[[StatusError], bool] = lambda _: excused  # noqa: E731
    work = Onlookers(record, "seed", [], [workload.SHARED_LOG], excuses)
    asyncio.run(_watch(work, _Anchor(code)))  # type: ignore[abstract]
    record.close()
    codes = {item.code for item in read(record.path).refused}
    assert codes == ({code.name} if noted else set())


@pytest.mark.parametrize("comes", [True, False])
def test_a_workload_ends_when_its_watcher_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    monkeypatch.setattr(workload, "SETTLE_S", 30.0 if comes else 0.0)
    record = Record(tmp_path / "record")
    work = Workload([], "", record, "seed", ledgers=[])
    answered = work._onlookers.answered
    answered[workload.SHARED_LOG] = 1

    async def watch() -> None:
        if comes:
            answered[workload.SHARED_LOG] += 1
        await asyncio.Event().wait()

    async def end() -> None:
        watching = asyncio.create_task(watch())
        try:
            await work._read_on([watching])
        finally:
            watching.cancel()

    expected = contextlib.nullcontext() if comes else pytest.raises(AssertionError, match="logs/-")
    with expected:
        asyncio.run(end())
    record.close()
