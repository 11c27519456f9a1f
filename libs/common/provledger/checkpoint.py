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

from binascii import a2b_base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from provledger import _base64, _ed25519, note
from provledger._checkpoint_body import (
    MAX_TREE_SIZE,
    Checkpoint,
    format_checkpoint,
    parse_checkpoint,
)
from provledger.errors import CheckpointError
from provledger.hashing import HASH_BYTES

if TYPE_CHECKING:
    from provledger.note import Note, VerifierKey

__all__ = ["MAX_TREE_SIZE", "Checkpoint", "format", "open_checkpoint", "open_plain", "parse"]

parse = parse_checkpoint
format = format_checkpoint

_KEY_ID_BYTES = 4


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


def open_plain(data: bytes, vkeys: Sequence[VerifierKey], origin: str) -> Checkpoint | None:
    """Read the plainest of checkpoints as `open_checkpoint` would, in a fifth of the time.

    That is one of `origin`'s with three lines and one signature, by an Ed25519 key among `vkeys`.
    None for any other, and for whatever does not hold: `open_checkpoint` says what is wrong.
    """
    try:
        text, _, line = data.partition(b"\n\n")
        _, size_text, root_b64 = text.split(b"\n")
        size, root = int(size_text), a2b_base64(root_b64)
        blob = a2b_base64(line[line.rindex(b" ") + 1 :])
        made = f"{origin}\n{size}\n{_base64.encode(root)}\n\n— {origin} {_base64.encode(blob)}\n"
        # One comparison tells that there is nothing else in it, and no second spelling.
        is_plain = made.encode() == data
    except ValueError:
        return None
    if not is_plain or len(root) != HASH_BYTES or not 0 < size <= MAX_TREE_SIZE:
        return None
    if len({(key.name, key.note_key_id) for key in vkeys}) != len(vkeys):
        return None
    named = (origin, blob[:_KEY_ID_BYTES])
    for key in vkeys:
        if (key.name, key.note_key_id) == named and key.type == note.ED25519:
            try:
                _ed25519.verify_raw(key.public_key, blob[_KEY_ID_BYTES:], text + b"\n")
            except InvalidSignature:
                return None
            return Checkpoint(origin, size, root)
    return None
