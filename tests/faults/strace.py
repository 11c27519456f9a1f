"""Faults at system calls, by strace: a service is killed at, or refused, its Nth call of a name.

strace counts calls for each thread, and the first thread that gets there is hit. Tessera attacks
its POSIX storage in the same way. The calls are those that change files: between two of them the
files do not change, so killing at every Nth of each covers every state a crash can leave behind.
(It is the process that dies, not the machine: what was written and not synced is not lost.)
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

KILL = "signal=KILL"

FILE_CALLS = (
    "pwrite64", "fsync", "fdatasync", "rename", "link", "unlink", "ftruncate", "mkdir", "fchown",
)  # fmt: skip
"""Calls that hardly anything but storage makes, so that a service may be wrapped from its start."""

BUSY_CALLS = ("openat", "write")
"""Calls that starting an interpreter or talking to a socket makes too: strace is attached later."""

CHANGING_CALLS = (
    "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "splice", "vmsplice", "tee",
    "copy_file_range", "fallocate", "ftruncate", "truncate", "rename", "renameat", "renameat2",
    "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "mknod", "mknodat", "creat", "open", "openat", "openat2", "chmod", "fchmod", "fchmodat",
    "chown", "fchown", "fchownat", "lchown", "utime", "utimes", "futimesat", "utimensat",
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "fsync",
    "fdatasync", "sync_file_range", "sync", "syncfs", "msync", "mmap", "io_uring_setup",
)  # fmt: skip
"""Every call of Linux by which a file, its name or what is known of it can change or be synced."""

_ATTACH_S = 10.0


def require() -> None:
    """Skip the test, visibly, where strace is missing or may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (scripts/install_test_tools.sh)")
    probe = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False)
    if probe.returncode != 0:
        pytest.skip("strace may not trace processes here")


@dataclass(frozen=True, slots=True)
class Point:
    """The `nth` call named `call`; `nth` may be strace's `N+`, from the Nth on."""

    call: str
    nth: int | str
    action: str = KILL

    @property
    def expression(self) -> str:
        """strace's argument."""
        return f"inject={self.call}:{self.action}:when={self.nth}"


def wrapper(
    *points: Point, paths: tuple[Path, ...] = (), trace: Path = Path(os.devnull)
) -> list[str]:
    """A command that runs another one with faults; `paths` limits them to calls on those files.

    `trace` is a file to which it writes what it does, for `injected`.
    """
    # Not --seccomp-bpf: with it, strace 6.1 leaves signals out in silence.
    return _options(points, paths, trace)


def injected(trace: Path) -> int:
    """How many calls were failed, by what strace has written so far."""
    return trace.read_text(errors="replace").count("(INJECTED)") if trace.exists() else 0


def recorder(trace: Path) -> list[str]:
    """A command that runs another one and writes down its calls that can change files."""
    calls = ",".join(f"?{call}" for call in CHANGING_CALLS)
    # With file names (-y); here, where nothing is injected, the kernel may do the filtering.
    return ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={calls}"]


_CALL = re.compile(r"^\d+ +(\w+)\(")
_READ_ONLY = re.compile(r"O_RDONLY(?!.*O_CREAT)|MAP_PRIVATE|MAP_SHARED, .*-shm>")
"""Opening to read, mapping what stays in memory, and SQLite's index of its WAL, which is made anew
from the WAL by whoever opens the database first."""


def recorded(trace: Path, below: Path, without: tuple[Path, ...]) -> dict[str, str]:
    """The changing calls that were made on files below a directory, each with a line that shows it.

    `without` are files and directories in there that do not count.
    """
    found: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        made = _CALL.match(line)
        if made is None or str(below) not in line or _READ_ONLY.search(line):
            continue
        if not any(str(path) in line for path in without):
            found.setdefault(made[1], line)
    return found


class Attached:
    """strace attached to a running process, until it or `detach` ends it.

    `paths` limit it to calls on those files; `trace` is a file to which it writes what it does.
    """

    def __init__(
        self,
        pid: int,
        *points: Point,
        paths: tuple[Path, ...] = (),
        trace: Path = Path(os.devnull),
    ) -> None:
        self._trace = trace
        self._says = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `detach`
        self._process = subprocess.Popen(
            [*_options(points, paths, trace), "-p", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._says,
        )
        deadline_s = time.monotonic() + _ATTACH_S
        # If the process is gone its caller will see.
        while _is_running(pid) and not _is_traced(pid):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._says.seek(0)
                raise AssertionError(f"strace does not attach: {self._says.read().decode()}")
            time.sleep(0.01)

    @property
    def injected(self) -> int:
        """How many calls it has failed so far."""
        return injected(self._trace)

    def detach(self) -> None:
        """Let the process go on undisturbed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._process.wait(_ATTACH_S)
        self._says.close()


def _options(
    points: tuple[Point, ...], paths: tuple[Path, ...], trace: Path = Path(os.devnull)
) -> list[str]:
    options = ["strace", "-f", "-qq", "-o", str(trace)]
    for point in points:
        options += ["-e", point.expression]
    for path in paths:
        options += ["-P", str(path)]
    calls = ",".join(sorted({point.call for point in points}))
    return [*options, "-e", f"trace={calls}"]


def _status(pid: int) -> str:
    """What the kernel says of a process, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    status = _status(pid)
    return status != "" and "State:\tZ" not in status


def _is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in _status(pid)
