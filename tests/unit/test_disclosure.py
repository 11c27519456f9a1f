"""Payload commitments: which fields there are, what they commit to, what opens them."""

from __future__ import annotations

import base64
import hashlib
import json
import tracemalloc
from contextlib import nullcontext
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import disclosure, jcs
from provledger.disclosure import Disclosure
from provledger.errors import InvalidJSONError, ReceiptFormatError, VerificationError

SECRET = bytes(range(32))

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "a/b", "a~b", "~1", "diff", ""]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    # Without the numbers that strict JSON refuses: integers beyond 2^53-1 in canonical form.
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda n: not 2**53 <= abs(n) < 1e21)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=20,
)


def pointers(value: Any, **options: Any) -> list[str]:
    return [pointer for pointer, _ in disclosure.walk(value, **options)]


def reference_digests(value: Any, secret: bytes, *, mutation: bool = False) -> list[bytes]:
    """The digest list by the words of the format, one step at a time and without any haste."""
    fields = dict(disclosure.walk(value, mutation=mutation))
    size = 8
    while size < len(fields):
        size *= 2
    length = 16 * len(fields) + 32 * (size - len(fields))
    stream = hashlib.shake_256(b"provledger/salts/v1\n" + secret).digest(length)
    digests = []
    for pointer in sorted(fields, key=lambda text: text.encode()):
        salt, stream = stream[:16], stream[16:]
        salt_text = base64.urlsafe_b64encode(salt).decode().rstrip("=")
        data = jcs.encode([salt_text, pointer, fields[pointer]])
        text = base64.urlsafe_b64encode(data).rstrip(b"=")
        digests.append(hashlib.sha256(text).digest())
    while stream:
        digests.append(stream[:32])
        stream = stream[32:]
    return sorted(digests)


class TestWalk:
    def test_scalars_arrays_and_empty_objects_are_fields(self) -> None:
        value = {"s": "x", "n": None, "a": [1, {"b": 2}], "e": {}, "o": {"i": True, "e": {}}}
        assert disclosure.walk(value) == [
            ("/a", [1, {"b": 2}]),
            ("/e", {}),
            ("/n", None),
            ("/o/e", {}),
            ("/o/i", True),
            ("/s", "x"),
        ]

    @pytest.mark.parametrize("value", [None, False, 7, "text", [], [1, 2], {}])
    def test_bare_scalar_or_array_or_empty_object_is_one_field(self, value: Any) -> None:
        assert disclosure.walk(value) == [("", value)]

    def test_names_are_escaped_in_pointers(self) -> None:
        assert pointers({"a/b": 1, "c~d": {"~1": 2}, "": 3}) == ["/", "/a~1b", "/c~0d/~01"]

    def test_order_is_that_of_utf8_and_not_of_utf16(self) -> None:
        # U+FF61 is before U+1F600 in UTF-8, and behind it in UTF-16.
        assert pointers({"\U0001f600": 1, "\uff61": 2}) == ["/\uff61", "/\U0001f600"]

    def test_operations_of_a_mutation_are_fields(self) -> None:
        value = {"entityId": "x", "diff": [{"op": "remove", "path": "/a"}] * 11}
        found = pointers(value, mutation=True)
        assert found[:4] == ["/diff/0", "/diff/1", "/diff/10", "/diff/2"]
        assert found[-1] == "/entityId"
        assert pointers(value) == ["/diff", "/entityId"]

    @pytest.mark.parametrize("diff", [[], {"a": 1}, "text", None])
    def test_a_diff_that_is_no_list_of_operations_is_walked_as_anything_else(
        self, diff: Any
    ) -> None:
        value = {"diff": diff, "x": 1}
        assert disclosure.walk(value, mutation=True) == disclosure.walk(value)

    def test_a_mutation_of_nothing_but_its_diff(self) -> None:
        assert pointers({"diff": [1, 2]}, mutation=True) == ["/diff/0", "/diff/1"]

    def test_4096_fields_are_the_limit(self) -> None:
        value = {f"f{index}": index for index in range(4096)}
        assert len(disclosure.walk(value)) == 4096
        with pytest.raises(InvalidJSONError, match="4096"):
            disclosure.walk(value | {"one more": 1})

    def test_operations_count_as_fields(self) -> None:
        operations = [{"op": "remove", "path": "/a"}] * 4096
        assert len(disclosure.walk({"diff": operations}, mutation=True)) == 4096
        with pytest.raises(InvalidJSONError, match="4096"):
            disclosure.walk({"diff": operations, "x": 1}, mutation=True)

    @pytest.mark.parametrize("name", ["k", "\u00fc", "\U0001f600", "/"])
    def test_pointers_of_all_fields_together_are_bounded(self, name: str) -> None:
        """Counted in UTF-8, as written, with each name above a field once for each field."""
        name *= 4096 // len(name.replace("/", "~1").encode())
        inner = {f"{index:04}": index for index in range(1021)}
        value = {name: inner, "rest": 0}
        used = sum(len(pointer.encode()) for pointer in pointers(value))
        room = disclosure.MAX_POINTER_BYTES - used
        longest = "rest" + "x" * room
        assert len(disclosure.walk({name: inner, longest: 0})) == 1022
        with pytest.raises(InvalidJSONError, match="pointers are longer than 4194304 bytes"):
            disclosure.walk({name: inner, longest + "x": 0})

    @pytest.mark.parametrize("mutation", [False, True])
    def test_pointers_that_are_too_long_are_not_made_first(self, mutation: bool) -> None:
        value = {"diff": [1], "n" * 30_000: {str(index): 0 for index in range(4000)}}
        tracemalloc.start()
        try:
            with pytest.raises(InvalidJSONError, match="pointers"):
                disclosure.walk(value, mutation=mutation)
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()

    @given(values)
    def test_walk_agrees_with_the_parser_about_the_number_of_fields(self, value: Any) -> None:
        data = jcs.encode(value)
        try:
            parsed = jcs.parse(data)
        except InvalidJSONError:
            return
        count = len(disclosure.walk(parsed))
        jcs.parse(data, max_fields=count)
        with pytest.raises(InvalidJSONError):
            jcs.parse(data, max_fields=count - 1)


class TestCommitFields:
    @given(values, st.binary(min_size=32, max_size=32), st.booleans())
    def test_digests_are_those_of_the_format(
        self, value: Any, secret: bytes, mutation: bool
    ) -> None:
        expected = reference_digests(value, secret, mutation=mutation)
        assert disclosure.digest_list(value, secret, mutation=mutation) == expected
        count = len(expected).to_bytes(4, "big")
        root = hashlib.sha256(b"provledger/fields/v1\n" + count + b"".join(expected)).digest()
        made = disclosure.commit_fields(value, secret, mutation=mutation)
        assert (made.root, made.size, made.secret) == (root, len(expected), secret)
        assert made.profile == "fields-v1"

    @given(values)
    def test_canonical_text_in_place_of_a_value_changes_nothing(self, value: Any) -> None:
        fields = disclosure.walk(value)
        made = [(pointer, orjson.Fragment(jcs.encode(member))) for pointer, member in fields]
        assert disclosure.commit_walked(made, SECRET) == disclosure.commit_fields(value, SECRET)

    def test_each_secret_gives_another_root(self) -> None:
        roots = {disclosure.commit_fields({"a": 1}, bytes([n] * 32)).root for n in range(50)}
        assert len(roots) == 50

    @pytest.mark.parametrize(("count", "size"), [(1, 8), (8, 8), (9, 16), (16, 16), (4096, 4096)])
    def test_list_is_padded_to_a_power_of_two(self, count: int, size: int) -> None:
        assert disclosure.list_size(count) == size
        value = {f"f{index:04d}": index for index in range(count)}
        assert len(disclosure.digest_list(value, SECRET)) == size

    @pytest.mark.parametrize("length", [0, 16, 31, 33])
    def test_secret_of_another_length_is_refused(self, length: int) -> None:
        with pytest.raises(ReceiptFormatError, match="32 bytes"):
            disclosure.commit_fields({"a": 1}, bytes(length))

    def test_equal_values_look_different(self) -> None:
        digests = disclosure.digest_list({f"f{n}": "same" for n in range(8)}, SECRET)
        assert len(set(digests)) == 8


class TestDisclosures:
    @given(values, st.booleans())
    def test_every_field_opens_and_verifies(self, value: Any, mutation: bool) -> None:
        made = disclosure.disclose_all(value, SECRET, mutation=mutation)
        digests = disclosure.digest_list(value, SECRET, mutation=mutation)
        root = disclosure.commit_fields(value, SECRET, mutation=mutation).root
        shown = disclosure.verify_disclosures(root, [opened.text for opened in made], digests)
        fields = disclosure.walk(value, mutation=mutation)
        assert {p: jcs.encode(v) for p, v in shown.items()} == {p: jcs.encode(v) for p, v in fields}

    def test_a_disclosure_is_one_of_sd_jwt(self) -> None:
        (opened,) = disclosure.disclose_all("x", SECRET)
        padded = opened.text + "=" * (-len(opened.text) % 4)
        salt, pointer, value = json.loads(base64.urlsafe_b64decode(padded))
        assert (len(salt), pointer, value) == (22, "", "x")

    def test_any_subset_verifies(self) -> None:
        value = {"a": 1, "b": {"c": 2, "d": 3}}
        made = disclosure.disclose_all(value, SECRET)
        digests = disclosure.digest_list(value, SECRET)
        root = disclosure.commit_fields(value, SECRET).root
        assert disclosure.verify_disclosures(root, [], digests) == {}
        assert disclosure.verify_disclosures(root, [made[1].text], digests) == {"/b/c": 2}

    def test_the_deepest_array_that_can_be_committed_can_be_disclosed(self) -> None:
        value = jcs.parse(b"[" * 64 + b"]" * 64)
        (opened,) = disclosure.disclose_all(value, SECRET)
        assert disclosure.parse_disclosure(opened.text) == Disclosure(opened.text, "", value)

    @pytest.mark.parametrize(
        "data",
        [
            b"no json",
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a"]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a",1,2]',
            b'["AAAAAAAAAAAAAAAAAAAAA","/a",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA",7,1]',
            b'[7,"/a",1]',
            b'{"a":1}',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a",{"b":1,"b":2}]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a", 1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a",1.0]',
            b'["!!!!!!!!!!!!!!!!!!!!!!","/a",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAB","/a",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","a",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a~2",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a~",1]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/a",{"b":1}]',
        ],
        ids=lambda data: data.decode(),
    )
    def test_malformed_disclosure_is_refused(self, data: bytes) -> None:
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        with pytest.raises(ReceiptFormatError, match=r"commitment\.disclosures"):
            disclosure.parse_disclosure(text)

    @pytest.mark.parametrize(
        "data",
        [
            b'["AAAAAAAAAAAAAAAAAAAAAA","",1]',
            b'["_-AAAAAAAAAAAAAAAAAAAA","/a~0~1/\xc3\xa9",{}]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","/diff/0",{"op":"remove","path":"/a"}]',
            b'["AAAAAAAAAAAAAAAAAAAAAA","//",[{"b":1}]]',
        ],
        ids=lambda data: data.decode(),
    )
    def test_every_form_of_a_field_is_read(self, data: bytes) -> None:
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        assert disclosure.parse_disclosure(text).text == text

    def test_more_values_than_a_payload_has_are_refused_unparsed(self) -> None:
        """Or a few kilobytes, compressed, would take hundreds of megabytes."""
        data = b'["AAAAAAAAAAAAAAAAAAAAAA","/a",[%s[]]]' % (b"[]," * 1_000_000)
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        tracemalloc.start()
        try:
            with pytest.raises(ReceiptFormatError, match="too many values"):
                disclosure.parse_disclosure(text)
            assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("part", ["a", "~0", "~1"])
    def test_the_form_of_a_pointer_is_looked_at_in_little_memory(self, part: str) -> None:
        """Parsing takes 15 times the text; one expression for all of it took 65 to 125."""
        data = jcs.encode(["A" * 22, "/" + part * 1_000_000, 1])
        text = base64.urlsafe_b64encode(data).decode().rstrip("=")
        tracemalloc.start()
        try:
            disclosure.parse_disclosure(text)
            assert tracemalloc.get_traced_memory()[1] < 30 * len(data)
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("suffix", ["=", "==", "\n", " ", "*", "é"])
    def test_loose_base64_is_refused(self, suffix: str) -> None:
        (opened,) = disclosure.disclose_all("x", SECRET)
        disclosure.parse_disclosure(opened.text)
        with pytest.raises(ReceiptFormatError):
            disclosure.parse_disclosure(opened.text + suffix)

    def test_standard_alphabet_is_refused(self) -> None:
        secret = next(
            bytes([n] * 32)
            for n in range(256)
            if "-" in disclosure.disclose_all("???>>>", bytes([n] * 32))[0].text
        )
        text = disclosure.disclose_all("???>>>", secret)[0].text
        disclosure.parse_disclosure(text)
        with pytest.raises(ReceiptFormatError, match="loose"):
            disclosure.parse_disclosure(text.replace("-", "+"))


class TestVerifyDisclosures:
    VALUE = {"a": 1, "b": {"c": 2}}  # noqa: RUF012

    def setup_method(self) -> None:
        self.digests = disclosure.digest_list(self.VALUE, SECRET)
        self.root = disclosure.commit_fields(self.VALUE, SECRET).root
        self.texts = [opened.text for opened in disclosure.disclose_all(self.VALUE, SECRET)]

    def refuse(self, match: str, **changes: Any) -> None:
        given = {"root": self.root, "disclosures": self.texts, "digests": self.digests} | changes
        with pytest.raises(VerificationError, match=match):
            disclosure.verify_disclosures(**given)

    def test_list_must_make_the_root(self) -> None:
        self.refuse("does not make the root", root=bytes(32))

    def test_list_of_no_power_of_two_is_refused(self) -> None:
        self.refuse("wrong size", digests=self.digests[:-1])

    def test_short_digest_is_refused(self) -> None:
        self.refuse("wrong size", digests=[self.digests[0][:31], *self.digests[1:]])

    def test_unsorted_list_is_refused(self) -> None:
        self.refuse("not sorted", digests=self.digests[::-1])

    def test_repeated_digest_is_refused(self) -> None:
        self.refuse("not sorted", digests=[self.digests[0], *self.digests[:-1]])

    def test_disclosure_under_another_salt_is_refused(self) -> None:
        other = disclosure.disclose_all(self.VALUE, bytes(32))[0].text
        self.refuse("a disclosure is not committed", disclosures=[other])

    def test_what_nobody_committed_to_is_neither_read_nor_told(self) -> None:
        """It may be as long as a receipt, and anybody can put it into one."""
        pointer = "/" * 3_000_000
        text = base64.urlsafe_b64encode(jcs.encode(["A" * 22, pointer, 1])).decode().rstrip("=")
        tracemalloc.start()
        try:
            with pytest.raises(VerificationError, match="a disclosure is not committed") as caught:
                disclosure.verify_disclosures(self.root, [text], self.digests)
            assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
        finally:
            tracemalloc.stop()
        assert len(str(caught.value)) < 100

    def test_what_is_no_ascii_is_not_committed_to(self) -> None:
        self.refuse("a disclosure is not committed", disclosures=["\u00e9", *self.texts])

    def test_repeated_disclosure_is_refused(self) -> None:
        self.refuse("twice", disclosures=[self.texts[0], self.texts[0]])

    def test_two_values_of_one_pointer_by_a_dishonest_committer_are_refused(self) -> None:
        salts = ["A" * 22, "Q" * 22]
        self._refuse_committed([[salts[0], "/a", 1], [salts[1], "/a", 2]], "twice")

    @pytest.mark.parametrize("inner", ["/a/b", "/a/b/c", "/a/"])
    def test_conflicting_pointers_by_a_dishonest_committer_are_refused(self, inner: str) -> None:
        self._refuse_committed([["A" * 22, "/a", {}], ["Q" * 22, inner, 2]], "conflicts")

    def test_whole_document_beside_a_field_is_refused(self) -> None:
        self._refuse_committed([["A" * 22, "", {}], ["Q" * 22, "/a", 2]], "conflicts")

    @pytest.mark.parametrize("inner", ["/a", "/a/b"])
    def test_a_long_pointer_is_not_told_in_full(self, inner: str) -> None:
        outer, inner = (f"/{'x' * 1_000_000}{pointer}" for pointer in ("/a", inner))
        texts, digests, root = self._committed([["A" * 22, outer, {}], ["Q" * 22, inner, 2]])
        with pytest.raises(VerificationError, match="xxx") as caught:
            disclosure.verify_disclosures(root, texts, digests)
        assert len(str(caught.value)) < 3000

    @pytest.mark.parametrize("other", ["/ab", "/a!", "/a\0", "/a~1b", "//a"])
    def test_neighbours_with_a_common_beginning_do_not_conflict(self, other: str) -> None:
        texts, digests, root = self._committed([["A" * 22, "/a", 1], ["Q" * 22, other, 2]])
        assert disclosure.verify_disclosures(root, texts, digests) == {"/a": 1, other: 2}

    @pytest.mark.parametrize("between", ["/a!", "/a\0", "/a b", "/a-", "/ab"])
    def test_conflict_is_found_whatever_stands_between(self, between: str) -> None:
        """`!` and others are before `/` in UTF-8."""
        arrays: list[list[Any]] = [["A" * 22, "/a", {}], ["Q" * 22, "/a/b", 1]]
        arrays.append(["g" * 22, between, 2])
        self._refuse_committed(arrays, "'/a/b' conflicts with '/a'")

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("pointer", ["/" * 65, "/" * 3_000_000])
    def test_a_pointer_deeper_than_a_payload_may_be_is_refused(self, pointer: str) -> None:
        with pytest.raises(ReceiptFormatError, match="nested deeper than 64"):
            self._verify([["A" * 22, pointer, 1]])

    @pytest.mark.parametrize(("above", "arrays"), [(0, 64), (1, 63), (62, 2), (64, 0)])
    def test_nesting_is_counted_from_the_payload_on(self, above: int, arrays: int) -> None:
        """What is above a value counts, as it does where the payload is shown in full."""
        pointer = "/a" * above
        for more, refused in ((0, False), (1, True)):
            value: Any = 1
            for _ in range(arrays + more):
                value = [value]
            check = pytest.raises(ReceiptFormatError, match=r"deeper|no JSON")
            with check if refused else nullcontext():
                assert list(self._verify([["A" * 22, pointer, value]])) == [pointer]

    @pytest.mark.parametrize("name", ["k", "\u00fc", "\U0001f600"])
    def test_pointers_of_what_is_shown_are_bounded_together(self, name: str) -> None:
        room = disclosure.MAX_POINTER_BYTES - 2
        long = name * ((room // 2 - 8) // len(name.encode()))
        rest = "x" * (room - 2 * len(long.encode()) - 1)
        arrays: list[list[Any]] = [["A" * 22, f"/{long}", 1], ["Q" * 22, f"/{long}{rest}x", 2]]
        assert len(self._verify(arrays)) == 2
        arrays[1][1] += "x"
        with pytest.raises(VerificationError, match="pointers"):
            self._verify(arrays)

    def test_a_list_for_more_fields_than_a_payload_may_have_is_refused(self) -> None:
        digests = sorted(hashlib.sha256(n.to_bytes(2, "big")).digest() for n in range(8192))
        root = disclosure._fields_root(digests)
        self.refuse("wrong size", root=root, disclosures=[], digests=digests)
        assert (
            disclosure.verify_disclosures(
                disclosure._fields_root(digests[:4096]), [], digests[:4096]
            )
            == {}
        )

    def _verify(self, arrays: list[list[Any]]) -> dict[str, Any]:
        texts, digests, root = self._committed(arrays)
        return disclosure.verify_disclosures(root, texts, digests)

    def _refuse_committed(self, arrays: list[list[Any]], match: str) -> None:
        texts, digests, root = self._committed(arrays)
        self.refuse(match, root=root, disclosures=texts, digests=digests)

    def _committed(self, arrays: list[list[Any]]) -> tuple[list[str], list[bytes], bytes]:
        texts = [
            base64.urlsafe_b64encode(jcs.encode(array)).decode().rstrip("=") for array in arrays
        ]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        digests += [hashlib.sha256(bytes([n])).digest() for n in range(8 - len(digests))]
        digests.sort()
        root = hashlib.sha256(
            b"provledger/fields/v1\n" + (8).to_bytes(4, "big") + b"".join(digests)
        ).digest()
        return texts, digests, root


class TestCommitBlob:
    def test_root_is_that_of_the_format(self) -> None:
        made = disclosure.commit_blob("text/plain", b"hello", bytes(16))
        preimage = b"provledger/blob/v1\n" + bytes(16) + b"\0\0\0\x0atext/plain"
        preimage += (5).to_bytes(8, "big") + b"hello"
        assert made.root == hashlib.sha256(preimage).digest()
        assert (made.profile, made.size, made.secret) == ("blob-v1", 0, bytes(16))

    def test_type_and_bytes_do_not_run_into_each_other(self) -> None:
        one = disclosure.commit_blob("text/plain", b"x", bytes(16))
        other = disclosure.commit_blob("text/plainx", b"", bytes(16))
        assert one.root != other.root

    @pytest.mark.parametrize("length", [0, 15, 17, 32])
    def test_salt_of_another_length_is_refused(self, length: int) -> None:
        with pytest.raises(ReceiptFormatError, match="16 bytes"):
            disclosure.commit_blob("text/plain", b"x", bytes(length))


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain_values, st.booleans())
def test_plain_values_are_committed_to_alike_in_both_ways(value: Any, mutation: bool) -> None:
    """Where `jcs.canonical_part` has an answer, it is RFC 8785's and the quick way is right."""
    payload = {"diff": [value, {"op": "add", "value": value}], "a": value}
    text = jcs.canonical_part(payload)
    if text is None:
        return
    assert text == jcs.encode(payload)
    assert jcs.parse(text) == payload
    secret = bytes(32)
    quick = disclosure.commit_fields(payload, secret, mutation=mutation, plain=True)
    assert quick == disclosure.commit_fields(payload, secret, mutation=mutation)
