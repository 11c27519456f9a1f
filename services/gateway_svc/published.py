"""What of a log may be seen: only what its published checkpoint covers (c2sp.org/tlog-tiles).

Signed checkpoints are committed faster than they are published, and full tiles lie on the disk
before the checkpoint that covers them. So whoever asks for a tile is answered by the size of the
published checkpoint, not by what is there.

Trust: the checkpoint is passed on as it is; nobody here has a key to judge it with. A forger of it
can make the gateway show or hide tiles, which readers find out by its signature and by proofs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from provledger import note
from provledger._checkpoint_body import parse_checkpoint
from provledger.errors import DataLossError, NoteError, NotFoundError
from provledger.tiles import TilePath


@dataclass(frozen=True, slots=True)
class Published:
    """A published checkpoint: origin, tree size, the signed note, and a strong entity tag."""

    origin: str
    size: int
    note: bytes
    etag: str


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
    return Published(body.origin, body.size, signed, f'"{hashlib.sha256(signed).hexdigest()[:32]}"')


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
