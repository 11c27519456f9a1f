"""Processor time of the services: what an append costs, whatever else the machine does."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")
SERVICES = ("ledger", "witness", "anchor", "keys")


class Usage(NamedTuple):
    """Processor time in user and in system mode, in seconds; context switches of all threads."""

    user_s: float
    system_s: float
    switches: int

    def minus(self, before: Usage) -> Usage:
        """What was used since."""
        return Usage(
            self.user_s - before.user_s,
            self.system_s - before.system_s,
            self.switches - before.switches,
        )


def usage(pid: int) -> Usage:
    """What a process, and its children that still run, have used."""
    folders = [Path("/proc", str(pid))]
    folders += [
        folder
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _parent(folder) == pid
    ]
    users_s, systems_s, switches = zip(*map(_of, folders), strict=True)
    return Usage(sum(users_s), sum(systems_s), sum(switches))


def seconds(pid: int) -> float:
    """User and system time of a process and of its children that still run, in seconds."""
    used = usage(pid)
    return used.user_s + used.system_s


def _fields(folder: Path) -> list[str]:
    try:
        return (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _of(folder: Path) -> Usage:
    fields = _fields(folder)
    if not fields:
        return Usage(0.0, 0.0, 0)
    switches = 0
    for status in folder.glob("task/*/status"):
        with contextlib.suppress(OSError):  # a thread that has ended
            switches += sum(map(int, _SWITCHES.findall(status.read_text())))
    return Usage(int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S, switches)


def _parent(folder: Path) -> int:
    fields = _fields(folder)
    return int(fields[1]) if fields else 0


class Meter:
    """Measures what the services of a data directory, and this process, use meanwhile."""

    def __init__(self, running: Mapping[str, Any]) -> None:
        self._pids = {name: running[name]["pid"] for name in SERVICES if name in running}

    async def of(self, count: int, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns, with processor seconds for each 10,000 of `count` receipts.

        With them, the part of a service's time that was the kernel's, and how often one of its
        threads gave way, for each receipt.
        """
        before = {name: usage(pid) for name, pid in self._pids.items()}
        own = time.process_time()
        result = await work
        client_s = time.process_time() - own
        used = {name: usage(pid).minus(before[name]) for name, pid in self._pids.items()}
        scale = 10_000 / count
        spent_s = {name: each.user_s + each.system_s for name, each in used.items()}
        per_10k = {**spent_s, "client": client_s}
        return {
            **result,
            "cpu_s_per_10k": {name: round(value * scale, 3) for name, value in per_10k.items()},
            "services_cpu_s_per_10k": round(sum(spent_s.values()) * scale, 3),
            "kernel_part": {
                name: round(each.system_s / (spent_s[name] or 1.0), 3)
                for name, each in used.items()
            },
            "switches_per_receipt": {
                name: round(each.switches / count, 2) for name, each in used.items()
            },
        }
