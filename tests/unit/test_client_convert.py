"""Drafts become messages, messages become receipts, and what cannot be written down is refused."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime

import pytest

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AnchorState, Document, Mutation, convert
from provledger.errors import (
    FieldViolation,
    IdentifierError,
    InvalidArgumentError,
    InvalidJSONError,
    ReceiptFormatError,
)
from provledger.receipt import Receipt
from provledger.report import Status
from provledger.rpc.errors import status_to_pb
from provledger.verify import verify_receipt
from tests.support.chain import key_set
from tests.unit.test_verify import masked_receipt


def mutation(**changes: object) -> Mutation:
    values: dict = {
        "action": "UPDATE",
        "resource_type": "Account",
        "resource_id": "42",
        "actor_id": "job",
        "previous_state": {"plan": "free"},
        "new_state": {"plan": "pro"},
    }
    return Mutation(**{**values, **changes})


def full_receipt() -> common_pb2.Receipt:
    message = common_pb2.Receipt(
        name="tenants/t/ledgers/main/receipts/018f0000-0000-7000-8000-000000000000",
        receipt_type="mutation",
        ledger_uid=bytes(16),
        suite=common_pb2.SUITE_FIPS,
        seq=3,
        t_ns=1_763_665_200_000_000_001,
        previous_hash=b"p" * 32,
        payload_hash=b"q" * 32,
        receipt_hash=b"r" * 32,
        kid="witness-1",
        anchor_state=common_pb2.ANCHOR_STATE_LOGGED,
        statement=b"{}",
        payload=b'{"a":1}',
    )
    message.signature.body = b"{}"
    message.signature.sig = b"s" * 64
    message.signature.path.append(b"h" * 32)
    message.commitment.profile = "fields-v1"
    message.commitment.size = 8
    message.commitment.secret = b"x" * 32
    proof = message.proofs.add(origin="log.example", log_index=7, checkpoint=b"note")
    proof.hashes.append(b"i" * 32)
    proof.evidence.add(sink="file:///a", kind="file", acknowledged_at_ns=5, evidence=b"{}")
    return message


def test_states_are_written_as_canonical_json() -> None:
    message = convert.draft_to_pb(mutation(new_state={"b": 1.0, "a": "é"}))
    assert message.mutation.new_state == '{"a":"é","b":1}'.encode()


def test_bytes_are_taken_for_json_text_and_sent_unread() -> None:
    message = convert.draft_to_pb(mutation(new_state=b'{ "not": parsed'))
    assert message.mutation.new_state == b'{ "not": parsed'


def test_an_absent_state_is_empty() -> None:
    message = convert.draft_to_pb(mutation(action="CREATE", previous_state=None))
    assert message.mutation.previous_state == b""
    assert message.mutation.action == common_pb2.ACTION_CREATE


def test_every_draft_without_a_request_id_gets_one_of_its_own() -> None:
    draft = mutation()
    first, second = convert.draft_to_pb(draft), convert.draft_to_pb(draft)
    assert uuid.UUID(first.request_id).version == 7
    assert first.request_id != second.request_id


def test_a_given_request_id_is_kept() -> None:
    assert convert.draft_to_pb(mutation(request_id="r-1")).request_id == "r-1"


def test_an_aware_datetime_is_written_with_its_offset() -> None:
    moment = datetime(2024, 4, 8, 18, 43, 54, tzinfo=UTC)
    assert convert.draft_to_pb(mutation(occurred_at=moment)).occurred_at == (
        "2024-04-08T18:43:54+00:00"
    )


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(IdentifierError, match="occurred_at"):
        convert.draft_to_pb(mutation(occurred_at=datetime(2024, 4, 8)))  # noqa: DTZ001


def test_a_state_that_is_no_json_names_the_field_and_the_place() -> None:
    with pytest.raises(InvalidJSONError, match="new_state") as caught:
        convert.draft_to_pb(mutation(new_state={"a": [1, float("nan")]}))
    assert caught.value.pointer == "/a/1"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resource_id": 7}, "resource_id"),
        ({"actor_id": "\ud800"}, "actor_id"),
        ({"upstream_events": ("ok", None)}, "upstream_events"),
        ({"op_id": b"\xff"}, "op_id"),
        ({"upstream_events": "git:abc"}, "upstream_events"),
        ({"occurred_at": None}, "occurred_at"),
        ({"occurred_at": date(2024, 4, 8)}, "occurred_at"),
        ({"occurred_at": 1_712_601_834}, "occurred_at"),
    ],
)
def test_what_is_no_text_is_named(changes: dict, field: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        convert.draft_to_pb(mutation(**changes))
    assert caught.value.field == field


def test_a_number_that_no_message_can_hold_is_named() -> None:
    with pytest.raises(IdentifierError, match="tree_size"):
        convert.request(ledger_pb2.GetHeadRequest, name="x", tree_size=2**63)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(IdentifierError, match="action"):
        convert.draft_to_pb(mutation(action="MERGE"))


def test_origin_is_left_out_where_nothing_was_said() -> None:
    assert not convert.draft_to_pb(mutation()).HasField("origin")
    message = convert.draft_to_pb(mutation(upstream_events=("git:1", "git:2")))
    assert list(message.origin.upstream_events) == ["git:1", "git:2"]


@pytest.mark.parametrize(
    ("media_type", "payload", "expected"),
    [
        ("application/json", {"b": 1, "a": None}, b'{"a":null,"b":1}'),
        ("application/vnd.x+json", None, b"null"),
        ("Application/JSON", {"a": 1}, b'{"a":1}'),
        ("application/vnd.x+JSON", [1], b"[1]"),
        ("image/png", b"\x89PNG", b"\x89PNG"),
    ],
)
def test_documents_carry_bytes_or_json(media_type: str, payload: object, expected: bytes) -> None:
    draft = Document(
        receipt_type="evidence.x",
        media_type=media_type,
        payload=payload,
        resource_type="Image",
        resource_id="1",
        actor_id="a",
    )
    assert convert.draft_to_pb(draft).document.payload == expected


def test_a_document_of_another_type_must_be_bytes() -> None:
    draft = Document(
        receipt_type="x",
        media_type="text/plain",
        payload="text",
        resource_type="Note",
        resource_id="1",
        actor_id="a",
    )
    with pytest.raises(IdentifierError, match="payload"):
        convert.draft_to_pb(draft)


def test_a_full_receipt_keeps_everything() -> None:
    receipt = convert.receipt_from_pb(full_receipt())
    assert receipt.ledger == "tenants/t/ledgers/main"
    assert receipt.timestamp_iso == "2025-11-20T19:00:00.000000001Z"
    assert receipt.suite == "fips"
    assert receipt.signature.path == (b"h" * 32,)
    assert receipt.commitment.secret == b"x" * 32
    assert receipt.proofs[0].evidence[0].sink == "file:///a"
    assert b'"payload":{"a":1}' in receipt.encode()


def test_the_first_receipt_has_no_previous_hash() -> None:
    message = full_receipt()
    message.previous_hash = b""
    assert convert.receipt_from_pb(message).previous_hash is None


def test_a_receipt_without_secret_shows_no_payload() -> None:
    message = full_receipt()
    message.commitment.secret = b""
    message.payload = b""
    assert convert.receipt_from_pb(message).payload is None


@pytest.mark.parametrize("pointers", [("/newState/date", "/entityId"), ()])
def test_a_masked_receipt_verifies_as_it_was_sent(pointers: tuple[str, ...]) -> None:
    """Its message has no mask: that is told by its disclosures, in whichever order they come."""
    masked = masked_receipt(*pointers)
    message = _masked_to_pb(masked)
    message.commitment.disclosures[:] = masked.commitment.disclosures[::-1]
    received = convert.receipt_from_pb(message)
    assert received.fields_mask == tuple(sorted(pointers))
    assert verify_receipt(received.encode(), key_set()).status is Status.VERIFIED


def test_a_disclosure_that_is_none_is_named() -> None:
    message = _masked_to_pb(masked_receipt("/entityId"))
    message.commitment.disclosures.append("WyJh")
    with pytest.raises(ReceiptFormatError, match=r"commitment\.disclosures"):
        convert.receipt_from_pb(message)


def _masked_to_pb(receipt: Receipt) -> common_pb2.Receipt:
    signature, opening, proof = receipt.signature, receipt.commitment, receipt.proofs[0]
    return common_pb2.Receipt(
        name=receipt.name,
        receipt_type=receipt.receipt_type,
        ledger_uid=receipt.ledger_uid,
        suite=common_pb2.SUITE_BLAKE3,
        seq=receipt.seq,
        t_ns=receipt.t_ns,
        previous_hash=receipt.previous_hash,
        payload_hash=receipt.payload_hash,
        receipt_hash=receipt.receipt_hash,
        kid=receipt.kid,
        statement=receipt.statement,
        signature=common_pb2.WitnessSignature(
            body=signature.body, sig=signature.sig, index=signature.index, path=signature.path
        ),
        commitment=common_pb2.Commitment(
            profile=opening.profile,
            size=opening.size,
            disclosures=opening.disclosures,
            digests=opening.digests,
        ),
        proofs=[
            common_pb2.InclusionProof(
                origin=proof.origin,
                log_index=proof.log_index,
                hashes=proof.hashes,
                checkpoint=proof.checkpoint,
            )
        ],
    )


def test_a_basic_view_is_no_receipt_but_a_summary() -> None:
    message = full_receipt()
    message.statement = b""
    with pytest.raises(ReceiptFormatError, match="FULL"):
        convert.receipt_from_pb(message)
    assert convert.summary_from_pb(message).anchor_state is AnchorState.LOGGED


def test_a_suite_of_the_future_is_refused_by_name() -> None:
    message = full_receipt()
    message.suite = 99  # type: ignore[assignment]
    with pytest.raises(ReceiptFormatError, match="suite"):
        convert.receipt_from_pb(message)


def test_a_refused_item_becomes_a_typed_error() -> None:
    refused = common_pb2.AppendResult(
        index=4, error=status_to_pb(IdentifierError("actor.id", "is required"))
    )
    result = convert.result_from_pb(refused, index=9, request_id="r", full=False)
    assert (result.index, result.request_id, result.summary) == (9, "r", None)
    assert result.error is not None
    assert result.error.code == "INVALID_ARGUMENT"
    assert result.error.violations[0].field == "actor.id"


@pytest.mark.parametrize("place", ["draft", "drafts[44]"])
def test_an_error_names_the_draft_by_its_place_among_those_that_were_given(place: str) -> None:
    """Where it stood in a message of a stream, or in one of several calls, says nothing."""
    field = f"{place}.mutation.new_state"
    refused = InvalidArgumentError(
        "INVALID_JSON",
        f"{place}: mutation.new_state: not JSON: a draft",
        violations=[FieldViolation(field, "not JSON", "INVALID_JSON")],
    )
    message = common_pb2.AppendResult(error=status_to_pb(refused))
    error = convert.result_from_pb(message, index=300, request_id="r", full=False).error
    assert error is not None
    assert error.message == str(error) == "drafts[300]: mutation.new_state: not JSON: a draft"
    assert error.violations[0].field == "drafts[300].mutation.new_state"
