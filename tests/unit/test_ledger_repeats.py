"""When a repeated request id counts as the same request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ledger_svc.repeats import Content
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import AlreadyExistsError, InvalidArgumentError, ReceiptFormatError
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import LEDGER, document


def mutation() -> common_pb2.Draft:
    return common_pb2.Draft(
        request_id="r1",
        actor=common_pb2.Actor(id="bot", type="service"),
        origin=common_pb2.Origin(
            service="billing",
            trace_id="0af7651916cd43dd8448eb211c80319c",
            upstream_events=["a", "b"],
        ),
        op_id="op",
        op_parent_id="parent",
        occurred_at="2024-01-02T03:04:05+01:00",
        mutation=common_pb2.Mutation(
            action=common_pb2.ACTION_UPDATE,
            resource_type="Version",
            resource_id="redis/1",
            previous_state=b'{"a":1}',
            new_state=b'{"a":1.5,"b":"\\u00e9"}',
            diff=b'[{"op":"replace","path":"","from":{"a":1},"value":{"a":1.5,"b":"\xc3\xa9"}}]',
        ),
    )


def witnessed(draft: common_pb2.Draft) -> tuple[bytes, bytes]:
    """The statement and payload that a witness makes of a draft."""
    request = witness_pb2.WitnessBatchRequest(
        ledger=LEDGER,
        ledger_uid=bytes(16),
        suite=common_pb2.SUITE_BLAKE3,
        items=[
            witness_pb2.WitnessItem(
                receipt_id=bytes.fromhex("018c0000000070008000000000000000"),
                principal="anonymous",
                draft=draft,
            )
        ],
    )
    result = InMemoryWitness().answer(request).results[0].witnessed
    return result.statement, result.payload


def set_state(draft: common_pb2.Draft, **states: bytes) -> None:
    for name, value in states.items():
        setattr(draft.mutation, name, value)


SAME: dict[str, Callable[[common_pb2.Draft], Any]] = {
    "nothing": lambda d: None,
    "trace id": lambda d: setattr(d.origin, "trace_id", ""),
    "spelling of states": lambda d: set_state(
        d, previous_state=b' {"a": 1.0} ', new_state=b'{"b":"\xc3\xa9", "a":15e-1}'
    ),
    "no diff": lambda d: set_state(d, diff=b""),
    "no from in diff": lambda d: set_state(
        d, diff=b'[{"op":"replace","path":"","value":{"b":"\xc3\xa9","a":1.5}}]'
    ),
    "no time": lambda d: setattr(d, "occurred_at", ""),
}
OTHER: dict[str, Callable[[common_pb2.Draft], Any]] = {
    "actor.id": lambda d: setattr(d.actor, "id", "bob"),
    "actor.type": lambda d: setattr(d.actor, "type", ""),
    "origin.service": lambda d: setattr(d.origin, "service", "x"),
    "origin.upstream_events": lambda d: d.origin.upstream_events.reverse(),
    "op_id": lambda d: setattr(d, "op_id", ""),
    "op_parent_id": lambda d: setattr(d, "op_parent_id", "x"),
    "occurred_at": lambda d: setattr(d, "occurred_at", "2024-01-02T02:04:05Z"),
    "mutation.action": lambda d: setattr(d.mutation, "action", common_pb2.ACTION_CREATE),
    "mutation.resource_type": lambda d: setattr(d.mutation, "resource_type", "x"),
    "mutation.resource_id": lambda d: setattr(d.mutation, "resource_id", "x"),
    "mutation.previous_state": lambda d: set_state(d, previous_state=b""),
    "mutation.new_state": lambda d: set_state(d, new_state=b'{"a":true}'),
    "mutation.diff": lambda d: set_state(d, diff=b"[]"),
    "document": lambda d: d.document.CopyFrom(document("r1").document),
}


@pytest.mark.parametrize("what", SAME)
def test_same_content_is_a_repeat(what: str) -> None:
    statement, payload = witnessed(mutation())
    again = mutation()
    SAME[what](again)
    Content(statement, payload).check(again)


@pytest.mark.parametrize("field", OTHER)
def test_other_content_is_refused_by_its_first_field(field: str) -> None:
    statement, payload = witnessed(mutation())
    other = mutation()
    OTHER[field](other)
    with pytest.raises(AlreadyExistsError) as caught:
        Content(statement, payload).check(other)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert caught.value.metadata == {"requestId": "r1", "field": field}


def test_diff_given_later_is_compared_with_the_one_that_was_made() -> None:
    first = mutation()
    set_state(first, diff=b"")
    statement, payload = witnessed(first)
    again = mutation()
    set_state(again, diff=b'[{"op":"replace","path":"","value":{"a":1.5,"b":"\\u00e9"}}]')
    Content(statement, payload).check(again)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"payload": b"\x00\x02"}, "document.payload"),
        ({"media_type": "text/plain"}, "document.media_type"),
        ({"receipt_type": "other"}, "document.receipt_type"),
    ],
)
def test_blobs_are_compared_byte_for_byte(given: dict[str, Any], field: str) -> None:
    statement, payload = witnessed(document("r1", b"\x00\x01"))
    Content(statement, payload).check(document("r1", b"\x00\x01"))
    with pytest.raises(AlreadyExistsError) as caught:
        Content(statement, payload).check(document("r1", **{"payload": b"\x00\x01", **given}))
    assert caught.value.metadata["field"] == field


def test_json_documents_are_compared_as_values() -> None:
    def json_document(payload: bytes) -> common_pb2.Draft:
        return document("r1", payload, "application/ld+json")

    statement, payload = witnessed(json_document(b'{"a":1,"b":[1,2]}'))
    Content(statement, payload).check(json_document(b'{ "b":[1.0,2], "a":1 }'))
    with pytest.raises(AlreadyExistsError):
        Content(statement, payload).check(json_document(b'{"a":1,"b":[2,1]}'))
    with pytest.raises(InvalidArgumentError) as caught:
        Content(statement, payload).check(json_document(b'{"a":1,"a":1}'))
    assert caught.value.violations[0].field == "document.payload"


def test_mutation_for_a_document_is_refused() -> None:
    statement, payload = witnessed(document("r1"))
    with pytest.raises(AlreadyExistsError) as caught:
        Content(statement, payload).check(mutation())
    assert caught.value.metadata["field"] == "mutation"


@pytest.mark.parametrize(
    ("stored", "field"),
    [
        (b"", "mutation.previous_state"),
        (b"{}", "mutation.previous_state"),
        (b"null", "mutation.previous_state"),
        (b"[]", "mutation.previous_state"),
        (b'"text"', "mutation.previous_state"),
        (b'{"newState":{"a":1.5,"b":"\xc3\xa9"}}', "mutation.previous_state"),
        (b'{"previousState":{"a":1}}', "mutation.new_state"),
        (b'{"newState":{"a":1.5,"b":"\xc3\xa9"},"previousState":{"a":1}}', "mutation.diff"),
        (b"[" * 100, "mutation.previous_state"),
    ],
)
def test_stored_payload_that_cannot_be_read_is_other_content(stored: bytes, field: str) -> None:
    """Somebody took it out of the tables, or damaged it; the draft is not to blame."""
    statement, _ = witnessed(mutation())
    content = Content(statement, stored)
    for _ in range(2):
        with pytest.raises(AlreadyExistsError) as caught:
            content.check(mutation())
        assert caught.value.reason == "REQUEST_ID_REUSED"
        assert caught.value.metadata == {"requestId": "r1", "field": field}
        assert content.damaged == "payload"


def test_stored_payload_without_a_diff_is_compared_where_none_is_given() -> None:
    statement, _ = witnessed(mutation())
    again = mutation()
    set_state(again, diff=b"")
    content = Content(statement, b'{"newState":{"a":1.5,"b":"\xc3\xa9"},"previousState":{"a":1}}')
    content.check(again)
    assert not content.damaged


def test_stored_statement_that_cannot_be_read_is_told_apart() -> None:
    statement, payload = witnessed(mutation())
    content = Content(statement[:-1], payload)
    with pytest.raises(ReceiptFormatError):
        content.check(mutation())
    assert content.damaged == "statement"
