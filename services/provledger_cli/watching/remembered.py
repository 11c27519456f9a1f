"""What `monitor` remembers: the last head that was verified and found joined with the one before.

::

    {"grownAtUnixS":"1763665200","origin":"..","signed":"<signed note>","v":"1"}

The file is replaced whole, and only by a head that was found joined with the one in it; looks that
overlap, as those of one cron job may, take turns at it. Trust: whoever can change it can
make the monitor forget, not make it accept; it is checked with the log's key when it is read.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from provledger import jcs, note
from provledger.checkpoint import Checkpoint
from provledger.errors import InputError, VerificationError
from provledger.monitoring import LogView, SeenHead
from provledger_cli.embedded.datadir import write_atomically
from provledger_cli.failures import CommandError
from provledger_cli.placing import try_lock

_TURN_S: Final = 2.0
"""How long others that save are waited for. It takes them milliseconds."""
_POLL_S: Final = 0.02


class Memory:
    """The state file.

    monotonic: seconds since some moment.
    """

    def __init__(
        self,
        path: Path,
        view: LogView,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._view = view
        self._monotonic = monotonic
        self._sleep = sleep
        # What is saved was held against this one.
        self._joined: Checkpoint | None = None

    def load(self) -> tuple[SeenHead, int] | None:
        """The last head, and when the log had grown to it (Unix seconds); None at first.

        Raises:
            CommandError: the file is of another log or key, or damaged: forgetting must be
                deliberate.
        """
        found = self._read()
        if found is not None:
            self.join(found[0])
        return found

    def _read(self) -> tuple[SeenHead, int] | None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            value: Any = jcs.parse(data)
            signed, grown_at = value["signed"], value["grownAtUnixS"]
            if value["v"] != "1" or value["origin"] != self._view.origin:
                raise ValueError
            if not isinstance(signed, str) or not isinstance(grown_at, str):
                raise TypeError
            lines = note.parse(signed.encode()).signatures
            grown_at_unix_s = int(grown_at)
            known = {(key.name, key.note_key_id) for key in self._view.keys}
            if any((line.name, line.note_key_id) in known for line in lines):
                return self._view.open(signed.encode()), grown_at_unix_s
        except (InputError, VerificationError, KeyError, TypeError, ValueError):
            raise CommandError(
                f"{self.path} is not what a monitor of {self._view.origin} remembers",
                hint="give another --state; without its memory a monitor cannot see a rewrite",
            ) from None
        raise CommandError(
            f"no key that is given signed the head that {self.path} remembers",
            hint="after a rotation, give the key of before as a second --vkey; another --state "
            "only if this one is of another log: without it a monitor cannot see a rewrite",
        )

    def join(self, head: SeenHead) -> None:
        """Take note that what is saved from now on is of one history with this head."""
        self._joined = head.checkpoint

    def save(self, head: SeenHead, grown_at_unix_s: int) -> tuple[SeenHead, int] | None:
        """Remember a head instead of the one before; durable on return.

        As `load`, what another look has remembered meanwhile, and is kept, of whatever size: only
        whoever held both against each other (`join`) knows that they are of one history. None if
        there is none.

        Raises:
            CommandError, OSError: the file cannot be used.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            there = self._read()
            if there is not None and there[0].checkpoint != self._joined:
                return there
            value = {
                "v": "1",
                "origin": self._view.origin,
                "signed": head.signed.decode(),
                "grownAtUnixS": str(grown_at_unix_s),
            }
            write_atomically(self.path, jcs.encode(value) + b"\n", mode=0o644)
        self.join(head)
        return None

    def keep_evidence(self, evidence: bytes) -> Path:
        """Save evidence of a split view beside the state; its path."""
        name = f"split-view-{hashlib.sha256(evidence).hexdigest()[:16]}.json"
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.path.parent / name, evidence, mode=0o644)
        return self.path.parent / name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other looks from saving meanwhile; wait for those that do.

        The directory itself is locked: no file of a lock stays. Where it cannot be, as on NFS, two
        that save in the same moment are not kept apart. Nor are they while somebody else holds it,
        which takes no more than the right to read it, or `flock DIRECTORY provledger monitor`: to
        remember nothing for so long would be worse.
        """
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):
                self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        """Lock an open directory; raises OSError if that cannot be, or not soon."""
        end_s = self._monotonic() + _TURN_S
        while True:
            try:
                return try_lock(descriptor)
            except BlockingIOError:
                if self._monotonic() >= end_s:
                    raise
            self._sleep(_POLL_S)
