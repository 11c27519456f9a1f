"""Which lines of a log the fault harness takes for a call that failed, and which not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.said import Said


def line(event: str, level: str = "error", exception: str = "", **fields: Any) -> str:
    shown = {"exception": [exception, "  anchor_svc/publisher.py:89 run"]} if exception else {}
    return json.dumps(
        {"level": level, "service": "anchor", "event": event, "fields": fields, **shown}
    )


POLICY = line("anchor.policy_set", "warning", version=1)
FULL = line("anchor.publish_failed", exception="OSError: No space left on device")
BROKEN = line("anchor.disk_failed", exception="OSError: Input/output error")
IN_WORDS = "SinkError: the directory cannot be used: No space left on device"
SINK = line("anchor.sink_failed", "warning", exception=IN_WORDS)
DATABASE = line("anchor.unfinished", "warning", reason="DATABASE_FULL")
LOST = line("relay.failed", "warning", reason="COMMIT_OUTCOME_UNKNOWN")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text(f"{FULL}\n{BROKEN}\n{SINK}\n{DATABASE}\n{LOST}\n")
    return path


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        ("fsync", "ENOSPC", [FULL]),
        ("rename", "EIO", [BROKEN]),
        ("link", "ENOSPC", [SINK]),
        ("pwrite64", "ENOSPC", [DATABASE]),
        ("fdatasync", "EIO", [LOST]),
    ],
)
def test_a_failure_is_told_by_what_was_added(
    log: Path, call: str, error: str, told: list[str]
) -> None:
    said = Said([log])
    with log.open("a") as file:
        file.write(f"{POLICY}\n")
    assert not said.of(call, error), "what was there before, or says nothing of it"
    with log.open("a") as file:
        file.write("\n".join(told) + "\n")
    assert said.of(call, error) == told


@pytest.mark.parametrize(
    "other",
    [
        line("append.flushed", "info", reason="DATABASE_FULL"),
        FULL[:-10],  # not whole yet
        "OSError: No space left on device",
        POLICY,
        BROKEN,
    ],
)
def test_what_says_something_else_is_no_notice(log: Path, other: str) -> None:
    said = Said([log])
    with log.open("a") as file:
        file.write(f"{other}\n")
    assert not said.of("fsync", "ENOSPC")
    assert not said.of("pwrite64", "ENOSPC")
