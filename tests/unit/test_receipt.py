"""Receipts as text: the quick reader and the careful one agree, on good text and on bad."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import jcs
from provledger._receipt_canonical import read_canonical
from provledger._receipt_strict import read_members
from provledger.disclosure import MAX_FIELDS
from provledger.errors import ReceiptFormatError
from provledger.receipt import (
    MAX_RECEIPT_BYTES,
    Evidence,
    Proof,
    Receipt,
    parse_canonical_receipt,
    parse_receipt,
)
from tests.support.chain import Chain, mutation, with_changes


def made() -> Receipt:
    """Return a receipt that has everything: a proof, with evidence of a sink."""
    chain = Chain()
    chain.append([mutation(1), mutation(2)])
    receipt = chain.links[2][0]
    return with_changes(
        receipt,
        proofs=(
            Proof(
                chain.origin,
                7,
                (bytes(32), bytes([255] * 32)),
                chain.checkpoint(),
                (Evidence("file:///a", "file", 5, b"{}"),),
            ),
        ),
    )


RECEIPT = made()
LINE = RECEIPT.encode()
MASKED = with_changes(
    RECEIPT,
    payload=None,
    fields_mask=("/a",),
    commitment=type(RECEIPT.commitment)("fields-v1", 8, None, ("WyJh",), (bytes(32),) * 8),
)
BLOB = with_changes(
    RECEIPT, payload=b"\0\1", commitment=type(RECEIPT.commitment)("blob-v1", 0, bytes(16))
)


@pytest.mark.parametrize(
    "receipt", [RECEIPT, MASKED, BLOB, with_changes(RECEIPT, previous_hash=None)]
)
def test_both_readers_give_back_what_was_written(receipt: Receipt) -> None:
    assert read_canonical(receipt.encode()) == receipt
    assert read_members(json.loads(receipt.encode())) == receipt
    assert parse_canonical_receipt(receipt.encode()) == receipt


def test_text_in_another_spelling_is_read_but_not_canonical() -> None:
    pretty = json.dumps(json.loads(LINE), indent=1).encode()
    assert read_canonical(pretty) is None
    assert parse_receipt(pretty) == RECEIPT
    with pytest.raises(ReceiptFormatError, match="canonical spelling"):
        parse_canonical_receipt(pretty)


def test_a_document_in_loose_base64_is_not_canonical() -> None:
    loose = BLOB.encode().replace(b'"payload":"AAE="', b'"payload":"AAF="')
    assert loose != BLOB.encode()
    assert read_canonical(loose) is None
    with pytest.raises(ReceiptFormatError, match="payload"):
        parse_receipt(loose)


def test_text_of_every_character_has_one_canonical_form() -> None:
    """The quick reader compares with what msgspec writes, which must be what RFC 8785 says."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert msgspec.json.encode(every) == jcs.encode(every)


def commas(count: int, payload: Any) -> Receipt:
    """Return a receipt whose text has so many commas in all; `payload` makes one of that many."""
    others = with_changes(RECEIPT, payload=jcs.encode(payload(0))).encode().count(b",")
    receipt = with_changes(RECEIPT, payload=jcs.encode(payload(count - others)))
    assert receipt.encode().count(b",") == count
    return receipt


@pytest.mark.parametrize("count", [MAX_FIELDS - 1, MAX_FIELDS, 2 * MAX_FIELDS])
@pytest.mark.parametrize(
    "payload",
    [
        lambda count: {"csv": "a,b\n" * count},
        lambda count: {"list": [0] * (count + 1)},
    ],
    ids=["text", "list"],
)
def test_commas_in_a_payload_do_not_make_another_spelling(payload: Any, count: int) -> None:
    """The quick reader leaves lines with many of them to the strict one, which takes them."""
    receipt = commas(count, payload)
    line = receipt.encode()
    assert (read_canonical(line) is None) == (count >= MAX_FIELDS)
    assert parse_canonical_receipt(line) == parse_receipt(line) == receipt


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda line: line + b"\n",
        lambda line: line.replace(b'"fields_mask":null', b'"fields_mask": null'),
        lambda line: line.replace(b'"schema":"v0.2"', b'"schema":"v0\\u002e2"'),
        lambda line: line.replace(b"[0,", b"[0.0,"),
        lambda line: json.dumps(dict(reversed(json.loads(line).items()))).encode(),
        lambda line: json.dumps(json.loads(line), indent=1).encode(),
    ],
    ids=["line end", "space", "escape", "float", "order", "pretty"],
)
def test_a_line_with_many_commas_in_another_spelling_is_refused(spoiled: Any) -> None:
    receipt = commas(MAX_FIELDS, lambda count: {"list": [0] * (count + 1)})
    line = spoiled(receipt.encode())
    assert line != receipt.encode()
    assert parse_receipt(line) == receipt
    with pytest.raises(ReceiptFormatError, match="canonical spelling"):
        parse_canonical_receipt(line)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda line: line[:-1] + b',"zzz":1}',
        lambda line: line.replace(b'"kid":', b'"kid":"w","kid":', 1),
        lambda line: line[:-1],
    ],
    ids=["unknown member", "member there twice", "cut off"],
)
def test_a_damaged_line_with_many_commas_is_refused(spoiled: Any) -> None:
    line = commas(MAX_FIELDS, lambda count: {"list": [0] * (count + 1)}).encode()
    with pytest.raises(ReceiptFormatError):
        parse_canonical_receipt(spoiled(line))


def test_as_many_fields_as_a_payload_may_have_are_read_in_a_line() -> None:
    receipt = with_changes(
        RECEIPT, payload=jcs.encode({str(name): name for name in range(MAX_FIELDS)})
    )
    assert parse_canonical_receipt(receipt.encode()) == receipt


def test_a_payload_is_parsed_once_and_a_changed_one_again() -> None:
    receipt = parse_canonical_receipt(LINE)
    assert receipt.payload_read == jcs.parse(receipt.payload or b"")
    assert with_changes(receipt, payload=b"{}").payload_read is None


@pytest.mark.parametrize(
    "payload", [b'{"a":0.1}', b'{"a":1e+21}', b'{"\xf0\x9f\x98\x80":1}', b"null"]
)
def test_unusual_payloads_are_read_alike(payload: bytes) -> None:
    receipt = with_changes(RECEIPT, payload=payload)
    assert read_canonical(receipt.encode()) == receipt
    assert read_members(json.loads(receipt.encode())) == receipt


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    found = [path]
    if isinstance(value, dict):
        for name, member in value.items():
            found += places(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            found += places(member, (*path, index))
    return found


PLACES = places(json.loads(LINE))[1:]


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    *above, last = path
    for step in above:
        document = document[step]
    document[last] = value


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**32, 2**64, 1.5, 1.0, "", "0", "-1", "+5", "٥", "01", "1_0",
    str(2**63), "ab", "AB" * 16, "00" * 32, "A" * 43 + "=", "A" * 43, "AAB=", " AAA", "é",
    [], [[]], ["x"], [1], {}, {"x": 1}, {"secret": "AAAA"},
)  # fmt: skip


@pytest.mark.parametrize(
    "path", places(json.loads(LINE))[1:], ids=lambda path: "/".join(map(str, path))
)
def test_readers_agree_on_every_member_replaced(path: tuple[Any, ...]) -> None:
    """Whatever stands in a member's place, canonical text is read alike by both, or by neither."""
    for odd in ODD_VALUES:
        value = json.loads(LINE)
        put(value, path, odd)
        assert_readers_agree(value)


@pytest.mark.parametrize(
    "path", places(json.loads(LINE))[1:], ids=lambda path: "/".join(map(str, path))
)
def test_readers_agree_on_every_member_removed(path: tuple[Any, ...]) -> None:
    value = json.loads(LINE)
    *above, last = path
    holder = value
    for step in above:
        holder = holder[step]
    del holder[last]
    assert_readers_agree(value)


@pytest.mark.parametrize(
    ("receipt", "path"),
    [
        (receipt, path)
        for receipt in (RECEIPT, MASKED, BLOB)
        for path in places(json.loads(receipt.encode()))[1:]
    ],
    ids=lambda part: (
        "/".join(map(str, part)) if isinstance(part, tuple) else part.commitment.profile
    ),
)
def test_a_lone_surrogate_is_no_text_and_its_member_is_named(
    receipt: Receipt, path: tuple[Any, ...]
) -> None:
    """Python's own reader of JSON lets it in, and UTF-8 cannot write it."""
    for odd in ("\ud800", "a\udfff", "\udc00\ud800"):
        value = json.loads(receipt.encode())
        put(value, path, odd)
        with pytest.raises(ReceiptFormatError) as caught:
            parse_receipt(value)
        assert caught.value.field.split("[")[0].split(".")[0] == path[0]
        str(caught.value).encode()


def test_a_lone_surrogate_as_a_name_is_told_in_ascii() -> None:
    with pytest.raises(ReceiptFormatError, match=r"unknown members: \\ud800") as caught:
        parse_receipt({**json.loads(LINE), "\ud800": 1})
    str(caught.value).encode()


def assert_readers_agree(value: Any) -> None:
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    quick = read_canonical(data)
    try:
        careful = read_members(value) if isinstance(value, dict) else None
    except ReceiptFormatError:
        careful = None
    if quick is not None:
        assert quick == careful
    elif careful is not None:
        # Then the text was good and in a second spelling, such as a payload with 1.0 in it.
        assert careful.encode() != data


@given(st.integers(0, len(LINE) - 1), st.integers(0, 255))
def test_no_byte_of_canonical_text_is_loose(position: int, byte: int) -> None:
    changed = LINE[:position] + bytes((byte,)) + LINE[position + 1 :]
    try:
        receipt = parse_canonical_receipt(changed)
    except ReceiptFormatError:
        return
    assert receipt.encode() == changed
    assert (receipt == RECEIPT) == (changed == LINE)


@pytest.mark.parametrize(
    "data",
    [
        LINE[:-1] + b',"zzz":1}',
        LINE.replace(b'{"commitment"', b'{"aaa":1,"commitment"', 1),
        LINE.replace(b'"kid":', b'"kid":"w","kid":', 1),
        LINE.replace(b'"schema":"v0.2"', b'"schema":"v0.3"'),
        LINE + b"\n",
        b" " + LINE,
        b"\xef\xbb\xbf" + LINE,
        LINE[:-1],
        b"",
        b"[]",
        b"1",
        b"\xff",
        b'{"a":' + b"[" * 100_000,
        LINE.replace(
            b'"payload":{', b'"payload":{"deep":' + b"[" * 100_000 + b"1" + b"]" * 100_000 + b","
        ),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    assert read_canonical(data) is None
    with pytest.raises(ReceiptFormatError):
        parse_canonical_receipt(data)


def test_payload_deeper_than_a_receipt_may_be_is_refused_by_both() -> None:
    deep: Any = 1
    for _ in range(69):
        deep = [deep]
    value = json.loads(LINE) | {"payload": deep}
    assert read_canonical(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()) is None
    with pytest.raises(ReceiptFormatError):
        parse_receipt(json.dumps(value).encode())


def test_a_receipt_is_as_long_as_it_may_be_in_either_spelling() -> None:
    """The reader of canonical text keeps the same limit as the strict one."""
    proof = RECEIPT.proofs[0]

    def of(size: int) -> bytes:
        evidence = Evidence("x", "other", 1, b"a" * size)
        return replace(RECEIPT, proofs=(replace(proof, evidence=(evidence,)),)).encode()

    # Base64 of multiples of three bytes grows by four for each.
    room = (MAX_RECEIPT_BYTES - len(of(0))) // 4 * 3
    whole, long = of(room), of(room + 3)
    assert len(whole) <= MAX_RECEIPT_BYTES < len(long)
    for parse in (parse_receipt, parse_canonical_receipt):
        read = parse(whole)
        assert isinstance(read, Receipt)
        assert read.encode() == whole
        with pytest.raises(ReceiptFormatError, match="longer than"):
            parse(long)


def spelled(payload: str) -> bytes:
    """A receipt with some JSON text in the place of its payload."""
    value = {**made().to_json_value(), "payload": "@"}
    return json.dumps(value).replace('"@"', payload).encode()


# Of each kind as many as fill a receipt: 100 to 350 bytes of memory for each of ten of text.
_FULL = MAX_RECEIPT_BYTES - 20_000


@pytest.mark.parametrize(
    "payload",
    [
        f"[{'[],' * (_FULL // 3)}0]",
        f"[{'{},' * (_FULL // 3)}0]",
        "[" + '{"":0},' * (_FULL // 7) + "0]",
        "[" + ",".join(f'"{index:x}"' for index in range(_FULL // 9)) + "]",
        "{" + ",".join(f'"{index:x}":0' for index in range(_FULL // 11)) + "}",
    ],
    ids=["arrays", "objects", "members", "strings", "names"],
)
def test_a_receipt_of_more_values_than_a_payload_has_is_refused_unparsed(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight megabytes of them compress to eight kilobytes, and would take hundreds to hold."""
    data = spelled(payload)
    assert len(data) <= MAX_RECEIPT_BYTES

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(jcs, "parse", parse)
    for read in (parse_receipt, parse_canonical_receipt):
        with pytest.raises(ReceiptFormatError, match="more values than any payload"):
            read(data)


_MIB = 1 << 20


@pytest.mark.parametrize(
    "payload",
    [
        f"[{'[],' * (_MIB // 3 - 1)}0]",
        "[" + '{"":0},' * (_MIB // 7 - 1) + "0]",
        "[" + '"",' * (_MIB // 3 - 1) + "0]",
        "[" + "0,\n  " * (_MIB // 2 - 1) + "0]",
        '[{"":"' + ',[{:"'.replace('"', '\\"') * (_MIB // 6) + '"}]',
    ],
    ids=["arrays", "members", "strings", "printed pretty", "in a string"],
)
def test_a_receipt_of_as_many_values_as_a_payload_may_have_is_read(payload: str) -> None:
    """Whatever the services would take. What else is in it is long by its strings."""
    receipt = made()
    proof = receipt.proofs[0]
    evidence = replace(proof.evidence[0], evidence=b"x" * 1000)
    receipt = with_changes(receipt, proofs=(replace(proof, evidence=(evidence,) * 64),) * 16)
    text = receipt.encode().replace(receipt.payload or b"", payload.encode(), 1)
    read = parse_receipt(text)
    assert isinstance(read, Receipt)
    assert read.payload == jcs.encode(json.loads(payload))
