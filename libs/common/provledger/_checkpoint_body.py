"""The body of a checkpoint, apart from its signatures; see `provledger.checkpoint`.

A module of its own because signatures of two note types (0x05, 0x06) are made over the size and
root in the body: `note` needs it, and `checkpoint` needs `note`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from provledger import _base64
from provledger.errors import CheckpointError
from provledger.hashing import HASH_BYTES, Hasher, sha256

MAX_TREE_SIZE = 2**63 - 1
"""Largest tree size; what signed 64-bit readers can hold."""

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint states: the log called `origin` has `size` leaves and this `root`.

    `root` is 32 bytes. `extensions` are the lines after the third, usually none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def parse_checkpoint(
    text: bytes, *, exact: bool = False, hasher: Hasher | None = sha256
) -> Checkpoint:
    """Read a checkpoint body (no signatures). Raises CheckpointError.

    With `exact`, extension lines are refused. `hasher` is the tree's: an empty tree must have
    its H("") as root; with None, that is left to the caller.
    """
    if not isinstance(text, bytes):
        raise CheckpointError("checkpoint must be given as bytes")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("checkpoint is not UTF-8") from None
    # Not splitlines(): that would also split at U+0085, U+2028 and others.
    lines = decoded.split("\n")
    if lines.pop() != "":
        raise CheckpointError("checkpoint does not end in a newline")
    if len(lines) < 3 or not all(lines):
        raise CheckpointError("checkpoint needs three lines or more, none of them empty")
    if exact and len(lines) > 3:
        raise CheckpointError("checkpoint has extension lines")
    if any(map(_CONTROL.search, lines)):
        raise CheckpointError("checkpoint holds control characters")
    origin, size_text, root_b64, *extensions = lines
    if not _SIZE.fullmatch(size_text) or int(size_text) > MAX_TREE_SIZE:
        raise CheckpointError("tree size is not a decimal number up to 2^63-1")
    size = int(size_text)
    root = _base64.decode(root_b64)
    if root is None or len(root) != HASH_BYTES:
        raise CheckpointError("root hash is not the base64 of 32 bytes")
    if size == 0 and hasher is not None and root != hasher(b""):
        raise CheckpointError("an empty tree has another root hash")
    return Checkpoint(origin, size, root, tuple(extensions))


def format_checkpoint(origin: str, size: int, root: bytes) -> bytes:
    """The three lines of a checkpoint body. Raises CheckpointError for what `parse` would."""
    if not isinstance(origin, str) or not origin or _CONTROL.search(origin):
        raise CheckpointError("origin must be a line of text that is not empty")
    if type(size) is not int or not 0 <= size <= MAX_TREE_SIZE:
        raise CheckpointError("tree size must be an integer from 0 to 2^63-1")
    if not isinstance(root, bytes) or len(root) != HASH_BYTES:
        raise CheckpointError("root hash must be 32 bytes")
    try:
        return f"{origin}\n{size}\n{_base64.encode(root)}\n".encode()
    except UnicodeEncodeError:
        raise CheckpointError("origin holds a lone surrogate") from None
