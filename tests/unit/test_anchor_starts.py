"""What an anchor that starts takes for its own history, and when it goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc import files
from anchor_svc.recovery import _check_published, look
from anchor_svc.restored import MARKER, Restored
from anchor_svc.storage import LogRow
from anchor_svc.tilefiles import DirectoryFiles
from provledger import merkle
from provledger.errors import DataLossError
from provledger.hashing import suite
from tests.support.chain import ORIGIN
from tests.support.tiled import signed_checkpoint

ENTRIES = [b"entry %d" % index for index in range(5)]
TREE = suite("blake3").tree


@pytest.mark.parametrize("origin", [ORIGIN, f"{ORIGIN}2"])
async def test_a_published_checkpoint_of_another_log_is_another_history(origin: str) -> None:
    """The same root under another name: a directory that was put in the place of another one."""
    row = SimpleNamespace(size=5, root=merkle.root(ENTRIES))

    async def checkpoint(uid: bytes, size: int) -> Any:
        return row

    published = signed_checkpoint(origin, ENTRIES)
    storage: Any = SimpleNamespace(checkpoint=checkpoint)
    log: Any = SimpleNamespace(log_uid=bytes(16), origin=ORIGIN)
    if origin == ORIGIN:
        await _check_published(storage, published, log, row)  # type: ignore[arg-type]
        return
    with pytest.raises(DataLossError) as caught:
        await _check_published(storage, published, log, row)  # type: ignore[arg-type]
    assert caught.value.reason == "HISTORY_CHANGED"


@pytest.mark.parametrize("digits", ["9223372036854775808", "9999999999999999999", "1" * 5000])
async def test_a_published_size_that_no_log_has_is_none(digits: str) -> None:
    """What cannot be read is written anew."""
    storage: Any = SimpleNamespace()
    log: Any = SimpleNamespace(log_uid=bytes(16), origin=ORIGIN)
    await _check_published(storage, f"{ORIGIN}\n{digits}\n".encode(), log, None)
    with pytest.raises(DataLossError, match="9223372036854775807"):
        await _check_published(storage, f"{ORIGIN}\n{2**63 - 1}\n".encode(), log, None)


class Grown:
    """A log of two full tiles and one entry; another process goes on writing to it if `moves`."""

    def __init__(self, *, moves: bool) -> None:
        self.moves = moves
        self.files_read = 0
        self.leaf = merkle.leaf_hash(b"x", TREE)
        self.row = self._row(1)

    def _row(self, more: int) -> LogRow:
        root = merkle.root([b"x"] * (512 + more), TREE)
        return LogRow(bytes(16), ORIGIN, "blake3", 512 + more, root, 512, 1, 0)

    async def log(self, uid: bytes) -> LogRow:
        return self.row

    async def pieces(self, uid: bytes, start: int) -> list[Any]:
        if self.moves:
            self.row = self._row(2)
        return [SimpleNamespace(start_index=512, entries=[b"x", b"x"])]

    async def leaf_counts(self, uid: bytes) -> tuple[int, int]:
        return self.row.size, self.row.size - 1

    async def newest_checkpoint(self, uid: bytes) -> Any:
        return SimpleNamespace(size=self.row.size, root=self.row.root, note=None)

    async def newest_signed(self, uid: bytes) -> None:
        return None

    def read_checkpoint(self) -> None:
        return None

    def read_tile(self, level: int, index: int) -> bytes:
        self.files_read += 1
        return self.leaf * 256

    def read_bundle(self, index: int) -> list[bytes]:
        self.files_read += 1
        return [b"x"] * 256


@pytest.mark.parametrize("moves", [True, False])
async def test_a_log_that_moved_on_is_not_searched_for_damage(moves: bool) -> None:
    """That reads a good part of all tiles, while the other process has still to be replaced."""
    log: Any = Grown(moves=moves)
    if moves:
        tiled = await look(log, log, bytes(16))
        assert (tiled.size, log.files_read) == (512, 2)
        return
    with pytest.raises(
        DataLossError, match="look at the stored entries from log index 512"
    ) as told:
        await look(log, log, bytes(16))
    assert told.value.reason == "ROOT_MISMATCH"
    assert type(told.value) is DataLossError
    assert log.files_read > 2


async def test_the_marker_is_gone_for_good_before_anything_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MARKER).write_text('{"accepted": true}')
    state: Any = SimpleNamespace(held=None, published=None, view=None)
    identity: Any = SimpleNamespace(name="logs/x", uid=bytes(16))
    nothing: Any = None
    restored = Restored(
        identity,
        nothing,
        state,
        tmp_path,
        list,
        consistency=nothing,
        deadline_s=1.0,
    )
    restored.open()
    assert state.held is not None
    steps: list[tuple[bool, bool]] = []
    sync = files.sync_dir

    def syncing(path: Path) -> None:
        assert path == tmp_path
        steps.append(((tmp_path / MARKER).exists(), state.held is not None))
        sync(path)

    monkeypatch.setattr(files, "sync_dir", syncing)
    await restored.run()
    # Once synced, with the marker removed and the log still held; only then it goes on.
    assert steps == [(False, True)]
    assert state.held is None


@pytest.mark.parametrize("made", ["by us, and its sync failed", "by a process that was stopped"])
def test_every_directory_above_a_tile_is_durable_when_the_tile_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """One that is there is not durable for that: its name is lost with the power, and its tiles."""
    tiles, synced, sync = DirectoryFiles(tmp_path / "logs/x"), list[str](), files.sync_dir
    failing = {"tile"} if made.startswith("by us") else set[str]()

    def syncing(path: Path) -> None:
        if path.name in failing:
            failing.remove(path.name)
            raise OSError(5, "Input/output error")
        synced.append(str(path.relative_to(tmp_path)))
        sync(path)

    monkeypatch.setattr(files, "sync_dir", syncing)
    tiles.open()
    if failing:
        with pytest.raises(OSError, match="Input/output"):
            tiles.write([("tile/0/000", b"x")])
    else:
        (tmp_path / "logs/x/tile/0").mkdir(parents=True)
    synced.clear()
    tiles.write([("tile/0/000", b"x")])
    assert {"logs/x/tile/0", "logs/x/tile"} <= {*synced}
    assert made.startswith("by us") or "logs/x" in synced
    # And once only.
    synced.clear()
    tiles.write([("tile/0/001", b"x")])
    assert synced == ["logs/x/tile/0"]


def test_a_directory_that_could_not_be_made_durable_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = list[Path](), files.sync_dir

    def syncing(path: Path) -> None:
        synced.append(path)
        if len(synced) == 2:
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(files, "sync_dir", syncing)
    with pytest.raises(OSError, match="Input/output"):
        files.make_dirs(tmp_path / "a/b")
    files.make_dirs(tmp_path / "a/b")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a"]
