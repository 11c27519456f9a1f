"""What JSON text takes at least in memory is told from its structure."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provledger import _json_structure, jcs

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a,[{:"\\', max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a,[{:"\\', max_size=4), inner),
)


@given(VALUES, st.booleans())
def test_structure_is_never_above_the_canonical_text(value: Any, pretty: bool) -> None:
    canonical = jcs.encode(value)
    text = json.dumps(value, indent=4 if pretty else None).encode()
    assert not _json_structure.is_above(text, len(canonical))


@given(st.lists(st.just([]) | st.just({}) | st.just("") | st.just(0), min_size=2))
def test_what_is_nothing_but_structure_is_counted_whole(value: list[Any]) -> None:
    """But for the last value, which has no comma."""
    text = jcs.encode(value)
    assert _json_structure.is_above(text, len(text) - 4)


def test_text_that_is_no_json_is_counted_in_one_pass() -> None:
    for data in (b'"' * 1_000_001, b'"\\' * 500_000, b"\\" * 1_000_000, b'x"y' * 300_000):
        _json_structure.is_above(data, 100_000)
    assert not _json_structure.is_above(b'"' + b"[" * 1000, 1000)
