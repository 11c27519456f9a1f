"""What is kept of a signed batch gives the same root and paths as the whole of it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc.batch_tree import BatchTree, siblings_of
from provledger import merkle
from provledger.errors import InvalidProofError
from provledger.hashing import sha256


def leaves_of(size: int) -> list[bytes]:
    return [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(size)]


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int]:
    """A tree size, and a range of leaves in it that is not empty."""
    size = draw(st.integers(1, 70))
    first = draw(st.integers(0, size - 1))
    return size, first, draw(st.integers(first + 1, size))


def kept(size: int, first: int, end: int) -> tuple[list[bytes], list[bytes]]:
    leaves = leaves_of(size)
    return leaves[first:end], siblings_of(leaves, first, end, sha256)


@given(ranges())
def test_kept_part_gives_root_and_paths(drawn: tuple[int, int, int]) -> None:
    size, first, end = drawn
    own, siblings = kept(size, first, end)
    tree = BatchTree(size, first, own, siblings, sha256)
    everything = leaves_of(size)
    assert tree.root == merkle.root_of_hashes(everything)
    for index in range(size):
        if first <= index < end:
            assert tree.leaf(index) == everything[index]
            assert tree.path(index) == merkle.inclusion_proof(everything, index)
        else:
            assert tree.leaf(index) is None
            with pytest.raises(InvalidProofError):
                tree.path(index)


@given(ranges())
def test_little_is_kept_of_others(drawn: tuple[int, int, int]) -> None:
    size, first, end = drawn
    _, siblings = kept(size, first, end)
    assert len(siblings) <= 2 * (size - 1).bit_length()
    if (first, end) == (0, size):
        assert siblings == []


@given(ranges(), st.data())
def test_damage_gives_another_root_or_an_error(
    drawn: tuple[int, int, int], data: st.DataObject
) -> None:
    size, first, end = drawn
    own, siblings = kept(size, first, end)
    right = merkle.root_of_hashes(leaves_of(size))
    hashes = [*own, *siblings]
    place = data.draw(st.integers(0, len(hashes) - 1))
    hashes[place] = bytes(32)
    damaged = BatchTree(size, first, hashes[: len(own)], hashes[len(own) :], sha256)
    assert damaged.root != right
    with pytest.raises(InvalidProofError):
        BatchTree(size, first, own, [*siblings, bytes(32)], sha256)
    if siblings:
        with pytest.raises(InvalidProofError):
            BatchTree(size, first, own, siblings[:-1], sha256)


@pytest.mark.parametrize(
    ("size", "first", "count"), [(4, -1, 2), (4, 3, 2), (4, 0, 0), (4, 0, 5), (0, 0, 1)]
)
def test_impossible_parts_are_refused(size: int, first: int, count: int) -> None:
    with pytest.raises(InvalidProofError):
        BatchTree(size, first, leaves_of(count), [], sha256)
