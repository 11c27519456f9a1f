"""Which statements the ledger takes for those of its drafts: what verifiers take, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ledger_svc import stated
from ledger_svc.stated import Stated
from ledger_svc.witnessing import Pending, build_request
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import InternalError
from provledger.statement import parse_statement
from tests.inmem.witness import InMemoryWitness
from tests.support.good_requests import drafts
from tests.support.ledgering import document, draft
from tests.unit.test_ledger_witnessing import LEDGER
from witness_svc import convert
from witness_svc.checks import check
from witness_svc.statements import RANDOM_BYTES, StatementMaker
from witness_svc.witness import Answer

ODD = 'a "quote", back\\slash, \u00dc/\u00fc \u20ac \U0001d11e'


def pending(asked: Iterable[common_pb2.Draft], principal: str = "anonymous") -> list[Pending]:
    found = []
    for number, each in enumerate(asked):
        item = Pending(each, principal, 100)
        item.receipt_id = bytes.fromhex("018c00000000700080000000000000") + bytes([number])
        found.append(item)
    return found


def by_the_service(items: list[Pending]) -> witness_pb2.WitnessBatchResponse:
    """The answer of the witness service itself, unsigned."""
    request = build_request(LEDGER, items, system=False)
    maker = StatementMaker(convert.place_from_pb(request, 1_763_665_200_000_000_000, max_items=99))
    made: list[Any] = [
        maker.make(
            item.draft, check(item.draft), item.receipt_id, item.principal, os.urandom(RANDOM_BYTES)
        )
        for item in convert.items_from_pb(request)
    ]
    return convert.answer_to_pb(Answer(made, None, 0))


def in_memory(items: list[Pending]) -> witness_pb2.WitnessBatchResponse:
    return InMemoryWitness().answer(build_request(LEDGER, items, system=False))


def take(
    items: list[Pending], response: witness_pb2.WitnessBatchResponse, *, opens: bool = False
) -> list[Any]:
    """Candidates for all of an answer."""
    holder = Stated(LEDGER, opens=opens)
    return [
        holder.candidate(item.draft, item.receipt_id, item.principal, result.witnessed, bytes(32))
        for item, result in zip(items, response.results, strict=True)
    ]


def of_every_kind() -> list[common_pb2.Draft]:
    """Drafts of every kind, with every member and without, each kind more than once."""
    asked = [*drafts(), document("d1"), document("d2", b"{}", "application/vnd.x+json")]
    odd = draft("odd", resource_id=ODD, actor_id=ODD, op_id='o\\"', op_parent_id="'")
    odd.actor.type = odd.origin.service = ODD[:20]
    odd.origin.upstream_events.extend([ODD, "e"])
    odd.mutation.resource_type = ODD.replace("/", "-")
    bare = draft("bare")
    bare.actor.type = ""
    return [*asked, odd, bare, *asked]


@pytest.mark.parametrize("witness", [by_the_service, in_memory])
def test_statements_are_taken_and_all_but_the_first_of_a_kind_by_the_template(
    witness: Callable[[list[Pending]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the template writes what `Statement.encode` does, and what the witness does."""
    items = pending(of_every_kind(), ODD)
    response = witness(items)
    read = []
    honest = stated._read

    def reading(*args: Any) -> Any:
        read.append(args)
        return honest(*args)

    monkeypatch.setattr(stated, "_read", reading)
    for item, result, candidate in zip(items, response.results, take(items, response), strict=True):
        said = parse_statement(candidate.statement)
        assert candidate.statement == result.witnessed.statement == said.encode()
        assert (candidate.receipt_type, candidate.request_id, candidate.resource_type) == (
            said.receipt_type, item.draft.request_id, said.resource_type,
        )  # fmt: skip
    kinds = {(item.draft.mutation.action, item.draft.document.media_type) for item in items}
    assert len(read) == len(kinds) == 7


def test_checks_and_times_may_differ_within_an_answer() -> None:
    items = pending([draft("r1"), draft("r2")])
    response = in_memory(items)
    second = response.results[1].witnessed
    second.statement = second.statement.replace(b'"version":"1"', b'"version":"2"')
    second.statement = second.statement.replace(b'"witnessedAtNs":"1', b'"witnessedAtNs":"')
    take(items, response)


def replaced(old: bytes, new: bytes) -> Callable[[Any], None]:
    def lie(witnessed: Any) -> None:
        assert old in witnessed.statement
        witnessed.statement = witnessed.statement.replace(old, new)

    return lie


def other_time(witnessed: Any) -> None:
    time = str(parse_statement(witnessed.statement).witnessed_at_ns).encode()
    replaced(time, b"0" + time)(witnessed)


def other_salt(change: Callable[[str], str]) -> Callable[[Any], None]:
    def lie(witnessed: Any) -> None:
        salt = parse_statement(witnessed.statement).salt.hex()
        replaced(salt.encode(), change(salt).encode())(witnessed)

    return lie


def short_hash(witnessed: Any) -> None:
    """In the statement, too."""
    replaced(witnessed.payload_hash.hex().encode(), b"78")(witnessed)
    witnessed.payload_hash = b"x"


def garbage(witnessed: Any) -> None:
    """Ids and payload hash stand there as members do, and nothing else."""
    said = parse_statement(witnessed.statement)
    witnessed.statement = (
        f'\0"receiptId":"{said.receipt_id}" "requestId":"{said.request_id}" '
        f'"{said.payload_hash.hex()}"'
    ).encode()


LIES: dict[str, Callable[[Any], Any]] = {
    "no JSON": garbage,
    "a space": replaced(b'"actor":{', b'"actor": {'),
    "3 MB": replaced(b'"actor":{', b'"actor":' + b" " * 3_000_000 + b"{"),
    "a member more": replaced(b'"salt":"', b'"sale":"","salt":"'),
    "a member twice": replaced(b'"salt":"', b'"resourceType":"Version","salt":"'),
    "another type of statement": replaced(b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v2"),
    "another uid": replaced(b'"ledgerUid":"00', b'"ledgerUid":"01'),
    "another ledger": replaced(b"ledgers/main", b"ledgers/mine"),
    "another actor": replaced(b'"bot"', b'"ceo"'),
    "another actor type": replaced(b'"service"}', b'"user"}'),
    "another principal": replaced(b'"anonymous"', b'"spiffe://x/ops"'),
    "another action": replaced(b'"CREATE"', b'"DELETE"'),
    "no action": replaced(b'"action":"CREATE",', b""),
    "another profile": replaced(b"fields-v1", b"blob-v1"),
    "another media type": replaced(b"application/json", b"application/jsom"),
    "another receipt id": replaced(b"-7000-8000-", b"-7000-8001-"),
    "another receipt type": replaced(b'"mutation"', b'"document"'),
    "another resource": replaced(b"redis/8.8.2", b"redis/8.8.3"),
    "another resource type": replaced(b"Version", b"Edition"),
    "another name of the subject": replaced(b'"name":"Version/', b'"name":"Edition/'),
    "an origin": replaced(b'"principal"', b'"origin":{"service":"s"},"principal"'),
    "a time that was not said": replaced(b'"principal"', b'"occurredAt":"2024","principal"'),
    "a long time": other_time,
    "a large salt": other_salt(lambda salt: "A" + salt[1:]),
    "a short salt": other_salt(lambda salt: salt[1:]),
    "checks that are none": replaced(b'"result":"passed"', b'"result":true'),
    "payload hash": lambda w: setattr(w, "payload_hash", bytes(32)),
    "a short payload hash": lambda w: setattr(w, "payload_hash", b"x"),
    "a short payload hash that is stated": short_hash,
    "no secret": lambda w: setattr(w, "secret", b""),
    "a secret of a blob": lambda w: setattr(w, "secret", bytes(16)),
    "receipt type beside it": lambda w: setattr(w, "receipt_type", "key.revoked"),
    "no size": lambda w: setattr(w, "commitment_size", 0),
    "an odd size": lambda w: setattr(w, "commitment_size", 9),
    "a large size": lambda w: setattr(w, "commitment_size", 2**31),
    "a large payload": lambda w: setattr(w, "payload", b" " * ((1 << 20) + 1)),
}


@pytest.mark.parametrize("place", [0, 1], ids=["read", "by the template"])
@pytest.mark.parametrize("lie", LIES)
def test_answer_that_no_verifier_takes_is_refused(lie: str, place: int) -> None:
    items = pending([draft("r1"), draft("r2")])
    response = in_memory(items)
    LIES[lie](response.results[place].witnessed)
    with pytest.raises(InternalError, match="witness's answer") as caught:
        take(items, response)
    assert caught.value.reason == "WITNESS_ANSWER"


@pytest.mark.parametrize("place", [0, 1], ids=["read", "by the template"])
def test_draft_that_would_make_too_large_a_statement_has_none(place: int) -> None:
    items = pending([draft("r1"), draft("r2")])
    items[place].draft.mutation.resource_id = "x" * 20_000
    request = build_request(LEDGER, items, system=False)
    request.items[place].draft.mutation.resource_id = "x"
    response = InMemoryWitness().answer(request)
    second = response.results[place].witnessed
    replaced(b'"x"', b'"' + b"x" * 20_000 + b'"')(second)
    replaced(b'Version/x"', b"Version/" + b"x" * 20_000 + b'"')(second)
    with pytest.raises(InternalError, match="longer than"):
        take(items, response)


@pytest.mark.parametrize("action", [0, 9])
def test_mutation_without_an_action_has_no_statement(action: int) -> None:
    items = pending([draft("r1"), draft("r2")])
    response = in_memory(items)
    for item, result in zip(items, response.results, strict=True):
        item.draft.mutation.action = action  # type: ignore[assignment]
        replaced(b'"action":"CREATE",', b"")(result.witnessed)
    with pytest.raises(InternalError, match="another action"):
        take(items, response)


UNOPENED: dict[str, Callable[[Any], Any]] = {
    "another payload": lambda w: setattr(w, "payload", b'{"lie":1}'),
    "no payload": lambda w: setattr(w, "payload", b""),
    "another secret": lambda w: setattr(w, "secret", bytes(len(w.secret))),
}


@pytest.mark.parametrize("lie", UNOPENED)
def test_blob_must_open_its_commitment(lie: str) -> None:
    items = pending([document("r1"), document("r2")])
    response = in_memory(items)
    UNOPENED[lie](response.results[1].witnessed)
    with pytest.raises(InternalError, match="payload"):
        take(items, response)


@pytest.mark.parametrize("lie", [*UNOPENED, "another size"])
def test_json_must_open_its_commitment_where_it_is_our_own(lie: str) -> None:
    """Elsewhere nobody asks before `verify`: docs/trust.md says so."""
    items = pending([document("r1", b'{"b":1.0,"a":2}', "application/json")])
    response = in_memory(items)
    take(items, response, opens=True)
    lies = {**UNOPENED, "another size": lambda w: setattr(w, "commitment_size", 16)}
    lies[lie](response.results[0].witnessed)
    take(items, response)
    with pytest.raises(InternalError, match="payload"):
        take(items, response, opens=True)


def test_what_is_no_json_does_not_pass_where_it_is_our_own() -> None:
    items = pending([document("r1", b"{}", "application/json")])
    response = in_memory(items)
    items[0].draft.document.payload = b"{"
    with pytest.raises(InternalError, match="no JSON"):
        take(items, response, opens=True)
