"""What was published stays whole until something newer is, and what is needless then goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.pieces import Pieces, TilePiece
from anchor_svc.proofs import View
from anchor_svc.storage import FencedError
from provledger import checkpoint as checkpoints
from provledger import tiles
from provledger.errors import DataLossError, NotFoundError, UnavailableError
from tests.support.anchoring import Ledger, eventually, log_vkey, running_log, submit
from tests.support.cut import CutStorage

pytestmark = pytest.mark.timeout(60)

PARTIALS = ("tile/0/001.p/45", "tile/entries/001.p/45")
FULL = ("tile/0/001", "tile/entries/001")


async def publish(log: OpenLog, ledger: Ledger, size: int) -> None:
    """Have the log grow to a size, and publish that."""
    start = len(ledger.entries)
    ledger.grow(size - 1 - start)
    await submit(log, ledger, start)
    await log.publisher.publish(log.state.signed_view())


def partial_dirs(log: OpenLog) -> set[str]:
    root = log.store.root
    return {str(path.parent.relative_to(root)) for path in root.rglob("*.p/*")}


def at_size(size: int) -> set[str]:
    """The directories of partial tiles that a log of one published size has."""
    found = {f"{tiles.entries_path(size // 256)}.p"}
    for level in range(2):
        found.add(f"{tiles.tile_path(level, size // 256 ** (level + 1))}.p")
    return found


async def read_piece(log: OpenLog, path: str) -> TilePiece:
    """The beginning of a tile, as readers are given it."""
    pieces = Pieces()
    try:
        return await pieces.read(log.store, log.state, tiles.parse_path(path), 0, 0)
    finally:
        pieces.close()


async def test_published_tiles_stay_until_a_newer_checkpoint_counts(
    database_url: str, tmp_path: Path
) -> None:
    """The database is away when the newer one is to be marked: readers have the older one."""
    cut, ledger = CutStorage(), Ledger()
    async with running_log(database_url, tmp_path, wrap=cut.wrap) as log:
        await publish(log, ledger, 301)
        cut.down = {"mark_published"}
        with pytest.raises(UnavailableError):
            await publish(log, ledger, 601)
        note = (await log.reader.checkpoint(0, published=True)).note
        head, _ = checkpoints.open_checkpoint(note, [log_vkey(log)], exact=True)
        assert head.size == 301
        for path in PARTIALS:
            piece = await read_piece(log, path)
            assert piece.total > 0
        for path in FULL:
            with pytest.raises(NotFoundError, match="does not cover"):
                await read_piece(log, path)
        cut.down = set()
        await publish(log, ledger, 901)
        for path in PARTIALS:
            with pytest.raises(NotFoundError, match="take that"):
                await read_piece(log, path)
        for path in FULL:
            assert (await read_piece(log, path)).total
        # Those of the size that was written and never published are gone as well.
        assert partial_dirs(log) == at_size(901)


def at_tiles(log: OpenLog, cut: CutStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial tiles are there, the checkpoint is not."""

    def stop(note: bytes) -> None:
        raise UnavailableError("STOPPED", "here")

    monkeypatch.setattr(log.store, "write_checkpoint", stop)


def at_checkpoint(log: OpenLog, cut: CutStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is there, and the database does not know."""
    cut.down = {"mark_published"}


def at_marked(log: OpenLog, cut: CutStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as published, and nothing was tidied up."""
    cut.down, cut.late = {"mark_published"}, True


Stop = Callable[[OpenLog, CutStorage, pytest.MonkeyPatch], None]


@pytest.mark.parametrize("first", [at_tiles, at_checkpoint, at_marked])
@pytest.mark.parametrize("second", [at_tiles, at_checkpoint, at_marked])
async def test_what_a_stop_at_any_point_leaves_goes_with_the_next_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Stop, second: Stop
) -> None:
    """Processes that end between two steps of a publication, two in a row."""
    url, ledger = f"sqlite:///{tmp_path}/log.db", Ledger()
    async with running_log(url, tmp_path) as log:
        await publish(log, ledger, 301)
    for stop, size in ((first, 601), (second, 901)):
        cut = CutStorage()
        async with running_log(url, tmp_path, wrap=cut.wrap) as log:
            stop(log, cut, monkeypatch)
            with pytest.raises(UnavailableError):
                await publish(log, ledger, size)
            assert partial_dirs(log) >= at_size(size)
        monkeypatch.undo()
    async with running_log(url, tmp_path) as log:
        await publish(log, ledger, 1201)
        assert partial_dirs(log) == at_size(1201)
        # And then a publication asks for no more than it made needless.
        dropped: list[str] = []
        monkeypatch.setattr(log.store._files, "drop_partials", dropped.append)
        await publish(log, ledger, 2101)
        assert dropped == ["tile/0/004", "tile/entries/004"]


def _found(root: Path, paths: Iterable[str]) -> dict[str, bytes]:
    return {path: (root / path).read_bytes() for path in paths if (root / path).exists()}


@pytest.mark.parametrize("damage", [None, b"", b"damaged"])
async def test_partial_tiles_that_are_not_what_they_were_are_mended_at_a_start(
    database_url: str, tmp_path: Path, damage: bytes | None
) -> None:
    """They are made of what the database has, and no root is: nothing else would notice."""
    ledger = Ledger()
    async with running_log(database_url, tmp_path) as log:
        await publish(log, ledger, 301)
        root = log.store.root
    whole = {path: (root / path).read_bytes() for path in ("tile/1/000.p/1", *PARTIALS)}
    for path in whole:
        if damage is None:
            (root / path).unlink()
        else:
            (root / path).write_bytes(damage)
    full = {path: (root / path).stat().st_mtime_ns for path in ("tile/0/000", "tile/entries/000")}
    async with running_log(database_url, tmp_path) as log:
        running = asyncio.create_task(log.publisher.run())
        await eventually(lambda: _found(root, whole) == whole, 30.0)
        running.cancel()
        assert {path: (root / path).stat().st_mtime_ns for path in full} == full
        # What follows is published as ever.
        await publish(log, ledger, 601)
        assert partial_dirs(log) == at_size(601)


async def test_a_view_that_is_not_published_mends_nothing(
    database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger()
    async with running_log(database_url, tmp_path) as log:
        await publish(log, ledger, 301)
        before = partial_dirs(log)
        ledger.grow(10)
        await submit(log, ledger, 300)
        (log.store.root / PARTIALS[0]).write_bytes(b"")
        await log.publisher.mend(log.state.signed_view())
        assert (log.store.root / PARTIALS[0]).read_bytes() == b""
        assert partial_dirs(log) == before


async def test_publishing_goes_on_after_any_error_but_a_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no thread can be started for a moment: what runs beside the RPCs is all in one."""
    ledger = Ledger()
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        write, tried = log.publisher._write, list[int]()

        def fail_once(view: View) -> None:
            tried.append(view.size)
            if len(tried) == 1:
                raise RuntimeError("can't start new thread")
            write(view)

        monkeypatch.setattr(log.publisher, "_write", fail_once)
        running = asyncio.create_task(log.publisher.run())
        ledger.grow(5)
        await submit(log, ledger)
        await eventually(lambda: log.state.published_size == 6, 30.0)
        running.cancel()

        async def fenced(*_: object) -> None:
            raise FencedError("another process")

        monkeypatch.setattr(log.publisher, "publish", fenced)
        ledger.grow(1)
        await submit(log, ledger, 5)
        with pytest.raises(FencedError):
            await log.publisher.run()


async def test_an_alarm_that_cannot_be_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(f"sqlite:///{tmp_path}/log.db", tmp_path) as log:
        looks, again = list[None](), asyncio.Event()

        async def look() -> None:
            looks.append(None)
            if len(looks) == 1:
                raise RuntimeError("can't start new thread")
            again.set()

        monkeypatch.setattr(log.overdue, "look", look)
        running = asyncio.create_task(log.overdue.run())
        async with asyncio.timeout(30):
            await again.wait()
        running.cancel()


@pytest.mark.parametrize("left", ["nothing", "an older one", "an empty one", "half of it"])
async def test_a_checkpoint_that_is_not_the_published_one_is_mended_at_a_start(
    database_url: str, tmp_path: Path, left: str
) -> None:
    """A gateway at the directory serves what is there, and a quiet log publishes nothing newer."""
    ledger = Ledger()
    async with running_log(database_url, tmp_path) as log:
        await publish(log, ledger, 301)
        path = log.store.root / "checkpoint"
        older = path.read_bytes()
        await publish(log, ledger, 601)
        whole = path.read_bytes()
    path.unlink()
    if left != "nothing":
        half = whole[: len(whole) // 2]
        path.write_bytes({"an older one": older, "an empty one": b""}.get(left, half))
    async with running_log(database_url, tmp_path) as log:
        running = asyncio.create_task(log.publisher.run())
        await eventually(lambda: _found(path.parent, ["checkpoint"]) == {"checkpoint": whole}, 30.0)
        running.cancel()
        await publish(log, ledger, 901)
    assert b"\n901\n" in path.read_bytes()


async def test_a_larger_checkpoint_is_never_mended(tmp_path: Path) -> None:
    """Nor taken for one that cannot be read: the database is older than what was published."""
    url, ledger = f"sqlite:///{tmp_path}/log.db", Ledger()
    async with running_log(url, tmp_path) as log:
        await publish(log, ledger, 301)
        path = log.store.root / "checkpoint"
        larger = path.read_bytes().replace(b"\n301\n", b"\n302\n")
        path.write_bytes(larger)
        with pytest.raises(UnavailableError) as caught:
            await log.publisher.mend(log.state.signed_view())
        assert caught.value.reason == "CHECKPOINT_OVERTAKEN"
        assert path.read_bytes() == larger
    for data in (larger, larger[:-40], larger.partition(b"302\n")[0] + b"302\n\0\0\0"):
        path.write_bytes(data)
        with pytest.raises(DataLossError) as behind:
            async with running_log(url, tmp_path):
                pass
        assert behind.value.reason == "DATABASE_BEHIND"
        assert path.read_bytes() == data


async def test_a_fenced_process_puts_no_older_checkpoint_back(
    database_url: str, tmp_path: Path
) -> None:
    """Both write to one directory, as on a shared volume."""
    ledger = Ledger()
    async with running_log(database_url, tmp_path) as first:
        ledger.grow(5)
        await submit(first, ledger)
        async with running_log(database_url, tmp_path) as second:
            ledger.grow(5)
            await submit(second, ledger, 5)
            await second.publisher.publish(second.state.signed_view())
            path = second.store.root / "checkpoint"
            newer = path.read_bytes()
            assert b"\n11\n" in newer
            with pytest.raises(UnavailableError) as caught:
                await first.publisher.publish(first.state.signed_view())
            assert caught.value.reason == "CHECKPOINT_OVERTAKEN"
            assert path.read_bytes() == newer
