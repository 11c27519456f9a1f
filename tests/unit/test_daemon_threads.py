"""Threads that keep no process from ending: a pool all the same."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import pytest

from provledger.daemon_threads import DaemonThreads


def test_what_comes_of_it_comes_back() -> None:
    with DaemonThreads(2, "test") as threads:
        assert threads.submit(divmod, 7, 2).result(60) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            threads.submit(divmod, 7, 0).result(60)
        assert threads.submit(lambda: threading.current_thread().daemon).result(60)


def test_no_more_at_once_than_there_may_be() -> None:
    together = threading.Barrier(3)
    with DaemonThreads(3, "test") as threads:
        names = [
            threads.submit(lambda: (together.wait(60), threading.current_thread().name)[1])
            for _ in range(9)
        ]
        assert {name.result(60) for name in names} == {"test-0", "test-1", "test-2"}


def test_an_idle_thread_is_taken_before_another_is_started() -> None:
    with DaemonThreads(3, "test") as threads:
        for _ in range(9):
            threads.submit(lambda: None).result(60)
            # It is idle a moment after its answer is there.
            assert threads._idle.acquire(timeout=60)
            threads._idle.release()
        assert len(threads._threads) == 1


def test_shut_down_waits_for_what_was_begun_and_begins_nothing() -> None:
    threads, begun, go_on = DaemonThreads(1, "test"), threading.Event(), threading.Event()

    def hang() -> int:
        begun.set()
        assert go_on.wait(60)
        return 7

    running, waiting = threads.submit(hang), threads.submit(hang)
    assert begun.wait(60)
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(60)
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(hang)
    go_on.set()
    threads.shutdown()
    assert running.done()
    assert running.result() == 7


def test_shut_down_does_what_it_was_given_before() -> None:
    threads = DaemonThreads(2, "test")
    given = [threads.submit(str, number) for number in range(20)]
    threads.shutdown()
    assert not wait(given, 0).not_done


def test_a_thread_that_cannot_be_started_leaves_nothing_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at a limit of processes."""
    threads = DaemonThreads(2, "test")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(lambda: None)
    assert threads.submit(lambda: 7).result(60) == 7
    threads.shutdown()
