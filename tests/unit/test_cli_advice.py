"""What commands advise to do about an error, and that what they name is there."""

from __future__ import annotations

import re

import pytest

from provledger._keyring_view import no_active_key
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    StatusError,
    UnavailableError,
)
from provledger_cli.failures import advice
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
