"""The part of a signed batch tree that a ledger keeps: its own leaves, and what lies beside them.

The witness signs statements of many calls in one tree. A ledger needs paths for its own statements
only, which lie side by side, so it keeps their leaf hashes and, at each level, the node to the left
and the node to the right that the climb needs: two for each level at most, none for a batch that is
all its own::

    level 2            .
    level 1      [s]       (.)          kept: leaves 2, 3, 4, siblings s and t
    level 0     .   .   2   3   4  [t]

The shape is that of RFC 9162 §2.1: neighbours pair from the left, and an unpaired last node moves
up unchanged. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provledger import merkle
from provledger.errors import InvalidProofError
from provledger.hashing import Hasher


@dataclass(frozen=True, slots=True)
class _Level:
    """Nodes of one level, from index `first` on; the whole level has `size`."""

    first: int
    size: int
    nodes: list[bytes]


def siblings_of(leaves: Sequence[bytes], first: int, end: int, hasher: Hasher) -> list[bytes]:
    """The nodes beside leaves `first` to before `end` of a tree, given all its leaves."""
    siblings: list[bytes] = []
    nodes = leaves
    while len(nodes) > 1:
        if first % 2:
            first -= 1
            siblings.append(nodes[first])
        if end % 2 and end < len(nodes):
            siblings.append(nodes[end])
            end += 1
        if first == 0 and end >= len(nodes):
            break  # nothing lies beside it from here on
        nodes = _above(nodes, hasher)
        first, end = first // 2, (end + 1) // 2
    return siblings


class BatchTree:
    """The kept part of a tree of `size` leaves: `leaves` from index `first` on, and `siblings`.

    Raises:
        InvalidProofError: these cannot be the parts of such a tree.
    """

    def __init__(
        self,
        size: int,
        first: int,
        leaves: Sequence[bytes],
        siblings: Sequence[bytes],
        hasher: Hasher,
    ) -> None:
        if not leaves or first < 0 or first + len(leaves) > size:
            raise InvalidProofError("the leaves lie outside of their batch")
        rest = iter(siblings)
        level = _Level(first, size, list(leaves))
        self._levels: list[_Level] = []
        while True:
            level = _widened(level, rest)
            self._levels.append(level)
            if level.size == 1:
                break
            nodes = _above(level.nodes, hasher)
            level = _Level(level.first // 2, (level.size + 1) // 2, nodes)
        if next(rest, None) is not None:
            raise InvalidProofError("there are more siblings than the batch has room for")
        self._first, self._end = first, first + len(leaves)

    @property
    def root(self) -> bytes:
        """The root that all of it leads to, 32 bytes."""
        return self._levels[-1].nodes[0]

    def leaf(self, index: int) -> bytes | None:
        """A leaf that is kept, by its index in the whole batch."""
        if not self._first <= index < self._end:
            return None
        level = self._levels[0]
        return level.nodes[index - level.first]

    def path(self, index: int) -> list[bytes]:
        """The inclusion path of a leaf that is kept, leaf to root.

        Raises:
            InvalidProofError: the leaf is not among those that are kept.
        """
        if not self._first <= index < self._end:
            raise InvalidProofError("the leaf lies outside of what is kept of its batch")
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < level.size:
                path.append(level.nodes[sibling - level.first])
            index >>= 1
        return path


def _widened(level: _Level, siblings: Iterator[bytes]) -> _Level:
    """The level with the nodes beside it that the one above needs."""
    if level.size == 1:
        return level
    first, nodes = level.first, level.nodes
    try:
        if first % 2:
            first, nodes = first - 1, [next(siblings), *nodes]
        end = first + len(nodes)
        if end % 2 and end < level.size:
            nodes = [*nodes, next(siblings)]
    except StopIteration:
        raise InvalidProofError("a sibling is missing") from None
    return _Level(first, level.size, nodes)


def _above(nodes: Sequence[bytes], hasher: Hasher) -> list[bytes]:
    pairs = iter(nodes)
    above = [
        merkle.node_hash(left, right, hasher) for left, right in zip(pairs, pairs, strict=False)
    ]
    if len(nodes) % 2:
        above.append(nodes[-1])
    return above
