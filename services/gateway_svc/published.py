"""What of a log may be seen: only what its published checkpoint covers (c2sp.org/tlog-tiles).

Signed checkpoints are committed faster than they are published, and full tiles lie on the disk
before the checkpoint that covers them. So whoever asks for a tile is answered by the size of the
published checkpoint, not by what is there.

What was shown is not denied by an older checkpoint that lies there later (`Shown`).

Trust: the checkpoint is passed on as it is; nobody here has a key to judge it with. A forger of it
can make the gateway show or hide tiles, which readers find out by its signature and by proofs; and,
with one of a larger tree, refuse what the log really says until the gateway starts anew.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from provledger import logs, note
from provledger._checkpoint_body import parse_checkpoint
from provledger.errors import DataLossError, NoteError, NotFoundError, UnavailableError
from provledger.tiles import TilePath

log = logs.get(__name__)

LAG_S: Final = 60.0
"""How long an older checkpoint than was shown may be what a copy that lags has, in seconds."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published checkpoint: origin, tree size, the signed note, a strong entity tag, the root."""

    origin: str
    size: int
    note: bytes
    etag: str
    root: bytes


class Shown:
    """The checkpoint of a log that is shown: one does not go back to an older one.

    Who reads where it lies may be given that of a copy which lags; then what was shown is shown.
    If it goes on for `LAG_S`, somebody has put an older log there. Threads look, too.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self.last: Published | None = None
        """What is shown; it covers what was served."""

    def take(self, found: Published) -> Published:
        """What to show, given what lies there.

        Raises:
            UnavailableError: CHECKPOINT_ROLLED_BACK, for as long as what lies there is another
                history than was shown, or has been an older part of one for too long.
        """
        with self._lock:
            shown = self.last
            if shown is None or not _contradicts(found, shown):
                self.last, self._since_s = found, None
                return found
            now_s = self._monotonic()
            if self._since_s is None:
                self._since_s = now_s
                log.error(
                    "gateway.checkpoint_rolled_back",
                    origin=shown.origin,
                    shown=shown.size,
                    found=found.size,
                )
            if found.size < shown.size and now_s - self._since_s < LAG_S:
                return shown
        raise UnavailableError(
            "CHECKPOINT_ROLLED_BACK",
            f"tree size {shown.size} was published, and where it was read there is another tree "
            f"now, of size {found.size}: was an older copy put there?",
            retry_delay_s=1.0,
        )

    @property
    def is_contradicted(self) -> bool:
        """Whether what lay there last was not what is shown."""
        return self._since_s is not None


def read_published(signed: bytes) -> Published:
    """Read a checkpoint, whose signatures nobody checks here.

    Raises:
        DataLossError: it is not one.
    """
    try:
        body = parse_checkpoint(note.parse(signed).text, hasher=None)
    except NoteError as error:
        raise DataLossError(
            "CHECKPOINT_DAMAGED", "the published checkpoint cannot be read; look at the anchor"
        ) from error
    etag = f'"{hashlib.sha256(signed).hexdigest()[:32]}"'
    return Published(body.origin, body.size, signed, etag, body.root)


def _contradicts(found: Published, shown: Published) -> bool:
    if found.origin != shown.origin:
        return False  # another log, which has shown nothing yet
    return found.size < shown.size or (found.size == shown.size and found.root != shown.root)


def prefix_of(origin: str) -> str:
    """Path that a log is served below, without slashes at its ends: the origin without its host.

    SPEC: the origin should be the URL prefix of the log, without its scheme.
    """
    return origin.partition("/")[2].strip("/")


def check_visible(tile: TilePath, published: Published) -> None:
    """Refuse what the published checkpoint does not cover.

    Raises:
        NotFoundError: it does not, whether or not there is such a tile already.
    """
    if tile.end > published.size:
        raise NotFoundError(
            "TILE_NOT_PUBLISHED",
            f"the published checkpoint, of tree size {published.size}, does not cover {tile.path}",
            metadata={"tile": tile.path, "treeSize": str(published.size)},
        )
