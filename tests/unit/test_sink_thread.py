"""The thread of a sink: one thing after another, whatever becomes of who asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from anchor_svc.sinks import SinkError
from anchor_svc.sinks.thread import SinkThread


async def test_one_after_another_and_what_nobody_waits_for_is_not_begun() -> None:
    thread, done, go_on = SinkThread("test"), list[int](), threading.Event()

    def work(number: int) -> Callable[[], int]:
        def run() -> int:
            assert go_on.wait(60)
            done.append(number)
            return number

        return run

    asked = [asyncio.ensure_future(thread.run(work(number))) for number in range(4)]
    await asyncio.sleep(0)
    asked[2].cancel()
    await asyncio.wait([asked[2]])
    go_on.set()
    assert await asyncio.gather(*asked[:2], asked[3]) == [0, 1, 3]
    assert done == [0, 1, 3]
    thread.close()


async def test_errors_come_back_and_the_next_is_done() -> None:
    thread = SinkThread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await thread.run(threading.current_thread) is await thread.run(threading.current_thread)
    thread.close()


async def test_closed_begins_nothing_and_waits_for_nothing() -> None:
    thread, begun, go_on = SinkThread("test"), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert go_on.wait(60)

    hanging = asyncio.ensure_future(thread.run(hang))
    waiting = asyncio.ensure_future(thread.run(lambda: None))
    assert await asyncio.to_thread(begun.wait, 60)
    thread.close()
    thread.close()
    with pytest.raises(SinkError, match="closed"):
        await waiting
    with pytest.raises(SinkError, match="closed"):
        await thread.run(lambda: None)
    go_on.set()
    await hanging


async def test_a_thread_that_cannot_be_started_is_started_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at a limit of processes."""
    thread = SinkThread("test")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(SinkError, match="can't start new thread"):
            await thread.run(lambda: None)
    async with asyncio.timeout(60):
        assert await thread.run(lambda: 7) == 7
    thread.close()
