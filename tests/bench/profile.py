"""Where the time of an append goes: what of each service's processor time is spent in what.

Two looks at the same load. The kernel tells how much of a service's time is its own (system time)
and how often its threads gave way to each other (context switches): that is the price of waiting
for sockets in threads, which is how gRPC's core does it. py-spy tells, 200 times a second, which
Python function holds the interpreter: what is called from there, protobuf, hashes and JSON among
it, counts as that function's.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from provledger.client import AsyncClient
from tests.bench.endtoend import batched, client_of, services, singles
from tests.bench.latency import steady
from tests.bench.processor import Meter

PROFILED = ("ledger", "witness", "anchor")
SAMPLES_PER_S = 200
SHOWN = 12

Load = Callable[[AsyncClient, int], Awaitable[dict[str, Any]]]

LOADS: dict[str, tuple[int, Load]] = {
    "batched_500": (60_000, lambda client, first: batched(client, first, 60_000)),
    "single_64_in_flight": (12_000, lambda client, first: singles(client, first, 12_000, 64)),
    "steady_500_to_checkpoint": (
        4_000,
        lambda client, first: steady(client, first, 500, 8, checkpoint=True),
    ),
}
"""For each load: how many receipts it makes, and how."""


async def run(folder: Path, database_url: str | None) -> dict[str, Any]:
    """Profile all loads on one backend, one after the other; first without py-spy, then with it."""
    found: dict[str, Any] = {}
    with services(folder / "data", database_url) as running:
        async with client_of(running) as client:
            await batched(client, 0, 4_000)
            for number, (name, (count, load)) in enumerate(LOADS.items()):
                first = (2 * number + 1) * 1_000_000
                found[name] = await Meter(running).of(count, load(client, first))
                profiles = {each: folder / f"{name}-{each}.txt" for each in PROFILED}
                spies = [await _spy(running[each]["pid"], path) for each, path in profiles.items()]
                await load(client, first + 1_000_000)
                for spy in spies:
                    spy.send_signal(signal.SIGINT)
                    await spy.wait()
                found[name]["held_by"] = {
                    each: shares(path.read_text()) for each, path in profiles.items()
                }
    return found


async def _spy(pid: int, out: Path) -> asyncio.subprocess.Process:
    """Begin to profile a process; it writes its stacks when it is interrupted."""
    binary = Path(sys.executable).with_name("py-spy")
    options = ["--gil", "--rate", str(SAMPLES_PER_S), "--format", "raw", "--output", str(out)]
    spy = await asyncio.create_subprocess_exec(
        str(binary), "record", "--pid", str(pid), "--nonblocking", *options,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert spy.stdout is not None
    line = await spy.stdout.readline()
    assert b"Sampling process" in line, f"py-spy: {line.decode()}"
    return spy


def shares(stacks: str) -> dict[str, float]:
    """Parts of the samples by the file of the innermost Python function, the largest first."""
    held: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        place = frames.rpartition(";")[2]
        held[_file(place)] += int(count)
    total = held.total() or 1
    return {name: round(count / total, 3) for name, count in held.most_common(SHOWN)}


def _file(place: str) -> str:
    """From `function (folder/file.py:12)` to `folder/file.py`."""
    return place.rpartition(" (")[2].rpartition(":")[0] or place
