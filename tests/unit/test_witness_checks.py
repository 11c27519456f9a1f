"""The witness's rules for drafts: each with what passes and the damaged neighbour that does not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import disclosure, jcs, patch
from provledger.errors import InvalidArgumentError
from witness_svc import checks, patches
from witness_svc.checks import Checked, Document, Draft, Mutation, check
from witness_svc.patches import MAX_MADE_OPERATIONS, first_difference

DRAFT = Draft(
    request_id="r-1",
    actor_id="bot",
    actor_type="service",
    origin_service="importer",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    upstream_events=("git:1",),
    op_id="op-2",
    op_parent_id="op-1",
    occurred_at="2024-01-02T03:04:05+01:00",
    content=None,
)
SECRET = bytes(32)
# Stands in values of refused drafts, and must never come back in an error.
MARKER = "hush-4711"


def mutation(
    action: str,
    previous: bytes = b"",
    new: bytes = b"",
    diff: bytes = b"",
    *,
    resource_type: str = "Version",
    resource_id: str = "redis/8.8.2",
) -> Draft:
    return DRAFT._replace(content=Mutation(action, resource_type, resource_id, previous, new, diff))


def document(
    payload: bytes = b"{}",
    *,
    receipt_type: str = "evidence.recovery",
    media_type: str = "application/json",
    resource_type: str = "Case",
    resource_id: str = "case-1",
) -> Draft:
    content = Document(receipt_type, media_type, payload, resource_type, resource_id)
    return DRAFT._replace(content=content)


def refused(draft: Draft, reason: str, field: str, *, system: bool = False) -> InvalidArgumentError:
    """Check that a draft is refused for this reason and field, and tells no value."""
    with pytest.raises(InvalidArgumentError) as caught:
        check(draft, system=system)
    error = caught.value
    (violation,) = error.violations
    assert (error.reason, violation.reason, violation.field) == (reason, reason, field)
    assert error.metadata["field"] == field
    assert MARKER not in f"{error} {error.metadata} {error.violations}"
    return error


def payload_of(checked: Checked) -> Any:
    value = jcs.parse(checked.payload)
    assert jcs.encode(value) == checked.payload
    return value


class TestTransition:
    @pytest.mark.parametrize(
        ("action", "previous", "new"),
        [
            ("CREATE", b"", b'{"a":1}'),
            ("CREATE", b"null", b'{"a":1}'),
            ("CREATE", b" null\n", b'{"a":1}'),
            ("CREATE", b"", b"{}"),
            ("CREATE", b"", b"false"),
            ("UPDATE", b'{"a":1}', b'{"a":2}'),
            ("UPDATE", b'{"a":1}', b'{"a":true}'),
            ("UPDATE", b"[0]", b"[false]"),
            ("UPDATE", b"{}", b"[]"),
            ("UPDATE", b'{"a":1}', b'{"a":null}'),
            ("DELETE", b'{"a":1}', b""),
            ("DELETE", b'{"a":1}', b"null"),
        ],
    )
    def test_passes(self, action: str, previous: bytes, new: bytes) -> None:
        checked = check(mutation(action, previous, new))
        payload = payload_of(checked)
        assert payload["previousState"] == (orjson.loads(previous) if previous else None)
        assert payload["newState"] == (orjson.loads(new) if new else None)
        assert payload["mutationType"] == checked.action == action
        assert checked.checks == ("json-strict", "transition", "patch")
        assert (checked.receipt_type, checked.media_type) == ("mutation", "application/json")

    @pytest.mark.parametrize(
        ("action", "previous", "new", "reason", "field"),
        [
            ("CREATE", b"", b"", "STATE_MISSING", "new_state"),
            ("CREATE", b"", b"null", "STATE_MISSING", "new_state"),
            ("CREATE", b'{"a":1}', b'{"a":2}', "STATE_UNEXPECTED", "previous_state"),
            ("CREATE", b'{"a":1}', b"", "STATE_UNEXPECTED", "previous_state"),
            ("UPDATE", b"", b'{"a":1}', "STATE_MISSING", "previous_state"),
            ("UPDATE", b'{"a":1}', b"", "STATE_MISSING", "new_state"),
            ("UPDATE", b"null", b"null", "STATE_MISSING", "previous_state"),
            ("UPDATE", b'{"a":1}', b'{"a":1}', "STATES_EQUAL", "new_state"),
            ("UPDATE", b'{"a":1}', b'{ "a" : 1.0 }', "STATES_EQUAL", "new_state"),
            ("UPDATE", b'{"a":1,"b":2}', b'{"b":2,"a":1}', "STATES_EQUAL", "new_state"),
            ("UPDATE", b'{"a":"e"}', b'{"\\u0061":"\\u0065"}', "STATES_EQUAL", "new_state"),
            ("UPDATE", b"[0]", b"[-0]", "STATES_EQUAL", "new_state"),
            ("DELETE", b"", b"", "STATE_MISSING", "previous_state"),
            ("DELETE", b'{"a":1}', b'{"a":1}', "STATE_UNEXPECTED", "new_state"),
            ("", b"", b"{}", "ACTION_INVALID", "action"),
            ("create", b"", b"{}", "ACTION_INVALID", "action"),
        ],
    )
    def test_refused(
        self, action: str, previous: bytes, new: bytes, reason: str, field: str
    ) -> None:
        refused(mutation(action, previous, new), reason, f"mutation.{field}")


class TestPayload:
    def test_is_the_whole_mutation_in_canonical_form(self) -> None:
        checked = check(
            mutation(
                "UPDATE",
                b'{"b": 1.0, "a": "\\u00e9"}',
                b'{"b": 2, "a": "\xc3\xa9"}',
                resource_type='Ver"sion',
                resource_id="redis/8.8.2 é",
            )
        )
        assert checked.payload.decode() == (
            '{"diff":[{"op":"replace","path":"/b","value":2}],"entityId":"redis/8.8.2 é",'
            '"entityType":"Ver\\"sion","mutationType":"UPDATE",'
            '"newState":{"a":"é","b":2},"previousState":{"a":"é","b":1}}'
        )

    @pytest.mark.parametrize(
        ("draft", "diff"),
        [
            (mutation("CREATE", b"", b'{"b":1,"a":2}'), {"a": 2, "b": 1}),
            (mutation("DELETE", b'{"b":1,"a":2}'), None),
        ],
        ids=["create", "delete"],
    )
    def test_creation_and_deletion_replace_the_whole_document(
        self, draft: Draft, diff: Any
    ) -> None:
        payload = payload_of(check(draft))
        assert payload["diff"] == [{"op": "replace", "path": "", "value": diff}]

    @given(st.data())
    def test_fields_are_those_of_the_stored_payload(self, data: st.DataObject) -> None:
        """A verifier walks what is stored; the witness must have committed to the very same."""
        checked = check(data.draw(mutations()))
        assert checked.fields is not None
        expected = disclosure.commit_fields(jcs.parse(checked.payload), SECRET, mutation=True)
        assert disclosure.commit_walked(checked.fields, SECRET) == expected

    @given(st.data())
    def test_the_patch_made_turns_one_state_into_the_other(self, data: st.DataObject) -> None:
        payload = payload_of(check(data.draw(mutations())))
        result = patch.apply(payload["previousState"], payload["diff"])
        assert jcs.encode(result) == jcs.encode(payload["newState"])


member_names = st.sampled_from(["", "a", "b", "a/b", "m~n", "é", "0"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -0.0, 0.5, 1e-7, 1e21])
    | st.sampled_from(["", "a", "é", "\U0001f600", "~", "/", '"'])
    | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["", "a", "b", "a/b", "m~n", "é", "0"]), inner, max_size=5
        )
    ),
    max_leaves=15,
)
states = json_values.map(orjson.dumps).filter(lambda text: text != b"null")


@st.composite
def mutations(draw: st.DrawFn) -> Draft:
    """Mutations that pass, often with states much alike."""
    action = draw(st.sampled_from(["CREATE", "UPDATE", "UPDATE", "UPDATE", "DELETE"]))
    previous = draw(states) if action != "CREATE" else b""
    new = draw(states) if action != "DELETE" else b""
    if action == "UPDATE" and jcs.canonicalize(previous)[1] == jcs.canonicalize(new)[1]:
        new = b'{"changed":true}' if previous != b'{"changed":true}' else b"[]"
    return mutation(action, previous, new)


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
        check(mutation("UPDATE", orjson.dumps(state), new, orjson.dumps([*again * 4, *end])))
        draft = mutation("UPDATE", orjson.dumps(state), new, orjson.dumps([*again * 5, *end]))
        error = refused(draft, "PATCH_TOO_LARGE", "mutation.diff")
        assert error.metadata["index"] == "4"

    @pytest.mark.parametrize("copies", [17, 600])
    def test_copies_are_not_counted(self, copies: int) -> None:
        steps = [{"op": "copy", "from": "/a", "path": f"/{index}"} for index in range(copies)]
        new = {"a": 1} | {str(index): 1 for index in range(copies)}
        check(mutation("UPDATE", b'{"a":1}', orjson.dumps(new), orjson.dumps(steps)))

    def test_the_state_is_not_measured_for_each_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Odd numbers are slow to write: sixteen times a megabyte of them took half a minute."""
        written = []
        encode = jcs.encode

        def counted(value: Any, **limits: int) -> bytes:
            written.append(len(encode(value, **limits)))
            return encode(value, **limits)

        state = {"a": [1e-9] * 1000}
        new = state | {str(index): 1e-9 for index in range(16)}
        steps = [{"op": "copy", "from": "/a/0", "path": f"/{index}"} for index in range(16)]
        draft = mutation("UPDATE", orjson.dumps(state), orjson.dumps(new), orjson.dumps(steps))
        monkeypatch.setattr(jcs, "encode", counted)
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


STRICT = {
    "broken": (b'{"a":', None),
    "no JSON": (b"hush-4711", None),
    "trailing text": (b"{} {}", None),
    "duplicate keys": (b'{"x":{"a":1,"a":2}}', "/x/a"),
    "duplicate keys by escape": (b'{"a":1,"\\u0061":2}', "/a"),
    "NaN": (b'{"a":[0,NaN]}', "/a/1"),
    "infinity": (b'{"a":-Infinity}', "/a"),
    "too large for a double": (b'{"a":1e400}', "/a"),
    "2^53": (b'{"a":9007199254740992}', "/a"),
    "2^53+1": (b'{"a":{"b~/":9007199254740993}}', "/a/b~0~1"),
    "-2^53": (b'{"a":-9007199254740992}', "/a"),
    "beyond 2^53 by exponent": (b'{"a":9.007199254740993e15}', "/a"),
    "lone surrogate": (b'{"a":"hush-4711\\ud800"}', "/a"),
    "lone surrogate in a name": (b'{"a":{"\\udfff":1}}', "/a"),
    "invalid UTF-8": (b'{"a":"\xff"}', None),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}', None),
    "65 deep": (b"[" * 65 + b"]" * 65, None),
    "65 deep in objects": (b'{"a":' * 65 + b"1" + b"}" * 65, None),
    "100,000 deep": (b"[" * 100_000, None),
    "4,097 fields": (orjson.dumps({f"f{index}": 0 for index in range(4097)}), None),
}


class TestStrictJSON:
    @pytest.mark.parametrize("field", ["previous_state", "new_state", "diff", "payload"])
    @pytest.mark.parametrize("name", STRICT)
    def test_loose_json_is_refused_wherever_it_stands(self, name: str, field: str) -> None:
        text, pointer = STRICT[name]
        draft = {
            "previous_state": mutation("UPDATE", text, b"{}"),
            "new_state": mutation("CREATE", b"", text),
            "diff": mutation("UPDATE", b"{}", b"[]", text),
            "payload": document(text),
        }[field]
        path = "document.payload" if field == "payload" else f"mutation.{field}"
        error = refused(draft, "INVALID_JSON", path)
        if pointer is not None:
            assert error.metadata["pointer"] == pointer
            assert repr(pointer) in error.violations[0].description

    @pytest.mark.parametrize(
        "text",
        [
            b'{"a":9007199254740991,"b":-9007199254740991}',
            b'{"a":"\\ud83d\\ude00"}',
            b'{"a":1e21,"b":0.1,"c":1e-7,"d":-0.0}',
            b' {"a" : [ ] }\n',
            b"[" * 61 + b"]" * 61,
            orjson.dumps({f"f{index}": 0 for index in range(4000)}),
        ],
    )
    def test_the_strict_neighbour_passes(self, text: bytes) -> None:
        payload = payload_of(check(mutation("CREATE", b"", text)))
        assert jcs.encode(payload["newState"]) == jcs.canonicalize(text)[1]
        assert check(document(text)).payload == jcs.canonicalize(text)[1]

    def test_documents_may_nest_64_deep(self) -> None:
        text = b"[" * 64 + b"]" * 64
        assert check(document(text)).payload == text

    @pytest.mark.parametrize("field", ["previous_state", "new_state"])
    def test_states_leave_room_for_the_payload_around_them(self, field: str) -> None:
        """A payload that was stored must parse under the limit of 64 again, patch and all."""
        deepest, deeper = (b"[" * depth + b"]" * depth for depth in (61, 62))
        if field == "new_state":
            payload_of(check(mutation("CREATE", b"", deepest)))
            draft = mutation("CREATE", b"", deeper)
        else:
            payload_of(check(mutation("DELETE", deepest)))
            draft = mutation("DELETE", deeper)
        refused(draft, "INVALID_JSON", f"mutation.{field}")

    def test_fields_of_the_whole_mutation_are_bounded(self) -> None:
        """Both states pass alone; together with the patch they are 4,097 fields."""

        def states(count: int) -> tuple[bytes, bytes]:
            value = {f"f{index}": 0 for index in range(count)}
            return orjson.dumps(value), orjson.dumps(value | {"f0": 1})

        # Entity type and id, mutation type and one operation are four more.
        check(mutation("UPDATE", *states(2046)))
        refused(mutation("UPDATE", *states(2047)), "INVALID_JSON", "mutation")

    def test_pointers_of_the_fields_are_bounded(self) -> None:
        """Forty kilobytes in which one long name stands above many fields."""
        state = orjson.dumps({"k" * 5000: {f"{MARKER}{index}": 0 for index in range(1000)}})
        refused(document(state), "INVALID_JSON", "document.payload")
        refused(mutation("CREATE", b"", state), "INVALID_JSON", "mutation")


class TestSizes:
    def test_payload_of_a_document(self) -> None:
        limit = checks.MAX_PAYLOAD_BYTES
        check(document(bytes(limit), media_type="image/png"))
        draft = document(bytes(limit + 1), media_type="image/png")
        refused(draft, "PAYLOAD_TOO_LARGE", "document.payload")
        text = b'"' + b"x" * (limit - 2) + b'"'
        check(document(text))
        refused(document(text + b" "), "PAYLOAD_TOO_LARGE", "document.payload")

    def test_canonical_form_that_outgrows_the_limit(self) -> None:
        text = b"[" + b",".join([b"1e15"] * 100_000) + b"]"
        assert len(text) < checks.MAX_PAYLOAD_BYTES
        refused(document(text), "PAYLOAD_TOO_LARGE", "document.payload")

    @pytest.mark.parametrize("field", ["previous_state", "new_state", "diff"])
    def test_each_part_of_a_mutation(self, field: str) -> None:
        text = b'"' + b"x" * checks.MAX_PAYLOAD_BYTES + b'"'
        draft = {
            "previous_state": mutation("DELETE", text),
            "new_state": mutation("CREATE", b"", text),
            "diff": mutation("UPDATE", b"1", b"2", text),
        }[field]
        refused(draft, "PAYLOAD_TOO_LARGE", f"mutation.{field}")

    def test_a_mutation_as_a_whole(self) -> None:
        """A new state stands in the payload twice: as such, and in the patch."""
        half = checks.MAX_PAYLOAD_BYTES // 2
        check(mutation("CREATE", b"", b'"' + b"x" * (half - 200) + b'"'))
        draft = mutation("CREATE", b"", b'"' + b"x" * half + b'"')
        refused(draft, "PAYLOAD_TOO_LARGE", "mutation")

    def test_two_states_that_are_too_much_together_are_not_compared(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half = checks.MAX_PAYLOAD_BYTES // 2
        large, other = (b'["%b",%d]' % (b"x" * half, number) for number in (1, 2))

        def make(previous: Any, new: Any) -> list[bytes]:
            raise AssertionError("a patch was made")

        monkeypatch.setattr(patches, "make", make)
        refused(mutation("UPDATE", large, other), "PAYLOAD_TOO_LARGE", "mutation")

    def test_two_states_of_just_the_limit_together_are_taken(self) -> None:
        bare = check(mutation("UPDATE", b'[1,""]', b'[2,""]')).payload
        room = checks.MAX_PAYLOAD_BYTES - len(bare)
        states = [b'[%d,"%b"]' % (number, b"x" * (room // 2)) for number in (1, 2)]
        assert len(check(mutation("UPDATE", *states)).payload) >= checks.MAX_PAYLOAD_BYTES - 1


class TestDocument:
    def test_json_is_stored_canonically_and_committed_by_field(self) -> None:
        checked = check(document(b'{"b": 1.0, "a": {"c": "x"}}'))
        assert checked.payload == b'{"a":{"c":"x"},"b":1}'
        assert checked.fields == [("/a/c", "x"), ("/b", 1.0)]
        assert checked.checks == ("json-strict",)
        assert (checked.receipt_type, checked.action) == ("evidence.recovery", "")

    def test_a_member_called_diff_is_walked_like_any_other(self) -> None:
        checked = check(document(b'{"diff":[1,2]}'))
        assert checked.fields == [("/diff", [1, 2])]

    @pytest.mark.parametrize("media_type", ["application/vnd.x+json", "Application/JSON"])
    def test_every_json_media_type_is_parsed(self, media_type: str) -> None:
        assert check(document(b"[ ]", media_type=media_type)).payload == b"[]"
        refused(document(b"[ ", media_type=media_type), "INVALID_JSON", "document.payload")

    @pytest.mark.parametrize("payload", [b"", b"{broken", b"\xff\x00"])
    def test_other_media_types_are_stored_as_they_came(self, payload: bytes) -> None:
        checked = check(document(payload, media_type="application/octet-stream"))
        assert checked.payload == payload
        assert checked.fields is None
        assert checked.checks == ()

    @pytest.mark.parametrize("receipt_type", ["erasure", "ledger.created", "key.rotated"])
    def test_reserved_types_are_for_the_system(self, receipt_type: str) -> None:
        draft = document(receipt_type=receipt_type)
        refused(draft, "RECEIPT_TYPE_RESERVED", "document.receipt_type")
        assert check(draft, system=True).receipt_type == receipt_type

    @pytest.mark.parametrize("system", [False, True])
    def test_nobody_passes_a_document_off_as_a_mutation(self, system: bool) -> None:
        draft = document(receipt_type="mutation")
        refused(draft, "RECEIPT_TYPE_RESERVED", "document.receipt_type", system=system)

    @pytest.mark.parametrize(
        "receipt_type", ["erasures", "erasure.x", "ledgers.x", "ledger", "keys.x", "mutation.x"]
    )
    def test_types_that_only_look_alike_are_free(self, receipt_type: str) -> None:
        assert check(document(receipt_type=receipt_type)).receipt_type == receipt_type

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"receipt_type": ""}, "receipt_type"),
            ({"receipt_type": "Evidence"}, "receipt_type"),
            ({"media_type": ""}, "media_type"),
            ({"media_type": "text/plain; charset=utf-8"}, "media_type"),
            ({"resource_type": ""}, "resource_type"),
            ({"resource_type": "a/b"}, "resource_type"),
            ({"resource_id": ""}, "resource_id"),
            ({"resource_id": "x" * 1025}, "resource_id"),
        ],
    )
    def test_bad_identifiers_are_refused(self, changes: dict[str, str], field: str) -> None:
        refused(document(**changes), "INVALID_IDENTIFIER", f"document.{field}")  # type: ignore[arg-type]


class TestIdentifiers:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"request_id": ""}, "request_id"),
            ({"request_id": "a b"}, "request_id"),
            ({"request_id": "x" * 129}, "request_id"),
            ({"actor_id": ""}, "actor.id"),
            ({"actor_id": "a\nb"}, "actor.id"),
            ({"actor_id": "x" * 257}, "actor.id"),
            ({"actor_type": "x" * 65}, "actor.type"),
            ({"actor_type": "\x00"}, "actor.type"),
            ({"origin_service": "x" * 257}, "origin.service"),
            ({"trace_id": "0" * 32}, "origin.trace_id"),
            ({"trace_id": "abc"}, "origin.trace_id"),
            ({"upstream_events": ("a", "")}, "origin.upstream_events[1]"),
            ({"upstream_events": ("a", "b", "\t")}, "origin.upstream_events[2]"),
            ({"upstream_events": ("x",) * 17}, "origin.upstream_events"),
            ({"op_id": "a b"}, "op_id"),
            ({"op_parent_id": "é"}, "op_parent_id"),
            ({"occurred_at": "yesterday"}, "occurred_at"),
            ({"occurred_at": "2024-02-30T00:00:00Z"}, "occurred_at"),
        ],
    )
    def test_bad_ones_are_refused_by_field(self, changes: dict[str, Any], field: str) -> None:
        refused(document()._replace(**changes), "INVALID_IDENTIFIER", field)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"resource_type": ""}, "resource_type"),
            ({"resource_type": "a/b"}, "resource_type"),
            ({"resource_id": ""}, "resource_id"),
            ({"resource_id": "\x7f"}, "resource_id"),
        ],
    )
    def test_those_of_a_mutation(self, changes: dict[str, str], field: str) -> None:
        draft = mutation("CREATE", b"", b"{}", **changes)  # type: ignore[arg-type]
        refused(draft, "INVALID_IDENTIFIER", f"mutation.{field}")

    def test_what_is_optional_may_be_left_out(self) -> None:
        bare = Draft("r", "a", "", "", "", (), "", "", "", document().content)
        assert check(bare).payload == b"{}"

    def test_sixteen_upstream_events_pass(self) -> None:
        check(document()._replace(upstream_events=("x" * 256,) * 16))

    def test_a_draft_of_nothing_is_refused(self) -> None:
        refused(DRAFT, "CONTENT_MISSING", "content")
