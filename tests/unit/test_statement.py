"""Statements: the bytes, what may be left out, and everything that is not canonical refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import _statement_canonical, jcs
from provledger.errors import ReceiptFormatError
from provledger.statement import (
    MAX_STATEMENT_BYTES,
    Check,
    Statement,
    _from_text,
    _from_value,
    parse_statement,
    read_bound,
)

FULL = Statement(
    ledger="tenants/acme/ledgers/main",
    ledger_uid=bytes(range(16)),
    receipt_id="019a9e2b-6c00-7000-8000-000000000001",
    request_id="r-1",
    receipt_type="mutation",
    action="UPDATE",
    resource_type="Version",
    resource_id="redis/8.8.2",
    actor_id="bot",
    actor_type="service",
    principal="anonymous",
    origin_service="billing",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    upstream_events=("git:1", "git:2"),
    op_id="op-2",
    op_parent_id="op-1",
    occurred_at="2024-01-02T03:04:05+01:00",
    witnessed_at_ns=1_763_665_200_000_000_000,
    media_type="application/json",
    profile="fields-v1",
    payload_hash=bytes([0xAB] * 32),
    checks=(Check("transition", "1", "passed"),),
    salt=bytes([0xCD] * 16),
)

# What an outside implementation has to write for FULL.
FULL_TEXT = (
    '{"_type":"https://in-toto.io/Statement/v1","predicate":{"action":"UPDATE",'
    '"actor":{"id":"bot","type":"service"},'
    '"checks":[{"name":"transition","result":"passed","version":"1"}],'
    '"commitmentProfile":"fields-v1","ledger":"tenants/acme/ledgers/main",'
    '"ledgerUid":"000102030405060708090a0b0c0d0e0f","mediaType":"application/json",'
    '"occurredAt":"2024-01-02T03:04:05+01:00","opId":"op-2","opParentId":"op-1",'
    '"origin":{"service":"billing","traceId":"0af7651916cd43dd8448eb211c80319c",'
    '"upstream":["git:1","git:2"]},"principal":"anonymous",'
    '"receiptId":"019a9e2b-6c00-7000-8000-000000000001","receiptType":"mutation",'
    '"requestId":"r-1","resourceId":"redis/8.8.2","resourceType":"Version",'
    f'"salt":"{"cd" * 16}","witnessedAtNs":"1763665200000000000"}},'
    '"predicateType":"urn:provledger:statement:v1",'
    f'"subject":[{{"digest":{{"provledgerFieldsV1":"{"ab" * 32}"}},'
    '"name":"Version/redis/8.8.2"}]}'
)

OPTIONAL: dict[str, Any] = {
    "action": "",
    "actor_type": "",
    "origin_service": "",
    "trace_id": "",
    "upstream_events": (),
    "op_id": "",
    "op_parent_id": "",
    "occurred_at": "",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
statements = st.builds(
    Statement,
    **{
        item.name: texts
        for item in dataclasses.fields(Statement)
        if item.type == "str" and item.name != "profile"
    },
    ledger_uid=st.binary(min_size=16, max_size=16),
    upstream_events=st.lists(texts, max_size=3).map(tuple),
    witnessed_at_ns=st.integers(0, 10**19 - 1),
    profile=st.sampled_from(["fields-v1", "blob-v1"]),
    payload_hash=st.binary(min_size=32, max_size=32),
    checks=st.lists(st.builds(Check, texts, texts, texts), max_size=3).map(tuple),
    salt=st.binary(min_size=16, max_size=16),
)


def test_bytes_of_a_full_statement() -> None:
    assert FULL.encode().decode() == FULL_TEXT


def test_bytes_of_a_bare_statement() -> None:
    bare = dataclasses.replace(FULL, **OPTIONAL, profile="blob-v1", checks=())
    text = FULL_TEXT
    for gone in (
        '"action":"UPDATE",',
        ',"type":"service"',
        '{"name":"transition","result":"passed","version":"1"}',
        '"occurredAt":"2024-01-02T03:04:05+01:00",',
        '"opId":"op-2",',
        '"opParentId":"op-1",',
        '"origin":{"service":"billing","traceId":"0af7651916cd43dd8448eb211c80319c",'
        '"upstream":["git:1","git:2"]},',
    ):
        assert gone in text
        text = text.replace(gone, "")
    text = text.replace("fields-v1", "blob-v1").replace("provledgerFieldsV1", "provledgerBlobV1")
    assert bare.encode().decode() == text


@given(statements)
def test_bytes_are_canonical_and_read_back(statement: Statement) -> None:
    data = statement.encode()
    assert jcs.encode(jcs.parse(data)) == data
    assert parse_statement(data) == statement


@given(statements)
def test_both_readers_give_back_what_was_written(statement: Statement) -> None:
    data = statement.encode()
    quick = _statement_canonical.read(data)
    assert quick is not None
    assert _from_text(quick) == _from_value(orjson.loads(data)) == statement


@given(statements, st.data())
def test_damaged_text_is_read_alike_by_both_readers_or_by_neither(
    statement: Statement, data: st.DataObject
) -> None:
    text = statement.encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    piece = data.draw(
        st.sampled_from([b"", b'"', b",", b"{}", b"}", b"\\", b"\x00", b"0", b"\xff"])
    )
    text = text[:start] + piece + text[end:]
    quick = _statement_canonical.read(text)
    read = None if quick is None else _from_text(quick)
    try:
        value = _from_value(orjson.loads(text))
        careful = value if value.encode() == text else None
    except (ReceiptFormatError, ValueError):
        careful = None
    assert read == careful
    assert parse_or_none(text) == careful


ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, 1.0, "", "0", "-1", "+5", "٥", "01", "1_0", "9" * 19, "9" * 20, "AB" * 16,
    "ab" * 16, "ab" * 32, "fields-v1", "blob-v1", 'a"\\é', [], [[]], ["x"], {}, {"x": 1},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    found = [path]
    for name, member in value.items() if isinstance(value, dict) else ():
        found += places(member, (*path, name))
    for index, member in enumerate(value if isinstance(value, list) else ()):
        found += places(member, (*path, index))
    return found


@pytest.mark.parametrize(
    "path", places(json.loads(FULL_TEXT))[1:], ids=lambda path: "/".join(map(str, path))
)
def test_readers_agree_on_every_member_replaced_and_removed(path: tuple[Any, ...]) -> None:
    for odd in (*ODD_VALUES, None):
        value = json.loads(FULL_TEXT)
        *above, last = path
        holder = value
        for step in above:
            holder = holder[step]
        holder[last] = odd
        assert_read_alike(value)
    del holder[last]
    assert_read_alike(value)


def assert_read_alike(value: Any) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    quick = _statement_canonical.read(text)
    try:
        careful = _from_value(value)
    except ReceiptFormatError:
        assert quick is None
    else:
        read = None if quick is None else _from_text(quick)
        assert read == (careful if careful.encode() == text else None)


def parse_or_none(data: bytes) -> Statement | None:
    try:
        return parse_statement(data)
    except ReceiptFormatError:
        return None


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_was_not_said_is_left_out(name: str) -> None:
    statement = dataclasses.replace(FULL, **{name: OPTIONAL[name]})
    assert len(statement.encode()) < len(FULL.encode())
    assert parse_statement(statement.encode()) == statement


def test_mutations_are_told_by_their_receipt_type() -> None:
    assert FULL.is_mutation
    assert not dataclasses.replace(FULL, receipt_type="mutation.x").is_mutation


def _edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = jcs.parse(FULL.encode())
    edit(value)
    return jcs.encode(value)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another type": (lambda s: s.update(_type="x"), "type"),
    "another predicate type": (lambda s: s.update(predicateType="x"), "type"),
    "no predicate": (lambda s: s.pop("predicate"), "predicate"),
    "unknown member": (lambda s: s.update(more=1), "canonical"),
    "unknown member of the predicate": (lambda s: s["predicate"].update(more="1"), "members"),
    "unknown member of the actor": (
        lambda s: s["predicate"]["actor"].update(more="1"),
        "canonical",
    ),
    "unknown member of the origin": (
        lambda s: s["predicate"]["origin"].update(more="1"),
        "canonical",
    ),
    "missing member": (lambda s: s["predicate"].pop("salt"), "members"),
    "missing actor id": (lambda s: s["predicate"]["actor"].pop("id"), "id"),
    "empty optional member": (lambda s: s["predicate"].update(opId=""), "canonical"),
    "empty origin": (lambda s: s["predicate"].update(origin={}), "canonical"),
    "empty upstream": (lambda s: s["predicate"]["origin"].update(upstream=[]), "canonical"),
    "null optional member": (lambda s: s["predicate"].update(opId=None), "opId"),
    "number in place of text": (lambda s: s["predicate"].update(requestId=1), "requestId"),
    "time as a number": (lambda s: s["predicate"].update(witnessedAtNs=1), "witnessedAtNs"),
    "time with a leading zero": (
        lambda s: s["predicate"].update(witnessedAtNs="01"),
        "canonical",
    ),
    "time with other digits": (lambda s: s["predicate"].update(witnessedAtNs="١"), "decimal"),
    "negative time": (lambda s: s["predicate"].update(witnessedAtNs="-1"), "decimal"),
    "upper-case hex": (lambda s: s["predicate"].update(salt="CD" * 16), "canonical"),
    "hex with spaces": (lambda s: s["predicate"].update(salt="cd " * 16), "canonical"),
    "short salt": (lambda s: s["predicate"].update(salt="cd"), "16 bytes"),
    "no hex": (lambda s: s["predicate"].update(salt="xy" * 16), "hex"),
    "short uid": (lambda s: s["predicate"].update(ledgerUid="00"), "16 bytes"),
    "unknown profile": (lambda s: s["predicate"].update(commitmentProfile="x"), "Profile"),
    "profile against digest": (
        lambda s: s["predicate"].update(commitmentProfile="blob-v1"),
        "digest",
    ),
    "two subjects": (lambda s: s["subject"].append(s["subject"][0]), "subject"),
    "no subject": (lambda s: s.update(subject=[]), "subject"),
    "second digest": (lambda s: s["subject"][0]["digest"].update(sha256="00" * 32), "digest"),
    "another subject than the resource": (
        lambda s: s["subject"][0].update(name="Version/redis/9"),
        "canonical",
    ),
    "short digest": (
        lambda s: s["subject"][0]["digest"].update(provledgerFieldsV1="ab"),
        "32 bytes",
    ),
    "actor is text": (lambda s: s["predicate"].update(actor="bot"), "object"),
    "upstream of numbers": (lambda s: s["predicate"]["origin"].update(upstream=[1]), "upstream"),
    "checks are no list": (lambda s: s["predicate"].update(checks={}), "checks"),
    "check with another member": (
        lambda s: s["predicate"]["checks"][0].update(more="1"),
        "checks",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_statement_is_refused(name: str) -> None:
    edit, match = BROKEN[name]
    with pytest.raises(ReceiptFormatError, match=match) as caught:
        parse_statement(_edited(edit))
    assert caught.value.field.startswith("statement")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        FULL.encode() + b" ",
        FULL.encode().replace(b'"predicate":', b'"predicate": '),
        FULL.encode().replace(b'"opId":"op-2"', b'"opId":"op-2","opId":"op-2"'),
        FULL.encode().replace(b"redis", b"r\\u0065dis"),
    ],
    ids=["nothing", "null", "list", "empty", "trailing", "space", "twice", "escape"],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ReceiptFormatError):
        parse_statement(data)


@pytest.mark.parametrize("position", range(0, len(FULL_TEXT), 7))
def test_every_changed_byte_is_refused_or_says_something_else(position: int) -> None:
    data = bytearray(FULL.encode())
    data[position] ^= 1
    try:
        statement = parse_statement(bytes(data))
    except ReceiptFormatError:
        return
    assert statement != FULL


def test_statement_over_the_limit_is_refused() -> None:
    rest = len(dataclasses.replace(FULL, request_id="").encode())
    fits = dataclasses.replace(FULL, request_id="x" * (MAX_STATEMENT_BYTES - rest))
    assert parse_statement(fits.encode()) == fits
    with pytest.raises(ReceiptFormatError, match="longer"):
        parse_statement(dataclasses.replace(fits, request_id=fits.request_id + "x").encode())


@pytest.mark.parametrize("deep", [b'{"a":' + b'{"a":' * 6000, b'{"a":' + b"[" * 16000])
def test_nesting_without_end_is_our_error(deep: bytes) -> None:
    with pytest.raises(ReceiptFormatError):
        parse_statement(deep)
    with pytest.raises(ReceiptFormatError):
        read_bound(deep)
