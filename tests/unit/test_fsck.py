"""A walk over a log's files finds every bit that is not what it was, and names its file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provledger import jcs, merkle, tiles
from provledger.errors import LogDamagedError
from provledger.fsck import Head, LedgerBinder, TreeWalk
from provledger.hashing import sha256
from tests.support.anchoring import Ledger
from tests.support.tiled import MemoryFiles, flip, tile_files

ORIGIN = "provledger.test/log"
FIRST = jcs.encode({"log": {"origin": ORIGIN, "v": "1"}})


@cache
def made_up(count: int) -> tuple[bytes, ...]:
    return tuple(b"entry %d" % index for index in range(count))


def walk(
    files: dict[str, bytes],
    size: int,
    root: bytes,
    heads: Sequence[Head] = (),
    tail: Sequence[bytes] = (),
) -> TreeWalk:
    walked = TreeWalk(MemoryFiles(files), sha256, size, root, heads)
    for _ in walked.bundles():
        pass
    if tail:
        walked.extend(tail)
    walked.finish()
    return walked


def damage(files: dict[str, bytes], size: int, root: bytes) -> LogDamagedError:
    with pytest.raises(LogDamagedError) as caught:
        walk(files, size, root)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 700, 1024])
def test_a_whole_log_holds_with_every_head_and_what_is_left_of_earlier_sizes(size: int) -> None:
    entries = made_up(size)
    files: dict[str, bytes] = {}
    for earlier in sorted({min(size, n) for n in (1, 100, 300, 600, size)}):
        files |= tile_files(entries, earlier)
    heads = [Head(n, merkle.root(entries[:n]), f"head {n}") for n in range(1, size + 1, 97)]
    walked = walk(files, size, merkle.root(entries), heads)
    assert walked.entries_checked == size
    assert walked.heads_checked == len(heads)
    assert walked.bundles_checked == -(-size // 256)
    partials = [path for path in files if ".p/" in path]
    assert walked.partials_checked == len(partials)


def test_heads_beyond_what_is_published_are_checked_with_entries_from_elsewhere() -> None:
    entries = made_up(400)
    heads = [Head(n, merkle.root(entries[:n]), f"head {n}") for n in (300, 350, 400)]
    files = tile_files(entries, 300)
    root = merkle.root(entries[:300])
    assert walk(files, 300, root, heads, entries[300:]).heads_checked == 3
    with pytest.raises(LogDamagedError, match="covers entries that are not there"):
        walk(files, 300, root, heads, entries[300:399])
    changed = [*entries[300:350], b"another", *entries[351:]]
    with pytest.raises(LogDamagedError, match="head 400"):
        walk(files, 300, root, heads, changed)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**32))
def test_any_flipped_bit_of_any_file_is_found(size: int, seed: int) -> None:
    rng = random.Random(seed)
    entries = made_up(700)[:size]
    files = tile_files(entries) | tile_files(entries, rng.randint(1, size))
    path = rng.choice(sorted(files))
    at = rng.randrange(len(files[path]))
    error = damage(
        files | {path: flip(files[path], at, rng.randrange(8))}, size, merkle.root(entries)
    )
    assert error.path == path


@pytest.mark.parametrize(
    ("path", "check", "log_index"),
    [
        ("tile/entries/000", "entry_bundle", 0),
        ("tile/entries/001", "entry_bundle", 256),
        ("tile/entries/002.p/188", "entry_bundle", 512),
        ("tile/entries/002.p/88", "partial_tile", None),
        ("tile/0/000", "hash_tile", 0),
        ("tile/0/001", "hash_tile", 256),
        ("tile/0/002.p/188", "hash_tile", 512),
        ("tile/0/002.p/88", "partial_tile", None),
        ("tile/1/000.p/2", "hash_tile", None),
    ],
)
@pytest.mark.parametrize("how", ["flipped", "missing", "short"])
def test_the_first_bad_file_is_named(
    path: str, check: str, log_index: int | None, how: str
) -> None:
    entries = made_up(700)
    files = tile_files(entries) | tile_files(entries, 600)
    if how == "missing" and check == "partial_tile":
        pytest.skip("those of earlier sizes may go")
    if how == "flipped":
        # In the text of the first entry, or in the first hash.
        files[path] = flip(files[path], 5, 3)
    elif how == "short":
        files[path] = files[path][:-1]
    else:
        del files[path]
    error = damage(files, 700, merkle.root(entries))
    assert (error.path, error.check) == (path, check)
    if how == "flipped":
        assert error.log_index == log_index


def test_tiles_of_the_third_level_are_compared() -> None:
    size = 65_536 + 300
    entries = made_up(size)
    files = tile_files(entries)
    root = merkle.root(entries)
    assert walk(files, size, root).tiles_checked == 257 + 1 + 2 + 1
    error = damage(files | {"tile/2/000.p/1": flip(files["tile/2/000.p/1"], 31)}, size, root)
    assert error.path == "tile/2/000.p/1"
    error = damage(files | {"tile/1/000": flip(files["tile/1/000"], 255 * 32)}, size, root)
    assert error.path == "tile/1/000"
    assert "from 65280 on" in error.message


def test_a_tree_that_was_changed_as_a_whole_does_not_have_the_signed_root() -> None:
    entries = [*made_up(299), b"another"]
    error = damage(tile_files(entries), 300, merkle.root(made_up(300)))
    assert error.path


# --- the ledgers ---------------------------------------------------------------------------------


def logged(*ledgers: Ledger) -> list[bytes]:
    """The entries of a log that takes one entry of each ledger in turn."""
    taken = [
        entry for turn in zip(*(each.entries for each in ledgers), strict=True) for entry in turn
    ]
    return [FIRST, *taken]


def bind(entries: Sequence[bytes], ledgers: Sequence[Ledger]) -> LedgerBinder:
    binder = LedgerBinder(ORIGIN)
    by_uid = {each.uid: each for each in ledgers}
    walked = TreeWalk(MemoryFiles(tile_files(entries)), sha256, len(entries), merkle.root(entries))
    for bundle in walked.bundles():
        for run in binder.read(bundle):
            ledger = by_uid.get(run.ledger_uid)
            seqs = range(run.start_seq, run.start_seq + len(run.receipt_hashes))
            stored = (
                []
                if ledger is None
                else [ledger.hash_of(seq) if seq < len(ledger.entries) else None for seq in seqs]
            )
            binder.compare(run, stored)
    binder.finish([(each.uid, len(each.entries) - 1) for each in ledgers])
    return binder


@pytest.fixture
def two() -> tuple[Ledger, Ledger]:
    one, other = Ledger("one"), Ledger("other")
    one.grow(300)
    other.grow(300)
    return one, other


def test_every_entry_is_bound_to_its_row(two: tuple[Ledger, Ledger]) -> None:
    binder = bind(logged(*two), two)
    assert dict(binder.ledgers) == {two[0].uid: 299, two[1].uid: 299}


def test_an_entry_without_its_row_is_named(two: tuple[Ledger, Ledger]) -> None:
    entries = logged(*two)
    del two[1].entries[299:]
    with pytest.raises(LogDamagedError, match=r"entry 600 is logged.*has no receipt 299") as caught:
        bind(entries, two)
    assert caught.value.log_index == 600


def test_an_entry_of_another_history_is_named(two: tuple[Ledger, Ledger]) -> None:
    entries = logged(*two)
    again = Ledger("one")
    again.grow(10)
    again.grow(290, salt="other history ")
    with pytest.raises(LogDamagedError, match="has another receipt 10") as caught:
        bind(entries, (again, two[1]))
    assert caught.value.log_index == 21


def test_a_row_that_counts_as_logged_must_be_there(two: tuple[Ledger, Ledger]) -> None:
    entries = logged(*two)
    two[0].grow(1)
    with pytest.raises(LogDamagedError, match=r"up to 300 as logged.*up to 299 only"):
        bind(entries, two)


def test_gaps_repeats_and_foreign_bytes_are_named(two: tuple[Ledger, Ledger]) -> None:
    entries = logged(*two)
    for changed, log_index in (
        ([*entries[:5], *entries[7:]], 5),
        ([*entries[:5], *entries[3:]], 5),
        ([*entries[:9], b"not an entry", *entries[9:]], 9),
        (entries[1:], 0),
    ):
        with pytest.raises(LogDamagedError) as caught:
            bind(changed, two)
        assert caught.value.log_index == log_index


def test_paths_of_partials_do_not_hide_full_tiles() -> None:
    """Where a partial tile is gone, the beginning of the full one is taken (tlog-tiles)."""
    entries = made_up(512)
    files = tile_files(entries)
    files["tile/1/000.p/1"] = files["tile/1/000.p/2"][:32]
    assert tiles.tile_path(0, 1, 44) not in files
    assert walk(files, 300, merkle.root(entries[:300])).entries_checked == 300
