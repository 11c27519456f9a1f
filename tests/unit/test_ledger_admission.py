"""What is admitted to the ledger's queue, and page tokens."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc import admission, convert, paging
from provledger import jcs
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    AlreadyExistsError,
    IdentifierError,
    InvalidArgumentError,
    PatchError,
)
from tests.support.ledgering import document, draft

LIMIT = admission.MAX_PAYLOAD_BYTES


def test_size_of_a_draft_is_that_of_its_message() -> None:
    item = draft("r1")
    assert admission.check_draft(item) == item.ByteSize()


@pytest.mark.parametrize("request_id", ["", "a b", "é", "x" * 129, "a\n"])
def test_request_ids_are_checked(request_id: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        admission.check_draft(draft(request_id))
    assert caught.value.field == "request_id"


def test_content_is_required() -> None:
    with pytest.raises(InvalidArgumentError):
        admission.check_draft(common_pb2.Draft(request_id="r1"))


def test_payload_at_the_limit_is_admitted() -> None:
    assert admission.check_draft(document("r1", bytes(LIMIT))) > LIMIT
    with pytest.raises(InvalidArgumentError) as caught:
        admission.check_draft(document("r1", bytes(LIMIT + 1)))
    assert caught.value.violations[0].field == "document.payload"


@pytest.mark.parametrize("largest", ["previous_state", "new_state", "diff"])
def test_mutations_are_bounded_as_a_whole(largest: str) -> None:
    item = draft("r1")
    for name in ("previous_state", "new_state", "diff"):
        setattr(item.mutation, name, bytes(LIMIT // 2 if name == largest else LIMIT // 3))
    with pytest.raises(InvalidArgumentError) as caught:
        admission.check_draft(item)
    assert caught.value.violations[0].field == f"mutation.{largest}"


def test_what_stands_beside_the_payload_is_bounded() -> None:
    item = draft("r1", op_id="x" * 2 * LIMIT)
    with pytest.raises(InvalidArgumentError) as caught:
        admission.check_draft(item)
    assert caught.value.reason == "DRAFT_TOO_LARGE"


@pytest.mark.parametrize(("asked", "given_size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_sizes(asked: int, given_size: int) -> None:
    assert admission.page_size(asked) == given_size


def test_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        admission.page_size(-1)


# --- errors of items -----------------------------------------------------------------------------


def test_errors_of_a_draft_name_its_place() -> None:
    for error, field in (
        (IdentifierError("request_id", "is required"), "drafts[3].request_id"),
        (convert.violation("document.payload", "too large"), "drafts[3].document.payload"),
        (PatchError("does not apply", index=2), "drafts[3]"),
        (InvalidArgumentError("NOT_STORABLE", "no"), "drafts[3]"),
    ):
        found = convert.in_field(error, "drafts[3]")
        assert found.violations[0].field == field
        assert found.code == "INVALID_ARGUMENT"
    reused = AlreadyExistsError("REQUEST_ID_REUSED", "differs", metadata={"field": "actor.id"})
    assert convert.in_field(reused, "drafts[3]") is reused
    assert convert.in_field(ValueError("secret"), "drafts[3]").code == "INTERNAL"


# --- page tokens ---------------------------------------------------------------------------------

NAMES = frozenset({"p", "t"})
QUERY = {"method": "List", "parent": "tenants/acme"}


@given(st.text(max_size=30), st.integers(-1, 10**17))
def test_page_tokens_come_back(text: str, position: int) -> None:
    query = {**QUERY, "text": text}
    token = paging.page_token(query, {"p": str(position), "t": "0"})
    assert "=" not in token
    members = paging.read_page_token(token, query, NAMES)
    assert paging.read_decimal(members["p"], -1) == position
    with pytest.raises(InvalidArgumentError):
        paging.read_page_token(token, {**query, "text": text + "x"}, NAMES)


@given(st.text(max_size=200))
def test_other_text_is_no_page_token(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        paging.read_page_token(text, QUERY, NAMES)


@pytest.mark.parametrize(
    "members",
    [
        {"p": "1", "t": "0"},
        {"p": "1", "t": "0", "v": "1"},
        {"p": 1, "t": "0", "v": "1", "q": "x"},
        {"p": "1", "t": "0", "v": "1", "q": "x", "z": "1"},
        [],
    ],
)
def test_tokens_of_another_shape_are_refused(members: object) -> None:
    token = base64.urlsafe_b64encode(jcs.encode(members)).decode().rstrip("=")
    with pytest.raises(InvalidArgumentError):
        paging.read_page_token(token, QUERY, NAMES)


@pytest.mark.parametrize("text", ["", "-", "x", "1.0", "-2", "\u0661", "9" * 30, "--1", "+1"])
def test_positions_are_plain_numbers(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        paging.read_decimal(text, -1)
