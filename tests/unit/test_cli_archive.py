"""A backup that was changed in any way is refused before a single byte of it is written."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import random
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provledger_cli import scratch
from provledger_cli.backups import archive, backup, manifests
from provledger_cli.backups.restore import restore
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError

FILES = {"config.json": b"{}", "db/keys.sqlite3": b"x" * 5000, "tiles/logs/aa/checkpoint": b"note"}
REVISIONS = {"keys": "0001", "anchor": "0001", "ledger": "0001"}
ABOUT = {"database": "sqlite", "logs": [], "takenAtNs": "1", "revisions": REVISIONS}


def made(
    path: Path, files: dict[str, bytes] = FILES, about: dict[str, object] | None = None
) -> bytes:
    with path.open("wb") as file:
        with archive.writing(file, compress=path.name.endswith(".gz")) as writer:
            for name, data in files.items():
                writer.add_bytes(name, data)
            writer.finish(ABOUT if about is None else about)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_what_was_written_is_read_again(tmp_path: Path, name: str) -> None:
    made(tmp_path / name)
    manifest = archive.verify(tmp_path / name)
    assert manifest.about == ABOUT
    read: dict[str, io.BytesIO] = {}

    class Kept(io.BytesIO):
        def close(self) -> None:
            return None

    def place(member: str) -> IO[bytes] | None:
        return read.setdefault(member, Kept()) if member != "config.json" else None

    archive.extract(tmp_path / name, manifest, place)
    assert {member: file.getvalue() for member, file in read.items()} == {
        member: data for member, data in FILES.items() if member != "config.json"
    }


LIMITS = {"MAX_LISTED": 2, "MAX_BYTES": 500}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_manifest_that_would_be_too_long_has_one_digest_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    path = tmp_path / "b.tar"
    monkeypatch.setattr(manifests, limit, LIMITS[limit])
    data = made(path)
    manifest = archive.verify(path)
    assert (manifest.count, manifest.members, manifest.about) == (3, (), ABOUT)
    assert len(manifest.encode()) < 500
    # Whoever reads has a limit of his own, which it is below.
    assert archive.verify(path) == manifest
    archive.extract(path, manifest, lambda name: None)
    for old, new in ((b"x" * 5000, b"x" * 4999 + b"y"), (b"config.json", b"keys/config")):
        path.write_bytes(_resummed(data.replace(old, new)))
        with pytest.raises(CommandError, match="not those of the manifest") as caught:
            archive.verify(path)
        assert caught.value.exit_code == DOES_NOT_HOLD
        with pytest.raises(CommandError, match="not those of the manifest"):
            archive.extract(path, manifest, lambda name: None)


def test_other_manifests_are_as_they_ever_were(tmp_path: Path) -> None:
    """Earlier versions read them, and a schema that was restored half names one by its digest."""
    made(tmp_path / "b.tar", {"config.json": b"{}"}, {**ABOUT, "more": [1]})
    manifest = archive.verify(tmp_path / "b.tar")
    empty = hashlib.sha256(b"{}").hexdigest()
    value = {
        "v": "1",
        "about": {**ABOUT, "more": [1]},
        "files": [{"name": "config.json", "size": 2, "sha256": empty}],
    }
    assert manifest.encode() == json.dumps(value, indent=1).encode() + b"\n"


def _resummed(data: bytes) -> bytes:
    """With the checksum of its first header made good."""
    head = bytearray(data[:512])
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


def test_what_cannot_be_written_is_not_the_archives_fault(tmp_path: Path) -> None:
    made(tmp_path / "b.tar")

    def place(name: str) -> IO[bytes] | None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CommandError, match="cannot be written: No space left") as caught:
        archive.extract(tmp_path / "b.tar", archive.verify(tmp_path / "b.tar"), place)
    assert "make room" in caught.value.hint


def refuse(path: Path, tmp_path: Path) -> CommandError:
    """Restoring it fails, and nothing is there that was not there before."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CommandError) as caught:
        restore(path, DataDir.at(tmp_path / "new"), database_url="", sinks=(), accepted=False)
    assert sorted(tmp_path.rglob("*")) == before
    return caught.value


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_flipped_bit_changes_nothing_that_is_read_or_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    """Padding, and headers that say nothing of contents, may change; contents and names may not."""
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("flip") / name
    data = bytearray(made(path))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    with suppress(CommandError):
        manifest = archive.verify(path)
        assert {member.name for member in manifest.members} == set(FILES)


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    data = made(tmp_path / name)
    for length in (2, 10, len(data) // 3, len(data) // 2):
        (tmp_path / name).write_bytes(data[:length])
        assert refuse(tmp_path / name, tmp_path).exit_code == DOES_NOT_HOLD


def _with(path: Path, change: str) -> None:
    """An archive whose manifest is of `FILES`, and whose members are not."""
    files = dict(FILES)
    extra: list[tarfile.TarInfo] = []
    if change == "another":
        files["db/keys.sqlite3"] = b"y" * 5000
    elif change == "missing":
        del files["db/keys.sqlite3"]
    elif change == "more":
        files["db/ledger.sqlite3"] = b"z"
    elif change == "outside":
        files["../evil"] = b"z"
    elif change == "absolute":
        files["/tmp/evil"] = b"z"
    elif change == "link":
        link = tarfile.TarInfo("keys/link.pem")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        extra.append(link)
    good = path.with_name("good.tar")
    made(good)
    manifest = archive.verify(good).encode()
    good.unlink()
    with tarfile.open(path, "w") as tar:
        for info in extra:
            tar.addfile(info)
        for name, data in [*files.items(), (archive.MANIFEST, manifest)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("change", ["another", "missing", "more", "outside", "absolute", "link"])
def test_other_members_are_refused(tmp_path: Path, change: str) -> None:
    _with(tmp_path / "b.tar", change)
    assert refuse(tmp_path / "b.tar", tmp_path).exit_code == DOES_NOT_HOLD


def test_databases_that_are_none_are_refused(tmp_path: Path) -> None:
    made(
        tmp_path / "b.tar",
        {
            "config.json": b'{"database_url": "", "sinks": []}',
            **{f"db/{name}.sqlite3": b"x" * 5000 for name in ("keys", "anchor", "ledger")},
        },
    )
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == DOES_NOT_HOLD
    assert "no whole database" in error.message


@pytest.mark.parametrize(
    "name",
    [
        *("tiles/logs/aa/restored.json", "unfinished.lock", "supervisor.lock", "endpoints.json"),
        *(
            "run/ledger.ready",
            "db/ledger.sqlite3-wal",
            "db/ledger.sqlite3-journal",
            "keys",
            "tiles/x",
        ),
        *("tiles/logs/aa/tiles-elsewhere", "tiles/logs/aa/tile/0/000.p/256", "keys/" + "a" * 300),
    ],
)
def test_what_is_no_part_of_a_backup_is_refused(tmp_path: Path, name: str) -> None:
    """Else it could say itself where services are, or that nobody has to confirm it."""
    about: dict[str, object] = {**ABOUT, "logs": [{"uid": "aa"}]}
    made(tmp_path / "b.tar", {**FILES, name: b"{}"}, about)
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == DOES_NOT_HOLD
    assert "no file of a backup" in error.message


@pytest.mark.parametrize("uid", ["../../out", "", "/tmp/out"])
def test_the_mark_of_a_log_is_written_nowhere_else(tmp_path: Path, uid: str) -> None:
    made(tmp_path / "b.tar", FILES, {**ABOUT, "logs": [{"uid": uid}]})
    assert refuse(tmp_path / "b.tar", tmp_path).exit_code == DOES_NOT_HOLD


def test_databases_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "b.tar", FILES, {**ABOUT, "revisions": {**REVISIONS, "ledger": "0099"}})
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == COULD_NOT_TELL
    assert "newer version" in error.message


def test_a_manifest_of_a_newer_version_is_told_apart(tmp_path: Path) -> None:
    _only(tmp_path / "b.tar", _manifest(v="3"))
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == COULD_NOT_TELL
    assert "newer version" in error.message


def _only(path: Path, manifest: bytes) -> None:
    """An archive of a manifest alone."""
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(archive.MANIFEST)
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))


def _manifest(**changes: object) -> bytes:
    return json.dumps({"v": "1", "about": ABOUT, "files": [], **changes}).encode()


def _file(**changes: object) -> bytes:
    return _manifest(files=[{"name": "config.json", "size": 2, "sha256": "0" * 64, **changes}])


MANIFESTS = {
    "no object": b"[]",
    "deep": b"[" * 200_000,
    "no UTF-8": b"\xff",
    "no version": b"{}",
    "a version that is none": _manifest(v=[1]),
    "about nothing": _manifest(about=None),
    "no time": _manifest(about={**ABOUT, "takenAtNs": None}),
    "no logs": _manifest(about={key: ABOUT[key] for key in ABOUT if key != "logs"}),
    "a number of logs": _manifest(about={**ABOUT, "logs": 5}),
    "a log without uid": _manifest(about={**ABOUT, "logs": [{}]}),
    "no revisions": _manifest(about={**ABOUT, "revisions": []}),
    "a number of files": _manifest(files=5),
    "infinite size": _file(size=float("inf")),
    "size of a file": _file(size="2"),
    "digest of a file": _file(sha256=5),
    "name of a file": _file(name=None),
    "a count that is none": _manifest(v="2", files={"count": -1, "sha256": "0" * 64}),
    "no digest of all": _manifest(v="2", files={"count": 1, "sha256": "0"}),
    "one file twice": _manifest(files=json.loads(_file())["files"] * 2),
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_manifests_that_say_something_else_are_refused(tmp_path: Path, manifest: bytes) -> None:
    _only(tmp_path / "b.tar", manifest)
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == DOES_NOT_HOLD
    assert "manifest cannot be read" in error.message


CONFIG = {"config.json": b'{"database_url": "", "sinks": []}'}
CONTRADICTIONS = {
    "deep configuration": ({"config.json": b"[" * 100_000}, "is not a configuration"),
    "below a file": ({**CONFIG, "keys/a": b"", "keys/a/b": b""}, "needs a directory"),
    "far below a file": ({**CONFIG, "keys/a": b"", "keys/a/b/c": b""}, "needs a directory"),
    "a file for a directory": ({**CONFIG, "keys/a/b": b"", "keys/a": b""}, "keys/a, which is"),
}


@pytest.mark.parametrize(("files", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_cannot_be_a_data_directory_is_the_archives_fault(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    made(tmp_path / "b.tar", files)
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert error.exit_code == DOES_NOT_HOLD
    assert said in error.message


def test_a_refused_backup_leaves_no_directories_above_its_place(tmp_path: Path) -> None:
    made(tmp_path / "b.tar")
    (tmp_path / "there").mkdir()
    target = DataDir.at(tmp_path / "there" / "x" / "y" / "new")
    with pytest.raises(CommandError):
        restore(tmp_path / "b.tar", target, database_url="", sinks=(), accepted=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b.tar", "there"]


def test_nothing_is_restored_over_what_is_there(tmp_path: Path) -> None:
    made(tmp_path / "b.tar")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("precious")
    assert "not empty" in refuse(tmp_path / "b.tar", tmp_path).message


@pytest.mark.parametrize("through", ["", "link"])
def test_a_place_where_something_is_mounted_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """The archive is not even looked at: it is not there."""
    volume = tmp_path / "new"
    if through:
        volume = tmp_path / "volume"
        (tmp_path / "new").symlink_to(volume)
    volume.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == volume)
    error = refuse(tmp_path / "b.tar", tmp_path)
    assert "mounted" in error.message
    assert str(volume / "data") in error.hint


@pytest.mark.parametrize("sign", ["endpoints.json", "tiles/logs/aa/checkpoint"])
def test_an_unfinished_directory_that_was_used_is_not_removed(tmp_path: Path, sign: str) -> None:
    """Services have run on it, or a log was confirmed: there may be more than in the backup."""
    made(tmp_path / "b.tar")
    for name in (scratch.UNFINISHED, sign):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).write_text("")
    assert "was used" in refuse(tmp_path / "b.tar", tmp_path).message


def test_an_unfinished_directory_that_nobody_used_makes_room(tmp_path: Path) -> None:
    made(tmp_path / "b.tar")
    log = tmp_path / "new" / "tiles" / "logs" / "aa"
    log.mkdir(parents=True)
    (log / "restored.json").write_text("{}")
    (tmp_path / "new" / scratch.UNFINISHED).write_text("")
    with pytest.raises(CommandError, match="not a configuration") as caught:
        restore(
            tmp_path / "b.tar",
            DataDir.at(tmp_path / "new"),
            database_url="",
            sinks=(),
            accepted=False,
        )
    assert caught.value.exit_code == DOES_NOT_HOLD
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]


@pytest.mark.parametrize("call", ["open", "flock"])
def test_a_restore_that_has_just_ended_is_not_taken_for_one_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It ends right before that call of another one, which has found its mark."""
    made(tmp_path / "b.tar")
    target = tmp_path / "new"
    log = target / "tiles" / "logs" / "aa"
    log.mkdir(parents=True)
    for path in (log / "restored.json", target / scratch.UNFINISHED):
        path.write_text("{}")
    module = {"open": os, "flock": fcntl}[call]
    real = getattr(module, call)

    def late(first: object, *rest: object) -> object:
        ours = first == target / scratch.UNFINISHED or call == "flock"
        if ours and scratch.is_unfinished(target):
            (target / scratch.UNFINISHED).unlink()
        return real(first, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(module, call, late)
        with pytest.raises(CommandError, match="not empty"):
            restore(
                tmp_path / "b.tar", DataDir.at(target), database_url="", sinks=(), accepted=False
            )
    assert (log / "restored.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "new"]
    assert not scratch.is_unfinished(target)


def test_a_directory_whose_end_is_not_durable_is_still_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / scratch.UNFINISHED).write_text("0123456789ab")
    with monkeypatch.context() as patched:
        patched.setattr(scratch, "sync_directory", fail)
        with pytest.raises(OSError, match="Input"):
            scratch.finish(tmp_path)
    assert scratch.uid(tmp_path) == "0123456789ab"
    scratch.finish(tmp_path)
    assert not scratch.is_unfinished(tmp_path)


@pytest.mark.parametrize("out", ["-", "/dev/stdout"])
def test_a_backup_cannot_go_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """Nor into a file called `-`, which elsewhere means that."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="standard output") as caught:
        backup.write(Path(out), DataDir.at(tmp_path / "data"), Config("", ()), with_keys=False)
    assert "name a file" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_backup_of_another_kind_of_database_is_told_apart(tmp_path: Path) -> None:
    made(tmp_path / "b.tar")
    with pytest.raises(CommandError, match="backup of sqlite"):
        restore(
            tmp_path / "b.tar",
            DataDir.at(tmp_path / "new"),
            database_url="postgresql://nowhere/x",
            sinks=(),
            accepted=False,
        )


def test_what_is_no_sink_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Else the services would find it out, which cannot start with it."""
    made(tmp_path / "b.tar")
    with pytest.raises(CommandError, match="'foo' is no sink") as caught:
        restore(
            tmp_path / "b.tar",
            DataDir.at(tmp_path / "new"),
            database_url="",
            sinks=("foo",),
            accepted=False,
        )
    assert caught.value.exit_code == COULD_NOT_TELL
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]
