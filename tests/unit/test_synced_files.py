"""Files that are promised to be durable are synced before they have their name, names after it.

Where strace may trace, `tests/faults/test_synced.py` and `test_backup.py` see the same of whole
services and commands, and in which order one file follows another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from anchor_svc import files
from anchor_svc.sinks.file import FileSink
from anchor_svc.tilefiles import DirectoryFiles
from anchor_svc.tilestore import TileStore
from notary_svc.signing import Cosigner
from provledger.kms import local
from provledger.logdirs import GIVEN_UP
from provledger_cli import scratch
from provledger_cli.embedded.datadir import DataDir, write_atomically
from tests.conformance.sink_suite import published
from tests.support.syncs import Syncs
from tests.support.tiled import signed_checkpoint, tile_files

ENTRIES = [b"entry %d" % index for index in range(300)]
ORIGIN = "log.test/synced"


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def test_a_file_of_the_anchor(syncs: Syncs, tmp_path: Path) -> None:
    for data in (b"first", b"second, in its place"):
        files.write_atomic(tmp_path / "file", data, tmp_path)
        syncs.check(tmp_path / "file", tmp_path)
    files.move_in(files.write_scratch(b"third", tmp_path), tmp_path / "file")
    with pytest.raises(AssertionError, match="the name of file is not synced"):
        syncs.check(tmp_path / "file", tmp_path)
    files.sync_dir(tmp_path)
    syncs.check(tmp_path / "file", tmp_path)


def test_directories_of_the_anchor(syncs: Syncs, tmp_path: Path) -> None:
    files.make_dirs(tmp_path / "a" / "b" / "c")
    files.write_atomic(tmp_path / "a" / "b" / "c" / "file", b"data", tmp_path)
    syncs.check(tmp_path / "a" / "b" / "c" / "file", tmp_path)


def test_tiles_bundles_and_checkpoint(syncs: Syncs, tmp_path: Path) -> None:
    root = tmp_path / "logs" / "uid"
    store = DirectoryFiles(root)
    store.open()
    for size in (200, 300):
        contents = tile_files(ENTRIES, size)
        store.write(contents.items())
        for path in contents:
            syncs.check(root / path, tmp_path)
        store.replace_checkpoint(signed_checkpoint(ORIGIN, ENTRIES[:size]))
        syncs.check(root / "checkpoint", tmp_path)


def test_the_directory_of_an_earlier_process(syncs: Syncs, tmp_path: Path) -> None:
    """Which was stopped after it had made it."""
    (tmp_path / "uid").mkdir()
    store = DirectoryFiles(tmp_path / "uid")
    store.open()
    store.write([("tile/0/000", b"data")])
    syncs.check(tmp_path / "uid" / "tile" / "0" / "000", tmp_path)


def test_partial_tiles_are_written_again_as_durably(syncs: Syncs, tmp_path: Path) -> None:
    """Their directory was dropped, and its name has to be synced anew."""
    store = DirectoryFiles(tmp_path)
    store.open()
    contents = tile_files(ENTRIES, 200)
    for _ in range(2):
        store.write(contents.items())
        for path in contents:
            syncs.check(tmp_path / path, tmp_path)
        store.drop_partials("tile/0/000")


async def test_file_sink(syncs: Syncs, tmp_path: Path) -> None:
    sink = FileSink("file:///", tmp_path / "anchors")
    for size in (3, 7):
        await sink.anchor(published(size, known_size=min(size, 3)))
        names = {path.name for path in (tmp_path / "anchors").rglob("*") if path.is_file()}
        assert {f"{size:020}.checkpoint", "latest"} <= names
        for path in (tmp_path / "anchors").rglob("*"):
            if path.is_file():
                syncs.check(path, tmp_path)
    await sink.close()


def test_an_operators_word_is_taken_back_for_good(syncs: Syncs, tmp_path: Path) -> None:
    store = TileStore(tmp_path, bytes(16))
    store.root.mkdir(parents=True)
    (store.root / GIVEN_UP).touch()
    store.open()
    syncs.check_gone(store.root / GIVEN_UP)


def _created(path: Path) -> Path:
    local.create_key(path / "key.pem")
    return path / "key.pem"


def _replaced(path: Path) -> Path:
    write_atomically(path / "config.json", b"old")
    write_atomically(path / "config.json", b"newer")
    return path / "config.json"


def _import_key(path: Path) -> Path:
    data = DataDir.at(path)
    data.import_key()
    return data.import_key_file


@pytest.mark.parametrize("made", [_created, _replaced, _import_key])
def test_files_of_an_installation(
    syncs: Syncs, tmp_path: Path, made: Callable[[Path], Path]
) -> None:
    (tmp_path / "data").mkdir()
    syncs.check(made(tmp_path / "data"), tmp_path / "data")


def test_keys_of_a_notary(syncs: Syncs, tmp_path: Path) -> None:
    Cosigner.open("notary.test", tmp_path)
    keys = list(tmp_path.glob("*.pem"))
    assert keys
    for path in keys:
        syncs.check(path, tmp_path)


def test_a_name_that_takes_no_others_place(syncs: Syncs, tmp_path: Path) -> None:
    """What `backup` gives its archive."""
    with (tmp_path / "unnamed").open("wb") as file:
        file.write(b"data")
        file.flush()
        os.fsync(file.fileno())
    scratch.give_name(tmp_path / "unnamed", tmp_path / "backup.tar")
    syncs.check(tmp_path / "backup.tar", tmp_path)


def test_a_tree_of_files(syncs: Syncs, tmp_path: Path) -> None:
    """What `restore` puts in place."""
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "file", tmp_path / "a" / "file"):
        path.write_bytes(b"data")
    scratch.sync_tree(tmp_path)
    for path in (tmp_path / "file", tmp_path / "a" / "file"):
        syncs.check(path, tmp_path)


# --- and it is seen if they are not


def test_what_is_written_after_it_was_synced_is_seen(syncs: Syncs, tmp_path: Path) -> None:
    with (tmp_path / "scratch").open("wb") as file:
        file.write(b"data")
        os.fsync(file.fileno())  # nothing of it has left the buffer
    os.replace(tmp_path / "scratch", tmp_path / "file")
    files.sync_dir(tmp_path)
    with pytest.raises(AssertionError, match="file is not synced"):
        syncs.check(tmp_path / "file", tmp_path)


def test_what_is_synced_after_it_has_its_name_is_seen(syncs: Syncs, tmp_path: Path) -> None:
    with (tmp_path / "scratch").open("wb", buffering=0) as file:
        file.write(b"data")
        os.replace(tmp_path / "scratch", tmp_path / "file")
        os.fsync(file.fileno())
    files.sync_dir(tmp_path)
    with pytest.raises(AssertionError, match="synced after it has its name"):
        syncs.check(tmp_path / "file", tmp_path)


def test_a_directory_that_is_not_synced_is_seen(syncs: Syncs, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    files.write_atomic(tmp_path / "made" / "file", b"data", tmp_path)
    with pytest.raises(AssertionError, match="the name of made is not synced"):
        syncs.check(tmp_path / "made" / "file", tmp_path)
