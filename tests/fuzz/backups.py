"""What a backup is to `restore`: an archive that somebody may have made for the purpose."""

from __future__ import annotations

import io
from typing import Any, Final

from provledger_cli import archive, manifests
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


ARCHIVES: Final = [_archive(compress=False), _archive(compress=True)]
MANIFESTS: Final = _manifests()


@target
def backup_archive(data: bytes) -> None:
    archive.check(io.BytesIO(_summed(data)))


@target
def backup_manifest(data: bytes) -> None:
    found = manifests.parse(data)
    assert manifests.parse(found.encode()) == found


def _summed(data: bytes) -> bytes:
    """Headers with good checksums, which a fuzzer would not find."""
    made = bytearray(data)
    for at in range(0, len(made) - _BLOCK + 1, _BLOCK):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + _BLOCK])
    return bytes(made)
