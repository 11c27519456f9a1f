"""Tiles of c2sp.org/tlog-tiles: its path examples, and the tiles of a real log of 300 leaves."""

from __future__ import annotations

from provledger import checkpoint, merkle, note, tiles
from provledger.proof import TreeReader
from tests.conformance.vectors import load, read

_LOG = "tlog-tiles/sunlight-mirror-300"


def test_published_paths() -> None:
    for example in load("tlog-tiles/index.json")["path_examples"]:
        assert tiles.tile_path(0, example["index"]) == f"tile/0/{example['encoded']}"
        assert tiles.entries_path(example["index"]) == f"tile/entries/{example['encoded']}"


def test_published_sizes() -> None:
    file = load("tlog-tiles/index.json")
    widths = [(tile.level, tile.width) for tile in tiles.tiles_for_size(70_000)]
    wanted = file["size_70000"]
    assert widths.count((0, 256)) == wanted["level0_full"]
    assert widths.count((1, 256)) == wanted["level1_full"]
    assert [width for _, width in widths if width < 256] == [
        wanted["level0_partial_width"],
        wanted["level1_partial_width"],
        wanted["level2_partial_width"],
    ]
    assert tiles.partial_width(256, 1) == file["size_256"]["level1_partial_width"]


def test_tiles_of_a_published_log() -> None:
    vkey = load("tlog-tiles/index.json")["sunlight-mirror-300"]["cosigner_vkey"]
    head = checkpoint.parse(note.open(read(f"{_LOG}/checkpoint"), [vkey]).text)
    stored = {
        (tile.level, tile.index): tiles.parse_tile(
            read(f"{_LOG}/{tiles.tile_path(tile.level, tile.index, tile.width)}"), tile.width
        )
        for tile in tiles.tiles_for_size(head.size)
    }
    assert stored.keys() == {(0, 0), (0, 1), (1, 0)}

    def node(level: int, index: int) -> bytes:
        place = tiles.node_place(level, index)
        return merkle.root_of_hashes(stored[place.level, place.index][place.start : place.stop])

    reader = TreeReader(node)
    assert reader.root_at(head.size) == head.root
    leaves = merkle.leaf_hashes([b"record %d" % i for i in range(head.size)])
    assert merkle.root_of_hashes(leaves) == head.root
    for index in (0, 255, 256, 299):
        proof = reader.inclusion(index, head.size)
        merkle.verify_inclusion(index, head.size, leaves[index], proof, head.root)
    old_root = merkle.root_of_hashes(leaves[:257])
    proof = reader.consistency(257, head.size)
    merkle.verify_consistency(257, head.size, proof, old_root, head.root)
