from __future__ import annotations

import enum
import json
import math
import struct
import tracemalloc
import uuid
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provledger import _jcs_slow, jcs
from provledger.errors import InvalidJSONError

# --- what parse refuses, and where ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        # duplicate members
        ('{"a":1,"a":1}', "/a"),
        ('{"a":1,"b":{"c":[{"d":1,"d":2}]}}', "/b/c/0/d"),
        ('{"a":1,"\\u0061":2}', "/a"),
        ('{"a:b":1,"a\\u003ab":2}', "/a:b"),
        ('{"a:b":1,"a\\u003Ab":2}', "/a:b"),
        ('{"x":"\\u003a","a":1,"a":2}', "/a"),
        ('{"x":"\\u003A","a":1,"a":2}', "/a"),
        ('{"a":{"b:":1},"a":"::"}', "/a"),
        ('{"":1,"":2}', "/"),
        ('{"a/b~c":1,"a/b~c":2}', "/a~1b~0c"),
        ('[{"é":1,"\\u00e9":2}]', "/0/é"),
        # numbers
        ("9007199254740992", ""),
        ("-9007199254740992", ""),
        ('{"n":[0,9007199254740993]}', "/n/1"),
        ('{"n":18446744073709551615}', "/n"),
        ('{"n":18446744073709551616}', "/n"),
        ('{"n":-9223372036854775809}', "/n"),
        ('{"n":1000000000000000000000}', "/n"),
        ('{"n":' + "9" * 5000 + "}", "/n"),
        ('{"n":9007199254740993.0}', "/n"),
        ('{"n":9007199254740992.0}', "/n"),
        ('{"n":9007199254740992e0}', "/n"),
        ('{"n":1e16}', "/n"),
        ('{"n":-1E+20}', "/n"),
        ('{"n":999999999999999900000.0}', "/n"),
        ('{"n":1e400}', "/n"),
        ('{"n":-1e400}', "/n"),
        ("[[NaN]]", "/0/0"),
        ('{"a":{"b":Infinity}}', "/a/b"),
        ("-Infinity", ""),
        # strings
        ('["\\ud800"]', "/0"),
        ('{"a":{"b":"x\\udc00"}}', "/a/b"),
        ('["\\ud83d\\ud83d"]', "/0"),
        ('{"a":{"\\ud800":1}}', "/a"),
        ('{"\\ud800":{"b":1e400}}', ""),
        ('{"\\ud800":1,"\\ud800":1}', ""),
    ],
)
def test_parse_names_the_place_of_what_it_refuses(text: str, pointer: str) -> None:
    with pytest.raises(InvalidJSONError) as caught:
        jcs.parse(text.encode())
    assert caught.value.pointer == pointer
    str(caught.value).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"\n", b"nul", b"nulll", b"tru", b"True", b"None", b"undefined", b"nan",
        b"{", b"[", b'"', b"}", b"]", b"{}}", b"[]]", b"[] []", b"1 2", b'{"a":1}x', b"[1",
        b"[1,]", b"[,1]", b"[1,,2]", b"[1 2]", b'{"a":1,}', b'{,"a":1}', b'{"a"}', b'{"a":}',
        b'{"a" 1}', b'{"a":1 "b":2}', b"{a:1}", b"{'a':1}", b"{1:1}", b"{null:1}", b"['a']",
        b"01", b"-01", b"00", b"+1", b".5", b"1.", b"1.e1", b"1e", b"1e+", b"-", b"--1", b"0x10",
        b"1_0", b"1e1.5", b"0e", b"-.5", b"Inf", b"-nan", b"1L", b"\xd9\xa1", b"1\xd9\xa1",
        b'"\\x41"', b'"\\u12"', b'"\\u12G4"', b'"\\u+123"', b'"\\u 123"', b'"\\u1_23"', b'"\\"',
        b'"\\U0041"', b'"a\nb"', b'"\t"', b'"\x00"', b'"\x1f"', b'["\x01"]', b'{"\x02":1}',
        b"/*c*/1", b"1//c", b"#c\n1", b"\x0b1", b"\x0c1", b"\xc2\xa01", b"\xe2\x80\xa81",
        b"1\x00", b"\x001", b"\xef\xbb\xbf1", b"\xef\xbb\xbf{}", b"[]\xef\xbb\xbf",
        b"\xff\xfe1\x00", b"\xfe\xff\x001", "1".encode("utf-16"), "[]".encode("utf-32"),
        b"\xff", b'"\xff"', b'"\x80"', b'"\xc3"', b'"\xc0\x80"', b'"\xe0\x80\x80"',
        b'"\xed\xa0\x80"', b'"\xed\xa0\xbd\xed\xb8\x82"', b'"\xf4\x90\x80\x80"',
        b'"\xf5\x80\x80\x80"',
        b'{"a":"\xff","a":1}',
    ],
)  # fmt: skip
def test_parse_refuses_what_is_not_json(data: bytes) -> None:
    with pytest.raises(InvalidJSONError):
        jcs.parse(data)
    with pytest.raises(InvalidJSONError):
        jcs.canonicalize(data)


@pytest.mark.parametrize("data", ["{}", None, 1, [], bytearray(b"1"), memoryview(b"1")])
def test_parse_takes_bytes_only(data: Any) -> None:
    with pytest.raises(InvalidJSONError):
        jcs.parse(data)
    with pytest.raises(InvalidJSONError):
        jcs.canonicalize(data)


def _slow(data: bytes) -> Any:
    return _jcs_slow.parse(data, jcs.MAX_DEPTH, jcs.MAX_FIELDS)


# --- what parse accepts --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" [ ] ", []),
        ("\t\r\n{}\n", {}),
        ('""', ""),
        ("null", None),
        ("-0", 0),
        ("-0.0", -0.0),
        ("0e5", 0.0),
        ("1E2", 100.0),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", 1 - 2**53),
        ("9007199254740991.0", 2.0**53 - 1),
        ("1e21", 1e21),
        ("1e-400", 0.0),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("0.1000000000000000055511151231257827", 0.1),
        ('"\\u0000\\b\\/\\ud83d\\ude02"', "\x00\b/\U0001f602"),
        ('{"a":{"a":{"a":"a:a"}},"b:":[":"]}', {"a": {"a": {"a": "a:a"}}, "b:": [":"]}),
        ('{"\\u003a":"\\u003A"}', {":": ":"}),
        ('{"\\\\u003a":"\\\\u003a"}', {"\\u003a": "\\u003a"}),
        ('{"a":1,"A":2,"á":3,"a\\u0301":4}', {"a": 1, "A": 2, "\u00e1": 3, "a\u0301": 4}),
    ],
)
def test_parse_accepts(text: str, value: Any) -> None:
    for found in (jcs.parse(text.encode()), jcs.canonicalize(text.encode())[0]):
        assert found == value
        assert type(found) is type(value)


def test_parse_tells_booleans_from_numbers() -> None:
    assert [type(item) for item in jcs.parse(b"[true,1,1.0,false,0]")] == [
        bool,
        int,
        float,
        bool,
        int,
    ]


# --- limits --------------------------------------------------------------------------------


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" * (opening != "[") + closing * depth).encode()


def test_nesting_up_to_the_limit_is_read_and_beyond_it_refused() -> None:
    jcs.parse(nested(64))
    jcs.parse(nested(64, '{"a":', "}"))
    with pytest.raises(InvalidJSONError) as caught:
        jcs.parse(nested(65))
    assert caught.value.pointer == "/0" * 64
    with pytest.raises(InvalidJSONError) as caught:
        jcs.parse(nested(65, '{"a":', "}"))
    assert caught.value.pointer == "/a" * 64
    jcs.parse(b"1", max_depth=0)
    jcs.parse(nested(3), max_depth=3)
    for depth in (0, 2):
        with pytest.raises(InvalidJSONError):
            jcs.parse(nested(3), max_depth=depth)


@pytest.mark.parametrize("depth", [900, 1024, 1025, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[", "")])
def test_deep_nesting_is_our_error_and_never_a_recursion_error(
    depth: int, opening: str, closing: str
) -> None:
    with pytest.raises(InvalidJSONError):
        jcs.parse(nested(depth, opening, closing))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("1", 1),
        ("[1,2,3]", 1),
        ("{}", 1),
        ('{"a":{}}', 1),
        ('{"a":1,"b":{"c":2,"d":{},"e":[{"f":1,"g":2},3]}}', 4),
        ('{"a":{"b":{"c":{"d":1}}}}', 1),
    ],
)
def test_fields_are_scalars_arrays_and_empty_objects(text: str, fields: int) -> None:
    data = text.encode()
    assert jcs.parse(data, max_fields=fields) == _slow(data)
    for parse in (jcs.parse, jcs.canonicalize):
        with pytest.raises(InvalidJSONError) as caught:
            parse(data, max_fields=fields - 1)
        assert caught.value.pointer == ""


def test_field_limit_counts_no_array_elements() -> None:
    jcs.parse(json.dumps([0] * 10_000).encode())
    jcs.parse(json.dumps({str(i): 0 for i in range(4096)}).encode())
    with pytest.raises(InvalidJSONError):
        jcs.parse(json.dumps({str(i): 0 for i in range(4097)}).encode())


def test_pointers_in_errors_stay_short_and_printable() -> None:
    """They end up in trailers of a few kilobytes."""
    name = "n" * 5000
    with pytest.raises(InvalidJSONError) as caught:
        jcs.parse(json.dumps({"a": {name: [1e400]}}).encode().replace(b"Infinity", b"1e400"))
    assert caught.value.pointer == "/a"


# --- encode --------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Text(str):
    __slots__ = ()


class Words(enum.StrEnum):
    ONE = "one"


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (2**53, ""),
        ({"a": [-(2**53)]}, "/a/0"),
        (2**70, ""),
        (math.nan, ""),
        ({"a": {"b": math.inf}}, "/a/b"),
        (-math.inf, ""),
        ("\ud800", ""),
        ({"a": ["x", "\udfff"]}, "/a/1"),
        ({"a": {"\ud800": 1}}, "/a"),
        ({1: 2}, ""),
        ({"a": {None: 2}}, "/a"),
        ({"a": {True: 2}}, "/a"),
        ({"a": {b"b": 2}}, "/a"),
        (b"bytes", ""),
        ([bytearray(b"")], "/0"),
        ({1, 2}, ""),
        (1j, ""),
        (object, ""),
        ([uuid.UUID(int=0)], "/0"),
        ([Colour.RED], "/0"),
        ([Words.ONE], "/0"),
        ([Text("x")], "/0"),
        ({Text("x"): 1}, ""),
        ({1.5: {}}, ""),
    ],
)
def test_encode_names_the_place_of_what_is_not_json(value: Any, pointer: str) -> None:
    with pytest.raises(InvalidJSONError) as caught:
        jcs.encode(value)
    assert caught.value.pointer == pointer


def test_encode_refuses_deep_and_cyclic_values() -> None:
    value: Any = 1
    for _ in range(jcs.MAX_ENCODE_DEPTH):
        value = [value]
    assert jcs.encode(value) == b"[" * 200 + b"1" + b"]" * 200
    floating: Any = 1.0
    for _ in range(jcs.MAX_ENCODE_DEPTH):
        floating = {"a": floating}
    assert jcs.encode(floating) == b'{"a":' * 200 + b"1" + b"}" * 200
    for deep in ([value], [floating]):
        with pytest.raises(InvalidJSONError):
            jcs.encode(deep)
    for _ in range(100_000):
        value = [value]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for endless in (value, cyclic):
        with pytest.raises(InvalidJSONError):
            jcs.encode(endless)


def test_encode_sorts_by_utf16_code_units() -> None:
    assert jcs.encode({"\ufb33": 1, "\U0001f602": 2}) == '{"\U0001f602":2,"\ufb33":1}'.encode()
    assert jcs.encode({"\ue000": 1, "\uffff": 2, "é": 3, "z": 4}) == (
        '{"z":4,"é":3,"\ue000":1,"\uffff":2}'.encode()
    )
    assert jcs.encode({"a\U00010000": 1, "a\uffff": {"\uffff": 1, "\U0010ffff": 2}}) == (
        '{"a\U00010000":1,"a\uffff":{"\U0010ffff":2,"\uffff":1}}'.encode()
    )


def test_encode_escapes_only_what_it_must() -> None:
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x10FFFF)))
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    want = "".join(
        short.get(ord(char)) or (f"\\u{ord(char):04x}" if char < " " else char) for char in every
    )
    assert jcs.encode(every) == f'"{want}"'.encode()
    assert jcs.encode({every: 1.0}) == f'{{"{want}":1}}'.encode()


def test_encode_takes_tuples_as_arrays() -> None:
    assert jcs.encode((1, ("a", {"b": (1.0,)}))) == b'[1,["a",{"b":[1]}]]'


# --- fast against slow ---------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**54), 2**54)
    | st.floats()
    | st.floats(-1e6, 1e6)
    | st.integers(-1000, 1000).map(float)
    | st.text(st.characters(exclude_categories=[]), max_size=6)
    | st.sampled_from([":", "\\", "\\u003a", "::", "\U0001f602", "\ufb33", "\ud800", 1e16, 2.0**53])
)
KEYS = st.text(max_size=3) | st.sampled_from(["a", "b", ":", "\U0001f602", "\ufb33", "\ue000"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def outcome(call: Any, *arguments: Any) -> tuple[Any, ...]:
    """What came out, with types (1 and 1.0 differ), or what the error says."""
    try:
        return ("value", _typed(call(*arguments)))
    except InvalidJSONError as error:
        return ("error", error.message, error.pointer)


def _typed(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return (type(value).__name__, repr(value))


@given(VALUES)
@example({"a": 1e-7})
@example({"a": 1e-6})
@example({"a": 1e-5})
@example({"a": 0.00009999})
@example({"a": 123456789012345.6, "b": -0.0001})
@example([1e-7, 1e-6, 1e15, 1e16, 1e20, 1e21, -0.0])
def test_encode_gives_what_the_slow_path_gives(value: Any) -> None:
    assert outcome(jcs.encode, value) == outcome(_jcs_slow.encode, value, jcs.MAX_ENCODE_DEPTH)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_encode_writes_floats_as_rfc8785_and_reads_them_back(number: float) -> None:
    written = jcs.encode([number])
    assert written == rfc8785.dumps([number])
    assert float(json.loads(written)[0]) == number


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1e-9, 1.5e-5, 1e15 + 0.5, 1.0, -0.0, 5e-324, -1e-7, -0.000012]},
        {"a": [2.0**53, 1e16, -1.25e20, 1e21, -1.7976931348623157e308], "b": [[], {}, ()]},
        {"\U0001f602": 0, "\ufb33": 1, "a": {"\ue000": [0], "\U0001f602": [1]}},
    ],
)
def test_unusual_numbers_and_names_are_not_written_the_slow_way(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of them among a megabyte of others, each encoding of a draft would take a second."""
    want = _jcs_slow.encode(value, jcs.MAX_ENCODE_DEPTH)

    def refuse(*_: Any) -> Any:
        raise AssertionError("slow path taken")

    monkeypatch.setattr(_jcs_slow, "encode", refuse)
    assert jcs.encode(value) == want


@pytest.mark.parametrize(
    "element",
    ["[1e-9]", "[]", "{}", "[[]]", '{"":[]}', '"[1.0,"', "1.0", "[" * 40 + "1e-5" + "]" * 40],
)
@pytest.mark.parametrize(
    "start",
    [
        "",
        '"\\"",',
        '"\\u003a\\\\u003a\\\\\\u003A",',
        '1e99,0.1111111111111111111111,1.0e00000000000000000000001,"1111111111111111111111",',
        '{"\U0001f602":1,"\ufb33":2.0},',
    ],
)
def test_many_values_are_looked_over_and_written_as_text(
    element: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a million of them, each in a call of its own, took seconds: a flush, longer than the
    ledger waits for the witness."""
    data = f'{{"b":[{start}{",".join([element] * 2500)}],"a":1}}'.encode()
    value = _slow(data)
    want = _jcs_slow.encode(value, jcs.MAX_ENCODE_DEPTH)
    walked = []

    class Counted(frozenset[Any]):
        def __contains__(self, kind: object) -> bool:
            walked.append(kind)
            return super().__contains__(kind)

    def refuse(*_: Any) -> Any:
        raise AssertionError("slow path taken")

    monkeypatch.setattr(jcs, "_LEAVES", Counted(jcs._LEAVES))
    monkeypatch.setattr(_jcs_slow, "parse", refuse)
    monkeypatch.setattr(_jcs_slow, "encode", refuse)
    assert jcs.canonicalize(data) == (value, want)
    assert jcs.parse(data) == value
    # To look at the elements of one array, twice; and at nothing in them.
    assert len(walked) < 10_000
    walked.clear()
    assert jcs.encode_parsed(value) == want
    assert not walked


@pytest.mark.parametrize("count", [1, 3000])
@pytest.mark.parametrize(
    "number",
    [
        "1" + "0" * 21,
        "9" * 21,
        "-999999999999999999099",
        "1" * 22,
        "-" + "9" * 40,
        "1e20",
        "-9007199254740992.0",
        "1e16",
        "1e400",
    ],
)
def test_integers_too_big_are_refused_among_many_values(number: str, count: int) -> None:
    for neighbour in ("1e99", "[1]"):
        data = f"[{number},{','.join([neighbour] * count)}]".encode()
        with pytest.raises(InvalidJSONError) as caught:
            jcs.canonicalize(data)
        assert caught.value.pointer == "/0"
        with pytest.raises(InvalidJSONError) as caught:
            jcs.parse(data)
        assert caught.value.pointer == "/0"


@pytest.mark.parametrize("number", ["1e99", "1e-9"])
def test_a_string_of_escapes_takes_no_memory_of_its_own(number: str) -> None:
    """Whoever looks for its end by a pattern must not remember each of them."""
    data = f'{{"a":"{chr(92) + "n"}","b":{number}}}'.replace("\\n", "\\n" * 500_000).encode()
    tracemalloc.start()
    try:
        value, canonical = jcs.canonicalize(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (value["a"], canonical[:10]) == ("\n" * 500_000, data[:10])
    assert peak < 16 * len(data)


def test_strings_of_digits_are_no_numbers() -> None:
    """Searched for one from each of its digits, a megabyte of them would take hours."""
    for text in ("1" * 1_000_000, "1.0e5" * 200_000, '\\"1.0' * 100_000):
        value: Any = {"a": [text, 1e-9], "\U0001f602": {text: 1e99}, "\ufb33": [[]] * 3000}
        data = jcs.encode_parsed(value)
        assert data == rfc8785.dumps(value)
        assert jcs.canonicalize(data) == (value, data)
        assert jcs.encode_parsed([text]) == rfc8785.dumps([text])


@pytest.mark.parametrize("opening", ["[", '{"]":'])
def test_nesting_is_counted_among_many_values(opening: str) -> None:
    closing = {"[": "]", "{": "}"}[opening[0]]
    many = ",".join(['["[[",1e-9]'] * 3000)
    for depth in (63, 64):
        data = f"[{many},{opening * depth}1{closing * depth}]".encode()
        if depth < 64:
            assert jcs.canonicalize(data)[0] == jcs.parse(data) == _slow(data)
        else:
            for read in (jcs.canonicalize, jcs.parse):
                with pytest.raises(InvalidJSONError):
                    read(data)


@st.composite
def floats_of_all_magnitudes(draw: st.DrawFn) -> float:
    """By their bits, by exponent, near the bounds of ECMA-262, integral, subnormal."""
    number = draw(
        st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", bits.to_bytes(8, "big"))[0])
        | st.builds(lambda digits, exponent: float(f"{digits}e{exponent}"),
                    st.integers(-(10**17), 10**17), st.integers(-345, 300))
        | st.sampled_from([1e-7, 1e-6, 1e-5, 1e-4, 1e15, 1e16, 2.0**53, 1e20, 1e21, 1e22, 5e-324,
                           2.2250738585072014e-308, 1.7976931348623157e308, -0.0])
        .flatmap(lambda bound: st.sampled_from(
            [bound, -bound, math.nextafter(bound, 0), math.nextafter(bound, math.inf)]))
        | st.integers(10**15, 10**22).map(float)
        | st.integers(1, 2**52).map(lambda steps: steps * 5e-324)
    )  # fmt: skip
    return number if math.isfinite(number) else 0.0


@settings(max_examples=300)
@given(st.lists(floats_of_all_magnitudes(), min_size=1, max_size=20))
def test_floats_of_all_magnitudes_are_written_as_rfc8785(numbers: list[float]) -> None:
    want = rfc8785.dumps(numbers)
    assert jcs.encode(numbers) == want
    assert jcs.encode_parsed(numbers) == want


@given(st.dictionaries(st.text(st.sampled_from("a\ud7ff\ue000\uffff\U00010000\U0010dfff\U0010e000\U0010ffff")
    | st.characters(exclude_categories=["Cs"])), st.floats(-10, 10)))  # fmt: skip
def test_names_from_everywhere_are_sorted_as_rfc8785(members: dict[str, float]) -> None:
    assert jcs.encode_parsed([members]) == rfc8785.dumps([members])


def test_what_is_unusual_is_looked_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = []
    scan = jcs._scan

    def counted(value: Any, *limits: Any) -> int:
        scanned.append(value)
        return scan(value, *limits)

    monkeypatch.setattr(jcs, "_scan", counted)
    assert jcs.canonicalize(b'{"b":[1e-9,{}],"a":1.0}')[1] == b'{"a":1,"b":[1e-9,{}]}'
    assert len(scanned) == 1


@given(VALUES)
def test_what_encode_writes_parse_reads_and_encode_writes_again(value: Any) -> None:
    try:
        written = jcs.encode(value)
        parsed = jcs.parse(written)
    except InvalidJSONError:
        return
    assert jcs.encode(parsed) == written
    assert jcs.canonicalize(written) == (parsed, written)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """JSON with everything that a writer may vary, duplicates and bad numbers included."""
    number = st.sampled_from(
        "0 -0 1 -1 1.0 1e2 1E-7 0.1 12345.678 9007199254740991 9007199254740992 9007199254740993.0 "
        "1e15 1e16 1e20 1e21 1e300 1e400 18446744073709551615 18446744073709551616 1e-400 NaN "
        "123456789012345678901 -Infinity 5e-324 0.30000000000000004".split()
    )
    char = st.sampled_from(
        ["a", "b", ":", ",", "\\u003a", "\\u003A", "\\u0061", "\\\\", '\\"', "\\/", "\\n", "é",
         "\\ud83d\\ude02", "\\ud800", "\\udc00", "😂", "\ufb33", "u003a", "{", "[", "\x7f"]
    )  # fmt: skip
    string = st.lists(char, max_size=4).map(lambda parts: '"' + "".join(parts) + '"')
    space = st.sampled_from(["", "", "", " ", "\n\t\r"])

    def value(depth: int) -> str:
        kind = draw(st.integers(0, 6 if depth < 4 else 3))
        pad = draw(space)
        if kind == 0:
            return pad + draw(number)
        if kind == 1:
            return draw(st.sampled_from(["true", "false", "null"])) + pad
        if kind <= 3:
            return pad + draw(string)
        count = draw(st.integers(0, 3))
        if kind == 4:
            return "[" + ",".join(value(depth + 1) for _ in range(count)) + pad + "]"
        members = (f"{draw(string)}{pad}:{value(depth + 1)}" for _ in range(count))
        return pad + "{" + ",".join(members) + "}"

    return value(0)


@given(json_texts())
@example('{"a":":","a":1}')
@example('{"a\\u003a":1,"b":2,"b":3}')
@example('{"a":"\\u003a\\u003a","b":{},"b":{}}')
def test_parse_gives_what_the_slow_path_gives(text: str) -> None:
    data = text.encode()
    want = outcome(_slow, data)
    assert outcome(jcs.parse, data) == want
    assert outcome(lambda: jcs.canonicalize(data)[0]) == want
    assert outcome(lambda: jcs.canonicalize(data)[1]) == outcome(lambda: jcs.encode(_slow(data)))


@given(json_texts())
@example('{"\ufb33":[1e-9],"\U0001f602":"\\\\\\"1.0","a":[1.0,-0.0,1e99]}')
@example('["1.0",1e99,"1111111111111111111111"]')
@example("[1e99,1111111111111111111111]")
def test_text_is_looked_over_and_written_as_the_slow_path_does(text: str) -> None:
    """What is usually done for large documents, for every document."""
    data = text.encode()
    want = outcome(_slow, data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jcs, "_MOST_WALKED", -1)
        patched.setattr(jcs, "_scan", lambda *_: jcs._MANY)
        assert outcome(jcs.parse, data) == want
        assert outcome(lambda: jcs.canonicalize(data)[0]) == want
    if want[0] == "value":
        value = _slow(data)
        assert jcs.encode_parsed(value) == _jcs_slow.encode(value, jcs.MAX_ENCODE_DEPTH)


DAMAGE = [b"", b'"', b":", b",", b"{", b"}", b"]", b"\\", b"\xff", b"0", b"e", b".", b"-", b"\x00"]


@given(json_texts(), st.data())
def test_parse_of_damaged_text_is_what_the_slow_path_says(text: str, data: st.DataObject) -> None:
    damaged = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        patch = data.draw(st.sampled_from(DAMAGE))
        damaged[place : place + data.draw(st.integers(0, 2))] = patch
    assert outcome(jcs.parse, bytes(damaged)) == outcome(_slow, bytes(damaged))


@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.integers(1, 25))
def test_both_readers_round_decimals_alike(number: float, digits: int) -> None:
    text = f"{number:.{digits}e}".encode()
    assert outcome(jcs.parse, text) == outcome(_slow, text)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"b":[true,null,"x:y"],"c":{"d":"http://e","f":1.5},"g":1.0}',
        '{"Zoë":"\\n\\u003c\\u00e9","k:":"v"}'.encode(),
        json.dumps({f"f{i}": [i, {"a": "b:c"}] for i in range(5000)}).encode(),
    ],
)
def test_ordinary_documents_take_the_fast_path(data: bytes, monkeypatch: Any) -> None:
    """Five to ten times as fast: this is what the hot path of an append relies on."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("slow path taken")

    monkeypatch.setattr(_jcs_slow, "parse", refuse)
    value = jcs.parse(data, max_fields=20_000)
    monkeypatch.setattr(_jcs_slow, "encode", refuse)
    assert jcs.canonicalize(data, max_fields=20_000) == (value, jcs.encode(value))
