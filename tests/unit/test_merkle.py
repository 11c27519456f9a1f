from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import hashing, merkle
from provledger.errors import InputError, InvalidProofError
from provledger.hashing import Hasher, blake3, sha256

HASHERS = [sha256, blake3, lambda data: sha256(b"another" + data)]


def leaves(count: int, hasher: Hasher = sha256) -> list[bytes]:
    return merkle.leaf_hashes([b"leaf %d" % i for i in range(count)], hasher)


def reference_root(hashes: list[bytes], hasher: Hasher) -> bytes:
    """MTH as RFC 9162 §2.1.1 states it."""
    if not hashes:
        return hasher(b"")
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    left, right = reference_root(hashes[:k], hasher), reference_root(hashes[k:], hasher)
    return hasher(b"\x01" + left + right)


def reference_path(m: int, hashes: list[bytes]) -> list[bytes]:
    """PATH as RFC 9162 §2.1.3.1 states it."""
    if len(hashes) == 1:
        return []
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    if m < k:
        return [*reference_path(m, hashes[:k]), reference_root(hashes[k:], sha256)]
    return [*reference_path(m - k, hashes[k:]), reference_root(hashes[:k], sha256)]


def reference_subproof(m: int, hashes: list[bytes], complete: bool) -> list[bytes]:
    """SUBPROOF as RFC 9162 §2.1.4.1 states it."""
    if m == len(hashes):
        return [] if complete else [reference_root(hashes, sha256)]
    k = 1 << ((len(hashes) - 1).bit_length() - 1)
    if m <= k:
        return [*reference_subproof(m, hashes[:k], complete), reference_root(hashes[k:], sha256)]
    right = reference_subproof(m - k, hashes[k:], False)
    return [*right, reference_root(hashes[:k], sha256)]


@pytest.mark.parametrize("hasher", HASHERS)
def test_root_is_the_recursive_definition(hasher: Hasher) -> None:
    hashes = leaves(70, hasher)
    for size in range(71):
        assert merkle.root_of_hashes(hashes[:size], hasher) == reference_root(hashes[:size], hasher)


def test_root_hashes_the_leaves_first() -> None:
    data = [b"a", b"", b"c"]
    assert merkle.root(data) == merkle.root_of_hashes([merkle.leaf_hash(d) for d in data])
    assert merkle.leaf_hash(b"x") == sha256(b"\x00x")
    assert merkle.node_hash(b"l", b"r") == sha256(b"\x01lr")


def test_duplicating_the_last_leaf_gives_another_root() -> None:
    """Bitcoin's tree repeats an unpaired node and so has two leaf lists for one root."""
    hashes = leaves(3)
    assert merkle.root_of_hashes(hashes) != merkle.root_of_hashes([*hashes, hashes[-1]])


def test_every_inclusion_proof_is_the_recursive_path_and_verifies() -> None:
    hashes = leaves(40)
    for size in range(1, 41):
        part = hashes[:size]
        root = merkle.root_of_hashes(part)
        every = merkle.inclusion_proofs(part)
        assert len(every) == size
        for index in range(size):
            proof = merkle.inclusion_proof(part, index)
            assert proof == reference_path(index, part) == every[index]
            merkle.verify_inclusion(index, size, part[index], proof, root)


def test_every_consistency_proof_is_the_recursive_one_and_verifies() -> None:
    hashes = leaves(34)
    for new in range(1, 35):
        new_root = merkle.root_of_hashes(hashes[:new])
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(hashes[:new], old)
            assert proof == reference_subproof(old, hashes[:new], True)
            old_root = merkle.root_of_hashes(hashes[:old])
            merkle.verify_consistency(old, new, proof, old_root, new_root)


@pytest.mark.parametrize("hasher", HASHERS)
def test_proofs_verify_under_their_own_hasher_only(hasher: Hasher) -> None:
    hashes = leaves(11, hasher)
    root = merkle.root_of_hashes(hashes, hasher)
    old_root = merkle.root_of_hashes(hashes[:6], hasher)
    proof = merkle.inclusion_proof(hashes, 4, hasher)
    extension = merkle.consistency_proof(hashes, 6, hasher)
    assert merkle.inclusion_proofs(hashes, hasher)[4] == proof
    for other in HASHERS:
        if other is hasher:
            merkle.verify_inclusion(4, 11, hashes[4], proof, root, other)
            merkle.verify_consistency(6, 11, extension, old_root, root, other)
        else:
            with pytest.raises(InvalidProofError):
                merkle.verify_inclusion(4, 11, hashes[4], proof, root, other)
            with pytest.raises(InvalidProofError):
                merkle.verify_consistency(6, 11, extension, old_root, root, other)


@given(st.data())
def test_a_proof_holds_for_its_own_position_only(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 70))
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(size)
    root = merkle.root_of_hashes(hashes)
    proof = merkle.inclusion_proof(hashes, index)
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
    with pytest.raises(InvalidProofError):
        merkle.verify_inclusion(other, size, hashes[index], proof, root)
    with pytest.raises(InvalidProofError):
        merkle.verify_inclusion(index, size, hashes[other], proof, root)
    place = data.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    for damaged in (
        [*proof[:place], flipped, *proof[place + 1 :]],
        [*proof[:place], *proof[place + 1 :]],
        [*proof[:place], root, *proof[place:]],
        [*proof, root],
    ):
        with pytest.raises(InvalidProofError):
            merkle.verify_inclusion(index, size, hashes[index], damaged, root)


@given(st.data())
def test_a_known_tree_answers_each_time_as_if_it_were_the_first(data: st.DataObject) -> None:
    """Whatever was asked before, good or bad: no answer differs from that of `verify_inclusion`."""
    size = data.draw(st.integers(1, 70))
    hashes = leaves(size)
    root = merkle.root_of_hashes(hashes)
    proofs = merkle.inclusion_proofs(hashes)
    tree = merkle.KnownTree(size, root)
    near = st.integers(0, size - 1)
    for _ in range(data.draw(st.integers(1, 12))):
        index, claimed, of = data.draw(near), data.draw(near), data.draw(near)
        kind = data.draw(
            st.sampled_from(["good", "good", "index", "leaf", "spliced", "long", "bit"])
        )
        leaf, proof = hashes[index], list(proofs[index])
        if kind == "leaf":
            leaf = hashes[of]
        elif kind == "spliced":
            cut = data.draw(st.integers(0, len(proof)))
            proof = proof[:cut] + proofs[of][cut:]
        elif kind == "long":
            proof = [*proof, bytes(32)][: data.draw(st.integers(0, len(proof) + 1))]
        elif kind == "bit" and proof:
            at = data.draw(st.integers(0, len(proof) - 1))
            proof[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        place = claimed if kind == "index" else index
        try:
            merkle.verify_inclusion(place, size, leaf, proof, root)
        except InvalidProofError:
            with pytest.raises(InvalidProofError):
                tree.verify(place, leaf, tuple(proof))
        else:
            tree.verify(place, leaf, tuple(proof))


def test_a_known_tree_hashes_what_neighbours_share_once() -> None:
    hashes = leaves(1024)
    proofs = merkle.inclusion_proofs(hashes)
    count = 0

    def counted(data: bytes) -> bytes:
        nonlocal count
        count += 1
        return sha256(data)

    tree = merkle.KnownTree(1024, merkle.root_of_hashes(hashes), counted)
    for index, leaf in enumerate(hashes):
        tree.verify(index, leaf, proofs[index])
    # The first two in full, and then as many as the tree has nodes.
    assert count < 20 + 2 * 1024


@pytest.mark.parametrize("index", [-1, 4, 2**63, "1", None])
def test_a_known_tree_has_no_leaf_outside_of_it(index: Any) -> None:
    hashes = leaves(4)
    tree = merkle.KnownTree(4, merkle.root_of_hashes(hashes))
    for _ in range(2):
        with pytest.raises(InvalidProofError):
            tree.verify(index, hashes[0], merkle.inclusion_proof(hashes, 0))


@given(st.data())
def test_a_history_that_was_rewritten_is_not_consistent(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, new - 1))
    changed = data.draw(st.integers(0, old - 1))
    before = leaves(old)
    after = leaves(new)
    after[changed] = merkle.leaf_hash(b"something else")
    proof = merkle.consistency_proof(after, old)
    with pytest.raises(InvalidProofError):
        merkle.verify_consistency(
            old, new, proof, merkle.root_of_hashes(before), merkle.root_of_hashes(after)
        )


def test_from_the_empty_tree_only_the_empty_proof_and_root_hold() -> None:
    hashes = leaves(5)
    root = merkle.root_of_hashes(hashes)
    assert merkle.consistency_proof(hashes, 0) == []
    merkle.verify_consistency(0, 5, [], merkle.root([]), root)
    merkle.verify_consistency(0, 0, [], merkle.root([]), merkle.root([]))
    for proof, old_root in (([root], merkle.root([])), ([], root)):
        with pytest.raises(InvalidProofError):
            merkle.verify_consistency(0, 5, proof, old_root, root)


LEAF = leaves(1)[0]
ROOT = merkle.root_of_hashes(leaves(2))
PROOF = [leaves(2)[1]]


@pytest.mark.parametrize(
    ("index", "size", "leaf", "proof", "root"),
    [
        (-1, 2, LEAF, PROOF, ROOT),
        (2, 2, LEAF, PROOF, ROOT),
        (0, 0, LEAF, [], ROOT),
        (0, -2, LEAF, PROOF, ROOT),
        (False, 2, LEAF, PROOF, ROOT),
        (0, True, LEAF, [], LEAF),
        (0.0, 2, LEAF, PROOF, ROOT),
        ("0", 2, LEAF, PROOF, ROOT),
        (0, "2", LEAF, PROOF, ROOT),
        (None, 2, LEAF, PROOF, ROOT),
        (0, 2, LEAF[:31], PROOF, ROOT),
        (0, 2, LEAF + b"\0", PROOF, ROOT),
        (0, 2, LEAF.hex(), PROOF, ROOT),
        (0, 2, None, PROOF, ROOT),
        (0, 2, LEAF, PROOF, ROOT[:31]),
        (0, 2, LEAF, PROOF, None),
        (0, 2, LEAF, [PROOF[0][:31]], ROOT),
        (0, 2, LEAF, [PROOF[0].hex()], ROOT),
        (0, 2, LEAF, [None], ROOT),
        (0, 2, LEAF, None, ROOT),
        (0, 2, LEAF, PROOF[0], ROOT),
        (0, 2, LEAF, {PROOF[0]: 1}, ROOT),
        (0, 2**64, LEAF, PROOF, ROOT),
    ],
)
def test_inclusion_of_nonsense_is_our_error(
    index: Any, size: Any, leaf: Any, proof: Any, root: Any
) -> None:
    merkle.verify_inclusion(0, 2, LEAF, PROOF, ROOT)
    with pytest.raises(InvalidProofError):
        merkle.verify_inclusion(index, size, leaf, proof, root)


@pytest.mark.parametrize(
    ("old", "new", "proof", "old_root", "new_root"),
    [
        (-1, 2, PROOF, LEAF, ROOT),
        (2, 1, PROOF, LEAF, ROOT),
        (True, 2, PROOF, LEAF, ROOT),
        (1, 2.0, PROOF, LEAF, ROOT),
        (1, None, PROOF, LEAF, ROOT),
        (1, 2, [], LEAF, ROOT),
        (1, 2, None, LEAF, ROOT),
        (1, 2, [b""], LEAF, ROOT),
        (1, 2, [1], LEAF, ROOT),
        (1, 2, PROOF * 2, LEAF, ROOT),
        (1, 2, PROOF, LEAF[:31], ROOT),
        (1, 2, PROOF, LEAF, ROOT.hex()),
        (1, 2, PROOF, None, ROOT),
        (2, 2, [], None, None),
        (2, 2, None, ROOT, ROOT),
        (2, 2, PROOF, ROOT, ROOT),
        (1, 2**64, PROOF, LEAF, ROOT),
    ],
)
def test_consistency_of_nonsense_is_our_error(
    old: Any, new: Any, proof: Any, old_root: Any, new_root: Any
) -> None:
    merkle.verify_consistency(1, 2, PROOF, LEAF, ROOT)
    with pytest.raises(InvalidProofError):
        merkle.verify_consistency(old, new, proof, old_root, new_root)


@pytest.mark.parametrize("index", [-1, 3, True, 1.0, "1", None])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: Any) -> None:
    with pytest.raises(InputError):
        merkle.inclusion_proof(leaves(3), index)


@pytest.mark.parametrize("old_size", [-1, 4, True, 1.0, "1", None])
def test_there_is_no_proof_for_a_size_that_never_was(old_size: Any) -> None:
    with pytest.raises(InputError):
        merkle.consistency_proof(leaves(3), old_size)


def test_an_empty_tree_has_no_proofs() -> None:
    assert merkle.inclusion_proofs([]) == []
    with pytest.raises(InputError):
        merkle.inclusion_proof([], 0)
    assert merkle.root([], hashing.blake3) == hashing.blake3(b"")
