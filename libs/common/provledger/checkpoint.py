"""Log checkpoints of c2sp.org/tlog-checkpoint: the text of a note that states a tree head.

A checkpoint body looks like this, each line ending in LF::

    example.com/behind-the-sofa                      origin, not empty
    20852163                                         tree size, decimal
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=     root hash, base64
    ...                                              extension lines, not empty; best left out

`parse` reads a body and trusts nobody; `open_checkpoint` reads a whole note and verifies the
log's signature. That two checkpoints belong to one history is for `provledger.merkle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provledger import note
from provledger._checkpoint_body import (
    MAX_TREE_SIZE,
    Checkpoint,
    format_checkpoint,
    parse_checkpoint,
)
from provledger.errors import CheckpointError

if TYPE_CHECKING:
    from provledger.note import Note, VerifierKey

__all__ = ["MAX_TREE_SIZE", "Checkpoint", "format", "open_checkpoint", "parse"]

parse = parse_checkpoint
format = format_checkpoint


def open_checkpoint(
    data: bytes,
    vkeys: Sequence[str | VerifierKey],
    origin: str | None = None,
    *,
    exact: bool = False,
) -> tuple[Checkpoint, Note]:
    """Verify the signed note `data` and read the checkpoint in it.

    At least one of `vkeys` that signed must be named like the checkpoint's origin: the log
    itself. With `origin`, the checkpoint must be that log's. With `exact`, it must have three
    lines and no extension. The note is returned for its other signatures. Raises NoteError for
    the note and CheckpointError for what it says.
    """
    opened = note.open(data, vkeys)
    checkpoint = parse_checkpoint(opened.text, exact=exact)
    if origin is not None and checkpoint.origin != origin:
        raise CheckpointError("checkpoint is of another origin")
    if all(signature.key.name != checkpoint.origin for signature in opened.signatures):
        raise CheckpointError("no trusted signature by a key named like the origin")
    return checkpoint, opened
