"""The edge of a growing tree, against the plain definition of RFC 9162 §2.1.1."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_svc.tree import EMPTY, TILE_WIDTH, Edge, FullBundle, FullTile, level_widths
from provledger import merkle, tiles
from provledger.hashing import SUITES, Hasher, sha256

LEAVES = [str(number).encode() for number in range(70_000)]


def _grow(
    steps: list[int], hasher: Hasher = sha256
) -> tuple[Edge, list[FullTile], list[FullBundle]]:
    edge = EMPTY
    made_tiles: list[FullTile] = []
    bundles: list[FullBundle] = []
    for step in steps:
        entries = LEAVES[edge.size : edge.size + step]
        edge, growth = edge.extend(merkle.leaf_hashes(entries, hasher), entries, hasher)
        made_tiles += growth.tiles
        bundles += growth.bundles
    return edge, made_tiles, bundles


@given(st.lists(st.integers(0, 700), max_size=6))
def test_root_and_tiles_do_not_depend_on_the_steps(steps: list[int]) -> None:
    edge, made, bundles = _grow(steps)
    size = sum(steps)
    leaves = LEAVES[:size]
    assert edge.size == size
    assert edge.root(sha256) == merkle.root(leaves)
    assert [len(hashes) for hashes in edge.levels][: len(level_widths(size))] == level_widths(size)
    assert edge.entries == tuple(leaves[size - size % TILE_WIDTH :])
    expected = [tile for tile in tiles.tiles_for_size(size) if tile.width == TILE_WIDTH]
    assert {(tile.level, tile.index) for tile in made} == {(t.level, t.index) for t in expected}
    assert [bundle.index for bundle in bundles] == list(range(size // TILE_WIDTH))


def test_tiles_hold_what_the_specification_says() -> None:
    """Hash i of tile n at level l is MTH(D[(n*256+i)*256^l : (n*256+i+1)*256^l])."""
    edge, made, bundles = _grow([1, 69_999])
    by_place = {(tile.level, tile.index): tile.data for tile in made}
    assert len(by_place) == 273 + 1
    assert [len(hashes) for hashes in edge.levels] == [112, 17, 1]
    for level, index in [(0, 0), (0, 17), (0, 272), (1, 0)]:
        span = TILE_WIDTH**level
        for place in (0, 1, 100, 255):
            first = (index * TILE_WIDTH + place) * span
            data = by_place[level, index][32 * place : 32 * place + 32]
            assert data == merkle.root(LEAVES[first : first + span])
    assert edge.levels[1][3] == merkle.root(LEAVES[(256 + 3) * 256 : (256 + 4) * 256])
    assert edge.levels[2][0] == merkle.root(LEAVES[:65_536])
    assert edge.root(sha256) == merkle.root(LEAVES)
    assert bundles[5].entries == tuple(LEAVES[5 * 256 : 6 * 256])


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537])
def test_root_at_borders_of_tiles(size: int) -> None:
    edge, _, _ = _grow([size])
    assert edge.root(sha256) == merkle.root(LEAVES[:size])


def test_blake3_tree_has_the_same_shape() -> None:
    hasher = SUITES["blake3-all"].tree
    edge, _, _ = _grow([300, 400], hasher)
    assert edge.root(hasher) == merkle.root(LEAVES[:700], hasher)


def test_extending_leaves_the_old_edge_as_it_was() -> None:
    edge, _, _ = _grow([300])
    before = (edge.size, edge.levels, edge.entries)
    edge.extend([hashlib.sha256(b"x").digest()], [b"x"], sha256)
    assert (edge.size, edge.levels, edge.entries) == before


def test_edge_finds_its_own_entries_only() -> None:
    edge, _, _ = _grow([600])
    assert edge.entry(511) is None
    assert edge.entry(512) == LEAVES[512]
    assert edge.entry(599) == LEAVES[599]
    assert edge.entry(600) is None
