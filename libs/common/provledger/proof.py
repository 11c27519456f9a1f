"""Proofs and roots over a tree that is stored, without holding all of its leaves.

What is stored are hashes of *perfect* subtrees: node (level, index) covers the 2^level leaves from
index * 2^level on, level 0 being the leaf hashes. They never change once the leaves are there, so
the tree of every size up to the present can be read from them. Only the right edge of a tree is
not perfect; it is folded from the perfect nodes left of it.

`TreeReader` answers for any size, `CompactRange` extends a tree leaf by leaf while holding one
hash for each set bit of its size. Both agree with `provledger.merkle`; where the nodes are kept
(tiles, a table, memory) is the caller's business. Shapes follow RFC 9162 §2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from provledger.errors import InputError
from provledger.hashing import HASH_BYTES, Hasher, sha256
from provledger.merkle import node_hash

_CACHED_SIZES = 64


class TreeReader:
    """Roots and proofs from `node(level, index)`, the hash (32 bytes) of a perfect subtree.

    `node` is called only for subtrees whose leaves all exist at the size asked about, and what
    it raises passes through. The right edges of the last few sizes are remembered. Not safe for
    use by several threads at once.
    """

    __slots__ = ("_edges", "_hasher", "_node")

    def __init__(self, node: Callable[[int, int], bytes], hasher: Hasher = sha256) -> None:
        self._node = node
        self._hasher = hasher
        # By size, see `_edge`.
        self._edges: dict[int, tuple[int, list[bytes]]] = {}

    def root_at(self, size: int) -> bytes:
        """Root of the first `size` leaves; H("") for 0."""
        _check_size(size)
        return self._edge(size)[1][-1] if size else self._hasher(b"")

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof of leaf `index` in the tree of `size` leaves, leaf to root (RFC 9162 §2.1.3.1).

        Raises InputError when that tree has no such leaf.
        """
        _check_size(size)
        if type(index) is not int or not 0 <= index < size:
            raise InputError(f"no leaf of that index in a tree of {size}")
        return self._path(0, index, size)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Proof that the tree of `new_size` leaves extends that of `old_size` (RFC 9162 §2.1.4.1).

        Empty when `old_size` is 0 or equal to `new_size`; InputError when it is larger.
        """
        _check_size(old_size)
        _check_size(new_size)
        if old_size > new_size:
            raise InputError("the old size is larger than the new one")
        if old_size in (0, new_size):
            return []
        # The old tree's last perfect subtree; see `merkle.consistency_proof`.
        level, index = 0, old_size - 1
        while index & 1:
            level += 1
            index >>= 1
        path = self._path(level, index, new_size)
        return [self._node(level, index), *path] if index else path

    def _path(self, level: int, index: int, size: int) -> list[bytes]:
        """Siblings of node (level, index) on its way to the root of the tree of `size` leaves."""
        path = []
        last = (size - 1) >> level
        while last:
            sibling = index ^ 1
            if sibling < last:
                path.append(self._node(level, sibling))
            elif sibling == last:
                path.append(self._last_node(level, size))
            index >>= 1
            last >>= 1
            level += 1
        return path

    def _last_node(self, level: int, size: int) -> bytes:
        """The rightmost node of `level` in the tree of `size` leaves, perfect or not."""
        first, edge = self._edge(size)
        return edge[level - first] if level >= first else self._node(level, (size - 1) >> level)

    def _edge(self, size: int) -> tuple[int, list[bytes]]:
        """The last nodes of the tree of `size` leaves from the highest perfect one up to the root,
        and the level of that perfect one."""
        known = self._edges.get(size)
        if known is not None:
            return known
        last = size - 1
        first = 0
        while last & 1:  # the last node is a right child, and its parent perfect as well
            last >>= 1
            first += 1
        found = self._node(first, last)
        edge = [found]
        level = first
        while last:
            if last & 1:
                found = node_hash(self._node(level, last - 1), found, self._hasher)
            last >>= 1
            level += 1
            edge.append(found)
        if len(self._edges) >= _CACHED_SIZES:
            del self._edges[next(iter(self._edges))]
        self._edges[size] = (first, edge)
        return first, edge


class CompactRange:
    """A tree that can grow: its size and the roots of the perfect subtrees that make it up.

    `nodes` are those roots, largest subtree first, one for each set bit of `size`. They are all
    one needs to keep in order to go on after a restart. Appending costs one hash on average.
    """

    __slots__ = ("_hasher", "nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = (), hasher: Hasher = sha256) -> None:
        _check_size(size)
        self.nodes = list(nodes)
        self.size = size
        self._hasher = hasher
        if len(self.nodes) != size.bit_count():
            raise InputError("a compact range needs one hash for each set bit of its size")
        for node in self.nodes:
            _check_hash(node)

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf by its hash (32 bytes)."""
        _check_hash(leaf_hash)
        nodes = self.nodes
        size = self.size
        while size & 1:
            leaf_hash = node_hash(nodes.pop(), leaf_hash, self._hasher)
            size >>= 1
        nodes.append(leaf_hash)
        self.size += 1

    def extend(
        self,
        leaf_hashes: Sequence[bytes],
        on_node: Callable[[int, int, bytes], None] | None = None,
    ) -> None:
        """Add leaves by their hashes, in order.

        `on_node(level, index, hash)` is told of every perfect subtree that becomes complete,
        the leaves themselves (level 0) included: what a `TreeReader` will ask for.
        """
        if on_node is None:
            for leaf_hash in leaf_hashes:
                self.append(leaf_hash)
            return
        for leaf_hash in leaf_hashes:
            _check_hash(leaf_hash)
            found = leaf_hash
            level, index = 0, self.size
            on_node(level, index, found)
            while index & 1:
                found = node_hash(self.nodes.pop(), found, self._hasher)
                level += 1
                index >>= 1
                on_node(level, index, found)
            self.nodes.append(found)
            self.size += 1

    def root(self) -> bytes:
        """Root of the tree so far; H("") for size 0."""
        if not self.nodes:
            return self._hasher(b"")
        found = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            found = node_hash(node, found, self._hasher)
        return found

    def copy(self) -> CompactRange:
        """The same tree, which can grow on its own."""
        return CompactRange(self.size, self.nodes, self._hasher)


def _check_size(size: int) -> None:
    if type(size) is not int or size < 0:
        raise InputError("tree size must be an integer from 0 on")


def _check_hash(value: bytes) -> None:
    if type(value) is not bytes or len(value) != HASH_BYTES:
        raise InputError("a node must be a hash of 32 bytes")
