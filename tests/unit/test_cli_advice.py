"""What commands advise to do about an error, and that what they name is there."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ledger_svc.key_ledger import refuse_system
from provledger._keyring_view import no_active_key
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    StatusError,
    UnavailableError,
    UnimplementedError,
)
from provledger.rpc.auth import refuse as auth_refuse
from provledger_cli.backups import backup
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError, advice
from tests.unit.test_cli_options import commands

LOST = ("keys revoke", "--replace-by", "--after", "--reason", "--recovery-key")


def check_named(text: str) -> None:
    """Each command in an advice is one of ours, with options that it has."""
    known = {
        name: {text for p in each.params for text in p.opts} for name, each in commands().items()
    }
    named = re.findall(r"provledger ((?:keys |anchor )?[a-z]+)([^`:;(]*)", text)
    assert named, text
    for name, rest in named:
        assert set(re.findall(r"--[a-z-]+", rest)) <= known[name], text


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("SINK_NOT_FOUND", "provledger anchor sinks"),
        ("POLICY_NOT_FOUND", "provledger anchor policy"),
        ("LOG_NOT_FOUND", "provledger status"),
        ("RECEIPT_NOT_FOUND", "provledger list"),
        ("LEDGER_NOT_FOUND", "provledger status"),
        ("KEY_NOT_FOUND", "provledger keys list"),
    ],
)
def test_what_is_not_found_is_looked_for_where_it_would_be(reason: str, named: str) -> None:
    text = advice(NotFoundError(reason, "there is none"))
    assert named in text
    assert ("ledgers that are there" in text) == (reason == "LEDGER_NOT_FOUND")
    assert ("--create-ledger" in text) == (reason == "LEDGER_NOT_FOUND")
    check_named(text)


def test_of_what_else_is_not_found_no_place_is_named() -> None:
    assert advice(NotFoundError("TILE_NOT_FOUND", "there is none")) == "check the name"


@pytest.mark.parametrize(
    "error",
    [
        no_active_key("checkpoint", "checkpoint-1", "KMS_KEY_NOT_FOUND"),
        no_active_key("checkpoint", "checkpoint-1", "KMS_PERMISSION"),
        FailedPreconditionError("KMS_KEY_NOT_FOUND", "key file x does not exist"),
    ],
)
def test_a_key_that_is_registered_is_not_to_be_registered_again(error: StatusError) -> None:
    text = advice(error)
    assert "rotate" not in text
    assert "register" not in text
    assert all(each in text for each in LOST)
    if error.metadata:
        assert "keys revoke checkpoint-1 " in text
    check_named(text)


def test_a_purpose_without_a_key_gets_one_of_that_purpose() -> None:
    text = advice(no_active_key("checkpoint"))
    assert text.endswith("provledger keys rotate --kid NEW --purpose checkpoint")
    check_named(text)


def test_what_holds_up_appends_is_seen_from_the_anchor() -> None:
    text = advice(UnavailableError("ANCHOR_OVERDUE", "it waits for longer than 1 s"))
    assert "provledger anchor status" in text
    check_named(text)


def test_who_has_a_full_disk_is_not_told_to_start_services_that_run() -> None:
    text = advice(UnavailableError("DATABASE_FULL", "the database is out of disk or memory"))
    assert "make room" in text
    assert "provledger up" not in text


def test_who_may_not_write_there_is_not_sent_to_his_certificate() -> None:
    """Nobody may; in a data directory there is no certificate either."""
    with pytest.raises(PermissionDeniedError) as caught:
        refuse_system("system")
    assert advice(caught.value) == "name another tenant"
    assert "certificate" in advice(auth_refuse("cn", "/x.Y/Z"))


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.ENOENT, "make that directory"),
        (errno.EACCES, "make that directory"),
        (errno.ENOSPC, "needs room"),
    ],
)
def test_where_no_backup_can_be_made_the_reason_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, named: str
) -> None:
    def fails(self: Path, *_: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(CommandError, match=os.strerror(number)) as caught:
        _backup(tmp_path / "b.tar", tmp_path)
    assert named in caught.value.hint


def test_a_backup_under_too_long_a_name_is_told_how_long_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="too long") as caught:
        _backup(tmp_path / ("b" * 250), tmp_path)
    assert "14 characters more" in caught.value.hint


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_a_backup_needs_a_name(tmp_path: Path, out: str) -> None:
    with pytest.raises(CommandError, match="--out names no file"):
        _backup(Path(out), tmp_path)


def _backup(out: Path, directory: Path) -> None:
    backup.write(out, DataDir.at(directory / "data"), Config("", ()), with_keys=False)


def test_what_a_service_does_not_know_is_a_matter_of_versions_or_of_another_service() -> None:
    text = advice(UnimplementedError("UNIMPLEMENTED", "no method"))
    assert "older than this command" in text
    assert "another service" in text
