from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import merkle
from provledger.errors import InputError
from provledger.hashing import blake3, sha256
from provledger.proof import CompactRange, TreeReader

HASHES = merkle.leaf_hashes([b"leaf %d" % i for i in range(300)])


def reader_over(hashes: list[bytes], asked: set[tuple[int, int]] | None = None) -> TreeReader:
    """A reader over stored nodes; whoever asks for one that is not perfect gets a KeyError."""
    stored: dict[tuple[int, int], bytes] = {}
    CompactRange().extend(hashes, lambda level, index, node: stored.update({(level, index): node}))

    def node(level: int, index: int) -> bytes:
        if asked is not None:
            asked.add((level, index))
        return stored[level, index]

    return TreeReader(node)


def test_every_root_and_proof_of_small_trees_is_merkle_s() -> None:
    reader = reader_over(HASHES[:20])
    assert reader.root_at(0) == merkle.root([])
    for size in range(1, 21):
        part = HASHES[:size]
        assert reader.root_at(size) == merkle.root_of_hashes(part)
        assert [reader.inclusion(i, size) for i in range(size)] == merkle.inclusion_proofs(part)
        for old in range(size + 1):
            assert reader.consistency(old, size) == merkle.consistency_proof(part, old)


@given(st.data())
def test_roots_and_proofs_are_merkle_s(data: st.DataObject) -> None:
    stored = data.draw(st.integers(1, 300))
    asked: set[tuple[int, int]] = set()
    reader = reader_over(HASHES[:stored], asked)
    size = data.draw(st.integers(1, stored))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(0, size))
    part = HASHES[:size]
    assert reader.root_at(size) == merkle.root_of_hashes(part)
    assert reader.inclusion(index, size) == merkle.inclusion_proof(part, index)
    assert reader.consistency(old, size) == merkle.consistency_proof(part, old)
    # Nothing later than the size asked about was read: it might not be there, or be different.
    assert all((at + 1) << level <= size for level, at in asked)
    assert len(asked) <= 4 * size.bit_length()


def test_the_reader_remembers_edges_but_not_without_end() -> None:
    asked: set[tuple[int, int]] = set()
    reader = reader_over(HASHES, asked)
    reader.root_at(299)
    asked.clear()
    reader.root_at(299)
    assert asked == set()
    for size in range(1, 300):
        reader.root_at(size)
    assert len(reader._edges) <= 64
    assert [reader.root_at(n) for n in (7, 299)] == [
        merkle.root_of_hashes(HASHES[:n]) for n in (7, 299)
    ]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("root_at", (-1,)), ("root_at", (True,)), ("root_at", (1.0,)), ("inclusion", (0, 0)),
     ("inclusion", (5, 5)), ("inclusion", (-1, 5)), ("inclusion", (True, 5)),
     ("inclusion", (0, -1)),
     ("consistency", (6, 5)), ("consistency", (-1, 5)), ("consistency", (0, None))],
)  # fmt: skip
def test_impossible_questions_are_refused(method: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        getattr(reader_over(HASHES[:5]), method)(*arguments)


@given(st.lists(st.integers(0, 40), max_size=8), st.booleans())
def test_a_compact_range_grows_into_every_tree(steps: list[int], told: bool) -> None:
    tree = CompactRange()
    for step in steps:
        new = HASHES[tree.size : tree.size + step]
        tree.extend(new, (lambda *_: None) if told else None)
        part = HASHES[: tree.size]
        assert tree.root() == merkle.root_of_hashes(part)
        assert len(tree.nodes) == tree.size.bit_count()
        tree = CompactRange(tree.size, tree.nodes)


def test_a_compact_range_tells_of_every_perfect_subtree_once() -> None:
    told: list[tuple[int, int]] = []
    CompactRange().extend(HASHES[:13], lambda level, index, _: told.append((level, index)))
    assert sorted(told) == [(level, i) for level in range(4) for i in range(13 >> level)]


def test_a_compact_range_uses_its_hasher() -> None:
    hashes = merkle.leaf_hashes([b"a", b"b", b"c"], blake3)
    tree = CompactRange(hasher=blake3)
    assert tree.root() == blake3(b"")
    for leaf in hashes:
        tree.append(leaf)
    assert tree.root() == merkle.root_of_hashes(hashes, blake3)
    assert tree.copy().root() == tree.root()
    assert CompactRange(3, tree.nodes, sha256).root() != tree.root()


def test_a_copy_grows_on_its_own() -> None:
    tree = CompactRange()
    tree.extend(HASHES[:5])
    twin = tree.copy()
    twin.append(HASHES[5])
    assert (tree.size, tree.root()) == (5, merkle.root_of_hashes(HASHES[:5]))
    assert twin.root() == merkle.root_of_hashes(HASHES[:6])


@pytest.mark.parametrize(
    ("size", "nodes"),
    [(-1, []), (1, []), (0, [HASHES[0]]), (3, [HASHES[0]]), (1, [b"short"]), (1, [None]),
     (True, [HASHES[0]])],
)  # fmt: skip
def test_a_compact_range_needs_one_hash_for_each_set_bit(size: Any, nodes: Any) -> None:
    with pytest.raises(InputError):
        CompactRange(size, nodes)


def test_only_hashes_can_be_appended() -> None:
    tree = CompactRange()
    for leaf in (b"", b"x" * 31, None, "x" * 32):
        with pytest.raises(InputError):
            tree.append(leaf)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            tree.extend([leaf], lambda *_: None)  # type: ignore[list-item]
    assert tree.size == 0
