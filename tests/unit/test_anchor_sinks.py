"""The file sink, and the rule that says what a sink takes next."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_svc.convert import MAX_ERROR_CHARS, sink_to_pb
from anchor_svc.relay import choose
from anchor_svc.sinks import (
    AnchorSink,
    PublishedCheckpoint,
    SinkError,
    SinkIntegrityError,
    open_sink,
    register,
)
from anchor_svc.sinks.file import FileSink
from anchor_svc.sinkstatus import SinkStatus, Trouble
from provledger import checkpoint, jcs, note
from provledger.errors import NotFoundError
from provledger.settings import ConfigError
from tests.conformance.sink_suite import LOG, OTHER, published
from tests.support.notary import TinyLog

ORIGIN = "provledger.test/log"


def _checkpoint(
    size: int, root: bytes = bytes(32), origin: str = ORIGIN, *, known_size: int = 0
) -> PublishedCheckpoint:
    text = checkpoint.format(origin, size, root)
    signed = note.format_note(text, [note.signature_line(origin, b"abcd", b"signature")])
    return PublishedCheckpoint(origin, size, root, signed, known_size)


@pytest.fixture
def sink(tmp_path: Path) -> FileSink:
    opened = open_sink(f"file://{tmp_path}/anchors")
    assert isinstance(opened, FileSink)
    return opened


def _files(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "anchors"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


async def test_each_checkpoint_gets_a_file_and_latest_moves_on(
    sink: AnchorSink, tmp_path: Path
) -> None:
    first, second = _checkpoint(7), _checkpoint(501, known_size=7)
    evidence = await sink.anchor(first)
    await sink.anchor(second)
    directory = "provledger.test%2Flog"
    assert _files(tmp_path) == {
        f"{directory}/00000000000000000007.checkpoint": first.note,
        f"{directory}/00000000000000000501.checkpoint": second.note,
        f"{directory}/latest": second.note,
    }
    assert evidence.kind == "file"
    assert jcs.parse(evidence.data) == {
        "name": f"{directory}/00000000000000000007.checkpoint",
        "sha256": hashlib.sha256(first.note).hexdigest(),
        "size": "7",
    }


async def test_same_checkpoint_again_gives_the_same_evidence(sink: AnchorSink) -> None:
    """As after an answer that was lost."""
    assert await sink.anchor(_checkpoint(7)) == await sink.anchor(_checkpoint(7))


async def test_other_checkpoint_of_the_same_size_is_never_written_over(
    sink: AnchorSink, tmp_path: Path
) -> None:
    await sink.anchor(_checkpoint(7))
    before = _files(tmp_path)
    with pytest.raises(SinkIntegrityError, match="tree size 7"):
        await sink.anchor(_checkpoint(7, bytes([1]) * 32))
    assert _files(tmp_path) == before


async def test_other_checkpoint_of_the_same_size_is_noticed_by_latest_alone(
    sink: FileSink, tmp_path: Path
) -> None:
    """Old files may be cleaned away."""
    await sink.anchor(_checkpoint(7))
    (tmp_path / "anchors/provledger.test%2Flog/00000000000000000007.checkpoint").unlink()
    before, other = _files(tmp_path), _checkpoint(7, bytes([1]) * 32)
    for ask in (sink.anchor, sink.holds):
        with pytest.raises(SinkIntegrityError, match="another checkpoint of tree size 7"):
            await ask(other)
    assert _files(tmp_path) == before
    await sink.anchor(_checkpoint(7))
    await sink.anchor(_checkpoint(8, bytes([1]) * 32, known_size=7))


async def test_what_is_held_is_told_without_keeping_all_names(
    sink: FileSink, tmp_path: Path
) -> None:
    """There may be millions, and a restored log waits for the answer."""
    await sink.anchor(_checkpoint(1))
    directory = tmp_path / "anchors/provledger.test%2Flog"
    for size in range(2, 10_000):
        (directory / f"{size:020}.checkpoint").touch()
    newest = _checkpoint(9_999, known_size=9_998)
    (directory / f"{9_999:020}.checkpoint").write_bytes(newest.note)
    await sink.holds(newest)
    tracemalloc.start()
    try:
        assert await sink.holds(newest)
        assert not await sink.holds(_checkpoint(10_001, known_size=10_000))
        with pytest.raises(SinkIntegrityError, match=r"00009999\.checkpoint, a checkpoint larger"):
            await sink.holds(_checkpoint(9_998, known_size=2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000 * 16


async def test_larger_checkpoint_than_ours_is_an_alarm(sink: AnchorSink, tmp_path: Path) -> None:
    await sink.anchor(_checkpoint(500))
    before = _files(tmp_path)
    with pytest.raises(SinkIntegrityError, match="rolled back"):
        await sink.anchor(_checkpoint(499))
    assert _files(tmp_path) == before


async def test_unreadable_latest_is_an_alarm(sink: AnchorSink, tmp_path: Path) -> None:
    await sink.anchor(_checkpoint(7))
    (tmp_path / "anchors/provledger.test%2Flog/latest").write_bytes(b"hello")
    with pytest.raises(SinkIntegrityError, match="cannot be read"):
        await sink.anchor(_checkpoint(8))


async def test_another_history_is_noticed_without_latest(sink: FileSink, tmp_path: Path) -> None:
    """Somebody took it away, or put an older one back: the names say the same."""
    for size, known_size in ((2, 0), (3, 2), (5, 3)):
        await sink.anchor(published(size, known_size))
    latest = tmp_path / f"anchors/{quote(LOG.origin, safe='')}/latest"
    forked = published(7, known_size=3, log=OTHER)
    latest.unlink()
    for ask in (sink.holds, sink.anchor):
        with pytest.raises(SinkIntegrityError, match="5 that is no part of ours"):
            await ask(forked)
    latest.write_bytes(LOG.checkpoint(3))
    with pytest.raises(SinkIntegrityError, match="5 that is no part of ours"):
        await sink.holds(forked)
    assert await sink.holds(published(7, known_size=3))


async def test_what_was_never_signed_is_another_history(sink: FileSink) -> None:
    await sink.anchor(published(5))

    async def prove(old_size: int) -> Sequence[bytes]:
        raise NotFoundError("CHECKPOINT_NOT_FOUND", f"no checkpoint of tree size {old_size}")

    unproven = dataclasses.replace(published(7), prove=prove)
    for ask in (sink.holds, sink.anchor):
        with pytest.raises(SinkIntegrityError, match="5, which we never signed"):
            await ask(unproven)
    cannot_tell = dataclasses.replace(published(7), prove=None)
    with pytest.raises(SinkError, match="nothing to prove consistency with") as caught:
        await sink.anchor(cannot_tell)
    assert not isinstance(caught.value, SinkIntegrityError)


async def test_a_name_that_lies_is_an_alarm(sink: FileSink, tmp_path: Path) -> None:
    await sink.anchor(published(3))
    directory = tmp_path / "anchors" / quote(LOG.origin, safe="")
    (directory / f"{6:020}.checkpoint").write_bytes(LOG.checkpoint(5))
    with pytest.raises(SinkIntegrityError, match="is of tree size 5"):
        await sink.holds(published(7, known_size=3))
    (directory / f"{6:020}.checkpoint").write_bytes(TinyLog("log.test/b").checkpoint(6))
    with pytest.raises(SinkIntegrityError, match="of another log"):
        await sink.holds(published(7, known_size=3))


@pytest.mark.parametrize(
    "name", ["README", f"{7:020} (copy).checkpoint", "monday.checkpoint", "0.txt", f"{9:020}.txt"]
)
async def test_files_of_others_are_no_checkpoints(
    sink: FileSink, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / "anchors" / quote(LOG.origin, safe="")
    directory.mkdir(parents=True)
    (directory / name).write_bytes(b"do not touch")
    assert not await sink.holds(published(5))
    assert await sink.checkpoint_of(LOG.origin) is None
    await sink.anchor(published(5))
    (directory / "latest").unlink()
    assert await sink.checkpoint_of(LOG.origin) == LOG.checkpoint(5)
    assert await sink.holds(published(7, known_size=5))
    assert not await sink.holds(published(7, known_size=7))
    await sink.anchor(published(7, known_size=5))


@pytest.mark.parametrize("data", [b"", OTHER.checkpoint(5)])
@pytest.mark.parametrize("known_size", [0, 4, 5])
async def test_nothing_confirms_that_is_no_checkpoint_of_ours(
    sink: FileSink, tmp_path: Path, data: bytes, known_size: int
) -> None:
    """Also at the size that it once took."""
    await sink.anchor(published(5))
    assert await sink.holds(published(7, known_size=known_size))
    directory = tmp_path / "anchors" / quote(LOG.origin, safe="")
    (directory / f"{5:020}.checkpoint").write_bytes(data)
    for _ in range(2):
        with pytest.raises(SinkIntegrityError, match=r"cannot be read|no part of ours"):
            await sink.holds(published(7, known_size=known_size))
        (directory / "latest").unlink(missing_ok=True)


async def test_origins_do_not_mix(sink: AnchorSink, tmp_path: Path) -> None:
    await sink.anchor(_checkpoint(7))
    await sink.anchor(_checkpoint(3, origin="../other/log"))
    assert {path.split("/")[0] for path in _files(tmp_path)} == {
        "provledger.test%2Flog",
        "..%2Fother%2Flog",
    }


async def test_unusable_directory_is_an_error_to_retry(tmp_path: Path) -> None:
    (tmp_path / "anchors").write_text("not a directory")
    with pytest.raises(SinkError):
        await open_sink(f"file://{tmp_path}/anchors").anchor(_checkpoint(7))


async def test_killed_between_file_and_latest_goes_on(
    sink: AnchorSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.anchor(_checkpoint(7))

    def fail(*_: object) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(SinkError, match="no space"):
            await sink.anchor(_checkpoint(8, known_size=7))
    assert (tmp_path / "anchors/provledger.test%2Flog/latest").read_bytes() == _checkpoint(7).note
    await sink.anchor(_checkpoint(8, known_size=7))
    assert not list((tmp_path / "anchors").rglob("*.tmp"))
    assert (tmp_path / "anchors/provledger.test%2Flog/latest").read_bytes() == _checkpoint(8).note


@pytest.mark.parametrize(
    "uri",
    [
        "file:relative",
        "file://host/dir",
        "file:///dir?mode=x",
        "file:///dir#x",
        "ftp://example.com",
        "nothing",
        "",
        "file:///a%00b",
    ],
)
def test_bad_sink_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="sinks"):
        open_sink(uri)


async def test_sink_of_anybody_can_be_registered() -> None:
    class Board:
        uri = "registered://example"

    # A scheme of its own: it stays registered for as long as the process lives.
    register("registered", lambda uri: Board())  # type: ignore[arg-type, return-value]
    assert open_sink("registered://example").uri == "registered://example"


@pytest.mark.parametrize(
    ("cursor", "floor", "others", "newest", "taken"),
    [
        (0, 0, [], 5, 5),
        (5, 5, [], 5, 5),
        (5, 5, [5, 3], 9, 9),
        (5, 5, [7, 3], 9, 7),
        (5, 5, [7, 8], 9, 7),
        # Handed over without an answer: never back behind it.
        (5, 8, [7], 9, 9),
        (5, 8, [8, 7], 9, 8),
        # A database that has forgotten what it published.
        (9, 9, [], 5, 9),
        (5, 5, [12], 9, 9),
    ],
)
def test_what_a_sink_takes_next(
    cursor: int, floor: int, others: list[int], newest: int, taken: int
) -> None:
    assert choose(cursor, floor, others, newest) == taken


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 3))
def test_sinks_of_any_speed_keep_meeting(paces: list[int], first: int) -> None:
    """Each takes so many ticks for a checkpoint, of which a new one appears at every tick."""
    count = len(paces)
    held = [{0} for _ in paces]
    busy: list[tuple[int, int] | None] = [None] * count
    for now in range(1, 250):
        for sink, task in enumerate(busy):
            if task is not None and task[0] <= now:
                held[sink].add(task[1])
                busy[sink] = None
        for sink in ((first + place) % count for place in range(count)):
            if busy[sink] is None:
                targets = [max(held[o]) if task is None else task[1] for o, task in enumerate(busy)]
                cursor = targets.pop(sink)
                size = choose(cursor, cursor, targets, now)
                if size > cursor:
                    busy[sink] = (now + paces[sink], size)
        if now > 100:
            assert now - max(set.intersection(*held)) <= 4 * max(paces)


def test_why_a_sink_failed_is_told_as_text() -> None:
    """Much of it is what the sink itself said."""
    said = "s3: \x1b[2J\x1b[Hall is well\nstate  up to date" + "x" * 1000
    status = SinkStatus("s3://b", 0, 7, 0, None, Trouble(said, 1, 2, 3, False), True)
    told = sink_to_pb(status).last_error
    assert told.isprintable()
    assert told.startswith(r"s3: \x1b[2J\x1b[Hall is well\nstate")
    assert len(told) == MAX_ERROR_CHARS
