"""What every storage of the anchor must do; run on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy.engine import make_url

from anchor_svc.storage import (
    AnchorRow,
    EntryPiece,
    FencedError,
    Flush,
    LogRow,
    PolicyRow,
    RunStart,
    Signed,
    Storage,
)
from anchor_svc.storage.sql import SQLStorage
from anchor_svc.submission import LedgerState
from provledger import note
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError
from tests.support.anchoring import LOG_UID, open_storage
from tests.support.postgres import connection_string

UID = b"u" * 16
OTHER = b"v" * 16
LOG = LogRow(LOG_UID, "provledger.test/log", "blake3", 1, b"r" * 32, 0, 0, 77)
LINES = {
    "log": note.signature_line("log.test", b"0000", b"of the log"),
    "a": note.signature_line("cosigner.test", b"aaaa", b"the first one"),
    "again": note.signature_line("cosigner.test", b"aaaa", b"of the same key"),
    "b": note.signature_line("cosigner.test", b"bbbb", b"of a further key"),
    "c": note.signature_line("cosigner.test", b"cccc", b"over something else"),
}


@pytest.fixture
async def storage(database_url: str) -> AsyncIterator[Storage]:
    opened = await asyncio.to_thread(open_storage, database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def epoch(storage: Storage) -> int:
    await storage.create_log(LOG, b"first")
    return (await storage.acquire(LOG_UID)).writer_epoch


def _flush(old: int, entries: list[bytes], **changes: object) -> Flush:
    size = old + len(entries)
    pieces = [EntryPiece(old, entries)] if entries else []
    flush = Flush(old, size, bytes([size % 256]) * 32, pieces, [], [], 1000 + size)
    return replace(flush, **changes)  # type: ignore[arg-type]


async def _note(storage: Storage, epoch: int, size: int, note: bytes, tiled: int = 0) -> bytes:
    return (await storage.store_notes(LOG_UID, epoch, Signed({size: note}, tiled)))[size]


async def test_default_log_is_created_once(storage: Storage) -> None:
    assert await storage.default_log() is None
    assert await storage.create_log(LOG, b"first") == LOG
    other = replace(LOG, log_uid=bytes(16), origin="provledger.test/other")
    assert await storage.create_log(other, b"second") == LOG
    assert await storage.default_log() == LOG
    assert [list(piece.entries) for piece in await storage.pieces(LOG_UID, 0)] == [[b"first"]]
    head = await storage.newest_checkpoint(LOG_UID)
    assert head is not None
    assert (head.size, head.root, head.note, head.intended_at_ns) == (1, LOG.root, None, 77)


async def test_log_that_is_gone_is_data_loss(storage: Storage) -> None:
    with pytest.raises(DataLossError):
        await storage.log(LOG_UID)
    with pytest.raises(DataLossError):
        await storage.acquire(LOG_UID)


async def test_acquiring_raises_the_epoch(storage: Storage, epoch: int) -> None:
    assert (await storage.acquire(LOG_UID)).writer_epoch > epoch
    assert (await storage.log(LOG_UID)).writer_epoch > epoch


async def test_epoch_is_not_given_twice_by_a_database_that_forgot_it(
    storage: Storage, epoch: int
) -> None:
    """A standby that lagged: whoever had the epoch before may be there still."""
    assert isinstance(storage, SQLStorage)
    given = set()
    for _ in range(5):
        given.add((await storage.acquire(LOG_UID)).writer_epoch)
        with begin_write(storage.engine) as connection:
            connection.exec_driver_sql(f"UPDATE logs SET writer_epoch = {epoch}")
    assert len(given) == 5
    assert min(given) > epoch


async def test_flush_is_stored_as_a_whole(storage: Storage, epoch: int) -> None:
    state = LedgerState(UID, "fips", 1, b"h" * 32, 2, 0)
    flush = _flush(1, [b"a", b"b" * 70], runs=[RunStart(UID, 0, 1)], ledgers=[state])
    await storage.commit(LOG_UID, epoch, flush)
    row = await storage.log(LOG_UID)
    assert (row.size, row.root, row.tiled_size) == (3, flush.root, 0)
    pieces = await storage.pieces(LOG_UID, 1)
    assert [(piece.start_index, list(piece.entries)) for piece in pieces] == [
        (1, [b"a", b"b" * 70])
    ]
    assert await storage.ledgers(LOG_UID, [UID, OTHER]) == {UID: state}
    assert await storage.runs(LOG_UID, UID, 0, 2) == [RunStart(UID, 0, 1)]
    head = await storage.newest_checkpoint(LOG_UID)
    assert head is not None
    assert (head.size, head.root, head.note, head.intended_at_ns) == (3, flush.root, None, 1003)
    assert await storage.newest_signed(LOG_UID) is None


async def test_leaves_and_what_ledgers_have_of_them_are_counted_as_of_one_moment(
    storage: Storage, epoch: int
) -> None:
    """And by log, while flushes go on."""
    other = replace(LOG, log_uid=b"o" * 16, origin="provledger.test/other", alias="tenants/x")
    await storage.create_log(other, b"first")
    own = _flush(1, [b"a"], ledgers=[LedgerState(OTHER, "fips", 0, b"h" * 32, 1)])
    await storage.commit(other.log_uid, (await storage.acquire(other.log_uid)).writer_epoch, own)
    assert await storage.leaf_counts(LOG_UID) == (1, 0)
    assert await storage.leaf_counts(other.log_uid) == (2, 1)

    async def grow() -> None:
        for size in range(1, 30):
            states = [
                LedgerState(UID, "fips", size // 2 - 1, b"h" * 32, size),
                LedgerState(OTHER, "fips", (size + 1) // 2 - 1, b"h" * 32, size),
            ]
            await storage.commit(LOG_UID, epoch, _flush(size, [b"a"], ledgers=states))

    growing = asyncio.ensure_future(grow())
    seen = set()
    while not growing.done():
        size, entries = await storage.leaf_counts(LOG_UID)
        assert entries == size - 1
        seen.add(size)
    await growing
    assert await storage.leaf_counts(LOG_UID) == (30, 29)
    assert len(seen) > 1
    with pytest.raises(DataLossError):
        await storage.leaf_counts(bytes(16))


async def test_flush_repeated_after_a_lost_answer_changes_nothing(
    storage: Storage, epoch: int
) -> None:
    flush = _flush(1, [b"a"], runs=[RunStart(UID, 0, 1)])
    await storage.commit(LOG_UID, epoch, flush)
    await storage.commit(LOG_UID, epoch, flush)
    assert len(await storage.pieces(LOG_UID, 1)) == 1


async def test_flush_onto_another_size_is_refused(storage: Storage, epoch: int) -> None:
    with pytest.raises(DataLossError):
        await storage.commit(LOG_UID, epoch, _flush(5, [b"a"]))
    assert (await storage.log(LOG_UID)).size == 1
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"]))
    for other in (
        _flush(1, [b"b"], root=b"x" * 32),
        _flush(1, [], root=b"\x01" * 32, ledgers=[LedgerState(UID, "blake3", forked_seq=0)]),
    ):
        with pytest.raises(DataLossError):
            await storage.commit(LOG_UID, epoch, other)
    assert (await storage.log(LOG_UID)).size == 2
    assert await storage.ledgers(LOG_UID, [UID]) == {}


async def test_flush_repeated_after_the_next_one_changes_nothing(
    storage: Storage, epoch: int
) -> None:
    """Its answer was lost, and the one behind it was on its way already."""
    first, note = _flush(1, [b"a"], runs=[RunStart(UID, 0, 1)]), Signed({1: b"note"})
    state = LedgerState(UID, "fips", 1, b"h" * 32, 2, 0)
    await storage.commit(LOG_UID, epoch, first, note)
    await storage.commit(LOG_UID, epoch, _flush(2, [b"b"], ledgers=[state]))
    assert await storage.commit(LOG_UID, epoch, first, note) == {1: b"note"}
    assert (await storage.log(LOG_UID)).size == 3
    assert await storage.ledgers(LOG_UID, [UID]) == {UID: state}


async def test_flush_stores_earlier_ones_that_are_not_stored(storage: Storage, epoch: int) -> None:
    state = LedgerState(UID, "fips", 1, b"h" * 32, 2, 0)
    first = _flush(1, [b"a"], runs=[RunStart(UID, 0, 1)], ledgers=[state])
    second = _flush(2, [b"b"], ledgers=[replace(state, seq=2)], earlier=[first])
    third = _flush(3, [b"c"], earlier=[first, second])
    await storage.commit(LOG_UID, epoch, first)
    await storage.commit(LOG_UID, epoch, third)
    await storage.commit(LOG_UID, epoch, second)
    assert (await storage.log(LOG_UID)).size == 4
    pieces = await storage.pieces(LOG_UID, 1)
    assert [[*piece.entries] for piece in pieces] == [[b"a"], [b"b"], [b"c"]]
    assert (await storage.ledgers(LOG_UID, [UID]))[UID].seq == 2
    gap = _flush(9, [b"d"], earlier=[_flush(8, [b"e"])])
    with pytest.raises(DataLossError):
        await storage.commit(LOG_UID, epoch, gap)


async def test_flush_takes_notes_of_earlier_heads_along(storage: Storage, epoch: int) -> None:
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"]))
    await _note(storage, epoch, 1, b"earlier")
    signed = Signed({1: b"later", 2: b"second"})
    stored = await storage.commit(LOG_UID, epoch, _flush(2, [b"b"]), signed)
    assert stored == {1: b"earlier", 2: b"second"}
    newest = await storage.newest_signed(LOG_UID)
    assert newest is not None
    assert (newest.size, newest.note) == (2, b"second")
    with pytest.raises(DataLossError):
        await storage.commit(LOG_UID, epoch, _flush(9, [b"c"]), Signed({3: b"third"}))
    head = await storage.checkpoint(LOG_UID, 3)
    assert head is not None
    assert head.note is None


@pytest.mark.parametrize("overtaken", [False, True])
async def test_flushes_on_their_way_at_once_take_effect_in_order(
    storage: SQLStorage, epoch: int, database_url: str, overtaken: bool
) -> None:
    """The row of the log is locked by somebody else, so that all of them wait for it together,
    the first one in front or behind."""
    if storage.lanes == 1:
        pytest.skip("one thread writes")
    engine = open_engine(database_url, "anchor")
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1 FROM logs FOR UPDATE")
        made: list[Flush] = []
        flushes = []
        for size in range(1, storage.lanes):
            state = LedgerState(UID, "fips", size, b"h" * 32, size, 0)
            runs = [RunStart(UID, size, size)]
            made.append(_flush(size, [b"%d" % size], earlier=[*made], ledgers=[state], runs=runs))
        for flush in reversed(made) if overtaken else made:
            flushes.append(asyncio.ensure_future(storage.commit(LOG_UID, epoch, flush)))
            await asyncio.to_thread(_wait_for_waiting, database_url, len(flushes))
    await asyncio.gather(*flushes)
    engine.dispose()
    assert (await storage.log(LOG_UID)).size == storage.lanes
    pieces = await storage.pieces(LOG_UID, 1)
    assert [[*piece.entries] for piece in pieces] == [
        [b"%d" % size] for size in range(1, storage.lanes)
    ]
    for size in range(2, storage.lanes + 1):
        head = await storage.checkpoint(LOG_UID, size)
        assert head is not None
        assert (head.root, head.intended_at_ns) == (bytes([size]) * 32, 1000 + size)
    assert (await storage.ledgers(LOG_UID, [UID]))[UID].seq == storage.lanes - 1
    assert len(await storage.runs(LOG_UID, UID, 1, 99)) == storage.lanes - 1


def _wait_for_waiting(database_url: str, count: int) -> None:
    """Return when that many statements of this database wait for a lock."""
    engine = open_engine(database_url, "watcher")
    deadline_s = time.monotonic() + 10
    with engine.connect() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while connection.exec_driver_sql(waiting).scalar_one() < count:
            connection.rollback()
            assert time.monotonic() < deadline_s
    engine.dispose()


async def test_failed_flush_leaves_nothing(storage: Storage, epoch: int) -> None:
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"], runs=[RunStart(UID, 0, 1)]))
    clash = _flush(2, [b"b"], runs=[RunStart(UID, 0, 2)])
    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        await storage.commit(LOG_UID, epoch, clash)
    assert (await storage.log(LOG_UID)).size == 2
    assert len(await storage.pieces(LOG_UID, 2)) == 0


async def test_state_of_a_ledger_is_replaced(storage: Storage, epoch: int) -> None:
    first = LedgerState(UID, "blake3", 0, b"h" * 32, 1, 0)
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"], ledgers=[first]))
    second = replace(first, seq=5, receipt_hash=b"i" * 32, log_index=9, run_start_seq=4)
    await storage.commit(LOG_UID, epoch, _flush(2, [b"b"], ledgers=[second]))
    assert await storage.ledgers(LOG_UID, [UID]) == {UID: second}
    latched = replace(second, forked_seq=3)
    await storage.commit(LOG_UID, epoch, _flush(3, [], root=b"\x03" * 32, ledgers=[latched]))
    assert await storage.ledgers(LOG_UID, [UID]) == {UID: latched}


@pytest.mark.postgres
async def test_no_setting_of_a_role_keeps_a_state_from_being_stored(
    postgres_database_url: str,
) -> None:
    """`array_nulls` is of arrays that are sent as text: those of nothing but None."""
    name = make_url(postgres_database_url).database
    with psycopg.connect(connection_string(postgres_database_url)) as connection:
        connection.execute(f"ALTER DATABASE {name} SET array_nulls = off".encode())
    storage = await asyncio.to_thread(open_storage, postgres_database_url)
    await storage.create_log(LOG, b"first")
    epoch = (await storage.acquire(LOG_UID)).writer_epoch
    state = LedgerState(UID, "blake3", 0, b"h" * 32, 1, 0)
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"], ledgers=[state]))
    assert await storage.ledgers(LOG_UID, [UID]) == {UID: state}
    await storage.close()


async def test_every_write_of_a_fenced_process_is_refused(storage: Storage, epoch: int) -> None:
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"]))
    await storage.acquire(LOG_UID)
    with pytest.raises(FencedError):
        await storage.commit(LOG_UID, epoch, _flush(2, [b"b"]))
    with pytest.raises(FencedError):
        await storage.commit(LOG_UID, epoch, _flush(1, [b"a"]))
    with pytest.raises(FencedError):
        await _note(storage, epoch, 2, b"note")
    with pytest.raises(FencedError):
        await storage.mark_published(LOG_UID, epoch, 2, 5)
    row = await storage.log(LOG_UID)
    head = await storage.checkpoint(LOG_UID, 2)
    assert (row.size, row.tiled_size) == (2, 0)
    assert head is not None
    assert head.note is None


async def test_first_note_of_a_size_stays(storage: Storage, epoch: int) -> None:
    assert await _note(storage, epoch, 1, b"first note") == b"first note"
    assert await _note(storage, epoch, 1, b"second note") == b"first note"
    signed = await storage.newest_signed(LOG_UID)
    assert signed is not None
    assert signed.note == b"first note"


async def test_note_of_a_head_that_was_never_intended_is_refused(
    storage: Storage, epoch: int
) -> None:
    with pytest.raises(DataLossError):
        await _note(storage, epoch, 9, b"note")


async def test_releasing_drops_entries_that_are_in_full_tiles(storage: Storage, epoch: int) -> None:
    entries = [bytes([number]) for number in range(255)]
    tail = [EntryPiece(1, entries), EntryPiece(256, [b"x", b"y"])]
    await storage.commit(LOG_UID, epoch, _flush(1, [*entries, b"x"], size=258, pieces=tail))
    await _note(storage, epoch, 258, b"note", 256)
    assert (await storage.log(LOG_UID)).tiled_size == 256
    assert [piece.start_index for piece in await storage.pieces(LOG_UID, 0)] == [256]


async def test_damaged_entries_are_data_loss(database_url: str) -> None:
    storage = await asyncio.to_thread(open_storage, database_url)
    assert isinstance(storage, SQLStorage)
    await storage.create_log(LOG, b"first")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM entries")
        placeholders = "?, 0, ?" if "sqlite" in database_url else "%s, 0, %s"
        connection.exec_driver_sql(
            f"INSERT INTO entries VALUES ({placeholders})", (LOG_UID, b"\xff")
        )
    with pytest.raises(DataLossError, match="log index 0"):
        await storage.pieces(LOG_UID, 0)
    await storage.close()


async def test_runs_are_found_by_seq_and_by_index(storage: Storage, epoch: int) -> None:
    runs = [RunStart(UID, 0, 1), RunStart(UID, 10, 50), RunStart(UID, 20, 100)]
    other = RunStart(OTHER, 0, 40)
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"], runs=[*runs, other]))
    assert await storage.runs(LOG_UID, UID, 0, 5) == runs[:1]
    assert await storage.runs(LOG_UID, UID, 5, 11) == runs[:2]
    assert await storage.runs(LOG_UID, UID, 10, 11) == runs[1:2]
    assert await storage.runs(LOG_UID, UID, 25, 30) == runs[2:]
    assert await storage.runs(LOG_UID, b"w" * 16, 0, 5) == []
    assert await storage.runs_around(LOG_UID, UID, 1) is None
    assert await storage.runs_around(LOG_UID, UID, 2) == (runs[0], runs[1])
    assert await storage.runs_around(LOG_UID, UID, 51) == (runs[1], runs[2])
    assert await storage.runs_around(LOG_UID, UID, 101) == (runs[2], None)
    assert await storage.runs_around(LOG_UID, b"w" * 16, 100) is None


async def test_heads_are_intended_signed_and_published_in_turn(
    storage: Storage, epoch: int
) -> None:
    async def newest() -> tuple[int | None, ...]:
        rows = (
            await storage.newest_checkpoint(LOG_UID),
            await storage.newest_signed(LOG_UID),
            await storage.newest_published(LOG_UID),
        )
        return tuple(None if row is None else row.size for row in rows)

    assert await newest() == (1, None, None)
    await storage.mark_published(LOG_UID, epoch, 1, 5)
    assert await newest() == (1, None, None)
    await _note(storage, epoch, 1, b"note")
    assert await newest() == (1, 1, None)
    await storage.mark_published(LOG_UID, epoch, 1, 5)
    await storage.mark_published(LOG_UID, epoch, 1, 6)
    await storage.commit(LOG_UID, epoch, _flush(1, [b"a"]))
    assert await newest() == (2, 1, 1)
    published = await storage.newest_published(LOG_UID)
    assert published is not None
    assert (published.note, published.published_at_ns) == (b"note", 5)
    assert await storage.checkpoint(LOG_UID, 3) is None


async def test_first_evidence_of_a_sink_for_a_checkpoint_stays(
    storage: Storage, epoch: int
) -> None:
    first = AnchorRow(1, "file:///a", "file", 10, b"{}")
    await storage.add_anchor(LOG_UID, first)
    await storage.add_anchor(LOG_UID, replace(first, acknowledged_at_ns=11, evidence=b"[]"))
    assert await storage.evidence(LOG_UID, 1) == [first]
    assert await storage.evidence(LOG_UID, 2) == []


async def test_cosignatures_by_further_keys_are_added_to_the_first_evidence(
    storage: Storage, epoch: int
) -> None:
    signed = note.format_note(b"text\n", [LINES["log"], LINES["a"]])
    first = AnchorRow(1, "https://a", "tlog-cosignature", 10, signed)
    assert await storage.add_anchor(LOG_UID, first) == first
    for names, now in (
        (["log", "again"], ["log", "a"]),
        (["log", "b", "again"], ["log", "a", "b"]),
        (["log", "b"], ["log", "a", "b"]),
    ):
        said = note.format_note(b"text\n", [LINES[name] for name in names])
        stored = await storage.add_anchor(
            LOG_UID, replace(first, acknowledged_at_ns=11, evidence=said)
        )
        whole = note.format_note(b"text\n", [LINES[name] for name in now])
        assert stored == replace(first, evidence=whole)
        assert await storage.evidence(LOG_UID, 1) == [stored]
    kept = await storage.evidence(LOG_UID, 1)
    other = note.format_note(b"another text\n", [LINES["c"]])
    for evidence in (b"no note", other):
        await storage.add_anchor(LOG_UID, replace(first, evidence=evidence))
    assert await storage.evidence(LOG_UID, 1) == kept


async def test_cursors_are_the_largest_sizes(storage: Storage, epoch: int) -> None:
    held = {"a": [1, 3, 5, 9], "b": [1, 2, 5, 8], "gone": [1]}
    for sink, sizes in held.items():
        for size in sizes:
            await storage.add_anchor(LOG_UID, AnchorRow(size, sink, "file", size, b"{}"))
    assert await storage.cursors(LOG_UID, ["a", "b", "new"]) == {"a": 9, "b": 8, "new": 0}


async def test_oldest_published_above_a_size(storage: Storage, epoch: int) -> None:
    assert await storage.oldest_published(LOG_UID, 0) is None
    for size, now_ns in ((1, 50), (2, 60), (3, 70)):
        if size > 1:
            await storage.commit(LOG_UID, epoch, _flush(size - 1, [b"a"]))
        await _note(storage, epoch, size, b"note")
        await storage.mark_published(LOG_UID, epoch, size, now_ns)
    newest = [await storage.newest_published(LOG_UID, below=size) for size in (9, 3, 2, 1)]
    assert [None if row is None else row.size for row in newest] == [3, 2, 1, None]
    assert await storage.oldest_published(LOG_UID, 0) == 50
    assert await storage.oldest_published(LOG_UID, 1) == 60
    assert await storage.oldest_published(LOG_UID, 3) is None


async def test_oldest_intended_above_a_size(storage: Storage, epoch: int) -> None:
    """Published or not."""
    for old, now_ns in ((1, 60), (2, 70)):
        await storage.commit(LOG_UID, epoch, _flush(old, [b"a"], now_ns=now_ns))
    await _note(storage, epoch, 2, b"note")
    await storage.mark_published(LOG_UID, epoch, 2, 65)
    found = [await storage.oldest_intended(LOG_UID, above) for above in (1, 2, 3)]
    assert found == [60, 70, None]


async def test_anchors_are_listed_newest_first_in_pages(storage: Storage, epoch: int) -> None:
    for size in (1, 2, 3):
        for sink in ("a", "b"):
            await storage.add_anchor(LOG_UID, AnchorRow(size, sink, "file", size, b"{}"))

    async def listed(after: tuple[int, str] | None, sink: str, limit: int) -> list[tuple[int, str]]:
        rows = await storage.anchors(LOG_UID, after=after, sink=sink, limit=limit)
        return [(row.size, row.sink) for row in rows]

    assert await listed(None, "", 3) == [(3, "b"), (3, "a"), (2, "b")]
    assert await listed((2, "b"), "", 9) == [(2, "a"), (1, "b"), (1, "a")]
    assert await listed((3, "a"), "a", 9) == [(2, "a"), (1, "a")]
    assert await listed((1, "a"), "", 9) == []


async def test_policies_are_kept_by_version(storage: Storage, epoch: int) -> None:
    first = PolicyRow("", 1, b"quorum none\n", 1, "alice")
    own = PolicyRow("tenants/acme", 1, b"quorum none\n", 2, "bob")
    back = PolicyRow("tenants/acme", 2, b"", 3, "bob")
    for row in (first, own, back, back):
        assert await storage.add_policy(LOG_UID, epoch, row)
    assert await storage.policies(LOG_UID) == [first, own, back]
    assert await storage.policy(LOG_UID, "tenants/acme", 1) == own
    assert await storage.policy(LOG_UID, "tenants/acme", 3) is None
    # Of two who set the same version, one was first.
    assert not await storage.add_policy(LOG_UID, epoch, replace(first, set_by="carol"))
    with pytest.raises(FencedError):
        await storage.add_policy(LOG_UID, epoch - 1, PolicyRow("", 2, b"", 4, "old"))
