"""Proof bundles of c2sp.org/tlog-proof: a checkpoint, and where an entry is in its tree.

::

    c2sp.org/tlog-proof@v1 LF
    extra <base64> LF           may be left out; nobody vouches for it
    index <decimal> LF
    <base64 of 32 bytes> LF     the inclusion path, leaf to root; none for a tree of one
    LF
    <signed checkpoint, verbatim, with its cosignatures>

The entry itself is not in it, and the tree's size is only in the checkpoint. That the path leads
anywhere is for `provledger.merkle`, and who signed for `provledger.note`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from provledger import _base64
from provledger.errors import TlogProofError
from provledger.hashing import HASH_BYTES

MAX_HASHES: Final = 63
MAX_BYTES: Final = 1 << 20
_HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A bundle. hashes: 32 bytes each, leaf to root. checkpoint: a signed note, not verified."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def format_tlog_proof(proof: TlogProof) -> bytes:
    """The text of a bundle; raises TlogProofError for what `parse_tlog_proof` would."""
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {_base64.encode(proof.extra)}")
    lines += [f"index {proof.index}", *map(_base64.encode, proof.hashes), "", ""]
    data = "\n".join(lines).encode() + proof.checkpoint
    if parse_tlog_proof(data) != proof:
        raise TlogProofError("this proof has no text")
    return data


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read a bundle; raises TlogProofError."""
    if len(data) > MAX_BYTES:
        raise TlogProofError(f"longer than {MAX_BYTES} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise TlogProofError("is not ASCII before its checkpoint") from None
    if not blank or not checkpoint or lines.pop(0) != _HEADER:
        raise TlogProofError(f"does not begin with {_HEADER}, or has no checkpoint")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _base64.decode(lines.pop(0).removeprefix("extra "))
        if extra is None:
            raise TlogProofError("extra is not base64")
    match = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if match is None or int(match[1]) >= 2**63:
        raise TlogProofError("has no index")
    hashes = tuple(_base64.decode(line) for line in lines)
    known = tuple(item for item in hashes if item is not None and len(item) == HASH_BYTES)
    if len(known) != len(hashes) or len(known) > MAX_HASHES:
        raise TlogProofError(f"the path is not at most {MAX_HASHES} hashes of 32 bytes")
    return TlogProof(int(match[1]), known, checkpoint, extra)
