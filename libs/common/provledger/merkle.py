"""Merkle trees of RFC 6962 §2.1 and RFC 9162 §2.1, in memory, over any hasher.

::

    leaf(d)   = H(0x00 || d)
    node(l,r) = H(0x01 || l || r)
    MTH([])   = H("")        MTH([d]) = leaf(d)
    MTH(D[n]) = node(MTH(D[0:k]), MTH(D[k:n])),  k = the largest power of two < n

The tree is built level by level: neighbours are paired from the left and an unpaired last node
moves up *unchanged*. That is the same tree, because the first k leaves always fill whole aligned
blocks, so that pairing never crosses the boundary at k.

Proofs list sibling hashes from the leaf upwards. A proof never vouches for the tree size: sizes
come from a signed checkpoint. Proofs over a stored tree, without all of its leaves, are in
`provledger.proof`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from provledger.errors import InputError, InvalidProofError
from provledger.hashing import HASH_BYTES, Hasher, constructor_of, sha256

_LEAF = b"\x00"
_NODE = b"\x01"


def leaf_hash(data: bytes, hasher: Hasher = sha256) -> bytes:
    """Hash of one leaf, 32 bytes (RFC 9162 §2.1.1)."""
    return hasher(_LEAF + data)


def node_hash(left: bytes, right: bytes, hasher: Hasher = sha256) -> bytes:
    """Hash of an inner node over its two children of 32 bytes each (RFC 9162 §2.1.1)."""
    return hasher(_NODE + left + right)


def leaf_hashes(leaf_data: Sequence[bytes], hasher: Hasher = sha256) -> list[bytes]:
    """The leaf hashes of all of `leaf_data`, in order."""
    new = constructor_of(hasher)
    if new is None:
        return [hasher(_LEAF + data) for data in leaf_data]
    return [new(_LEAF + data).digest() for data in leaf_data]


def root(leaf_data: Sequence[bytes], hasher: Hasher = sha256) -> bytes:
    """Root of the tree over `leaf_data`; H("") when there are none."""
    return root_of_hashes(leaf_hashes(leaf_data, hasher), hasher)


def root_of_hashes(leaf_hashes: Sequence[bytes], hasher: Hasher = sha256) -> bytes:
    """Root of the tree over leaves that are hashed already; H("") when there are none."""
    if not leaf_hashes:
        return hasher(b"")
    nodes = leaf_hashes
    while len(nodes) > 1:
        nodes = _level_above(nodes, hasher)
    return nodes[0]


def inclusion_proof(
    leaf_hashes: Sequence[bytes], index: int, hasher: Hasher = sha256
) -> list[bytes]:
    """Siblings of leaf `index`, leaf to root, in the tree over `leaf_hashes` (RFC 9162 §2.1.3.1).

    Raises InputError when there is no such leaf.
    """
    if type(index) is not int or not 0 <= index < len(leaf_hashes):
        raise InputError(f"no leaf of that index in a tree of {len(leaf_hashes)}")
    return _siblings(leaf_hashes, index, hasher)


def consistency_proof(
    leaf_hashes: Sequence[bytes], old_size: int, hasher: Hasher = sha256
) -> list[bytes]:
    """Proof that the tree over `leaf_hashes` extends its first `old_size` leaves.

    RFC 9162 §2.1.4.1. Empty for old_size 0 and for old_size equal to the tree's.
    Raises InputError when `old_size` is no size of an earlier tree.
    """
    size = len(leaf_hashes)
    if type(old_size) is not int or not 0 <= old_size <= size:
        raise InputError(f"old size must be an integer from 0 to {size}")
    if old_size in (0, size):
        return []
    # The old tree's last perfect subtree is node (level, index) of both trees. Its path in the
    # new tree is the proof; its own hash comes first unless it is the whole old tree.
    level = _trailing_ones(old_size - 1)
    index = (old_size - 1) >> level
    nodes = leaf_hashes
    for _ in range(level):
        nodes = _level_above(nodes, hasher)
    path = _siblings(nodes, index, hasher)
    return [nodes[index], *path] if index else path


def inclusion_proofs(leaf_hashes: Sequence[bytes], hasher: Hasher = sha256) -> list[list[bytes]]:
    """The inclusion proofs of all leaves, by index; one pass, far cheaper than one by one."""
    if not leaf_hashes:
        return []
    levels = [leaf_hashes]
    while len(levels[-1]) > 1:
        levels.append(_level_above(levels[-1], hasher))
    # From the top down: a child's path is its sibling and then its parent's path.
    paths: list[list[bytes]] = [[]]
    for nodes in reversed(levels[:-1]):
        pairs = iter(nodes)
        below: list[list[bytes]] = []
        for left, right, path in zip(pairs, pairs, paths, strict=False):
            below.append([right, *path])
            below.append([left, *path])
        if len(nodes) & 1:
            below.append(paths[-1])
        paths = below
    return paths


def root_from_inclusion(
    index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], hasher: Hasher = sha256
) -> bytes:
    """The root that `proof` leads to from leaf `index` of a tree of `size` leaves.

    RFC 9162 §2.1.3.2. Raises InvalidProofError when the proof cannot belong to that position;
    the root itself is for the caller to compare.
    """
    if type(index) is not int or type(size) is not int or not 0 <= index < size:
        _fail("leaf index is not inside the tree")
    _check_hash(leaf_hash, "leaf hash")
    _check_hashes(proof)
    new = constructor_of(hasher)
    fn, sn = index, size - 1
    found = leaf_hash
    for sibling in proof:
        if sn == 0:
            _fail("proof is too long for this position")
        if fn & 1 or fn == sn:
            data = _NODE + sibling + found
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            data = _NODE + found + sibling
        found = hasher(data) if new is None else new(data).digest()
        fn >>= 1
        sn >>= 1
    if sn:
        _fail("proof is too short for this position")
    return found


def verify_inclusion(
    index: int,
    size: int,
    leaf_hash: bytes,
    proof: Sequence[bytes],
    root: bytes,
    hasher: Hasher = sha256,
) -> None:
    """Check that `leaf_hash` is leaf `index` of the tree of `size` leaves with this `root`.

    RFC 9162 §2.1.3.2. Raises InvalidProofError when it is not, or when anything given has the
    wrong type, length or range.
    """
    _check_hash(root, "root")
    if root_from_inclusion(index, size, leaf_hash, proof, hasher) != root:
        _fail("inclusion proof leads to another root")


class KnownTree:
    """A tree of known size and root, asked for leaf after leaf; see `verify_inclusion`.

    Neighbours share most of their way to the root: from where the hash, the place and all that is
    left of the proof are those of the leaf before, the rest was folded already, and is not hashed
    again. Only leaves that were found are remembered. Not safe for use by several threads at once.
    """

    __slots__ = ("_asked", "_founds", "_hasher", "_index", "_levels", "_proof", "root", "size")

    def __init__(self, size: int, root: bytes, hasher: Hasher = sha256) -> None:
        self.size = size
        self.root = root
        self._hasher = hasher
        self._asked = False
        self._index = 0
        # Of the leaf before: its proof, and what was hashed with each step, on which level.
        self._proof: tuple[bytes, ...] = ()
        self._founds: list[bytes] = []
        self._levels: list[int] = []

    def verify(self, index: int, leaf_hash: bytes, proof: Sequence[bytes]) -> None:
        """Check that a leaf is there, as `verify_inclusion` does; raises InvalidProofError."""
        if not self._asked:
            # Many are asked only once.
            self._asked = True
            verify_inclusion(index, self.size, leaf_hash, proof, self.root, self._hasher)
            return
        if type(index) is not int or not 0 <= index < self.size:
            _fail("leaf index is not inside the tree")
        _check_hash(leaf_hash, "leaf hash")
        _check_hashes(proof)
        steps = tuple(proof)
        founds, levels = self._fold(index, leaf_hash, steps)
        self._index, self._proof, self._founds, self._levels = index, steps, founds, levels

    def _fold(
        self, index: int, leaf_hash: bytes, proof: tuple[bytes, ...]
    ) -> tuple[list[bytes], list[int]]:
        """RFC 9162 §2.1.3.2 step 4, up to where the leaf before was."""
        hasher = self._hasher
        new = constructor_of(hasher)
        known = self._levels
        # On this level and above it, both leaves lie under the same nodes.
        shared = (index ^ self._index).bit_length()
        founds: list[bytes] = []
        levels: list[int] = []
        found, level, fn, sn = leaf_hash, 0, index, self.size - 1
        for place, sibling in enumerate(proof):
            if level >= shared and level in known:
                before = known.index(level)
                if self._founds[before] == found and self._proof[before:] == proof[place:]:
                    return founds + self._founds[before:], levels + known[before:]
            founds.append(found)
            levels.append(level)
            if sn == 0:
                _fail("proof is too long for this position")
            if fn & 1 or fn == sn:
                data = _NODE + sibling + found
                while not fn & 1 and fn:
                    fn >>= 1
                    sn >>= 1
                    level += 1
            else:
                data = _NODE + found + sibling
            found = hasher(data) if new is None else new(data).digest()
            fn >>= 1
            sn >>= 1
            level += 1
        if sn:
            _fail("proof is too short for this position")
        if found != self.root:
            _fail("inclusion proof leads to another root")
        return founds, levels


def verify_consistency(
    old_size: int,
    new_size: int,
    proof: Sequence[bytes],
    old_root: bytes,
    new_root: bytes,
    hasher: Hasher = sha256,
) -> None:
    """Check that the tree (`new_size`, `new_root`) extends the tree (`old_size`, `old_root`).

    RFC 9162 §2.1.4.2. Raises InvalidProofError when it does not, or when anything given has the
    wrong type, length or range. From size 0 every tree extends the empty one: the proof must be
    empty and the old root H(""), and nothing else is proven.
    """
    if type(old_size) is not int or type(new_size) is not int or not 0 <= old_size <= new_size:
        _fail("tree sizes must be integers, the old one not above the new one")
    if type(old_root) is not bytes or type(new_root) is not bytes:
        _fail("roots must be bytes")
    if old_size == new_size:
        # Nothing is hashed here, so that equality is all there is to ask of the roots; upstream
        # vectors hold us to it with roots that are not even 32 bytes long.
        _check_hashes(proof)
        if proof or old_root != new_root:
            _fail("trees of one size need equal roots and an empty proof")
        return
    _check_hash(old_root, "old root")
    _check_hash(new_root, "new root")
    _check_hashes(proof)
    if old_size == 0:
        if proof or old_root != hasher(b""):
            _fail("from the empty tree the old root is H('') and the proof empty")
        return
    if not proof:
        _fail("consistency proof is empty")
    _walk_consistency(old_size, new_size, proof, old_root, new_root, hasher)


def _walk_consistency(
    old_size: int,
    new_size: int,
    proof: Sequence[bytes],
    old_root: bytes,
    new_root: bytes,
    hasher: Hasher,
) -> None:
    """RFC 9162 §2.1.4.2 steps 3 to 8, for 0 < old_size < new_size and checked hashes."""
    if old_size & (old_size - 1) == 0:
        proof = [old_root, *proof]
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    old = new = proof[0]
    for sibling in proof[1:]:
        if sn == 0:
            _fail("consistency proof is too long")
        if fn & 1 or fn == sn:
            old = hasher(_NODE + sibling + old)
            new = hasher(_NODE + sibling + new)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            new = hasher(_NODE + new + sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        _fail("consistency proof is too short")
    if old != old_root:
        _fail("consistency proof leads to another old root")
    if new != new_root:
        _fail("consistency proof leads to another new root")


def _level_above(nodes: Sequence[bytes], hasher: Hasher) -> list[bytes]:
    """The next level of the tree; an unpaired last node moves up unchanged."""
    new = constructor_of(hasher)
    pairs = iter(nodes)
    if new is None:
        above = [hasher(_NODE + left + right) for left, right in zip(pairs, pairs, strict=False)]
    else:
        above = [
            new(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=False)
        ]
    if len(nodes) & 1:
        above.append(nodes[-1])
    return above


def _siblings(nodes: Sequence[bytes], index: int, hasher: Hasher) -> list[bytes]:
    """Siblings on the way from `nodes[index]` to the root above `nodes`, bottom up."""
    path = []
    while len(nodes) > 1:
        sibling = index ^ 1
        if sibling < len(nodes):
            path.append(nodes[sibling])
        nodes = _level_above(nodes, hasher)
        index >>= 1
    return path


def _trailing_ones(number: int) -> int:
    return (~number & (number + 1)).bit_length() - 1


_only_bytes = frozenset((bytes,)).issuperset
_only_hash_length = frozenset((HASH_BYTES,)).issuperset


def _check_hashes(proof: Sequence[bytes]) -> None:
    if not isinstance(proof, list | tuple):
        _fail("proof must be a list of hashes")
    if not _only_bytes(map(type, proof)) or not _only_hash_length(map(len, proof)):
        _fail("proof holds something that is not a hash of 32 bytes")


def _check_hash(value: bytes, what: str) -> None:
    if type(value) is not bytes or len(value) != HASH_BYTES:
        _fail(f"{what} is not a hash of 32 bytes")


def _fail(message: str) -> NoReturn:
    raise InvalidProofError(message)
