"""Evidence of a split view: two heads that one log signed, and that are not of one history.

It looks like this, as one line of RFC 8785 text (docs/formats/split-view.md)::

    {"splitView":{"hashes":["<b64>",..],"newer":"<signed note>","older":"<signed note>",
                  "prefixRoot":"<hex>","v":"1"}}

`hashes` is a consistency proof (RFC 9162 §2.1.4) from a tree of the older one's size with the root
`prefixRoot` to the newer one. So the newer tree begins with `prefixRoot`, which is not the root the
older head states: no consistency proof can ever join the two. For heads of one size the proof is
empty, and `prefixRoot` is the newer one's root.

Nobody but the holder of the log's key can make it: whoever has the log's public key can check it,
with no log, network or word of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from provledger import _base64, jcs, merkle
from provledger import checkpoint as checkpoints
from provledger.checkpoint import Checkpoint
from provledger.errors import InputError, InvalidProofError, ReceiptFormatError, VerificationError
from provledger.hashing import HASH_BYTES, Hasher, sha256
from provledger.note import VerifierKey

MAX_BYTES: Final = 4 << 20
_MEMBERS: Final = frozenset("hashes newer older prefixRoot v".split())
_CHECK: Final = "split_view"


@dataclass(frozen=True, slots=True)
class SplitView:
    """The evidence. older, newer: signed notes. prefix_root and each hash: 32 bytes."""

    older: bytes
    newer: bytes
    prefix_root: bytes
    hashes: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return it as RFC 8785 text, with a line end."""
        value = {
            "v": "1",
            "older": self.older.decode(),
            "newer": self.newer.decode(),
            "prefixRoot": self.prefix_root.hex(),
            "hashes": [_base64.encode(item) for item in self.hashes],
        }
        return jcs.encode({"splitView": value}) + b"\n"

    def verify(
        self, vkeys: Sequence[str | VerifierKey], hasher: Hasher = sha256
    ) -> tuple[Checkpoint, Checkpoint]:
        """The two heads, older first, if this proves that they exclude each other.

        Raises:
            VerificationError: it proves nothing: a signature is not the log's, or the heads may
                well belong to one history.
        """
        try:
            older, _ = checkpoints.open_checkpoint(self.older, vkeys)
            newer, _ = checkpoints.open_checkpoint(self.newer, vkeys, origin=older.origin)
            merkle.verify_consistency(
                older.size, newer.size, list(self.hashes), self.prefix_root, newer.root, hasher
            )
        except (InputError, InvalidProofError) as error:
            raise VerificationError(f"this is no evidence: {error}", check=_CHECK) from error
        if older.size == 0 or self.prefix_root == older.root:
            raise VerificationError(
                "this is no evidence: the newer head extends the older one", check=_CHECK
            )
        return older, newer


def parse_split_view(data: bytes) -> SplitView:
    """Read evidence; raises ReceiptFormatError."""
    if len(data) > MAX_BYTES:
        raise ReceiptFormatError("splitView", f"is longer than {MAX_BYTES} bytes")
    try:
        document: Any = jcs.parse(data)
        value = document["splitView"]
        if document.keys() != {"splitView"} or value.keys() != _MEMBERS or value["v"] != "1":
            raise ReceiptFormatError("splitView", "has other members")
        hashes = [_base64.decode(item) for item in value["hashes"]]
        root = bytes.fromhex(value["prefixRoot"])
        older, newer = value["older"].encode(), value["newer"].encode()
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReceiptFormatError("splitView", "is not evidence of a split view") from error
    known = tuple(item for item in hashes if item is not None and len(item) == HASH_BYTES)
    found = SplitView(older, newer, root, known)
    if (
        len(known) != len(hashes)
        or len(root) != HASH_BYTES
        or found.encode().strip() != data.strip()
    ):
        raise ReceiptFormatError("splitView", "is not the canonical text of one")
    return found
