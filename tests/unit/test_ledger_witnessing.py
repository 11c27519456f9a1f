"""What the ledger believes of a witness's answer, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ledger_svc.chain import Candidate, LedgerInfo
from ledger_svc.witnessing import Pending, WitnessClient, build_request, read_response
from provledger.api.witness.v1 import witness_pb2, witness_pb2_grpc
from provledger.errors import InternalError, StatusError, UnavailableError
from provledger.rpc.channel import channel
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import draft
from tests.support.ports import free_port

LEDGER = LedgerInfo(bytes(16), "acme", "main", "blake3", "logs/00", "log.test/1", 1)


def items(*request_ids: str) -> list[Pending]:
    found = []
    for number, request_id in enumerate(request_ids):
        item = Pending(draft(request_id), "anonymous", 100)
        item.receipt_id = bytes.fromhex("018c00000000700080000000000000") + bytes([number])
        found.append(item)
    return found


def answer_to(pending: list[Pending]) -> witness_pb2.WitnessBatchResponse:
    witness = InMemoryWitness()
    witness.strangers = 2
    return witness.answer(build_request(LEDGER, pending, system=False))


def test_answer_is_taken_apart_in_order() -> None:
    pending = items("r1", "r2", "r3")
    pending[1].draft.actor.id = ""
    response = answer_to(pending)
    witnessed = read_response(LEDGER, pending, response)
    first, second, third = witnessed.results
    assert isinstance(first, Candidate)
    assert isinstance(second, StatusError)
    assert isinstance(third, Candidate)
    assert (first.batch_index, third.batch_index) == (2, 3)
    assert (first.receipt_id, first.request_id) == (pending[0].receipt_id, "r1")
    assert witnessed.seal is not None
    assert witnessed.seal.kid == "witness-1"
    assert witnessed.seal.first_index == 2
    assert len(witnessed.seal.leaf_hashes) == 2 * 32
    assert len(witnessed.seal.siblings) == 32


def test_answer_without_anything_that_passed_has_no_seal() -> None:
    pending = items("r1")
    pending[0].draft.actor.id = ""
    witnessed = read_response(LEDGER, pending, answer_to(pending))
    assert witnessed.seal is None
    assert len(witnessed.results) == 1


def other_statement(response: Any) -> None:
    response.results[0].witnessed.statement += b" "


def other_body(response: Any) -> None:
    response.body = answer_to(items("r9")).body


def swapped(response: Any) -> None:
    """Each draft has the statement of the other one, with all that belongs to it."""
    first, second = (type(each)() for each in response.results[:2])
    first.CopyFrom(response.results[0])
    second.CopyFrom(response.results[1])
    response.results[0].CopyFrom(second)
    response.results[1].CopyFrom(first)


def two_at_one_place(response: Any) -> None:
    response.results[1].CopyFrom(response.results[0])


BROKEN: dict[str, Callable[[Any], Any]] = {
    "a result too few": lambda r: r.results.pop(),
    "a result too many": lambda r: r.results.add(),
    "an empty result": lambda r: r.results[0].Clear(),
    "another statement": other_statement,
    "another place": lambda r: setattr(r.results[0].witnessed, "batch_index", 3),
    "a place outside": lambda r: setattr(r.results[0].witnessed, "batch_index", 4),
    "statements swapped": swapped,
    "one statement for two": two_at_one_place,
    "another payload hash": lambda r: setattr(r.results[0].witnessed, "payload_hash", bytes(32)),
    "a short payload hash": lambda r: setattr(r.results[0].witnessed, "payload_hash", b"x"),
    "leaf hashes cut": lambda r: setattr(r, "leaf_hashes", r.leaf_hashes[:-1]),
    "a leaf too few": lambda r: setattr(r, "leaf_hashes", r.leaf_hashes[:-32]),
    "another stranger": lambda r: setattr(r, "leaf_hashes", bytes(32) + r.leaf_hashes[32:]),
    "no body": lambda r: setattr(r, "body", b""),
    "another body": other_body,
    "no signature": lambda r: setattr(r, "sig", b""),
    "another kid": lambda r: setattr(r, "kid", "other"),
    "another epoch": lambda r: setattr(r, "epoch", 2),
    "another time": lambda r: setattr(r, "signed_at_ns", 1),
}


@pytest.mark.parametrize("what", BROKEN)
def test_answer_that_does_not_hang_together_is_refused(what: str) -> None:
    pending = items("r1", "r2")
    response = answer_to(pending)
    BROKEN[what](response)
    with pytest.raises(InternalError) as caught:
        read_response(LEDGER, pending, response)
    assert caught.value.reason == "WITNESS_ANSWER"


@pytest.mark.parametrize("given", ["r1", 'a "quote"', "back\\slash", "Ü/ü", "a\u2028b"])
def test_statement_of_another_request_is_refused_and_its_own_is_not(given: str) -> None:
    pending = items(given)
    response = answer_to(pending)
    assert read_response(LEDGER, pending, response).seal is not None
    pending[0].draft.request_id = given + "x"
    with pytest.raises(InternalError, match="another request id"):
        read_response(LEDGER, pending, response)
    pending[0].draft.request_id = given
    pending[0].receipt_id = items("a", "b")[1].receipt_id
    with pytest.raises(InternalError, match="another receipt id"):
        read_response(LEDGER, pending, response)


def test_batch_of_another_suite_is_refused() -> None:
    pending = items("r1")
    response = answer_to(pending)
    fips = LedgerInfo(bytes(16), "acme", "main", "fips", "logs/00", "log.test/1", 1)
    with pytest.raises(InternalError):
        read_response(fips, pending, response)


async def test_witness_that_nobody_serves_is_named_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    async with channel(f"127.0.0.1:{port}") as away:
        client = WitnessClient(witness_pb2_grpc.WitnessServiceStub(away), timeout_s=5.0)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="the witness service") as caught:
                await client.witness(LEDGER, items("r1"))
            assert caught.value.reason == "WITNESS_UNAVAILABLE"
            assert str(port) not in str(caught.value)
    (said,) = (record for record in caplog.records if record.message == "witness.away")
    assert str(port) in said.provledger_fields["message"]  # type: ignore[attr-defined]
