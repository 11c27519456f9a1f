"""Who uses an embedded database: advisory locks on files beside it.

SQLite itself would let two processes write in turns; a service that keeps heads in memory would
not survive that, and takes `lock_data_dir`. One that does survive it takes `Presence`, by which it
learns whether it is alone. Locks go away with their process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from provledger.settings import ConfigError

_ALONE_S: Final = 10.0
"""How long one that begins waits for what another does alone, which may be halted."""
_LOOK_S: Final = 0.05


class DirLock:
    """A held lock; `release`, or use as a context manager."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would race with the next holder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> DirLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def lock_data_dir(path: Path, name: str = "provledger") -> DirLock:
    """Lock `path/name.lock` for this process; the directory is made if missing (mode 700).

    Raises:
        ConfigError: another process holds it, named by its pid; or the directory is not usable.
    """
    file = path / f"{name}.lock"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"data directory {path} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise ConfigError(
            f"data directory {path} is in use: {name} runs there already (pid {holder}); "
            "stop it, or choose another directory"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return DirLock(fd, file)


class Presence:
    """That this process uses a file, for others to see for as long as it lives or until `end`."""

    def __init__(self) -> None:
        self._fd = -1

    def begin(self, file: Path, alone: Callable[[], None]) -> None:
        """Be seen from now on; calls `alone` before, while nobody else can begin, if nobody is.

        file: beside what is used; made if missing (mode 600). Where it cannot be made or locked,
        nobody learns of anybody, and nobody is alone.
        """
        try:
            self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        if self._lock(fcntl.LOCK_EX):
            alone()
        # Another one may get in between, and do what one does alone: we have not done anything yet.
        # It is waited for: who has no lock is not seen by those who come later.
        until_s = time.monotonic() + _ALONE_S
        while not self._lock(fcntl.LOCK_SH) and time.monotonic() < until_s:
            time.sleep(_LOOK_S)

    def end(self) -> None:
        """Be seen no more. The file stays: removing it would race with those who begin."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
