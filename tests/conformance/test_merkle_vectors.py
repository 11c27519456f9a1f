"""RFC 6962 trees and proofs: transparency-dev/merkle's published cases.

The consistency cases follow the recipe of that project's verifier test: known proofs over the
eight published leaves, and every proof damaged in each of the published ways.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any

import pytest

from provledger import merkle
from provledger.errors import InvalidProofError
from tests.conformance.vectors import cases, load


def _b64(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@pytest.mark.parametrize(
    "case",
    cases("rfc6962/inclusion.json", lambda file: ((case["path"], case) for case in file)),
)
def test_inclusion(case: Any) -> None:
    arguments = (
        case["leafIdx"],
        case["treeSize"],
        _b64(case["leafHash"]),
        [_b64(item) for item in case["proof"] or []],
        _b64(case["root"]),
    )
    if case["wantErr"]:
        with pytest.raises(InvalidProofError):
            merkle.verify_inclusion(*arguments)
    else:
        merkle.verify_inclusion(*arguments)


def test_hasher() -> None:
    file = load("rfc6962/hasher.json")
    assert merkle.root([]).hex() == file["empty_root_hex"]
    for leaf in file["leaves"]:
        data = bytes.fromhex(leaf["data_hex"]) if "data_hex" in leaf else leaf["data_utf8"].encode()
        assert merkle.leaf_hash(data).hex() == leaf["hash_hex"]
    for node in file["nodes"]:
        found = merkle.node_hash(node["left_utf8"].encode(), node["right_utf8"].encode())
        assert found.hex() == node["hash_hex"]


def test_tree_of_eight_leaves() -> None:
    file = load("rfc6962/tree8.json")
    data = [bytes.fromhex(item) for item in file["leaf_inputs_hex"]]
    for size, root_hex in enumerate(file["root_hash_hex_by_size"]):
        assert merkle.root(data[:size]).hex() == root_hex
    levels = file["node_hashes_hex_by_level"]
    assert [item.hex() for item in merkle.leaf_hashes(data)] == levels[0]
    for below, above in pairwise(levels):
        pairs = zip(below[::2], below[1::2], strict=True)
        made = [merkle.node_hash(bytes.fromhex(a), bytes.fromhex(b)).hex() for a, b in pairs]
        assert made == above


# Nodes of the published tree as (level, index); the proofs name them in order.
_CONSISTENCY = [
    (1, 8, [(0, 1), (1, 1), (2, 1)]),
    (6, 8, [(1, 2), (1, 3), (2, 0)]),
    (2, 5, [(1, 1), (0, 4)]),
    (6, 7, [(1, 2), (0, 6), (2, 0)]),
]
_INCLUSION = [
    (0, 8, [(0, 1), (1, 1), (2, 1)]),
    (5, 8, [(0, 4), (1, 3), (2, 0)]),
    (2, 3, [(1, 0)]),
    (1, 5, [(0, 0), (1, 1), (0, 4)]),
]


def _tree8() -> tuple[list[bytes], list[bytes], list[list[bytes]]]:
    file = load("rfc6962/tree8.json")
    return (
        [bytes.fromhex(item) for item in file["leaf_inputs_hex"]],
        [bytes.fromhex(item) for item in file["root_hash_hex_by_size"]],
        [[bytes.fromhex(item) for item in level] for level in file["node_hashes_hex_by_level"]],
    )


@pytest.mark.parametrize(("index", "size", "nodes"), _INCLUSION)
def test_known_inclusion_proofs(index: int, size: int, nodes: list[tuple[int, int]]) -> None:
    data, roots, levels = _tree8()
    proof = [levels[level][at] for level, at in nodes]
    hashes = merkle.leaf_hashes(data[:size])
    assert merkle.inclusion_proof(hashes, index) == proof
    merkle.verify_inclusion(index, size, hashes[index], proof, roots[size])


@pytest.mark.parametrize(("old", "new", "nodes"), _CONSISTENCY)
def test_known_consistency_proofs(old: int, new: int, nodes: list[tuple[int, int]]) -> None:
    data, roots, levels = _tree8()
    proof = [levels[level][at] for level, at in nodes]
    assert merkle.consistency_proof(merkle.leaf_hashes(data[:new]), old) == proof
    merkle.verify_consistency(old, new, proof, roots[old], roots[new])


@pytest.mark.parametrize(("old", "new", "nodes"), _CONSISTENCY)
def test_damaged_consistency_proofs_are_rejected(
    old: int, new: int, nodes: list[tuple[int, int]]
) -> None:
    _, roots, levels = _tree8()
    proof = [levels[level][at] for level, at in nodes]
    one, two = roots[old], roots[new]
    damaged: list[tuple[int, int, list[bytes], bytes, bytes]] = [
        (old - 1, new, proof, one, two),
        (old + 1, new, proof, one, two),
        (old ^ 2, new, proof, one, two),
        (old, new * 2, proof, one, two),
        (old, new // 2, proof, one, two),
        (old, new, proof, b"WrongRoot", two),
        (old, new, proof, one, b"WrongRoot"),
        (old, new, proof, two, one),
        (old, new, [], one, two),
        (old, new, [*proof, b""], one, two),
        (old, new, [*proof, one], one, two),
        (old, new, [*proof, two], one, two),
        (old, new, [b"", *proof], one, two),
        (old, new, [one, *proof], one, two),
        (old, new, [two, *proof], one, two),
        (old, new, [proof[0], *proof], one, two),
        (old, new, proof[:-1], one, two),
    ]
    for place, item in enumerate(proof):
        flipped = bytes([item[0] ^ 16]) + item[1:]
        damaged.append((old, new, [*proof[:place], flipped, *proof[place + 1 :]], one, two))
    for case in damaged:
        with pytest.raises(InvalidProofError):
            merkle.verify_consistency(*case)


_EMPTY = merkle.root([])
_ANY_1 = b"don't care 1"
_ANY_2 = b"don't care 2"


@pytest.mark.parametrize(
    ("old", "new", "proof", "old_root", "new_root", "holds"),
    [
        (0, 0, [], _ANY_1, _ANY_2, False),
        (1, 1, [], _ANY_1, _ANY_2, False),
        (0, 0, [], _ANY_1, _ANY_1, True),
        (1, 1, [], _ANY_2, _ANY_2, True),
        (0, 1, [], _ANY_1, _ANY_2, False),
        (0, 1, [], _EMPTY, _ANY_2, False),
        (1, 0, [], _ANY_1, _ANY_2, False),
        (2, 1, [], _ANY_1, _ANY_2, False),
        (1, 2, [], _ANY_1, _ANY_2, False),
        (0, 0, [], _EMPTY, _ANY_2, False),
        (1, 1, [], _EMPTY, _ANY_2, False),
        (0, 0, [_EMPTY], _EMPTY, _EMPTY, False),
        (0, 1, [_EMPTY], _EMPTY, _EMPTY, False),
        (1, 1, [_EMPTY], _EMPTY, _EMPTY, False),
    ],
)
def test_consistency_between_special_sizes(
    old: int, new: int, proof: list[bytes], old_root: bytes, new_root: bytes, holds: bool
) -> None:
    if holds:
        merkle.verify_consistency(old, new, proof, old_root, new_root)
    else:
        with pytest.raises(InvalidProofError):
            merkle.verify_consistency(old, new, proof, old_root, new_root)
