"""One process for each embedded database: an advisory lock on a file in the data directory.

SQLite itself would let two processes write in turns; a service that keeps heads in memory would
not survive that. The lock goes away with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from provledger.settings import ConfigError


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
