"""Heads are compared through tiles that were checked; what does not join is evidence."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provledger import merkle
from provledger.errors import (
    InputError,
    LogDamagedError,
    NoteError,
    ReceiptFormatError,
    SplitViewError,
    VerificationError,
)
from provledger.hashing import sha256
from provledger.monitoring import LogView, SeenHead, check_present, entry_of, newest_cosignature
from provledger.note import parse_vkey
from provledger.split_view import SplitView, parse_split_view
from provledger.tiletree import TileTree
from tests.support.chain import sample_chain
from tests.support.tiled import MemoryFiles, cosign, flip, signed_checkpoint, tile_files, vkey

ORIGIN = "provledger.test/log"
ENTRIES = [b"entry %d" % index for index in range(70_000)]
FORKED = [*ENTRIES[:300], b"another", *ENTRIES[301:]]


def tree(size: int, files: dict[str, bytes] | None = None) -> TileTree:
    entries = ENTRIES[:size]
    return TileTree(MemoryFiles(files or tile_files(entries)), size, merkle.root(entries))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700, 65_536, 66_000])
def test_roots_and_proofs_come_out_of_checked_tiles(size: int) -> None:
    found = tree(size)
    for old in {0, 1, size // 3, size // 2, size - 1, size} & set(range(size + 1)):
        old_root = merkle.root(ENTRIES[:old])
        assert found.root_at(old) == old_root
        merkle.verify_consistency(old, size, found.consistency(old), old_root, found.root)
    if size:
        assert found.leaf_hash(size - 1) == merkle.leaf_hash(ENTRIES[size - 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 1200), st.integers(0, 2**32))
def test_nothing_comes_out_of_a_changed_tile(size: int, seed: int) -> None:
    """Whatever bit of whatever tile is changed: an answer is right, or there is none."""
    rng = random.Random(seed)
    files = tile_files(ENTRIES[:size])
    path = rng.choice([name for name in files if "entries" not in name])
    files[path] = flip(files[path], rng.randrange(len(files[path])), rng.randrange(8))
    old, index = rng.randint(1, size), rng.randrange(size)
    with suppress(LogDamagedError):
        found = tree(size, files)
        assert found.root_at(old) == merkle.root(ENTRIES[:old])
        assert found.leaf_hash(index) == merkle.leaf_hash(ENTRIES[index])


def test_a_tile_that_is_away_or_short_is_named() -> None:
    files = tile_files(ENTRIES[:700])
    for path in ("tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2"):
        for data in (None, files[path][:-1]):
            changed = {name: each for name, each in files.items() if name != path}
            if data is not None:
                changed[path] = data
            with pytest.raises(LogDamagedError) as caught:
                tree(700, changed).leaf_hash(300)
            assert caught.value.path == path


# --- heads ---------------------------------------------------------------------------------------


@pytest.fixture
def view() -> LogView:
    return LogView([vkey(ORIGIN)])


def head(view: LogView, size: int, entries: list[bytes] = ENTRIES) -> SeenHead:
    return view.open(signed_checkpoint(ORIGIN, entries[:size]))


def test_heads_of_one_history_are_joined_in_any_order(view: LogView) -> None:
    files = MemoryFiles(tile_files(ENTRIES[:700]))
    newest = head(view, 700)
    for size in (0, 1, 256, 300, 699, 700):
        view.check_joined(head(view, size), newest, files)
        view.check_joined(newest, head(view, size), files)


@pytest.mark.parametrize(("old", "new"), [(300, 300), (301, 301), (301, 700), (699, 700)])
def test_heads_of_two_histories_are_evidence(view: LogView, old: int, new: int) -> None:
    files = MemoryFiles(tile_files(FORKED[:new]))
    if old <= 300:
        view.check_joined(head(view, old), head(view, new, FORKED), files)
        return
    with pytest.raises(SplitViewError) as caught:
        view.check_joined(head(view, old), head(view, new, FORKED), files)
    evidence = parse_split_view(caught.value.evidence)
    older, newer = evidence.verify([vkey(ORIGIN)])
    assert (older.size, newer.size) == (old, new)
    assert older.root == merkle.root(ENTRIES[:old])
    assert newer.root == merkle.root(FORKED[:new])


def test_without_good_tiles_it_cannot_be_told(view: LogView) -> None:
    files = tile_files(FORKED[:700])
    files["tile/0/002.p/188"] = flip(files["tile/0/002.p/188"], 0)
    with pytest.raises(LogDamagedError):
        view.check_joined(head(view, 301), head(view, 700, FORKED), MemoryFiles(files))


def test_a_head_by_another_key_or_of_another_log_is_not_taken(view: LogView) -> None:
    for signed in (
        signed_checkpoint(ORIGIN, ENTRIES[:3], key="checkpoint-2"),
        signed_checkpoint(f"{ORIGIN}2", ENTRIES[:3]),
        signed_checkpoint(ORIGIN, ENTRIES[:3]).replace(b"\n3\n", b"\n4\n"),
    ):
        with pytest.raises(VerificationError):
            view.open(signed)
    with pytest.raises(InputError, match="cannot be read"):
        view.open(b"")
    with pytest.raises(NoteError):
        LogView([vkey(ORIGIN), vkey(f"{ORIGIN}2")])


# --- evidence ------------------------------------------------------------------------------------


def evidence(old: int, new: int) -> SplitView:
    found = TileTree(MemoryFiles(tile_files(FORKED[:new])), new, merkle.root(FORKED[:new]))
    return SplitView(
        signed_checkpoint(ORIGIN, ENTRIES[:old]),
        signed_checkpoint(ORIGIN, FORKED[:new]),
        found.root_at(old),
        tuple(found.consistency(old)),
    )


def test_evidence_says_the_same_both_ways() -> None:
    good = evidence(400, 700)
    assert parse_split_view(good.encode()) == good
    assert parse_split_view(good.encode()).encode() == good.encode()


def test_what_is_no_evidence_proves_nothing() -> None:
    good = evidence(400, 700)
    honest = evidence(300, 700)  # the fork comes later
    for bad in (
        honest,
        SplitView(honest.older, honest.newer, bytes(32), honest.hashes),
        SplitView(good.older, good.newer, good.prefix_root, good.hashes[:-1]),
        SplitView(good.newer, good.older, good.prefix_root, good.hashes),
        SplitView(good.older, good.older, bytes(32), ()),
        SplitView(
            signed_checkpoint(ORIGIN, ENTRIES[:400], key="somebody"),
            good.newer,
            good.prefix_root,
            good.hashes,
        ),
    ):
        with pytest.raises(VerificationError):
            bad.verify([vkey(ORIGIN)])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_changed_evidence_is_refused_or_says_the_same(seed: int) -> None:
    rng = random.Random(seed)
    data = evidence(400, 700).encode()
    changed = flip(data, rng.randrange(len(data)), rng.randrange(8))
    try:
        older, newer = parse_split_view(changed).verify([vkey(ORIGIN)])
    except (ReceiptFormatError, VerificationError):
        return
    # A line by a key that nobody asked about may say anything.
    assert (older.size, newer.size) == (400, 700)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_evidence(data: bytes) -> None:
    with pytest.raises(ReceiptFormatError):
        parse_split_view(data)


# --- freshness, and our own entries --------------------------------------------------------------


def test_the_newest_cosignature_counts() -> None:
    signed = signed_checkpoint(ORIGIN, ENTRIES[:3])
    one, one_key = cosign(signed, "one.example", 1_000)
    both, other_key = cosign(one, "other.example", 2_000)
    keys = [parse_vkey(one_key), parse_vkey(other_key)]
    assert newest_cosignature(signed, keys) is None
    assert newest_cosignature(both, []) is None
    assert newest_cosignature(both, keys[:1]) == 1_000
    assert newest_cosignature(both, keys) == 2_000
    assert newest_cosignature(both, keys, until_unix_s=1_999) == 1_000
    assert newest_cosignature(both, keys, until_unix_s=999) is None
    with pytest.raises(VerificationError):
        newest_cosignature(both.replace(b"\n3\n", b"\n4\n"), keys)


def test_our_entries_are_found_where_receipts_say() -> None:
    chain = sample_chain((20, 30))
    leaves = chain.leaves
    found = TileTree(MemoryFiles(tile_files(leaves)), len(leaves), merkle.root(leaves))
    receipts = chain.receipts()
    assert all(check_present(each, chain.origin, found) for each in receipts)
    assert not check_present(receipts[0], "another.example/log", found)
    assert {merkle.leaf_hash(entry_of(each)) for each in receipts} <= {
        merkle.leaf_hash(leaf) for leaf in leaves
    }
    small = TileTree(MemoryFiles(tile_files(leaves[:30])), 30, merkle.root(leaves[:30]))
    assert not check_present(receipts[-1], chain.origin, small)
    index = receipts[7].proofs[0].log_index
    leaves = [*leaves[:index], b"another", *leaves[index + 1 :]]
    other = TileTree(MemoryFiles(tile_files(leaves)), len(leaves), merkle.root(leaves), sha256)
    with pytest.raises(VerificationError, match=f"another entry at log index {index}") as caught:
        check_present(receipts[7], chain.origin, other)
    assert caught.value.receipt == receipts[7].name
