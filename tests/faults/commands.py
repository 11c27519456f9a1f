"""Commands of ours under strace: what they do to files and sockets, and what if they die of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults import strace
from tests.faults.strace import Point

CALLS = (
    *(set(strace.CHANGING_CALLS) - {"open", "openat", "openat2", "mmap", "vmsplice"}),
    "sendto",
)
"""Those by which something may change, on disk or at the database server. That a file was opened,
or made empty, is seen by whatever is done with it next."""

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+).*")
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Call:
    """One system call: name, arguments as strace shows them, with the paths of descriptors."""

    name: str
    arguments: str
    nth: int

    @property
    def matters(self) -> bool:
        """Whether it is more than talk."""
        return "<pipe:" not in self.arguments and "</dev/" not in self.arguments

    @property
    def point(self) -> Point:
        """Where to strike so that it does not happen any more."""
        return Point(self.name, self.nth)


def trace(*arguments: str, log: Path) -> list[Call]:
    """The calls of a command that must succeed, in their order."""
    wrapped = ["strace", "-f", "-qq", "-y", "-s", "16", "-o", str(log),
               "-e", "trace=" + ",".join(f"?{call}" for call in CALLS)]  # fmt: skip
    done = run(*arguments, wrapper=wrapped)
    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    calls: list[Call] = []
    lines = [match for line in log.read_text().splitlines() if (match := _LINE.fullmatch(line))]
    for line in lines:
        # Other threads than the first do nothing to files that counts.
        if line[1] == lines[0][1]:
            counts[line[2]] += 1
            calls.append(Call(line[2], line[3], counts[line[2]]))
    return calls


def struck(
    point: Point,
    *arguments: str,
    path: Path | None = None,
    trace: Path = Path(os.devnull),
) -> tuple[int, str]:
    """Run a command with a fault, `path` limiting it to calls on that; exit status and talk.

    `trace` is a file for `strace.injected`.
    """
    wrapper = strace.wrapper(point, paths=(path,) if path else (), trace=trace)
    done = run(*arguments, wrapper=wrapper)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def run(*arguments: str, wrapper: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
    return subprocess.run(
        [*(wrapper or []), sys.executable, "-m", "provledger_cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
        env={**own, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
    )
