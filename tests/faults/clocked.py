"""A service whose clock a test can set: `python -m tests.faults.clocked`, for any of them.

PROVLEDGER_CLOCK_SERVICE names the service, PROVLEDGER_CLOCK_FILE a file of eight bytes: nanoseconds
to add to what `time.time_ns` says, which is the clock that our code reads. gRPC, its deadlines and
everything that measures durations keep the right time, as they do when a real clock is set; a
library that is preloaded (libfaketime) would change those too, and calls would never end.
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import time
from pathlib import Path

SERVICE_ENV = "PROVLEDGER_CLOCK_SERVICE"
FILE_ENV = "PROVLEDGER_CLOCK_FILE"


class Clock:
    """The clock of a service that runs with its `environment`; right to begin with."""

    def __init__(self, service: str, path: Path) -> None:
        path.write_bytes(bytes(8))
        self._offset = _open(path)
        self.environment = {SERVICE_ENV: service, FILE_ENV: str(path)}

    def set(self, offset_s: int) -> None:
        """Set it beside the right time."""
        self._offset[:] = struct.pack("=q", offset_s * 1_000_000_000)


def _open(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


def main() -> None:
    """Put the clock in and run the service."""
    offset = _open(Path(os.environ[FILE_ENV]))
    real = time.time_ns

    def time_ns() -> int:
        return real() + int(struct.unpack("=q", offset[:])[0])

    # Before any module of a service takes it for its clock.
    time.time_ns = time_ns
    runpy.run_module(f"{os.environ[SERVICE_ENV]}_svc", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
