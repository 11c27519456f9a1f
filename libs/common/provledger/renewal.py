"""What is made of files is made again when they were replaced: certificates, above all.

Issuers renew certificates while the processes that show them go on: a Secret is mounted anew, an
agent writes a file. Nobody tells us. So the files are looked at when what is made of them is
needed, at most once in a while, and read when one is another than it was. Several files are never
replaced at one moment, and what is half new may be unusable: then the last one that could be made
stays, and the files are read again at every look until they can be used.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from provledger import logs
from provledger.settings import ConfigError

log = logs.get(__name__)

T = TypeVar("T")

LOOK_EVERY_S: Final = 1.0
TELL_EVERY_S: Final = 600.0
"""How often it is told again that replaced files cannot be used."""

_Seen = tuple[tuple[int, ...], ...]


class Renewed(Generic[T]):
    """What `make` makes of `paths`. May be used by several threads.

    make: raises ConfigError if the files cannot be used. clock: seconds, monotonic.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        make: Callable[[], T],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it for the first time.

        Raises:
            ConfigError: the files cannot be used.
        """
        self._paths = tuple(paths)
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._see()
        self._made = make()
        self._look_at_s = clock() + LOOK_EVERY_S
        self._tell_at_s = float("-inf")

    def look(self) -> T:
        """The newest that can be made; the same object as before while no file was replaced."""
        now_s = self._clock()
        # Whoever comes while another one looks takes what there is.
        if now_s >= self._look_at_s and self._lock.acquire(blocking=False):
            try:
                self._look_at_s = now_s + LOOK_EVERY_S
                self._read(now_s)
            finally:
                self._lock.release()
        return self._made

    def _read(self, now_s: float) -> None:
        seen = self._see()
        if seen is not None and seen == self._seen:
            return
        try:
            made = self._make()
        except ConfigError as error:
            if now_s >= self._tell_at_s:
                self._tell_at_s = now_s + TELL_EVERY_S
                log.warning("files.unusable", error=str(error), files=self._names())
            return
        if seen != self._see():
            # One was replaced while they were read: what was made may be half of each.
            return
        self._made, self._seen, self._tell_at_s = made, seen, float("-inf")
        log.info("files.renewed", files=self._names())

    def _see(self) -> _Seen | None:
        """What a replaced file does not have in common with the one before; None if one is gone."""
        try:
            found = [os.stat(path) for path in self._paths]
        except OSError:
            return None
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)

    def _names(self) -> list[str]:
        return [str(path) for path in self._paths]
