"""The witness's rules for drafts: each with what passes and the damaged neighbour that does not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import disclosure, jcs, patch
from tests.support.witness_drafts import (
    DRAFT,
    MARKER,
    SECRET,
    document,
    mutation,
    payload_of,
    refused,
)
from witness_svc import checks, patches
from witness_svc.checks import Draft, check


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
