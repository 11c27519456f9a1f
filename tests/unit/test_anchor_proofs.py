"""Proofs from tiles on disk: right for every size, and not given away when they do not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchor_svc.proofs import TileCache, View
from anchor_svc.tilestore import TileStore
from anchor_svc.tree import EMPTY, TILE_WIDTH
from provledger import merkle, tiles
from provledger.errors import DataLossError
from provledger.hashing import SUITES, Hasher, sha256

LEAVES = [f"entry {number}".encode() for number in range(70_000)]
HASHES = merkle.leaf_hashes(LEAVES)


def _view(directory: Path, size: int, hasher: Hasher = sha256, max_tiles: int = 512) -> View:
    """A log of that size whose full tiles are on disk."""
    store = TileStore(directory, bytes(16))
    store.open()
    edge, growth = EMPTY.extend(merkle.leaf_hashes(LEAVES[:size], hasher), LEAVES[:size], hasher)
    store.write_growth(growth)
    cache = TileCache(store, hasher, max_tiles)
    return View(size, edge.root(hasher), b"note", edge, cache)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> View:
    return _view(tmp_path_factory.mktemp("small"), 1400)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> View:
    return _view(tmp_path_factory.mktemp("large"), 70_000, max_tiles=16)


def _split(path: bytes) -> list[bytes]:
    return [path[at : at + 32] for at in range(0, len(path), 32)]


def _check_inclusion(view: View, index: int, size: int) -> None:
    root = merkle.root_of_hashes(HASHES[:size])
    proof = _split(view.prover(size, root).inclusion(index))
    assert proof == merkle.inclusion_proof(HASHES[:size], index)
    merkle.verify_inclusion(index, size, HASHES[index], proof, root)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_inclusion_proofs_are_those_of_the_definition(small: View, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, small.size))
    _check_inclusion(small, data.draw(st.integers(0, size - 1)), size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.data())
def test_consistency_proofs_are_those_of_the_definition(small: View, data: st.DataObject) -> None:
    new = data.draw(st.integers(1, small.size))
    old = data.draw(st.integers(1, new))
    new_root, old_root = (merkle.root_of_hashes(HASHES[:size]) for size in (new, old))
    proof = small.prover(new, new_root).consistency(old, old_root)
    assert proof == merkle.consistency_proof(HASHES[:new], old)
    merkle.verify_consistency(old, new, proof, old_root, new_root)


@pytest.mark.parametrize(
    ("index", "size"),
    [
        (0, 70_000),
        (65_535, 70_000),
        (65_536, 70_000),
        (69_887, 70_000),
        (69_888, 70_000),
        (69_999, 70_000),
        (12_345, 65_536),
        (65_536, 65_537),
        (66_000, 66_001),
        (512, 65_535),
    ],
)
def test_inclusion_proofs_in_a_tree_of_three_levels(large: View, index: int, size: int) -> None:
    _check_inclusion(large, index, size)


def test_many_proofs_of_one_prover(large: View) -> None:
    """More tiles than the cache holds, each met several times."""
    prover = large.newest_prover()
    for index in [*range(0, 70_000, 1111), *range(3, 70_000, 1111), *range(69_700, 70_000, 7)]:
        proof = _split(prover.inclusion(index))
        merkle.verify_inclusion(index, 70_000, HASHES[index], proof, large.root)
        assert prover.leaf_hash(index) == HASHES[index]
    assert prover.entry(69_999) == LEAVES[69_999]
    assert prover.entry(4_711) == LEAVES[4_711]


def test_proofs_over_a_blake3_tree(tmp_path: Path) -> None:
    hasher = SUITES["blake3-all"].tree
    view = _view(tmp_path, 600, hasher)
    for index in (0, 300, 599):
        proof = _split(view.newest_prover().inclusion(index))
        leaf = merkle.leaf_hash(LEAVES[index], hasher)
        merkle.verify_inclusion(index, 600, leaf, proof, view.root, hasher)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def _damages() -> list[tuple[str, Callable[[Path], None]]]:
    return [
        ("bit flipped", lambda path: _flip(path, 32 * 7 + 3)),
        ("cut off", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("gone", Path.unlink),
    ]


@pytest.mark.parametrize(("name", "damage"), _damages(), ids=[name for name, _ in _damages()])
@pytest.mark.parametrize("index", [7, 6, 200])
def test_damaged_tile_is_named_and_no_proof_leaves(
    tmp_path: Path, name: str, damage: Callable[[Path], None], index: int
) -> None:
    view = _view(tmp_path, 1000)
    damage(view.newest_prover()._cache.store.root / "tile/0/000")
    with pytest.raises(DataLossError, match="tile/0/000"):
        view.newest_prover().inclusion(index)
    with pytest.raises(DataLossError):
        view.newest_prover().leaf_hash(index)
    # What does not depend on it is answered.
    view.newest_prover().inclusion(index + 256)


def test_damaged_upper_tile_is_found(tmp_path: Path) -> None:
    view = _view(tmp_path, 65_800)
    _flip(view.newest_prover()._cache.store.root / "tile/1/000", 32 * 9)
    # The path of 9 * 256 passes by the flipped hash, and holds: all the same, it is damage.
    for index in (9 * 256, 0, 200 * 256):
        with pytest.raises(DataLossError, match="tile/1/000"):
            view.newest_prover().inclusion(index)
    view.newest_prover().inclusion(65_799)


def test_repaired_tile_is_read_again(tmp_path: Path) -> None:
    view = _view(tmp_path, 1000)
    path = view.newest_prover()._cache.store.root / "tile/0/001"
    _flip(path, 0)
    with pytest.raises(DataLossError):
        view.newest_prover().inclusion(300)
    _flip(path, 0)
    _check_inclusion(view, 300, 1000)


def test_damage_after_the_cache_is_warm_is_found_when_the_tile_is_read_again(
    tmp_path: Path,
) -> None:
    view = _view(tmp_path, 2000, max_tiles=1)
    view.newest_prover().inclusion(0)
    _flip(view.newest_prover()._cache.store.root / "tile/0/000", 99)
    view.newest_prover().inclusion(300)
    with pytest.raises(DataLossError):
        view.newest_prover().inclusion(0)


def test_root_that_is_not_the_trees_is_refused(small: View) -> None:
    with pytest.raises(DataLossError, match="tree size 1000"):
        small.prover(1000, bytes(32))
    prover = small.newest_prover()
    with pytest.raises(DataLossError):
        prover.consistency(1000, bytes(32))


def test_damaged_entry_is_not_given_away(tmp_path: Path) -> None:
    view = _view(tmp_path, 1000)
    store = view.newest_prover()._cache.store
    entries = [*LEAVES[:256]]
    entries[5] = b"entry five"
    (store.root / tiles.entries_path(0)).write_bytes(tiles.encode_bundle(entries))
    assert view.newest_prover().entry(4) == LEAVES[4]
    with pytest.raises(DataLossError, match="tile/entries/000"):
        view.newest_prover().entry(5)
    (store.root / tiles.entries_path(0)).write_bytes(b"\x00")
    with pytest.raises(DataLossError, match="tile/entries/000"):
        view.newest_prover().entry(4)


def test_files_have_the_names_and_contents_of_the_specification(tmp_path: Path) -> None:
    view = _view(tmp_path, 1000)
    root = view.newest_prover()._cache.store.root
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "tile/0/000",
        "tile/0/001",
        "tile/0/002",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002",
    ]
    first = TILE_WIDTH
    assert (root / "tile/0/001").read_bytes() == b"".join(HASHES[first : 2 * first])
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in LEAVES[first : 2 * first])
    assert (root / "tile/entries/001").read_bytes() == bundle
