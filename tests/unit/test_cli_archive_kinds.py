"""What `restore` was given that is no backup says nothing of one: 2, with what it looks like."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from provledger_cli.backups import archive
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
from tests.unit.test_cli_archive import FILES, made

EXPORT = b'{"export": {"v": "1"}}\n{"receiptHash": "00"}\n'


def refuse(path: Path, data: bytes) -> CommandError:
    path.write_bytes(data)
    with pytest.raises(CommandError) as caught:
        archive.verify(path)
    return caught.value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (EXPORT, "is no backup; it looks like an export or a receipt"),
        (gzip.compress(EXPORT, mtime=0), "is no backup; it looks like an export or a receipt"),
        (b'{"keys": []}\n', "is no backup; it looks like a key set"),
        (b"<!doctype html><title>404</title>", "is no backup"),
        (b"\0" * 5000, "is no backup"),
    ],
)
def test_another_file_is_no_damaged_backup(tmp_path: Path, data: bytes, said: str) -> None:
    error = refuse(tmp_path / "b.tar", data)
    assert (error.exit_code, said in error.message) == (COULD_NOT_TELL, True), error.message
    assert "provledger backup" in error.hint


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_what_was_a_backup_is_a_damaged_one_whatever_bit_was_flipped(
    tmp_path: Path, name: str
) -> None:
    """The first bytes tell what it is; with one of them changed as well."""
    good = made(tmp_path / name)
    found = set()
    for bit in range(8 * (3 if name.endswith(".gz") else 512)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(data)
        try:
            found.add({each.name for each in archive.verify(tmp_path / name).members} == set(FILES))
        except CommandError as error:
            found.add(error.exit_code == DOES_NOT_HOLD)
    assert found == {True}


@pytest.mark.parametrize("length", [1, 5, 11, 100, 511, 512])
def test_what_is_left_of_a_backup_is_a_damaged_one(tmp_path: Path, length: int) -> None:
    good = made(tmp_path / "b.tar")
    assert refuse(tmp_path / "b.tar", good[:length]).exit_code == DOES_NOT_HOLD
