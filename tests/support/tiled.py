"""Whole logs as c2sp.org/tlog-tiles files in memory, made by the plain definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provledger import checkpoint, merkle, note, tiles
from provledger.hashing import Hasher, sha256
from tests.support.chain import private_key


def tile_files(
    entries: Sequence[bytes], size: int | None = None, hasher: Hasher = sha256
) -> dict[str, bytes]:
    """All files of the tree over the first `size` entries but the checkpoint, by path."""
    size = len(entries) if size is None else size
    hashes = merkle.leaf_hashes(entries[:size], hasher)
    files = {}
    for start in range(0, size, 256):
        part = entries[start : min(start + 256, size)]
        files[tiles.entries_path(start // 256, len(part))] = tiles.encode_bundle(part)
    level = 0
    while hashes:
        for start in range(0, len(hashes), 256):
            tile = hashes[start : start + 256]
            files[tiles.tile_path(level, start // 256, len(tile))] = b"".join(tile)
        full = len(hashes) // 256
        hashes = [
            merkle.root_of_hashes(hashes[at * 256 : (at + 1) * 256], hasher) for at in range(full)
        ]
        level += 1
    return files


class MemoryFiles:
    """`LogFiles` over a dictionary."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def partial_widths(self, path: str) -> Sequence[int]:
        prefix = f"{path}.p/"
        return [int(name.removeprefix(prefix)) for name in self.files if name.startswith(prefix)]


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def signed_checkpoint(
    origin: str, entries: Sequence[bytes], key: str = "checkpoint-1", hasher: Hasher = sha256
) -> bytes:
    """The checkpoint of a tree over these entries, signed with the key of a label."""
    text = checkpoint.format(origin, len(entries), merkle.root(entries, hasher))
    private = private_key(key)
    key_id = note.note_key_id(origin, note.ED25519, private.public_key().public_bytes_raw())
    line = note.signature_line(origin, key_id, private.sign(text))
    return note.format_note(text, [line])


def vkey(origin: str, key: str = "checkpoint-1") -> str:
    """The verifier key to `signed_checkpoint`."""
    public = private_key(key).public_key().public_bytes_raw()
    return note.format_vkey(origin, note.ED25519, public)


def write_log(root: Path, origin: str, entries: Sequence[bytes]) -> bytes:
    """Publish a log in a directory; files of earlier sizes stay. Returns the checkpoint."""
    for path, data in tile_files(entries).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    signed = signed_checkpoint(origin, entries)
    root.mkdir(exist_ok=True)
    (root / "checkpoint").write_bytes(signed)
    return signed


def cosign(signed: bytes, name: str, at_unix_s: int) -> tuple[bytes, str]:
    """The note with one more line, of a cosigner of that name, and the cosigner's verifier key."""
    private = private_key(name)
    public = private.public_key().public_bytes_raw()
    message = note.cosignature_message(note.parse(signed).text, at_unix_s)
    signature = at_unix_s.to_bytes(8, "big") + private.sign(message)
    key_id = note.note_key_id(name, note.COSIGNATURE_ED25519, public)
    line = note.signature_line(name, key_id, signature)
    return signed + line, note.format_vkey(name, note.COSIGNATURE_ED25519, public)
