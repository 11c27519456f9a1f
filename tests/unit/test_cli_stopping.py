"""Work that ends in order when a signal comes, and at once at the second."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provledger_cli.stopping import run_until_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_the_source(number: signal.Signals) -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), number)
        await stopped.wait()

    assert await run_until_signal(work(), stopped.set)


@pytest.mark.parametrize(("signals", "grace_s"), [(2, 60.0), (1, 0.01)])
async def test_the_second_signal_or_the_time_ends_what_does_not_end(
    signals: int, grace_s: float
) -> None:
    stops = 0

    def stop() -> None:
        nonlocal stops
        stops += 1

    async def work() -> None:
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    assert await asyncio.wait_for(run_until_signal(work(), stop, grace_s=grace_s), 10)
    assert stops == 1


async def test_without_a_signal_the_work_is_what_it_is() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def succeeds() -> None:
        return

    with pytest.raises(ZeroDivisionError):
        await run_until_signal(fails(), lambda: None)
    assert not await run_until_signal(succeeds(), lambda: None)


WRITING = """
import asyncio, signal, sys
from pathlib import Path
from provledger_cli import failures, placing
from provledger_cli.connect import run_async

async def wait():
    await asyncio.Event().wait()

def app():
    with placing.writing(Path("out")) as file:
        file.write(b"payload")
        file.flush()
        print("written", flush=True)
        run_async(wait()) if sys.argv[1] == "async" else signal.pause()

failures.run(app)
"""

SUPERVISING = """
import asyncio, sys
from pathlib import Path
from provledger_cli import failures
from provledger_cli.embedded import supervisor
from provledger_cli.embedded.datadir import DataDir

class Waiting(supervisor.Supervisor):
    def __init__(self, *_):
        self.stopping = asyncio.Event()

    def stop(self):
        self.stopping.set()

    async def run(self):
        print("written", flush=True)
        await self.stopping.wait()
        print("in order", flush=True)

supervisor.Supervisor = Waiting
failures.run(lambda: asyncio.run(supervisor.supervise(DataDir(Path()), print)))
"""


def started(tmp_path: Path, *code: str) -> subprocess.Popen[bytes]:
    """A command, with what signals do at first, that has begun."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        running = subprocess.Popen(
            [sys.executable, "-c", *code],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert running.stdout is not None
    assert running.stdout.readline() == b"written\n"
    return running


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_a_command_that_is_told_to_end_leaves_nothing_half_written(
    tmp_path: Path, kind: str, number: signal.Signals, ctrl_c: signal._HANDLER
) -> None:
    """Where Ctrl-C is ignored as well, as scripts have it for what they start in the background."""
    before = signal.signal(signal.SIGINT, ctrl_c)
    try:
        running = started(tmp_path, WRITING, kind)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list(tmp_path.iterdir())) == 1
    running.send_signal(number)
    _, talk = running.communicate(timeout=60)
    assert (running.returncode, b"interrupted" in talk) == (2, True), talk.decode()
    assert b"Traceback" not in talk
    assert list(tmp_path.iterdir()) == []


def test_a_hang_up_ends_in_order_what_ctrl_c_does(tmp_path: Path) -> None:
    """A handler of asyncio is called for the signal it was made for, and for no other."""
    running = started(tmp_path, SUPERVISING)
    running.send_signal(signal.SIGHUP)
    said, talk = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, b"in order\n"), talk.decode()


HANGING_UP = """
import signal, sys
from provledger_cli import failures

def app():
    try:
        signal.raise_signal(signal.SIGHUP)
        print("goes on")
    finally:
        signal.raise_signal(signal.SIGHUP)
        print("cleaned up")

failures.run(app)
"""


@pytest.mark.parametrize(
    ("at_first", "code", "said"),
    [(signal.SIG_DFL, 2, b"cleaned up\n"), (signal.SIG_IGN, 0, b"goes on\ncleaned up\n")],
    ids=["", "nohup"],
)
def test_a_second_hang_up_does_not_disturb_the_end_and_nohup_none(
    at_first: signal._HANDLER, code: int, said: bytes
) -> None:
    before = signal.signal(signal.SIGHUP, at_first)
    try:
        done = subprocess.run(
            [sys.executable, "-c", HANGING_UP], capture_output=True, check=False, timeout=60
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (done.returncode, done.stdout) == (code, said), done.stderr.decode()
