"""The witness's rules for drafts: patches that it makes, and those that it is given."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from provledger import _jcs_text, disclosure, jcs, patch
from provledger.errors import InvalidArgumentError
from tests.support.witness_drafts import (
    MARKER,
    SECRET,
    mutation,
    payload_of,
    refused,
)
from witness_svc.checks import check
from witness_svc.patches import MAX_MADE_OPERATIONS, first_difference


class TestPatchMade:
    @pytest.mark.parametrize(
        ("previous", "new"),
        [
            (b"[1]", b"[true]"),
            (b'{"a":[1]}', b'{"a":[true]}'),
            (b'{"a":0}', b'{"a":false}'),
            (b"[0,1]", b"[false,true]"),
            (b'{"a":[1,2,3]}', b'{"a":[3,2,1]}'),
            (b'{"a":{"b":1}}', b'{"a":[{"b":1}]}'),
            (b'{"":1}', b'{"":2}'),
            (b'{"a/b":1,"c~d":2}', b'{"a/b":2,"c~d":3}'),
            (b'{"0":1}', b"[1]"),
            (b'"text"', b"7"),
            (b'{"a":null}', b'{"b":null}'),
        ],
    )
    def test_changes_that_other_makers_lose(self, previous: bytes, new: bytes) -> None:
        payload = payload_of(check(mutation("UPDATE", previous, new)))
        result = patch.apply(payload["previousState"], payload["diff"])
        assert jcs.encode(result) == jcs.canonicalize(new)[1]

    def test_small_changes_make_small_patches(self) -> None:
        payload = payload_of(
            check(
                mutation(
                    "UPDATE",
                    b'{"a":1,"b":{"c":[1,2,3,4],"d":5},"e":6}',
                    b'{"a":1,"b":{"c":[1,2,9,3,4],"d":5},"f":7}',
                )
            )
        )
        assert sorted(payload["diff"], key=lambda step: step["path"]) == [
            {"op": "add", "path": "/b/c/2", "value": 9},
            {"op": "remove", "path": "/e"},
            {"op": "add", "path": "/f", "value": 7},
        ]

    def test_a_long_patch_gives_way_to_the_whole_document(self) -> None:
        def state(value: int, members: int) -> bytes:
            return orjson.dumps({f"f{index}": value for index in range(members)})

        most = MAX_MADE_OPERATIONS
        payload = payload_of(check(mutation("UPDATE", state(1, most), state(2, most))))
        assert len(payload["diff"]) == most
        payload = payload_of(check(mutation("UPDATE", state(1, most + 1), state(2, most + 1))))
        assert [step["path"] for step in payload["diff"]] == [""]

    @pytest.mark.parametrize("added", [1, MAX_MADE_OPERATIONS + 1])
    def test_a_state_is_written_once_however_it_changes(
        self, added: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Odd numbers are slow to write: a flush of them outlasted the ledger's time for it."""
        encoded: list[Any] = []
        unusual: list[bytes] = []
        encode_parsed, canonical = jcs.encode_parsed, _jcs_text.canonical

        def counted_encode(value: Any) -> bytes:
            encoded.append(value)
            return encode_parsed(value)

        def counted_canonical(written: bytes) -> bytes:
            if b"e-9" in written:
                unusual.append(written)
            return canonical(written)

        previous = [1e-9] * 1000
        new = [*previous, *range(added)]
        texts = [orjson.dumps(state) for state in (previous, new)]
        draft = mutation("UPDATE", *texts)
        monkeypatch.setattr(jcs, "encode_parsed", counted_encode)
        monkeypatch.setattr(_jcs_text, "canonical", counted_canonical)
        checked = check(draft)
        assert checked.fields is not None
        commitment = disclosure.commit_walked(checked.fields, SECRET)
        assert unusual == texts
        assert encoded == [{"op": "add", "path": "/1000", "value": 0}][: added == 1]
        payload = jcs.parse(checked.payload)
        assert payload["newState"] == new
        assert len(payload["diff"]) == 1
        assert commitment == disclosure.commit_fields(payload, SECRET, mutation=True)


class TestPatchGiven:
    @pytest.mark.parametrize(
        ("action", "previous", "new", "diff"),
        [
            ("UPDATE", '{"a":1}', '{"a":2}', '[{"op":"replace","path":"/a","value":2}]'),
            # Longer than it need be, and stored all the same.
            (
                "UPDATE",
                '{"a":1}',
                '{"b":1}',
                '[{"op":"test","path":"/a","value":1.0},{"op":"copy","from":"/a","path":"/b"},'
                '{"op":"remove","path":"/a"}]',
            ),
            ("UPDATE", '{"a":1}', '{"b":1}', '[{"op":"move","from":"/a","path":"/b"}]'),
            ("UPDATE", "[1]", "[true]", '[{"op":"replace","path":"/0","value":true}]'),
            ("UPDATE", '{"a":1}', '{"a":2}', '[{"op":"replace","path":"/a","value":2.0}]'),
            ("CREATE", "", '{"a":1}', '[{"op":"add","path":"","value":{"a":1}}]'),
            (
                "CREATE",
                "",
                '{"a":1}',
                '[{"op":"replace","path":"","value":{}},{"op":"add","path":"/a","value":1}]',
            ),
            ("CREATE", "", "1", '[{"from":null,"op":"replace","path":"","value":1}]'),
            ("DELETE", '{"a":1}', "", '[{"op":"replace","path":"","value":null}]'),
            # What a replacement replaces may be said, in whatever canonical spelling.
            (
                "UPDATE",
                '{"a":1,"b":{"c":[1]}}',
                '{"a":3,"b":0}',
                '[{"op":"replace","path":"/a","from":1.0,"value":2},'
                '{"op":"replace","path":"/a","from":2,"value":3},'
                '{"op":"replace","path":"/b","from":{"c":[1]},"value":0}]',
            ),
            # And what a removal removes.
            (
                "UPDATE",
                '{"a":1,"b":{"c":[1]}}',
                '{"a":1}',
                '[{"op":"remove","path":"/b","from":{"c":[1.0]}}]',
            ),
            # An unknown member of another operation is ignored, and kept.
            (
                "UPDATE",
                "{}",
                '{"a":1}',
                '[{"op":"add","path":"/a","value":1,"from":"/zzz","note":"why"}]',
            ),
        ],
    )
    def test_a_right_patch_is_stored_as_given(
        self, action: str, previous: str, new: str, diff: str
    ) -> None:
        checked = check(mutation(action, previous.encode(), new.encode(), diff.encode()))
        assert jcs.encode(payload_of(checked)["diff"]) == jcs.canonicalize(diff.encode())[1]
        assert checked.fields is not None
        expected = disclosure.commit_fields(jcs.parse(checked.payload), SECRET, mutation=True)
        assert disclosure.commit_walked(checked.fields, SECRET) == expected

    @pytest.mark.parametrize(
        ("previous", "new", "diff", "reason", "pointer", "index"),
        [
            # malformed
            ('{"a":1}', '{"a":2}', "{}", "PATCH_DOES_NOT_APPLY", "", None),
            ('{"a":1}', '{"a":2}', "null", "PATCH_DOES_NOT_APPLY", "", None),
            ('{"a":1}', '{"a":2}', "[7]", "PATCH_DOES_NOT_APPLY", None, "0"),
            ('{"a":1}', '{"a":2}', '[{"op":"put","path":"/a"}]', "PATCH_DOES_NOT_APPLY", None, "0"),
            ('{"a":1}', '{"a":2}', '[{"op":"remove"}]', "PATCH_DOES_NOT_APPLY", None, "0"),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","from":1,"value":2}]',
                "PATCH_DOES_NOT_APPLY",
                None,
                "0",
            ),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","path":7,"from":1,"value":2}]',
                "PATCH_DOES_NOT_APPLY",
                None,
                "0",
            ),
            # does not apply
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"test","path":"/a","value":1},{"op":"replace","path":"/b","value":2}]',
                "PATCH_DOES_NOT_APPLY",
                "/b",
                "1",
            ),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","path":"/b","from":1,"value":2}]',
                "PATCH_DOES_NOT_APPLY",
                "/b",
                "0",
            ),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"test","path":"/a","value":true},{"op":"replace","path":"/a","value":2}]',
                "PATCH_DOES_NOT_APPLY",
                "/a",
                "0",
            ),
            ('{"a":1}', "", '[{"op":"remove","path":""}]', "PATCH_DOES_NOT_APPLY", "", "0"),
            # does something else
            ('{"a":1}', '{"a":2}', "[]", "PATCH_RESULT_DIFFERS", "/a", None),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","path":"/a","value":3}]',
                "PATCH_RESULT_DIFFERS",
                "/a",
                None,
            ),
            (
                '{"a":[0,{"b~c":0}]}',
                '{"a":[0,{"b~c":1}]}',
                '[{"op":"replace","path":"/a/1/b~0c","value":true}]',
                "PATCH_RESULT_DIFFERS",
                "/a/1/b~0c",
                None,
            ),
            (
                '{"a":1}',
                '{"a":1,"b":2}',
                '[{"op":"add","path":"/c","value":2}]',
                "PATCH_RESULT_DIFFERS",
                "/b",
                None,
            ),
            (
                "[1,2]",
                "[1,2,3]",
                '[{"op":"add","path":"/-","value":3},{"op":"add","path":"/-","value":4}]',
                "PATCH_RESULT_DIFFERS",
                "/3",
                None,
            ),
            # is not what stood there
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","path":"/a","from":true,"value":2}]',
                "PATCH_FROM_DIFFERS",
                "/a",
                "0",
            ),
            (
                '{"a":1}',
                '{"a":3}',
                '[{"op":"test","path":"/a","value":1},'
                '{"op":"replace","path":"/a","from":1,"value":2},'
                '{"op":"replace","path":"/a","from":1,"value":3}]',
                "PATCH_FROM_DIFFERS",
                "/a",
                "2",
            ),
            (
                '{"a":1,"b":1000}',
                '{"a":1}',
                '[{"op":"remove","path":"/b","from":5}]',
                "PATCH_FROM_DIFFERS",
                "/b",
                "0",
            ),
            (
                '{"a":1}',
                '{"a":2}',
                '[{"op":"replace","path":"","from":{"a":"hush-4711"},"value":{"a":2}}]',
                "PATCH_FROM_DIFFERS",
                "",
                "0",
            ),
        ],
    )
    def test_a_wrong_patch_is_refused(
        self,
        previous: str,
        new: str,
        diff: str,
        reason: str,
        pointer: str | None,
        index: str | None,
    ) -> None:
        action = "UPDATE" if new else "DELETE"
        draft = mutation(action, previous.encode(), new.encode(), diff.encode())
        error = refused(draft, reason, "mutation.diff")
        assert error.metadata.get("pointer") == pointer
        assert error.metadata.get("index") == index

    @pytest.mark.parametrize("op", ["replace", "remove"])
    def test_an_operation_without_a_path_is_told_so(self, op: str) -> None:
        """Also where it tells what was there, for which a test is put before it."""
        for told in ({}, {"from": 1}):
            diff = orjson.dumps([{"op": op, "value": 2, **told}])
            error = refused(
                mutation("UPDATE", b'{"a":1}', b'{"a":2}', diff),
                "PATCH_DOES_NOT_APPLY",
                "mutation.diff",
            )
            assert "operation 0: path is missing" in error.message

    def test_a_value_in_a_wrong_patch_is_not_told(self) -> None:
        state = orjson.dumps({"a": MARKER})
        for diff in (
            [{"op": "replace", "path": "/a", "value": f"{MARKER}!"}],
            [{"op": "replace", "path": "/a", "from": f"{MARKER}!", "value": 1}],
            [{"op": "remove", "path": "/a", "from": f"{MARKER}!"}],
            [{"op": "test", "path": "/a", "value": f"{MARKER}!"}],
            [{"op": MARKER, "path": "/a"}],
            [MARKER],
        ):
            draft = mutation("UPDATE", state, b'{"a":1}', orjson.dumps(diff))
            with pytest.raises(InvalidArgumentError) as caught:
                check(draft)
            assert MARKER not in f"{caught.value} {caught.value.metadata} {caught.value.violations}"

    @pytest.mark.parametrize("copies", [14, 16, 17, 60])
    def test_a_patch_that_copies_without_end_is_refused_early(self, copies: int) -> None:
        double = [{"op": "copy", "from": "", "path": "/-"}] * copies
        last = {"op": "replace", "path": "", "value": 1}
        draft = mutation("UPDATE", b'["x"]', b"1", orjson.dumps([*double, last]))
        error = refused(draft, "PATCH_TOO_LARGE", "mutation.diff")
        assert "copies more than" in error.message

    def test_copies_are_bounded_by_what_was_given(self) -> None:
        state = {"a": "x" * 10_000}
        again = [{"op": "copy", "from": "/a", "path": "/b"}]
        end = [{"op": "remove", "path": "/b"}, {"op": "add", "path": "/c", "value": 1}]
        new = orjson.dumps(state | {"c": 1})
        check(mutation("UPDATE", orjson.dumps(state), new, orjson.dumps([*again * 12, *end])))
        draft = mutation("UPDATE", orjson.dumps(state), new, orjson.dumps([*again * 13, *end]))
        error = refused(draft, "PATCH_TOO_LARGE", "mutation.diff")
        assert error.metadata["index"] == "12"

    def test_a_value_may_be_kept_as_the_one_before_at_each_of_sixteen_steps(self) -> None:
        text = "x" * 10_000
        previous = {"now": {"n": 0, "text": text}, "before": None}
        new = {"now": {"n": 16, "text": text}, "before": {"n": 15, "text": text}}
        steps: list[Any] = []
        for step in range(1, 17):
            steps.append({"op": "copy", "from": "/now", "path": "/before"})
            steps.append({"op": "replace", "path": "/now/n", "value": step})
        check(mutation("UPDATE", *map(orjson.dumps, (previous, new, steps))))

    def test_copies_are_not_encoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Odd numbers are slow to write: this many copies of them would take seconds."""
        state = {"a": [1e-9] * 1000}
        end = [{"op": "remove", "path": "/b"}, {"op": "add", "path": "/c", "value": 1}]
        written: list[int] = []
        canonical = _jcs_text.canonical

        def counted(text: bytes) -> bytes:
            written.append(len(text))
            return canonical(text)

        monkeypatch.setattr(_jcs_text, "canonical", counted)
        for copies in (1, 10):
            written.clear()
            steps = [{"op": "copy", "from": "/a", "path": "/b"}] * copies
            given = orjson.dumps([*steps, *end])
            check(mutation("UPDATE", orjson.dumps(state), orjson.dumps(state | {"c": 1}), given))
            # Both states and the outcome.
            assert sum(length > 1000 for length in written) == 3

    @pytest.mark.parametrize("copies", [17, 600])
    def test_copies_are_not_counted(self, copies: int) -> None:
        steps = [{"op": "copy", "from": "/a", "path": f"/{index}"} for index in range(copies)]
        new = {"a": 1} | {str(index): 1 for index in range(copies)}
        check(mutation("UPDATE", b'{"a":1}', orjson.dumps(new), orjson.dumps(steps)))

    def test_the_state_is_not_measured_for_each_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Odd numbers are slow to write: sixteen times a megabyte of them took half a minute."""
        written = []
        canonical = _jcs_text.canonical

        def counted(text: bytes) -> bytes:
            written.append(len(text))
            return canonical(text)

        state = {"a": [1e-9] * 1000}
        new = state | {str(index): 1e-9 for index in range(16)}
        steps = [{"op": "copy", "from": "/a/0", "path": f"/{index}"} for index in range(16)]
        draft = mutation("UPDATE", orjson.dumps(state), orjson.dumps(new), orjson.dumps(steps))
        monkeypatch.setattr(_jcs_text, "canonical", counted)
        check(draft)
        assert sum(length > 1000 for length in written) < 6

    def test_a_patch_that_shifts_too_many_elements_is_refused_for_that(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patch, "MAX_SHIFTED_ELEMENTS", 300)
        steps = [{"op": "add", "path": "/0", "value": 1}, {"op": "remove", "path": "/1"}]
        state = b"[" + b"0," * 99 + b"2]"
        new = b"[1," + b"0," * 98 + b"2]"
        check(mutation("UPDATE", state, new, orjson.dumps(steps)))
        draft = mutation("UPDATE", state, new, orjson.dumps([*steps, *steps]))
        error = refused(draft, "PATCH_TOO_LARGE", "mutation.diff")
        assert error.metadata["index"] == "3"

    def test_a_patch_may_copy_what_ends_up_in_the_new_state(self) -> None:
        steps = [{"op": "copy", "from": "/a", "path": f"/{index}"} for index in range(16)]
        state = {"a": {"b": ["x" * 500]}}
        new = state | {str(index): state["a"] for index in range(16)}
        given = orjson.dumps([*steps[:8], {"op": "test", "path": "/7/b/0", "value": "x" * 500}])
        given = given[:-1] + b"," + orjson.dumps(steps[8:])[1:]
        check(mutation("UPDATE", orjson.dumps(state), orjson.dumps(new), given))

    def test_operations_are_counted_on_across_copies(self) -> None:
        steps = [
            {"op": "copy", "from": "/a", "path": "/b"},
            {"op": "replace", "path": "/b", "from": 1, "value": 2},
            {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "replace", "path": "/zzz", "from": 1, "value": 2},
        ]
        draft = mutation("UPDATE", b'{"a":1}', b"1", orjson.dumps(steps))
        error = refused(draft, "PATCH_DOES_NOT_APPLY", "mutation.diff")
        assert (error.metadata["index"], error.metadata["pointer"]) == ("3", "/zzz")
        assert error.message.startswith("mutation.diff: operation 3: ")

    def test_first_difference_is_where_the_canonical_forms_part(self) -> None:
        assert first_difference({"a": [1, {"b": 1}]}, {"a": [1.0, {"b": True}]}) == "/a/1/b"
        assert first_difference([1, 2], [1]) == "/1"
        assert first_difference({"x": 1}, {}) == "/x"
        assert first_difference(1, "1") == ""

    def test_first_difference_is_found_in_one_walk(self) -> None:
        """Sixty levels that Python finds equal are not compared anew at each of them."""

        class Counted(float):
            compared = 0

            def __eq__(self, other: object) -> bool:
                type(self).compared += 1
                return float(self) == other

            __hash__ = float.__hash__

        left: Any = [Counted(0.5), 1]
        right: Any = [0.5, True]
        for _ in range(60):
            left, right = [left], [right]
        assert first_difference(left, right) == "/0" * 60 + "/1"
        assert Counted.compared == 1
