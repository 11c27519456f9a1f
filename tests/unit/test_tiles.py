from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import merkle, tiles
from provledger.errors import TileError
from provledger.tiles import Tile


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (tiles.tile_path(0, 0), "tile/0/000"),
        (tiles.tile_path(0, 0, 256), "tile/0/000"),
        (tiles.tile_path(1, 999, 255), "tile/1/999.p/255"),
        (tiles.tile_path(63, 1000, 1), "tile/63/x001/000.p/1"),
        (tiles.tile_path(0, 1234067), "tile/0/x001/x234/067"),
        (tiles.tile_path(2, 1_000_000_000), "tile/2/x001/x000/x000/000"),
        (tiles.entries_path(0), "tile/entries/000"),
        (tiles.entries_path(1234067, 9), "tile/entries/x001/x234/067.p/9"),
    ],
)
def test_paths_are_those_of_the_specification(path: str, wanted: str) -> None:
    assert path == wanted


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(-1, 0, 256), (64, 0, 256), (True, 0, 256), ("0", 0, 256), (0, -1, 256), (0, 2**63, 256),
     (0, 1.0, 256), (0, True, 256), (0, 0, 0), (0, 0, 257), (0, 0, -1), (0, 0, True), (0, 0, None)],
)  # fmt: skip
def test_impossible_coordinates_are_refused(level: Any, index: Any, width: Any) -> None:
    with pytest.raises(TileError):
        tiles.tile_path(level, index, width)
    if level == 0 and type(level) is int:
        with pytest.raises(TileError):
            tiles.entries_path(index, width)


def test_tiles_of_the_specification_s_examples() -> None:
    found = list(tiles.tiles_for_size(70_000))
    assert found[:273] == [Tile(0, i, 256) for i in range(273)]
    assert found[273:] == [Tile(0, 273, 112), Tile(1, 0, 256), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles.tiles_for_size(256)) == [Tile(0, 0, 256), Tile(1, 0, 1)]
    assert list(tiles.tiles_for_size(0)) == []
    assert [tiles.partial_width(70_000, level) for level in range(4)] == [112, 17, 1, 0]
    assert [tiles.partial_width(256, level) for level in range(3)] == [0, 1, 0]


@given(st.none() | st.integers(0, tiles.MAX_LEVEL), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_a_path_is_read_as_it_was_written(level: int | None, index: int, width: int) -> None:
    named = tiles.TilePath(level, index, width)
    assert tiles.parse_path(named.path) == named


@pytest.mark.parametrize(
    "path",
    ["", "tile", "tile/0", "tile/0/", "tile/0/0", "tile/0/0000", "tile/64/000", "tile/00/000",
     "tile/-1/000", "tile/0/000/", "/tile/0/000", "tile//000", "tile/0/x000/000", "tile/0/x01/000",
     "tile/0/001/000", "tile/0/x001", "tile/0/x001/x000", "tile/0/000.p/0", "tile/0/000.p/256",
     "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p", "tile/0/000.p/1/2", "tile/0/../0/000",
     "tile/entries/0", "tile/Entries/000", "tile/8/0/000", "tile/0/000\n", "tile/0/００0",
     "tile/0/x009/x223/x372/x036/x854/x775/808", "tile/0/" + "x999/" * 50 + "000", "checkpoint"],
)  # fmt: skip
def test_a_tile_has_one_path_and_no_other(path: str) -> None:
    with pytest.raises(TileError):
        tiles.parse_path(path)


@given(st.integers(1, 300_000))
def test_a_tile_ends_where_its_last_leaf_does(size: int) -> None:
    """A tree has exactly the tiles that end within it, and of each row the next one does not."""
    for tile in tiles.tiles_for_size(size):
        here = tiles.TilePath(tile.level, tile.index, tile.width)
        wider = tiles.TilePath(tile.level, tile.index, min(256, tile.width + 1))
        assert here.end <= size
        if tile.width < 256:
            assert wider.end > size


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_new_tiles_are_those_the_old_tree_did_not_have(one: int, two: int) -> None:
    old, new = sorted((one, two))
    before = set(tiles.tiles_for_size(old))
    wanted = [tile for tile in tiles.tiles_for_size(new) if tile not in before]
    assert list(tiles.tiles_for_size(new, old)) == wanted


@pytest.mark.parametrize(("size", "old"), [(-1, 0), (5, 6), (5, -1), (True, 0), (2**63, 0)])
def test_impossible_sizes_are_refused(size: Any, old: Any) -> None:
    with pytest.raises(TileError):
        tiles.tiles_for_size(size, old)


@pytest.mark.parametrize("level", [-1, 64, True, None])
def test_impossible_levels_are_refused(level: Any) -> None:
    with pytest.raises(TileError):
        tiles.partial_width(5, level)


def test_nodes_are_found_in_tiles() -> None:
    """Every perfect subtree's hash is the root over a run of hashes of one tile."""
    size = 700
    hashes = merkle.leaf_hashes([b"%d" % i for i in range(size)])
    stored = {(0, n): hashes[n * 256 : (n + 1) * 256] for n in range(3)}
    stored[1, 0] = [merkle.root_of_hashes(stored[0, n]) for n in range(2)]
    level = 0
    while 1 << level <= size:
        for index in range(size >> level):
            place = tiles.node_place(level, index)
            found = stored[place.level, place.index][place.start : place.stop]
            assert len(found) == place.stop - place.start
            wanted = merkle.root_of_hashes(hashes[index << level : (index + 1) << level])
            assert merkle.root_of_hashes(found) == wanted
        level += 1


@pytest.mark.parametrize(("level", "index"), [(-1, 0), (0, -1), (True, 0), (0, None)])
def test_impossible_nodes_are_refused(level: Any, index: Any) -> None:
    with pytest.raises(TileError):
        tiles.node_place(level, index)


def test_tiles_hold_as_many_hashes_as_their_width_says() -> None:
    assert tiles.parse_tile(bytes(range(64)), 2) == [bytes(range(32)), bytes(range(32, 64))]
    assert len(tiles.parse_tile(bytes(8192))) == 256
    for data, width in ((bytes(64), 1), (bytes(63), 2), (b"", 1), (bytes(64), 256), (None, 2)):
        with pytest.raises(TileError):
            tiles.parse_tile(data, width)  # type: ignore[arg-type]
    for width in (0, 257, True):
        with pytest.raises(TileError):
            tiles.parse_tile(b"", width)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_bundles_survive_the_round_trip(entries: list[bytes]) -> None:
    data = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(data) == entries
    assert tiles.encode_bundle(tiles.decode_bundle(data)) == data


@given(st.binary(max_size=60))
def test_every_bundle_that_decodes_is_the_one_that_encodes(data: bytes) -> None:
    try:
        entries = tiles.decode_bundle(data)
    except TileError:
        return
    assert tiles.encode_bundle(entries) == data


def test_bundles_have_limits() -> None:
    longest = bytes(65_535)
    assert tiles.decode_bundle(tiles.encode_bundle([longest] * 2)) == [longest] * 2
    assert len(tiles.decode_bundle(tiles.encode_bundle([b""] * 256))) == 256
    for entries in ([], [b""] * 257, [longest + b"\0"]):
        with pytest.raises(TileError):
            tiles.encode_bundle(entries)
    for data in (b"", b"\0", b"\0\1", b"\0\0\0", bytes(514), b"\xff\xff" + bytes(65_534), None):
        with pytest.raises(TileError):
            tiles.decode_bundle(data)  # type: ignore[arg-type]
