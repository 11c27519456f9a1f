"""Processor time of the services: what an append costs, whatever else the machine does."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SERVICES = ("ledger", "witness", "anchor", "keys")


def seconds(pid: int) -> float:
    """User and system time of a process and of its children that still run, in seconds."""
    found = _of(Path("/proc", str(pid)))
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _parent(folder) == pid:
            found += _of(folder)
    return found


def _fields(folder: Path) -> list[str]:
    try:
        return (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _of(folder: Path) -> float:
    fields = _fields(folder)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if fields else 0.0


def _parent(folder: Path) -> int:
    fields = _fields(folder)
    return int(fields[1]) if fields else 0


class Meter:
    """Measures what the services of a data directory, and this process, use meanwhile."""

    def __init__(self, running: Mapping[str, Any]) -> None:
        self._pids = {name: running[name]["pid"] for name in SERVICES if name in running}

    async def of(self, count: int, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns, with processor seconds for each 10,000 of `count` receipts."""
        before = {name: seconds(pid) for name, pid in self._pids.items()}
        own = time.process_time()
        result = await work
        used = {name: seconds(pid) - before[name] for name, pid in self._pids.items()}
        used["client"] = time.process_time() - own
        scale = 10_000 / count
        services = sum(value for name, value in used.items() if name != "client")
        return {
            **result,
            "cpu_s_per_10k": {name: round(value * scale, 3) for name, value in used.items()},
            "services_cpu_s_per_10k": round(services * scale, 3),
        }
