"""What services say of a failure in their logs, among all else that they say."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

_LEVELS = frozenset({"warning", "error", "critical"})
_DATABASE = re.compile(r"\bDATABASE_[A-Z]+|\bCOMMIT_OUTCOME_UNKNOWN\b|\bOperationalError\b")
_ON_DATABASES = frozenset({"pwrite64", "fdatasync"})
"""Calls that hardly anything but SQLite makes, which has its own words for what it met."""


class Said:
    """Lines that are added to log files from now on."""

    def __init__(self, logs: Iterable[Path]) -> None:
        self._logs = {log: log.stat().st_size for log in logs}

    def of(self, call: str, error: str) -> list[str]:
        """The warnings and worse of calls that failed: `error` is a name such as ENOSPC."""
        said = _DATABASE if call in _ON_DATABASES else _of_files(error)
        return [line for line in self.lines() if is_trouble(line) and said.search(line)]

    def lines(self) -> list[str]:
        """All that was added; the last one may not be whole yet."""
        return [
            line
            for log, start in self._logs.items()
            for line in log.read_bytes()[start:].decode(errors="replace").splitlines()
        ]


def _of_files(error: str) -> re.Pattern[str]:
    # The type of an exception and, if its message is the system's, that; a sink puts it in words.
    text = re.escape(os.strerror(getattr(errno, error)))
    return re.compile(rf"\bOSError: {text}|\bthe directory cannot be used: {text}")


def is_trouble(line: str) -> bool:
    """Whether a line of a log is a warning or worse."""
    try:
        return json.loads(line)["level"] in _LEVELS
    except (ValueError, KeyError, TypeError):
        return False
