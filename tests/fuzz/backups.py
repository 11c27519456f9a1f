"""What a backup is to `restore`: an archive that somebody may have made for the purpose."""

from __future__ import annotations

import io
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from provledger_cli.backups import archive, manifests, sound
from tests.fuzz.registering import target

_BLOCK: Final = 512
_ABOUT: Final[dict[str, Any]] = {
    "takenAtNs": "1",
    "database": "sqlite",
    "revisions": {"keys": "0002", "anchor": "0002", "ledger": "0002"},
    "logs": [{"uid": "00" * 16, "origin": "log.test/1", "size": 5, "published": 4}],
}
_FILES: Final = {
    "config.json": b"{}",
    "db/keys/keys.copy": b"y" * 600,
    f"tiles/logs/{'00' * 16}/tile/entries/x001/000.p/7": b"z",
    "keys/" + "/".join(["k" * 90] * 3): b"",
}


def _archive(*, compress: bool) -> bytes:
    file = io.BytesIO()
    with archive.writing(file, compress=compress) as writer:
        for name, data in _FILES.items():
            writer.add_bytes(name, data)
        writer.finish(_ABOUT)
    return file.getvalue()


def _manifests() -> list[bytes]:
    found = manifests.Listing()
    found.add(manifests.Member("config.json", 2, "0" * 64))
    whole = found.manifest(_ABOUT)
    return [whole.encode(), manifests.Manifest(_ABOUT, (), 2_000_001, whole.digest).encode()]


def _database(*more: str) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE heads (uid BLOB PRIMARY KEY, seq INTEGER CHECK (seq > 0))")
        connection.execute("INSERT INTO heads VALUES (x'00', 1), (x'01', 2)")
        for statement in more:
            connection.execute(statement)
        connection.commit()
        return connection.serialize()


ARCHIVES: Final = [_archive(compress=False), _archive(compress=True)]
MANIFESTS: Final = _manifests()
DATABASES: Final = [
    _database("CREATE UNIQUE INDEX spans ON heads ((seq >> 3), uid)"),
    _database("CREATE VIEW logs AS SELECT * FROM heads"),
    _database("CREATE TRIGGER t AFTER INSERT ON heads BEGIN DELETE FROM heads; END"),
]


@target
def backup_archive(data: bytes) -> None:
    archive.check(io.BytesIO(_summed(data)))


@target
def backup_manifest(data: bytes) -> None:
    found = manifests.parse(data)
    assert manifests.parse(found.encode()) == found


@target
def backup_database(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.sqlite3"
        path.write_bytes(data)
        if sound.fault(path):
            return
        # By what SQLite makes of it, whatever its rows say.
        with closing(sqlite3.connect(path)) as connection:
            connection.text_factory = bytes
            kinds = {row[2] for row in connection.execute("PRAGMA table_list")}
            assert kinds <= {b"table"}


def _summed(data: bytes) -> bytes:
    """Headers with good checksums, which a fuzzer would not find."""
    made = bytearray(data)
    for at in range(0, len(made) - _BLOCK + 1, _BLOCK):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + _BLOCK])
    return bytes(made)
