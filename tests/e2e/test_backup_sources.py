"""Backups of what could not be restored: there are none, and the command says why."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from provledger.errors import DataLossError
from provledger_cli.backups import backup
from provledger_cli.backups.manifests import Manifest
from provledger_cli.backups.restore import Restored, restore
from provledger_cli.embedded import config
from provledger_cli.embedded.datadir import PIN_FILE, DataDir
from provledger_cli.failures import DOES_NOT_HOLD, CommandError, report
from tests.e2e.commands import Installation
from tests.support.tiled import flip

MUTATION = {
    "action": "CREATE",
    "resource_type": "Account",
    "resource_id": "42",
    "actor_id": "alice",
    "new_state": {"plan": "free"},
}


def taken(
    data: DataDir,
    out: Path,
    *,
    with_keys: bool = False,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Manifest:
    """What `backup` does, in this process."""
    settled = config.load(data)
    assert settled is not None
    return backup.write(out, data, settled, with_keys=with_keys, on_progress=on_progress)


def _tile(data: DataDir) -> Path:
    """The newest tile of level 0, which is a partial one."""
    found = data.tiles.glob("logs/*/tile/0/*.p/*")
    return max(found, key=lambda path: int(path.name))


def _empty_tile(data: DataDir) -> None:
    _tile(data).write_bytes(b"")


def _flip_tile(data: DataDir) -> None:
    path = _tile(data)
    path.write_bytes(flip(path.read_bytes(), 5))


def _remove_tile(data: DataDir) -> None:
    _tile(data).unlink()


def _zero(path: Path, name: str) -> None:
    """The first page of a table or index, as a lost write leaves it."""
    with sqlite3.connect(path) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(bytes(size))


def _zero_entries(data: DataDir) -> None:
    _zero(data.databases / "ledger.sqlite3", "entries")


def _zero_index(data: DataDir) -> None:
    _zero(data.databases / "keys.sqlite3", "keys_one_per_epoch")


def _import_at(moment: str, data: DataDir) -> Callable[[str], None]:
    """What an import does first of all."""

    def on_progress(what: str) -> None:
        if what == moment:
            data.import_key()

    return on_progress


DAMAGES: dict[Callable[[DataDir], None], str] = {
    _empty_tile: "tile/0/",
    _flip_tile: "tile/0/",
    _remove_tile: "tile/0/",
    _zero_entries: "damaged",
    _zero_index: "database of the keys service is damaged",
}


def test_a_backup_is_whole_or_there_is_none(own: Installation) -> None:
    own.run("up")
    own.run("append", "--tenant", "demo", stdin=json.dumps(MUTATION).encode())
    own.run("status", "--wait", "60")
    own.run("down")
    for number, (damage, said) in enumerate(DAMAGES.items()):
        data = DataDir.at(own.work / f"damaged{number}")
        shutil.copytree(own.data.path, data.path)
        damage(data)
        with pytest.raises((CommandError, DataLossError), match=said) as caught:
            taken(data, own.work / "b.tar")
        assert report(caught.value) == DOES_NOT_HOLD
        assert not list(own.work.glob("*b.tar*"))
    # A partial tile of an earlier size is in no backup.
    earlier = _tile(own.data).with_name("1")
    assert earlier != _tile(own.data)
    earlier.write_bytes(b"")
    # The first import, just before the snapshots: its key is in what has its receipts.
    manifest = taken(own.data, own.work / "b.tar", on_progress=_import_at("databases", own.data))
    assert {"import.key", PIN_FILE} <= {each.name for each in manifest.members}
    _move_keys(own.data, own.work / "elsewhere")
    manifest = taken(own.data, own.work / "k.tar", with_keys=True)
    assert {each.name for each in manifest.members if each.name.startswith("keys/")} == {
        *("keys/new/witness-1.key", "keys/checkpoint-1.pem", "keys/c.pass", "keys/recovery-1.pem")
    }
    left_out = [str(own.work / "elsewhere" / "head-1.pem"), "receipt-1.pem", "witness 2.pem"]
    assert manifest.about["privateKeysLeftOut"] == left_out
    restored = _restored(own, "k.tar", "with")
    assert set(restored.missing_keys) == {"receipt-1.pem"}
    (own.work / "empty").mkdir()
    (own.work / "new").symlink_to("empty")
    restored = _restored(own, "b.tar", "new")
    assert (own.work / "new").is_symlink()
    assert config.load(DataDir.at(own.work / "empty")) is not None
    assert restored.checked[0].size > 0
    assert "checkpoint-1.pem" in restored.missing_keys


def _move_keys(data: DataDir, elsewhere: Path) -> None:
    """Keys at all places that a URI can name."""
    uris = {
        "witness-1": "local:new/witness-1.key",
        "checkpoint-1": "local:./checkpoint-1.pem?passphrase-file=c.pass",
        "head-1": f"local:{elsewhere / 'head-1.pem'}",
    }
    for directory in (data.keys / "new", elsewhere):
        directory.mkdir()
    (data.keys / "witness-1.pem").rename(data.keys / "new" / "witness-1.key")
    (data.keys / "head-1.pem").rename(elsewhere / "head-1.pem")
    (data.keys / "receipt-1.pem").unlink()
    for name in ("c.pass", "witness 2.pem"):
        (data.keys / name).write_bytes(b"x")
    with sqlite3.connect(data.databases / "keys.sqlite3") as connection:
        for kid, uri in uris.items():
            connection.execute("UPDATE keys SET uri = ? WHERE kid = ?", (uri, kid))
    connection.close()


def _restored(own: Installation, file: str, name: str) -> Restored:
    return restore(
        own.work / file,
        DataDir.at(own.work / name),
        database_url="",
        sinks=(),
        accepted=False,
    )
