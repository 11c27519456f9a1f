"""JSON Patch and JSON Pointer: the community's test files and RFC 6901's own examples."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provledger import jcs, patch
from provledger.errors import InvalidJSONError, PatchError
from tests.conformance.vectors import folder, load


def _records(path: str) -> list[Any]:
    """The cases of one file as text, since one of them holds a duplicate member on purpose."""
    root = folder()
    if root is None or not (root / path).is_file():
        why = "PROVLEDGER_VECTORS is not set" if root is None else f"{path} is not in it"
        return [pytest.param(None, marks=pytest.mark.skip(reason=why), id=path)]
    return [
        pytest.param(case, id=str(place))
        for place, case in enumerate(_split((root / path).read_text("utf-8")))
    ]


def _split(text: str) -> list[str]:
    """The elements of a JSON array, each as it is written."""
    decoder = json.JSONDecoder()
    found = []
    at = text.index("[") + 1
    while (start := text.find("{", at)) >= 0:
        _, at = decoder.raw_decode(text, start)
        found.append(text[start:at])
    return found


@pytest.mark.parametrize(
    "text", [*_records("json-patch/spec_tests.json"), *_records("json-patch/tests.json")]
)
def test_published_patches(text: str) -> None:
    try:
        case = jcs.parse(text.encode())
    except InvalidJSONError as error:
        # RFC 6902 §A.13: one operation with two "op" members.
        assert "duplicate" in error.message  # noqa: PT017
        return
    if "error" in case:
        with pytest.raises(PatchError):
            patch.apply(case["doc"], case["patch"])
    else:
        found = patch.apply(case["doc"], case["patch"])
        assert jcs.encode(found) == jcs.encode(case.get("expected", case["doc"]))


def test_published_pointers() -> None:
    file = load("json-pointer/rfc6901-section5.json")
    for case in file["pointers"]:
        assert patch.pointer_get(file["document"], case["pointer"]) == case["value"]
    for case in file["derived_invalid"]:
        with pytest.raises(PatchError):
            patch.pointer_get(file["document"], case["pointer"])
