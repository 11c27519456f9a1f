"""A service with a watch on its event loop: `python -m tests.bench.probed ledger REPORT`.

The service is the real one, with its usual settings. Beside its work runs a task that asks to be
woken each millisecond and notes two things: how late it was, which on a busy machine counts the
time others had the processor, and how much of the processor the loop's thread used meanwhile,
which counts only our own work between two turns of the loop. When the service ends, all of it is
written to REPORT as JSON, each with its time, so that who asked for the work picks those in which
there was some (`held`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from provledger.rpc.server import App, main
from tests.bench.timing import summary_ms

EVERY_S = 0.001


class Watch:
    """Notes how the event loop keeps up."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._notes: list[tuple[float, float, float]] = []

    async def run(self) -> None:
        """Note until cancelled, then write the report."""
        try:
            while True:
                begun_s, used_s = time.monotonic(), time.thread_time()
                await asyncio.sleep(EVERY_S)
                self._notes.append((begun_s, time.monotonic(), time.thread_time() - used_s))
        finally:
            self._report.write_text(json.dumps(self._notes))


def held(notes: Sequence[Sequence[float]], begin_s: float, end_s: float) -> dict[str, Any]:
    """How late the loop was and how busy, in the notes of a report that touch a time."""
    within = [note for note in notes if note[1] >= begin_s and note[0] <= end_s]
    late = [max(0.0, woken_s - begun_s - EVERY_S) for begun_s, woken_s, _ in within]
    return {
        name: {**summary_ms(values), "max_ms": round(max(values) * 1e3, 3)}
        for name, values in (("late", late), ("busy", [busy_s for _, _, busy_s in within]))
    }


def probed(build: Callable[[Any], Awaitable[App]], report: Path) -> Callable[[Any], Awaitable[App]]:
    """Return `build` with the watch added."""

    async def build_probed(settings: Any) -> App:
        app = await build(settings)
        return dataclasses.replace(app, background=(*app.background, Watch(report).run))

    return build_probed


if __name__ == "__main__":
    service, file = sys.argv[1:3]
    app_module = import_module(f"{service}_svc.app")
    config_module = import_module(f"{service}_svc.config")
    main(service, config_module.Settings, probed(app_module.build, Path(file)), [])
