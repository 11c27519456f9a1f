from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import pointer
from provledger.errors import PatchError

DOCUMENT = {"a": [1, {"b": None}], "": {"": 0}, "m~n": 1, "a/b": 2, "~1": 3, "0": 4, "-": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [("", DOCUMENT), ("/a/0", 1), ("/a/1/b", None), ("/", {"": 0}), ("//", 0), ("/m~0n", 1),
     ("/a~1b", 2), ("/~01", 3), ("/0", 4), ("/-", 5)],
)  # fmt: skip
def test_pointers_lead_to_values(text: str, value: Any) -> None:
    assert pointer.pointer_get(DOCUMENT, text) == value


@pytest.mark.parametrize(
    "text",
    ["a", " /a", "#/a", "/b", "/a/2", "/a/-", "/a/-1", "/a/01", "/a/00", "/a/1e0", "/a/+1", "/a/ 1",
     "/a/1 ", "/a/1_0", "/a/١", "/a/", "/a/1.0", "/a/9999999999999999999999", "/a/" + "1" * 5000,
     "/a/0/x", "/a/1/b/c", "/~", "/~2", "/a~", "/~~01", "/" * 70_000, None, 1, ["a"], b"/a"],
)  # fmt: skip
def test_pointers_that_lead_nowhere_are_our_error(text: Any) -> None:
    with pytest.raises(PatchError):
        pointer.pointer_get(DOCUMENT, text)


def test_errors_name_the_pointer_if_it_is_fit_to_be_named() -> None:
    for text, named in (("/b", "/b"), ("/" + "b" * 2000, None), ("/\ud800", None)):
        with pytest.raises(PatchError) as caught:
            pointer.pointer_get(DOCUMENT, text)
        assert caught.value.pointer == named


@given(st.lists(st.text(max_size=4), max_size=5))
def test_tokens_survive_the_round_trip(tokens: list[str]) -> None:
    text = "".join("/" + pointer.escape_token(token) for token in tokens)
    assert pointer.parse_pointer(text) == tokens


@given(st.text(alphabet="/~01a", max_size=8))
def test_every_pointer_that_parses_is_the_one_that_is_written(text: str) -> None:
    try:
        tokens = pointer.parse_pointer(text)
    except PatchError:
        return
    assert "".join("/" + pointer.escape_token(token) for token in tokens) == text
