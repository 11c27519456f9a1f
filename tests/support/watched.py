"""A log behind a web server, and single looks of a monitor at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provledger.monitoring import LogView
from provledger.retry import RetryPolicy
from provledger_cli.tlog.fetching import Fetcher
from provledger_cli.tlog.logfiles import Files, HTTPFiles
from provledger_cli.watching.alarms import Look
from provledger_cli.watching.monitor import Monitor, Wanted
from provledger_cli.watching.remembered import Memory
from tests.support.tiled import vkey
from tests.support.webroot import WebRoot

ORIGIN = "log.example/one"
KEY = vkey(ORIGIN)
ENTRIES = [b"entry %d" % index for index in range(1000)]
FORKED = [*ENTRIES[:300], b"another", *ENTRIES[301:]]
QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.002, budget_s=1.0)


class Clock:
    """Unix seconds that a test sets."""

    now = 1_800_000_000

    def __call__(self) -> float:
        return self.now


def monitor(files: Files, state: Path, clock: Clock | None = None, **wanted: Any) -> Monitor:
    """A monitor that knows nothing but its state file."""
    view = LogView([KEY])
    return Monitor(
        view,
        files,
        Memory(state, view),
        Wanted(**wanted),
        clock=clock or Clock(),
        sleep=lambda seconds: None,
    )


def look(web: WebRoot, state: Path, clock: Clock | None = None, **wanted: Any) -> Look:
    """One look, by a monitor that was just started."""
    fetcher = Fetcher(web.url, retry=QUICK, timeout_s=5.0)
    try:
        return monitor(HTTPFiles(fetcher), state, clock, **wanted).look()
    finally:
        fetcher.close()


def kinds(found: Look) -> list[str]:
    """The alarms of a look, by their kind."""
    return [alarm.kind for alarm in found.alarms]
