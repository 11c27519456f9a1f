"""Runs a command and says what memory it took: `python -m tests.e2e.watching FILE VERB ...`.

FILE gets a JSON document: the highest resident memory of the command (`own_kib`), and that of each
process that it started to check lines (`workers_kib`, by pid). It is the kernel's own high-water
mark, looked up until each process ends; `getrusage` would begin with that of whoever started us.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path


def high_water_kib(pid: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return found


class Watch:
    """Looks every few milliseconds, in a thread of its own."""

    def __init__(self) -> None:
        self.workers: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, object]:
        self._ended.set()
        self._thread.join()
        return {"own_kib": high_water_kib("self"), "workers_kib": self.workers}

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            for pid in children():
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if b"spawn_main" in command:
                        most = max(self.workers.get(pid, 0), high_water_kib(pid))
                        self.workers[pid] = most
                except OSError:
                    continue


def main() -> None:
    found = Path(sys.argv[1])
    sys.argv = ["provledger", *sys.argv[2:]]
    from provledger_cli.main import main as run

    watch = Watch()
    try:
        run()
    finally:
        found.write_text(json.dumps(watch.end()))


if __name__ == "__main__":
    main()
