"""ListSinks and RetrySink: what is wrong with a sink can be seen, and a wait can be ended."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.relay import BREAK_AFTER
from anchor_svc.servicer import AnchorServicer
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, SinkIntegrityError
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.errors import IdentifierError, NotFoundError
from provledger.retry import RetryPolicy
from tests.support import anchoring
from tests.support.anchoring import Ledger, TestKeys, eventually, running_log, submit
from tests.support.chain import START_NS
from tests.support.metered import metered

pytestmark = pytest.mark.timeout(60)


class Patient(random.Random):
    """Always takes the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Moody:
    """A sink that does as it is told."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.error: Exception | None = None
        self.asked = 0

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Evidence("moody", b"%d" % checkpoint.size)

    async def close(self) -> None:
        return None


def _servicer(log: OpenLog) -> AnchorServicer:
    logs: Any = SimpleNamespace(get=lambda uid: log)
    return AnchorServicer(logs, TestKeys())


async def listed(log: OpenLog) -> dict[str, Any]:
    answer = await _servicer(log).ListSinks(pb.ListSinksRequest(log="logs/-"), None)
    assert answer.held == ""
    return {sink.uri: sink for sink in answer.sinks}


async def retried(log: OpenLog, sink: str = "") -> list[str]:
    request = pb.RetrySinkRequest(log="logs/-", sink=sink)
    return list((await _servicer(log).RetrySink(request, None)).sinks)


async def test_a_sink_that_fails_shows_why_and_can_be_asked_at_once(tmp_path: Path) -> None:
    good, bad = Moody("moody:good"), Moody("moody:bad")
    bad.error = SinkError("the disk is full")

    def slow(log: OpenLog) -> None:
        # Left to itself, it would be asked again in an hour.
        log.relays._retry = RetryPolicy(attempts=1000, base_s=3600, cap_s=3600, budget_s=1e9)
        log.relays._rng = Patient()

    ledger = Ledger()
    ledger.grow(20)
    url = f"sqlite:///{tmp_path}/log.db"
    async with running_log(url, tmp_path, sinks=[good, bad], prepare=slow, background=True) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.published_size == 21 and bad.asked > 0)
        await eventually(lambda: log.relays._cursors["moody:good"] == 21)
        sinks = await listed(log)
        assert (sinks["moody:good"].tree_size, sinks["moody:good"].lag) == (21, 0)
        assert sinks["moody:good"].evidence_kind == "moody"
        assert sinks["moody:good"].acknowledged_at_ns == START_NS
        assert sinks["moody:good"].last_error == ""
        broken = sinks["moody:bad"]
        assert (broken.tree_size, broken.lag, broken.last_error) == (0, 21, "the disk is full")
        assert broken.failed_at_ns == START_NS
        assert broken.next_try_at_ns == START_NS + 3600 * 10**9
        assert (broken.failures, broken.circuit_open, broken.needs_person) == (1, False, False)

        # Asked again and again, it fails as before, and counts as away at last.
        for failures in range(2, BREAK_AFTER + 1):
            assert await retried(log, "moody:bad") == ["moody:bad"]
            await eventually(
                lambda failures=failures: log.relays._failures["moody:bad"] == failures  # type: ignore[misc]
            )
            await eventually(lambda: "moody:bad" in log.relays._wakes)
        assert (await listed(log))["moody:bad"].circuit_open
        bad.error = SinkIntegrityError("another history is there")
        await retried(log)
        await eventually(lambda: log.relays._failures["moody:bad"] == BREAK_AFTER + 1)
        await eventually(lambda: "moody:bad" in log.relays._wakes)
        assert (await listed(log))["moody:bad"].needs_person
        bad.error = RuntimeError("with a secret in it")
        await retried(log)
        await eventually(lambda: log.relays._failures["moody:bad"] == BREAK_AFTER + 2)
        await eventually(lambda: "moody:bad" in log.relays._wakes)
        assert (await listed(log))["moody:bad"].last_error == "RuntimeError"
        bad.error = None
        assert await retried(log, "moody:bad") == ["moody:bad"]
        await eventually(lambda: log.state.anchored_size == 21)
        sinks = await listed(log)
        assert (sinks["moody:bad"].last_error, sinks["moody:bad"].lag) == ("", 0)
        assert await retried(log) == []
        with pytest.raises(NotFoundError):
            await retried(log, "moody:other")
        with pytest.raises(IdentifierError):
            await retried(log, "x" * 2000)


async def test_metrics_tell_the_logs_apart_that_share_a_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that takes one log is no answer to whether it takes the other one."""
    good, bad = Moody("moody:both"), Moody("moody:both")
    bad.error = SinkError("it refuses this log")

    def hurry(log: OpenLog) -> None:
        log.relays._retry = RetryPolicy(attempts=1000, base_s=0.01, cap_s=0.02, budget_s=1e9)

    ledger = Ledger()
    ledger.grow(20)
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("own", "shared")]
    with metered() as meter:

        def reads(name: str, log: OpenLog) -> float | None:
            return meter.value(name, sink="moody:both", log=log.identity.name)

        def published(log: OpenLog, size: int) -> bool:
            name = log.identity.name
            return (
                meter.value("anchor.published_size", log=name) == size
                and meter.value("anchor.flights", log=name) == 0
            )

        async with running_log(
            urls[0], tmp_path, sinks=[bad], prepare=hurry, background=True
        ) as own:
            await submit(own, ledger)
            await eventually(lambda: reads("anchor.sink.circuit_open", own) == 1)
            monkeypatch.setattr(anchoring, "LOG_UID", bytes(16))
            async with running_log(urls[1], tmp_path, sinks=[good], background=True) as shared:
                good.error = SinkError("not yet")
                shared.relays._failures[good.uri] = BREAK_AFTER - 1
                await submit(shared, ledger, end=7)
                await eventually(lambda: reads("anchor.sink.circuit_open", shared) == 1)
                good.error = None
                await retried(shared)
                await eventually(lambda: reads("anchor.sink.circuit_open", shared) == 0)
                await eventually(lambda: reads("anchor.sink.lag", shared) == 0)
                assert reads("anchor.sink.circuit_open", own) == 1
                await eventually(lambda: reads("anchor.sink.lag", own) == 21)
                assert (reads("anchor.sink.failed", own) or 0) >= BREAK_AFTER
                assert reads("anchor.sink.failed", shared) == 1
                assert (reads("anchor.sink.anchored", shared) or 0) >= 1
                assert reads("anchor.sink.anchored", own) is None
                for log, size in ((own, 21), (shared, 8)):
                    await eventually(partial(published, log, size))
                # Without the sink there is nothing to raise an alarm about.
                await own.relays.use([])
                assert reads("anchor.sink.circuit_open", own) == 0
                assert reads("anchor.sink.lag", own) == 0
