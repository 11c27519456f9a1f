"""Work that ends in order when a signal comes, and at once at the second."""

from __future__ import annotations

import asyncio
import os
import signal

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
