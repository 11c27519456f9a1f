"""Statements as the witness makes them: the bytes of the format, fresh secrets, bounded size."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import disclosure, jcs, names, witness_batch
from provledger.errors import InvalidArgumentError
from provledger.statement import MAX_STATEMENT_BYTES, Statement, parse_statement
from witness_svc.checks import Checked, Document, Draft, Mutation, check
from witness_svc.statements import RANDOM_BYTES, Made, Place, StatementMaker, checks_made

PLACE = Place("tenants/acme/ledgers/main", bytes(range(16)), "blake3", 1_763_665_200_000_000_000)
RECEIPT_ID = names.uuid7(PLACE.witnessed_at_ns, bytes(10))
RANDOM = hashlib.shake_256(b"random").digest(RANDOM_BYTES)

BARE = Draft(
    "r-1", "bot", "", "", "", (), "", "", "", Mutation("CREATE", "Case", "case-1", b"", b"{}", b"")
)

printable = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"),
    min_size=1,
    max_size=20,
)
ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
contents = st.builds(
    Mutation,
    action=st.just("CREATE"),
    resource_type=printable.map(lambda text: text.replace("/", "|")),
    resource_id=printable,
    previous_state=st.just(b""),
    new_state=st.sampled_from([b"{}", b'{"a":1}']),
    diff=st.just(b""),
) | st.builds(
    Document,
    receipt_type=st.from_regex(r"x[a-z0-9]{0,9}(\.[a-z0-9]{1,9})?", fullmatch=True),
    media_type=st.sampled_from(
        ["application/json", "text/plain", "image/svg+xml", "a!#$&^_.+-/b!#$&^_.+-"]
    ),
    payload=st.just(b"{}"),
    resource_type=printable.map(lambda text: text.replace("/", "|")),
    resource_id=printable,
)
drafts = st.builds(
    Draft,
    request_id=ids,
    actor_id=printable,
    actor_type=printable | st.just(""),
    origin_service=printable | st.just(""),
    trace_id=st.from_regex(r"[0-9a-f]{31}[1-9a-f]", fullmatch=True) | st.just(""),
    upstream_events=st.lists(printable, max_size=3).map(tuple),
    op_id=ids | st.just(""),
    op_parent_id=ids | st.just(""),
    occurred_at=st.sampled_from(["", "2024-01-02t03:04:05.123456789+01:00"]),
    content=contents,
)


def make(draft: Draft, *, principal: str = "anonymous", place: Place = PLACE) -> Made:
    checked = check(draft)
    return StatementMaker(place).make(draft, checked, RECEIPT_ID, principal, RANDOM)


def slowly(draft: Draft, checked: Checked, principal: str, made: Made, place: Place) -> Statement:
    """The statement as the library has it, field by field."""
    return Statement(
        ledger=place.ledger,
        ledger_uid=place.ledger_uid,
        receipt_id=names.receipt_id_text(RECEIPT_ID),
        request_id=draft.request_id,
        receipt_type=checked.receipt_type,
        action=checked.action,
        resource_type=checked.resource_type,
        resource_id=checked.resource_id,
        actor_id=draft.actor_id,
        actor_type=draft.actor_type,
        principal=principal,
        origin_service=draft.origin_service,
        trace_id=draft.trace_id,
        upstream_events=draft.upstream_events,
        op_id=draft.op_id,
        op_parent_id=draft.op_parent_id,
        occurred_at=draft.occurred_at,
        witnessed_at_ns=place.witnessed_at_ns,
        media_type=checked.media_type,
        profile=made.commitment.profile,
        payload_hash=made.commitment.root,
        checks=checks_made(checked.checks),
        salt=RANDOM[:16],
    )


@given(drafts, printable)
def test_template_writes_the_bytes_of_the_library(draft: Draft, principal: str) -> None:
    checked = check(draft)
    made = make(draft, principal=principal)
    expected = slowly(draft, checked, principal, made, PLACE)
    assert made.statement == expected.encode()
    assert parse_statement(made.statement) == expected


@pytest.mark.parametrize("suite", ["blake3", "blake3-all", "fips"])
def test_leaf_hash_is_that_of_the_suite(suite: str) -> None:
    made = make(BARE, place=Place(PLACE.ledger, PLACE.ledger_uid, suite, 1))
    assert made.leaf_hash == witness_batch.statement_leaf_hash(suite, made.statement)


def test_json_is_committed_field_by_field() -> None:
    made = make(BARE)
    value = jcs.parse(made.payload)
    assert made.commitment == disclosure.commit_fields(value, RANDOM[16:], mutation=True)
    assert (made.commitment.profile, len(made.commitment.secret)) == ("fields-v1", 32)


def test_other_payloads_are_committed_as_a_whole() -> None:
    content = Document("evidence", "text/plain", b"hello", "Case", "case-1")
    made = make(BARE._replace(content=content))
    assert made.commitment == disclosure.commit_blob("text/plain", b"hello", RANDOM[16:32])
    assert parse_statement(made.statement).checks == ()


def test_salt_and_secret_share_no_bytes() -> None:
    made = make(BARE)
    salt = parse_statement(made.statement).salt
    assert salt + made.commitment.secret == RANDOM


@pytest.mark.parametrize(
    "receipt_id", [b"", bytes(16), RECEIPT_ID[:15], RECEIPT_ID.replace(b"\x70", b"\x40")]
)
def test_receipt_id_that_is_no_uuid7_is_refused(receipt_id: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        StatementMaker(PLACE).make(BARE, check(BARE), receipt_id, "anonymous", RANDOM)
    assert caught.value.reason == "INVALID_IDENTIFIER"
    assert caught.value.violations[0].field == "receipt_id"


@pytest.mark.parametrize("principal", ["", "a\nb", "x" * 257])
def test_bad_principal_is_refused(principal: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make(BARE, principal=principal)
    assert caught.value.violations[0].field == "principal"


def test_the_largest_draft_there_can_be_fits_a_statement() -> None:
    """Every identifier at its limit, of characters that take two bytes each when quoted."""
    largest = Draft(
        '"' * 128,
        '"' * 256,
        '"' * 64,
        '"' * 256,
        "f" * 32,
        ('"' * 256,) * 16,
        '"' * 128,
        '"' * 128,
        "2024-01-02T03:04:05.123456789+01:00",
        Mutation("CREATE", '"' * 256, '"' * 1024, b"", b"{}", b""),
    )
    place = Place(f"tenants/{'t' * 63}/ledgers/{'l' * 63}", bytes(16), "blake3", 2**63 - 1)
    made = make(largest, principal='"' * 256, place=place)
    assert 16_000 < len(made.statement) < MAX_STATEMENT_BYTES
    assert parse_statement(made.statement).actor_id == '"' * 256
