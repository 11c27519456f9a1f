from __future__ import annotations

import copy
import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import jsonpatch
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import jcs, patch, pointer
from provledger.errors import InvalidJSONError, PatchError, PatchLimitError


def op(name: str, path: Any, *value: Any, **more: Any) -> dict[str, Any]:
    """An operation; a third argument is its value."""
    return {"op": name, "path": path, **({"value": value[0]} if value else {}), **more}


# --- apply: what it does -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"a": 1}, [], {"a": 1}),
        # add
        ({}, [op("add", "/a", 1)], {"a": 1}),
        ({"a": None}, [op("add", "/a", 1)], {"a": 1}),
        ({"a": 1}, [op("add", "/A", 2)], {"a": 1, "A": 2}),
        ({"a": 1}, [op("add", "/0", "x")], {"a": 1, "0": "x"}),
        ({"a": 1}, [op("add", "/-", "x")], {"a": 1, "-": "x"}),
        ({}, [op("add", "/", 1)], {"": 1}),
        ({"a": {}}, [op("add", "/a/", 1)], {"a": {"": 1}}),
        ({"a": 1}, [op("add", "", [2])], [2]),
        ([], [op("add", "", {})], {}),
        ([], [op("add", "/-", "x")], ["x"]),
        ([], [op("add", "/0", "x")], ["x"]),
        ([1, 2], [op("add", "/0", "x")], ["x", 1, 2]),
        ([1, 2], [op("add", "/1", ["x"])], [1, ["x"], 2]),
        ([1, 2], [op("add", "/2", "x")], [1, 2, "x"]),
        ([1, [2, [3]]], [op("add", "/1/1/-", {"a": []})], [1, [2, [3, {"a": []}]]]),
        ({"a": [{"b": 1}]}, [op("add", "/a/0/c", 2)], {"a": [{"b": 1, "c": 2}]}),
        # remove, replace
        ({"a": 1, "b": [1]}, [op("remove", "/b")], {"a": 1}),
        ({"a": [{"b": 1}]}, [op("remove", "/a/0/b")], {"a": [{}]}),
        ([1, 2, 3, 4], [op("remove", "/1"), op("remove", "/2")], [1, 3]),
        ({"a": None}, [op("remove", "/a")], {}),
        ({"a": None}, [op("replace", "/a", "x")], {"a": "x"}),
        ({"a": "x"}, [op("replace", "/a", None)], {"a": None}),
        ([""], [op("replace", "/0", False)], [False]),
        ([1, 2], [op("replace", "/1", [3, 4])], [1, [3, 4]]),
        ({"a": 1}, [op("replace", "", {"b": 2})], {"b": 2}),
        (None, [op("replace", "", {"b": 2})], {"b": 2}),
        ({"b": 2}, [op("replace", "", None)], None),
        # move, copy
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
        ({"a": None}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": None}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
        ({"a": 1}, [{"op": "move", "from": "", "path": ""}], {"a": 1}),
        ([1, 2, 3], [{"op": "move", "from": "/0", "path": "/2"}], [2, 3, 1]),
        ([1, 2, 3], [{"op": "move", "from": "/0", "path": "/-"}], [2, 3, 1]),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/a"}], {"a": 1}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": ""}], 1),
        ({"a": 1, "ab": {}}, [{"op": "move", "from": "/a", "path": "/ab/a"}], {"ab": {"a": 1}}),
        ({"a": [{"b": 1}]}, [{"op": "move", "from": "/a/0/b", "path": "/a/1"}], {"a": [{}, 1]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}],
         {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a": 1}, [{"op": "copy", "from": "", "path": "/a"}], {"a": {"a": 1}}),
        ([[1]], [{"op": "copy", "from": "/0", "path": "/0/-"}], [[1, [1]]]),
        # test
        ({"a": {"b": [1, None, "x"], "c": {}}},
         [op("test", "/a", {"c": {}, "b": [1, None, "x"]})],
         {"a": {"b": [1, None, "x"], "c": {}}}),
        ([1, 1.0, 0], [op("test", "", [1.0, 1, -0.0])], [1, 1.0, 0]),
        ({"": 1}, [op("test", "/", 1)], {"": 1}),
        ({"1e0": 1}, [op("test", "/1e0", 1)], {"1e0": 1}),
        ({"a/b": 1, "m~n": 2, "~1": 3},
         [op("test", "/a~1b", 1), op("test", "/m~0n", 2), op("test", "/~01", 3)],
         {"a/b": 1, "m~n": 2, "~1": 3}),
        # members that mean nothing here
        ({"a": 1}, [op("remove", "/a", 7, note="x", **{"from": 5})], {}),
    ],
)  # fmt: skip
def test_apply(document: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy((document, operations))
    found = patch.apply(document, operations)
    assert jcs.encode(found) == jcs.encode(result)
    assert (document, operations) == before


@pytest.mark.parametrize(
    ("document", "operation", "pointer"),
    [
        ({}, op("add", "/a/b", 1), "/a/b"),
        ({"a": 1}, op("add", "/a/b", 1), "/a/b"),
        ({"a": None}, op("add", "/a/b", 1), "/a/b"),
        ("scalar", op("add", "/a", 1), "/a"),
        ([1], op("add", "/2", 1), "/2"),
        ([1], op("add", "/-1", 1), "/-1"),
        ([1], op("add", "/01", 1), "/01"),
        ([1], op("add", "/1e0", 1), "/1e0"),
        ([1], op("add", "/a", 1), "/a"),
        ([[1]], op("add", "/-/0", 1), "/-/0"),
        ({"a": 1}, op("remove", "/b"), "/b"),
        ({"a": 1}, op("remove", ""), ""),
        ([1], op("remove", "/1"), "/1"),
        ([1], op("remove", "/-"), "/-"),
        ([[1]], op("remove", "/1e0/0"), "/1e0/0"),
        ({"a": 1}, op("replace", "/b", 1), "/b"),
        ({"a": 1}, op("replace", "/b/c", 1), "/b/c"),
        ([1], op("replace", "/1", 1), "/1"),
        ([1], op("replace", "/-", 1), "/-"),
        ([1], op("replace", "/00", 1), "/00"),
        ({"a": 1}, {"op": "move", "from": "/b", "path": "/c"}, "/b"),
        ({"a": 1}, {"op": "move", "from": "/b", "path": "/b"}, "/b"),
        ({"a": {"b": {}}}, {"op": "move", "from": "/a", "path": "/a/b"}, "/a/b"),
        ({"a": {}}, {"op": "move", "from": "", "path": "/a"}, "/a"),
        ([1, 2], {"op": "move", "from": "/0", "path": "/2"}, "/2"),
        ([1], {"op": "copy", "from": "/1e0", "path": "/-"}, "/1e0"),
        ([1], {"op": "copy", "from": "/-", "path": "/-"}, "/-"),
        ({"a": 1}, op("test", "/b", None), "/b"),
        ({"a": True}, op("test", "/a", 1), "/a"),
        ({"a": 1}, op("test", "/a", True), "/a"),
        ({"a": [False]}, op("test", "/a", [0]), "/a"),
        ({"a": "1"}, op("test", "/a", 1), "/a"),
        ({"a": {}}, op("test", "/a", []), "/a"),
        ({"a": None}, op("test", "/a", False), "/a"),
        ({"a": [1, 2]}, op("test", "/a", [1]), "/a"),
        ({"a": [1, 2]}, op("test", "/a", [2, 1]), "/a"),
        ({"a": {"b": 1}}, op("test", "/a", {"b": 1, "c": 2}), "/a"),
        ({"a": {"b": 1}}, op("test", "/a", {"c": 1}), "/a"),
        ([0, 1], op("test", "/01", 1), "/01"),
        ({"a": 1}, op("test", "a", 1), "a"),
        ({"a": 1}, op("test", "/~2", 1), "/~2"),
    ],
)
def test_apply_names_the_operation_and_the_pointer_that_failed(
    document: Any, operation: Any, pointer: str
) -> None:
    with pytest.raises(PatchError) as caught:
        patch.apply(document, [op("test", "", document), operation])
    assert (caught.value.index, caught.value.pointer) == (1, pointer)
    assert "operation 1: " in str(caught.value)


@pytest.mark.parametrize(
    "operations",
    [
        None, {}, "[]", 1, [1], [None], [[]], ["add"], [{}],
        [{"op": "add"}], [{"path": "/a"}], [{"op": "add", "path": "/a"}],
        [{"op": "replace", "path": "/a"}], [{"op": "test", "path": "/a"}],
        [{"op": "move", "path": "/b"}], [{"op": "copy", "path": "/b"}],
        [op("spam", "/a", 1)], [op("Add", "/a", 1)], [op("", "/a", 1)],
        [{"op": None, "path": "/a"}], [{"op": 1, "path": "/a"}], [{"op": ["add"], "path": "/a"}],
        [op("add", None, 1)], [op("add", 1, 1)], [op("add", ["a"], 1)],
        [{"op": "move", "path": "/b", "from": None}], [{"op": "copy", "path": "/b", "from": 1}],
        [{"op": "append", "path": "/a", "value": "x"}],
    ],
)  # fmt: skip
def test_apply_refuses_malformed_patches(operations: Any) -> None:
    with pytest.raises(PatchError):
        patch.apply({"a": 1}, operations)


def test_apply_does_all_or_nothing() -> None:
    document = {"a": [1]}
    with pytest.raises(PatchError):
        patch.apply(document, [op("add", "/a/-", 2), op("remove", "/a/0"), op("remove", "/b")])
    assert document == {"a": [1]}


def test_what_apply_returns_shares_nothing() -> None:
    document = {"a": [[1]], "z": {}}
    operations = [op("add", "/b", [[2]]), {"op": "copy", "from": "/a", "path": "/c"},
                  op("add", "/b/0/-", 3), op("add", "/c/0/-", 4)]  # fmt: skip
    result = patch.apply(document, operations)
    assert result == {"a": [[1]], "z": {}, "b": [[2, 3]], "c": [[1, 4]]}
    result["a"][0].append("x")
    result["b"][0].append("y")
    result["z"]["q"] = 1
    assert document == {"a": [[1]], "z": {}}
    assert operations[0]["value"] == [[2]]


# --- apply: limits -------------------------------------------------------------------------


def test_apply_takes_no_more_operations_than_its_limit() -> None:
    many = [op("test", "", 1)] * patch.MAX_OPERATIONS
    assert patch.apply(1, many) == 1
    with pytest.raises(PatchError):
        patch.apply(1, [*many, op("test", "", 1)])


@pytest.mark.parametrize(
    ("document", "operations"),
    [
        # The document doubles with each copy.
        (["x" * 100], [{"op": "copy", "from": "", "path": "/-"}] * 60),
        # It does not grow, but a megabyte is copied each time.
        ({"a": "x" * 1_000_000}, [{"op": "copy", "from": "/a", "path": "/b"}] * 100),
        # Each insertion moves half a million elements.
        ([0] * 500_000, [op("add", "/0", 0)] * 10_000),
        ([0] * 500_000, [op("remove", "/0")] * 10_000),
        # Ever deeper, first by adding and then by moving.
        ({}, [op("add", "/a" * depth, {}) for depth in range(1, 300)]),
        (
            {},
            [
                item
                for i in range(1, 300)
                for item in (
                    op("add", "/t", {}),
                    {"op": "move", "from": f"/{i - 1}" if i > 1 else "/t", "path": f"/{i}"},
                    op("add", "/t", {}),
                    {"op": "move", "from": f"/{i}", "path": "/t/x"},
                    {"op": "move", "from": "/t", "path": f"/{i}"},
                )
            ],
        ),
    ],
    ids=["doubling", "repeating", "inserting", "removing", "nesting", "moving"],
)
def test_apply_bounds_its_work(document: Any, operations: list[Any]) -> None:
    """Unbounded, these take longer than any test may, or all memory."""
    with pytest.raises(PatchError):
        patch.apply(document, operations)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_apply_never_recurses_without_end() -> None:
    for operations in ([op("add", "", deep(5000))], [op("replace", "/a", deep(5000))],
                       [op("test", "/a", deep(5000))]):  # fmt: skip
        with pytest.raises(PatchError):
            patch.apply({"a": deep(100)}, operations)
    with pytest.raises(PatchError):
        patch.apply(deep(5000), [])
    assert patch.apply(deep(200), []) == deep(200)


# --- apply: against the library ------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "0", "-", "a/b", "~", ""])
SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, "", "a", "1"])
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
TOKENS = KEYS.map(patch.escape_token) | st.sampled_from(["0", "1", "2", "a", "-"])
POINTERS = st.lists(TOKENS, max_size=3).map(lambda tokens: "".join("/" + t for t in tokens))
OPERATIONS = st.one_of(
    st.builds(op, st.sampled_from(["add", "replace", "test"]), POINTERS, DOCUMENTS),
    st.builds(op, st.just("remove"), POINTERS),
    st.builds(
        lambda name, source, path: {"op": name, "from": source, "path": path},
        st.sampled_from(["move", "copy"]),
        POINTERS,
        POINTERS,
    ),
)


@given(DOCUMENTS, st.lists(OPERATIONS, min_size=1, max_size=4))
def test_apply_agrees_with_the_library(document: Any, operations: list[dict[str, Any]]) -> None:
    try:
        wanted = jsonpatch.apply_patch(document, copy.deepcopy(operations))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException):
        with pytest.raises(PatchError):
            patch.apply(document, operations)
    else:
        assert jcs.encode(patch.apply(document, operations)) == jcs.encode(wanted)


# --- make ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "operations"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ([-0.0], [0], []),
        ([1], [True], [op("replace", "/0", True)]),
        ({"a": [0]}, {"a": [False]}, [op("replace", "/a/0", False)]),
        ({"a": False}, {"a": 0.0}, [op("replace", "/a", 0.0)]),
        (None, {"a": 1}, [op("replace", "", {"a": 1})]),
        ({"a": 1}, None, [op("replace", "", None)]),
        ([], {}, [op("replace", "", {})]),
        ({"b": 1, "c": 1}, {"a": {}, "c": 2},
         [op("remove", "/b"), op("add", "/a", {}), op("replace", "/c", 2)]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1, "d": 2}}}, [op("add", "/a/b/d", 2)]),
        ({"a/b~": 1}, {"a/b~": 2}, [op("replace", "/a~1b~0", 2)]),
        ([1, 2, 3], [0, 1, 2, 3], [op("add", "/0", 0)]),
        ([1, 2, 3], [1, 3], [op("remove", "/1")]),
        ([1, 2, 3, 4], [1, 4], [op("remove", "/2"), op("remove", "/1")]),
        ([1, 4], [1, 2, 3, 4], [op("add", "/1", 2), op("add", "/2", 3)]),
        ([1, {"a": 1}, 3], [1, {"a": 2}, 3], [op("replace", "/1/a", 2)]),
        ([1, 1], [1], [op("remove", "/1")]),
        ([True, 1], [1, True], [op("replace", "/0", 1), op("replace", "/1", True)]),
    ],
)  # fmt: skip
def test_make(old: Any, new: Any, operations: Any) -> None:
    made = patch.make(old, new)
    assert jcs.encode(made) == jcs.encode(operations)


@given(DOCUMENTS, DOCUMENTS)
def test_what_make_makes_turns_old_into_new_here_and_elsewhere(old: Any, new: Any) -> None:
    before = copy.deepcopy((old, new))
    made = patch.make(old, new)
    assert (old, new) == before
    wanted = jcs.encode(new)
    assert jcs.encode(patch.apply(old, made)) == wanted
    assert jcs.encode(jsonpatch.apply_patch(old, made)) == wanted
    assert (made == []) == (jcs.encode(old) == wanted)
    if made != [op("replace", "", new)]:
        assert all(item["path"] for item in made)


LISTS = st.lists(st.sampled_from([1, True, 2, "a", [1], [True], {"a": 1}]), max_size=8)


@given(LISTS, LISTS)
def test_make_handles_arrays_that_only_python_finds_equal(old: list[Any], new: list[Any]) -> None:
    made = patch.make(old, new)
    assert jcs.encode(patch.apply(old, made)) == jcs.encode(new)
    assert len(made) <= max(len(old), len(new))


def test_make_replaces_the_whole_document_rather_than_give_a_very_long_patch() -> None:
    old = {"a": list(range(2000))}
    new = {"a": list(range(1, 4001, 2))}
    assert patch.make(old, new) == [op("replace", "", new)]
    assert len(patch.make(old, new, max_operations=5000)) > 1000
    assert patch.make([1, 2, 3], [4, 5, 6], max_operations=2) == [op("replace", "", [4, 5, 6])]


@pytest.mark.parametrize(
    ("inner", "most"), [([0] * 10_000, 256), (dict.fromkeys(map(str, range(100)), 0), 256)]
)
def test_make_stops_before_its_paths_fill_the_memory(inner: Any, most: int) -> None:
    """Each path repeats the names above it: 300 kB of JSON would come to gigabytes."""
    name = "k" * 300_000
    old, new = {name: type(inner)()}, {name: inner}
    tracemalloc.start()
    try:
        assert patch.make(old, new, max_operations=most) == [op("replace", "", new)]
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "same", [[0] * 50_000, [[0] * 50_000], dict.fromkeys(map(str, range(20_000)), 0)]
)
def test_make_spells_out_the_pointers_of_differences_only(
    same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name above equal elements is not repeated for each: that would be gigabytes."""
    escaped = []

    def escape_token(token: str) -> str:
        escaped.append(token)
        return pointer.escape_token(token)

    monkeypatch.setattr(patch, "escape_token", escape_token)
    name = "k" * 50_000
    old, new = {name: [1, same, 2]}, {name: [3, same, 4]}
    assert patch.make(old, new) == [op("replace", f"/{name}/0", 3), op("replace", f"/{name}/2", 4)]
    assert escaped == ["0", name, "2", name]


def test_make_checks_what_it_made(monkeypatch: Any) -> None:
    """Whatever the comparison gets wrong, the patch is right."""

    def wrong(old: Any, new: Any, place: Any, made: Any) -> None:
        made.add("add", (place, "b"), value=2)

    monkeypatch.setattr(patch, "_compare", wrong)
    assert patch.make({"a": 1}, {"a": 2}) == [op("replace", "", {"a": 2})]
    assert patch.make([1], [2]) == [op("replace", "", [2])]


@pytest.mark.timeout(60)
def test_make_is_done_with_large_documents_that_share_nothing() -> None:
    old = [{"a": [i, str(i)]} for i in range(20_000)]
    new = [{"a": [str(i), i]} for i in range(20_000)]
    assert patch.make(old, new) == [op("replace", "", new)]


def nested(inner: Any, levels: int) -> Any:
    for level in range(levels):
        inner = {"a": inner} if level % 3 == 2 else [inner]
    return inner


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Equal to Python, so that its own comparison does not tell them apart.
        ([*range(500), 1], [*range(500), True]),
        ([*range(500), 1], [*range(500), 2]),
        ([[[], {}] for _ in range(200)] + [[1]], [[[], {}] for _ in range(200)] + [[True]]),
        # Of another length, so that other pairs are compared from the end.
        ([[*range(200), 1]], [[*range(200), True], [*range(200), False]]),
        ([[*range(200), 1], [*range(200), 0]], [[*range(200), True]]),
    ],
)
def test_make_compares_each_pair_a_few_times_however_deep_it_is(
    old: Any, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    equal = patch._equal

    def counted(*arguments: Any) -> bool:
        nonlocal compared
        compared += 1
        return equal(*arguments)

    monkeypatch.setattr(patch, "_equal", counted)
    patch.make(old, new)
    at_the_top, compared = compared, 0
    old, new = nested(old, 60), nested(new, 60)
    made = patch.make(old, new)
    assert made[0]["path"].startswith("/a/0/0" * 20)
    assert jcs.encode(patch.apply(old, made)) == jcs.encode(new)
    assert compared < 2 * at_the_top + 1000


@pytest.mark.parametrize("value", [float("nan"), 2**60, b"", {1: 2}, "\ud800", deep(300)])
def test_make_refuses_what_is_not_json(value: Any) -> None:
    for old, new in ((value, 1), (1, value)):
        with pytest.raises(InvalidJSONError):
            patch.make(old, new)


@pytest.mark.parametrize(
    ("result", "new"),
    [
        ([1, {"a": 0.5, "b": ["x"]}], [1.0, {"b": ["x"], "a": 0.5}]),
        ([-0.0, 1e20], [0, 1e20]),
        ({"\U0001f602": 1, "\ufb33": 2}, {"\ufb33": 2, "\U0001f602": 1}),
        ([1], [True]),
        ({"a": 0}, {"a": False}),
        ([None], [False]),
        ([2**53 - 1], [2.0**53]),
        ([1e-9], [1.0000000000000002e-9]),
        ([], {}),
        ({"a": 1}, {"a": 1, "b": 1}),
        ("1", 1),
        (nested([1], 199), nested([1.0], 199)),
        (nested([1], 199), nested([True], 199)),
    ],
)
def test_what_was_made_is_compared_as_canonical_bytes_are(result: Any, new: Any) -> None:
    assert patch._is_same(result, new) == (jcs.encode(result) == jcs.encode(new))


@given(DOCUMENTS, DOCUMENTS)
def test_comparing_values_is_comparing_their_canonical_bytes(result: Any, new: Any) -> None:
    assert patch._is_same(result, new) == (jcs.encode(result) == jcs.encode(new))
    assert patch._is_same(copy.deepcopy(new), new)


@given(DOCUMENTS)
def test_a_quick_copy_is_the_same_in_every_type(value: Any) -> None:
    quick = patch._quick_copy(value)
    assert quick is not None
    assert repr(quick[0]) == repr(value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**60, b"", {1: 2}, "\ud800", (1,), deep(300)]
)
def test_a_quick_copy_is_not_made_of_what_would_become_something_else(value: Any) -> None:
    assert patch._quick_copy(value) is None
    assert patch._quick_copy({"a": [value]}) is None


@pytest.mark.parametrize("value", [float("nan"), 2**60, "\ud800"])
def test_what_is_not_json_cannot_be_copied(value: Any) -> None:
    steps = [{"op": "copy", "from": "/a", "path": "/b"}]
    with pytest.raises(PatchError, match="cannot be copied"):
        patch.apply({"a": value}, steps)


def test_what_is_too_long_is_not_copied_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of small objects is a hundred megabytes of memory."""
    document: dict[str, Any] = {"a": [{}] * 100}
    steps = [{"op": "copy", "from": "/a", "path": "/b"}]
    patch.apply(document, steps, max_copied_bytes=301)
    read = []

    def loads(text: bytes) -> Any:
        read.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(patch, "orjson", SimpleNamespace(**{**vars(orjson), "loads": loads}))
    with pytest.raises(PatchLimitError):
        patch.apply(document, steps, max_copied_bytes=300)
    assert read == [len(orjson.dumps(document))]
