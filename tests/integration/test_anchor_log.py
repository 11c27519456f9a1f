"""A log with real ledgers, on real databases: what goes in, what is published, what sinks get."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from anchor_svc import committer
from anchor_svc.openlog import OpenLog
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, SinkIntegrityError, open_sink
from anchor_svc.storage import FencedError
from provledger import checkpoint as checkpoints
from provledger import dsse, jcs, merkle, note, tiles
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
)
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import parse_head
from provledger.jwk import verify_signature
from provledger.keyset import KeyPurpose
from provledger.retry import RetryPolicy
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    check_log,
    eventually,
    log_vkey,
    read_entries,
    running_log,
    submit,
)


def _sqlite(directory: Path) -> str:
    return f"sqlite:///{directory / 'anchor.sqlite3'}"


# --- what goes in ---------------------------------------------------------------------------------


async def test_new_log_begins_with_a_leaf_that_says_what_it_is(
    database_url: str, tmp_path: Path
) -> None:
    keys = TestKeys()
    async with running_log(database_url, tmp_path, keys=keys) as log:
        (entry,) = read_entries(log)
        uid = log.identity.uid.hex()
        key = keys.current(KeyPurpose.CHECKPOINT)
        assert json.loads(entry) == {
            "log": {
                "v": "1",
                "uid": uid,
                "origin": f"provledger.test/{uid}",
                "suite": "blake3",
                "keys": [{"kid": "checkpoint-1", "jkt": key.thumbprint.hex()}],
            }
        }
        assert log.state.signed_size == 1
        await check_log(log, [], keys)


async def test_ledgers_share_a_log(database_url: str, tmp_path: Path) -> None:
    keys = TestKeys()
    ledgers = [Ledger(f"ledger {number}") for number in range(5)]
    async with running_log(database_url, tmp_path, keys=keys) as log:

        async def fill(ledger: Ledger) -> None:
            for start in range(0, 400, 40):
                ledger.grow(40)
                outcome = await submit(log, ledger, start)
                assert outcome.tree_size <= log.state.signed_size
                assert sum(run.count for run in outcome.runs) == 40

        await asyncio.gather(*map(fill, ledgers))
        await check_log(log, ledgers, keys)
        for ledger in ledgers:
            state = await log.reader.ledger_state(ledger.uid)
            assert state is not None
            assert (state.seq, state.receipt_hash) == (399, ledger.last)


async def test_proof_whose_tile_cannot_be_read_is_unavailable_for_now(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(300)
    async with running_log(_sqlite(tmp_path), tmp_path) as log:
        await submit(log, ledger)
        (tile,) = tmp_path.glob("logs/*/tile/0/000")
        content = tile.read_bytes()
        # A directory is to the service what a broken disk is: OSError, and not a missing file.
        tile.unlink()
        tile.mkdir()
        with pytest.raises(UnavailableError) as caught:
            await log.reader.inclusion(1, 0)
        assert caught.value.reason == "DISK_UNAVAILABLE"
        tile.rmdir()
        tile.write_bytes(content)
        assert (await log.reader.inclusion(1, 0)).proofs


@pytest.mark.parametrize("suite_name", ["blake3-all", "fips"])
async def test_log_of_another_suite(tmp_path: Path, suite_name: str) -> None:
    keys = TestKeys()
    ledger = Ledger(suite_name=suite_name)
    ledger.grow(600)
    async with running_log(_sqlite(tmp_path), tmp_path, keys=keys, suite_name=suite_name) as log:
        await submit(log, ledger)
        if suite_name == "fips":
            await check_log(log, [ledger], keys)
        else:
            root = merkle.root(read_entries(log), log.identity.hasher)
            assert log.state.signed_view().root == root
            strange = Ledger("other", "blake3")
            strange.grow(1)
            with pytest.raises(FailedPreconditionError, match="cannot join"):
                await submit(log, strange)


async def test_repeats_get_the_places_they_have(database_url: str, tmp_path: Path) -> None:
    keys = TestKeys()
    a, b = Ledger("a"), Ledger("b")
    a.grow(30)
    b.grow(5)
    async with running_log(database_url, tmp_path, keys=keys) as log:
        await submit(log, a, 0, 10)
        await submit(log, b)
        await submit(log, a, 10, 20)
        again = await submit(log, a, 5, 15)
        assert [(run.start_seq, run.start_index, run.count) for run in again.runs] == [
            (5, 6, 5),
            (10, 16, 5),
        ]
        longer = await submit(log, a, 15, 30)
        assert [(run.start_seq, run.start_index, run.count) for run in longer.runs] == [
            (15, 21, 15)
        ]
        together = await asyncio.gather(*(submit(log, a, 0) for _ in range(4)))
        assert all(outcome == together[0] for outcome in together)
        await check_log(log, [a, b], keys)


async def test_bad_submission_does_not_touch_its_neighbours(
    database_url: str, tmp_path: Path
) -> None:
    """All of them in one flush."""
    keys = TestKeys()
    good, gap, forked = Ledger("good"), Ledger("gap"), Ledger("forked")
    good.grow(20)
    gap.grow(10)
    forked.grow(10)
    other = Ledger("forked")
    other.grow(5)
    other.grow(5, salt="x")
    async with running_log(database_url, tmp_path, keys=keys) as log:
        await submit(log, forked)
        results = await asyncio.gather(
            submit(log, good, 0, 10),
            submit(log, gap, 3),
            submit(log, other, 2),
            submit(log, good, 10),
            return_exceptions=True,
        )
        assert log._batcher.stats().flushes == 2
        reasons = [getattr(result, "reason", None) for result in results]
        assert reasons == [None, "SEQ_GAP", "LEDGER_FORKED", None]
        await check_log(log, [good, forked], keys)


async def test_entry_with_another_past_latches_nothing(database_url: str, tmp_path: Path) -> None:
    """Anybody who may submit can make one up; it is no second history of what is logged."""
    keys = TestKeys()
    ledger, other = Ledger(), Ledger()
    ledger.grow(10)
    other.grow(4, salt="x")
    other.grow(2)
    async with running_log(database_url, tmp_path, keys=keys) as log:
        await submit(log, ledger, 0, 4)
        with pytest.raises(FailedPreconditionError) as caught:
            await submit(log, other, 4)
        assert caught.value.reason == "PREV_MISMATCH"
        await submit(log, ledger, 4)
        await check_log(log, [ledger], keys)
        # An entry that differs from the one at its place is one, as ever.
        with pytest.raises(FailedPreconditionError) as caught:
            await submit(log, other, 3)
        assert caught.value.reason == "LEDGER_FORKED"


async def test_fork_latches_its_ledger_for_good(database_url: str, tmp_path: Path) -> None:
    ledger, other = Ledger(), Ledger()
    ledger.grow(10)
    other.grow(4)
    other.grow(4, salt="x")
    async with running_log(database_url, tmp_path) as log:
        await submit(log, ledger, 0, 8)
        with pytest.raises(FailedPreconditionError) as caught:
            await submit(log, other)
        assert caught.value.reason == "LEDGER_FORKED"
        assert caught.value.metadata == {"ledgerUid": ledger.uid.hex(), "seq": "4"}
    async with running_log(database_url, tmp_path) as log:
        with pytest.raises(FailedPreconditionError, match="another history"):
            await submit(log, ledger, 8)
        # What is logged can still be proven.
        proven = await log.reader.batch_inclusion(ledger.uid, [0, 7, 8], 0)
        assert [proof.seq for proof in proven.proofs] == [0, 7]


async def test_second_writer_fences_the_first(postgres_database_url: str, tmp_path: Path) -> None:
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(900)
    async with running_log(postgres_database_url, tmp_path, keys=keys) as first:
        await submit(first, ledger, 0, 300)
        async with running_log(postgres_database_url, tmp_path, keys=keys) as second:
            watching = asyncio.ensure_future(first.committer.heal())
            with pytest.raises(UnavailableError) as caught:
                await submit(first, ledger, 300, 600)
            assert caught.value.reason == "WRITER_FENCED"
            with pytest.raises(FencedError):
                await watching
            with pytest.raises(FencedError):
                await first.publisher.publish(first.state.signed_view())
            await submit(second, ledger, 300, 600)
            with pytest.raises(UnavailableError):
                await submit(first, ledger, 600)
            await submit(second, ledger, 600)
            await check_log(second, [ledger], keys)


async def test_idle_writer_notices_that_it_was_replaced(
    postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_FENCE_CHECK_S", 0.02)
    async with running_log(postgres_database_url, tmp_path) as first:
        watching = asyncio.ensure_future(first.committer.heal())
        async with running_log(postgres_database_url, tmp_path):
            with pytest.raises(FencedError):
                await asyncio.wait_for(watching, 10)


async def test_two_writers_in_turns_never_sign_two_heads(
    postgres_database_url: str, tmp_path: Path
) -> None:
    """Each takes the log over from the other while that one is busy."""
    keys = TestKeys()
    ledger = Ledger()
    ledger.grow(1500)
    done = 0
    while done < len(ledger.entries):
        async with running_log(postgres_database_url, tmp_path, keys=keys) as first:
            busy = [
                asyncio.ensure_future(submit(first, ledger, start, start + 50))
                for start in range(done, min(done + 200, 1500), 50)
            ]
            async with running_log(postgres_database_url, tmp_path, keys=keys) as second:
                await asyncio.gather(*busy, return_exceptions=True)
                end = min(done + 150, 1500)
                await submit(second, ledger, done, end)
                done = end
                if done == 1500:
                    await check_log(second, [ledger], keys)


# --- what is published ----------------------------------------------------------------------------


def _published(root: Path) -> checkpoints.Checkpoint:
    return checkpoints.parse(note.parse((root / "checkpoint").read_bytes()).text)


async def test_published_size_can_be_read_from_files_alone(tmp_path: Path) -> None:
    """As any C2SP client would: checkpoint, partial tiles and bundles of exactly that size."""
    ledger = Ledger()
    async with running_log(_sqlite(tmp_path), tmp_path) as log:
        for size in (2, 100, 256, 257, 300, 512, 700):
            ledger.grow(size - 1 - len(ledger.entries))
            await submit(log, ledger, max(0, log.state.signed_size - 1))
            await log.publisher.publish(log.state.signed_view())
            root = log.store.root
            head, _ = checkpoints.open_checkpoint(
                (root / "checkpoint").read_bytes(), [log_vkey(log)], exact=True
            )
            assert head.size == size
            hashes: list[bytes] = []
            for tile in tiles.tiles_for_size(size):
                path = tiles.tile_path(tile.level, tile.index, tile.width)
                data = (root / path).read_bytes()
                if tile.level == 0:
                    hashes += tiles.parse_tile(data, tile.width)
                    path = tiles.entries_path(tile.index, tile.width)
                    entries = tiles.decode_bundle((root / path).read_bytes())
                    assert merkle.leaf_hashes(entries) == tiles.parse_tile(data, tile.width)
                else:
                    first = tile.index * 256
                    assert tiles.parse_tile(data, tile.width) == [
                        merkle.root_of_hashes(hashes[256 * i : 256 * i + 256])
                        for i in range(first, first + tile.width)
                    ]
            assert head.root == merkle.root_of_hashes(hashes)
        partial = {str(p.relative_to(root)) for p in root.rglob("*.p/*")}
        assert partial == {
            "tile/0/002.p/188",
            "tile/entries/002.p/188",
            "tile/1/000.p/1",
            "tile/1/000.p/2",
        }


async def test_publishing_keeps_its_interval_and_never_falls_behind(tmp_path: Path) -> None:
    ledger = Ledger()
    sizes: list[int] = []
    async with running_log(
        _sqlite(tmp_path), tmp_path, background=True, publish_interval_s=0.15
    ) as log:
        await eventually(lambda: log.state.published_size == 1)

        async def watch() -> None:
            async for head, _ in log.watch(published=True):
                sizes.append(head.size)

        watching = asyncio.ensure_future(watch())
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        flushes = 0
        while flushes < 40 or loop.time() < started_s + 0.4:
            ledger.grow(1)
            await submit(log, ledger, len(ledger.entries) - 1)
            flushes += 1
        await eventually(lambda: log.state.published_size == log.state.signed_size)
        elapsed_s = loop.time() - started_s
        watching.cancel()
    # At most once in each interval, however many heads are signed.
    assert 2 <= len(sizes) <= elapsed_s / 0.15 + 2
    assert _published(log.store.root).size == flushes + 1
    assert sizes == sorted(set(sizes))


async def test_published_checkpoint_survives_a_restart(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(10)
    async with running_log(database_url, tmp_path) as log:
        await submit(log, ledger, 0, 5)
        await log.publisher.publish(log.state.signed_view())
        await submit(log, ledger, 5)
    async with running_log(database_url, tmp_path) as log:
        assert (log.state.published_size, log.state.signed_size) == (6, 11)


async def test_slow_watcher_skips_checkpoints(tmp_path: Path) -> None:
    ledger = Ledger()
    async with running_log(_sqlite(tmp_path), tmp_path) as log:
        heads = log.watch(published=False)
        first, promise = await anext(heads)
        assert (first.size, promise.anchored_size) == (1, -1)
        for _ in range(5):
            ledger.grow(1)
            await submit(log, ledger, len(ledger.entries) - 1)
        newest, _ = await anext(heads)
        assert newest.size == 6


# --- what sinks get -------------------------------------------------------------------------------


class Board:
    """A sink in memory, which can be told to fail."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.failure: Exception | None = None
        self.hangs = False
        self.lose_answers = 0
        self.taken: list[PublishedCheckpoint] = []

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        self.taken.append(checkpoint)
        if self.lose_answers:
            self.lose_answers -= 1
            raise SinkError("the answer was lost")
        return Evidence("board", str(checkpoint.size).encode())

    async def close(self) -> None:
        return None


def _hurry(log: OpenLog) -> None:
    """Give up on sinks, and try them again, after milliseconds."""
    log.relays._deadline_s = 0.05
    log.relays._retry = RetryPolicy(attempts=10_000, base_s=0.01, cap_s=0.02, budget_s=1000)


async def test_checkpoints_reach_the_file_sink(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(10)
    sink = open_sink(f"file://{tmp_path}/anchors")
    async with running_log(database_url, tmp_path, sinks=[sink], background=True) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 11)
        directory = tmp_path / "anchors" / log.identity.origin.replace("/", "%2F")
        assert (directory / "latest").read_bytes() == log.state.signed_view().note
        proven = await log.reader.batch_inclusion(ledger.uid, [0, 9], 0)
        assert proven.anchored
        (row,) = proven.evidence
        assert (row.sink, row.kind) == (sink.uri, "file")
        evidence = jcs.parse(row.evidence)
        assert (tmp_path / "anchors" / evidence["name"]).read_bytes() == proven.checkpoint.note


async def test_dead_sink_delays_nobody_and_catches_up(database_url: str, tmp_path: Path) -> None:
    alive, dead, hanging = Board("board:alive"), Board("board:dead"), Board("board:hanging")
    dead.failure = SinkError("gone")
    hanging.hangs = True
    ledger = Ledger()
    async with running_log(
        database_url, tmp_path, sinks=[alive, dead, hanging], background=True, prepare=_hurry
    ) as log:
        for _ in range(3):
            ledger.grow(5)
            await submit(log, ledger, len(ledger.entries) - 5)
            # Not when the sink took it, but when what it said is stored.
            await eventually(lambda: log.relays._cursors["board:alive"] == log.state.signed_size)
        assert log.state.anchored_size == 0
        proven = await log.reader.batch_inclusion(ledger.uid, [0], 0)
        assert (proven.anchored, proven.checkpoint.size) == (False, 16)
        assert [row.sink for row in proven.evidence] == ["board:alive"]
        dead.failure = RuntimeError("a fault in somebody's code")
        await asyncio.sleep(0)
        dead.failure = None
        hanging.hangs = False
        await eventually(lambda: log.state.anchored_size == 16)
        # Those in between are covered by the newest one.
        assert dead.taken[-1].size == 16


async def test_lost_answer_of_a_sink_is_asked_for_again(tmp_path: Path) -> None:
    board = Board("board:forgetful")
    board.lose_answers = 1
    ledger = Ledger()
    ledger.grow(3)
    async with running_log(
        _sqlite(tmp_path), tmp_path, sinks=[board], background=True, prepare=_hurry
    ) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 4)
        rows = await log.reader.anchors(None, "", 10)
        assert [row.size for row in rows] == sorted({row.size for row in rows}, reverse=True)
    assert [taken.size for taken in board.taken] == sorted(taken.size for taken in board.taken)


async def test_cursor_of_a_sink_survives_a_restart(database_url: str, tmp_path: Path) -> None:
    board = Board("board:one")
    ledger = Ledger()
    ledger.grow(3)
    async with running_log(database_url, tmp_path, sinks=[board], background=True) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 4)
    taken = len(board.taken)
    async with running_log(database_url, tmp_path, sinks=[board], background=True) as log:
        assert log.state.anchored_size == 4
        ledger.grow(1)
        await submit(log, ledger, 3)
        await eventually(lambda: log.state.anchored_size == 5)
    assert [checkpoint.size for checkpoint in board.taken[taken:]] == [5]


async def test_sink_with_another_history_is_an_alarm_that_is_not_outrun(tmp_path: Path) -> None:
    board = Board("board:rewritten")
    board.failure = SinkIntegrityError("another one is there")
    ledger = Ledger()
    async with running_log(
        _sqlite(tmp_path), tmp_path, sinks=[board], background=True, prepare=_hurry
    ) as log:
        ledger.grow(1)
        await submit(log, ledger)
        await eventually(lambda: log.state.published_size == 2)
        board.failure = None
        await eventually(lambda: bool(board.taken))
        # The checkpoint that failed is handed over first, though newer ones may be there.
        assert board.taken[0].size <= 2
        await eventually(lambda: log.state.anchored_size == 2)


# --- what is asked --------------------------------------------------------------------------------


async def test_proofs_are_for_signed_sizes_only(database_url: str, tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(30)
    async with running_log(database_url, tmp_path) as log:
        await submit(log, ledger, 0, 10)
        await submit(log, ledger, 10)
        with pytest.raises(NotFoundError) as missing:
            await log.reader.inclusion(3, 20)
        assert missing.value.reason == "CHECKPOINT_NOT_FOUND"
        with pytest.raises(OutOfRangeError):
            await log.reader.inclusion(3, 32)
        with pytest.raises(OutOfRangeError):
            await log.reader.inclusion(11, 11)
        with pytest.raises(NotFoundError):
            await log.reader.consistency(5, 31)
        with pytest.raises(OutOfRangeError):
            await log.reader.consistency(31, 11)
        old = await log.reader.inclusion(3, 11)
        assert old.checkpoint.size == 11
        hashes, size = await log.reader.consistency(11, 0)
        assert size == 31
        new = await log.reader.checkpoint(0)
        merkle.verify_consistency(11, 31, hashes, old.checkpoint.root, new.root)


async def test_proof_takes_the_anchored_checkpoint_if_that_covers(
    database_url: str, tmp_path: Path
) -> None:
    board = Board("board:one")
    ledger = Ledger()
    ledger.grow(10)
    async with running_log(database_url, tmp_path, sinks=[board], background=True) as log:
        await submit(log, ledger, 0, 5)
        await eventually(lambda: log.state.anchored_size == 6)
        board.failure = SinkError("gone")
        await submit(log, ledger, 5)
        covered = await log.reader.batch_inclusion(ledger.uid, [0, 4], 0)
        assert (covered.checkpoint.size, covered.anchored) == (6, True)
        beyond = await log.reader.batch_inclusion(ledger.uid, [4, 5], 0)
        assert (beyond.checkpoint.size, beyond.anchored) == (11, False)
        left_out = await log.reader.batch_inclusion(ledger.uid, [4, 5, 99], 6)
        assert [proof.seq for proof in left_out.proofs] == [4]
        assert (await log.reader.inclusion(5, 0)).checkpoint.size == 6
        assert (await log.reader.inclusion(6, 0)).checkpoint.size == 11


async def test_proofs_of_a_ledger_nobody_knows_are_none(tmp_path: Path) -> None:
    async with running_log(_sqlite(tmp_path), tmp_path) as log:
        proven = await log.reader.batch_inclusion(bytes(16), [0, 1], 0)
        assert (list(proven.proofs), proven.checkpoint.size) == ([], 1)
        assert await log.reader.ledger_state(bytes(16)) is None


async def test_head_is_the_last_entry_as_of_a_checkpoint(database_url: str, tmp_path: Path) -> None:
    keys = TestKeys()
    a, b = Ledger("a"), Ledger("b")
    a.grow(300)
    b.grow(300)
    public_key = keys.signers[KeyPurpose.HEAD].public_key
    async with running_log(database_url, tmp_path, keys=keys) as log:
        expected = []
        for start in range(0, 300, 100):
            await submit(log, a, start, start + 100)
            expected.append((log.state.signed_size, a, start + 99, log.state.signed_size - 1))
            await submit(log, b, start, start + 100)
            expected.append((log.state.signed_size, a, *expected[-1][2:]))
            expected.append((log.state.signed_size, b, start + 99, log.state.signed_size - 1))
        for size, ledger, seq, index in expected:
            envelope, head_checkpoint = await log.reader.ledger_head(ledger.uid, size)
            opened = dsse.decode(envelope)
            assert opened.payload_type == HEAD_TYPE
            (signature,) = opened.signatures
            assert signature.keyid == "head-1"
            verify_signature(public_key, signature.sig, opened.pae)
            head = parse_head(opened.payload)
            assert (head.seq, head.log_index, head.size) == (seq, index, size)
            assert head.receipt_hash == ledger.hash_of(seq)
            assert head.root == head_checkpoint.root
            assert (head.origin, head.kid, head.epoch) == (log.identity.origin, "head-1", 1)
        with pytest.raises(NotFoundError):
            await log.reader.ledger_head(b.uid, 101)
        with pytest.raises(NotFoundError):
            await log.reader.ledger_head(bytes(16), 0)
        keys.signers[KeyPurpose.HEAD].fail = True
        with pytest.raises(UnavailableError, match="head"):
            await log.reader.ledger_head(a.uid, 0)
