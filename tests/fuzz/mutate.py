"""Damaged neighbours of good inputs, made by hypothesis: quick, without a fuzzer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**63, 10**400, "", "\x00", "\ud800", "9" * 5000, "é" * 10, [], {},
    [[]], {"": ""}, "0", "00", "+1", "1_000", "٣", " 1", "AA==", "AA=", "//8=",
)  # fmt: skip
ODD_BYTES = (
    b"", b"\x00", b"\n", b"\r\n", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"]", b'"', b"\\u",
    b"9" * 400,
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xe2\x80\x94 ", b"[" * 3000, b"=" * 5,
)  # fmt: skip


def damaged(good: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Inputs near good ones, and some near none."""
    anything = st.binary(max_size=300)
    if not good:
        return anything
    return st.one_of(
        st.sampled_from(list(good)).flatmap(_damaged_bytes),
        st.sampled_from(list(good)).flatmap(_damaged_json),
        anything,
    )


@st.composite
def _damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(
            st.integers(start, min(len(data), start + draw(st.sampled_from((0, 1, 8, 999)))))
        )
        middle = draw(
            st.one_of(
                st.sampled_from(ODD_BYTES), st.binary(max_size=4), st.just(data[start:end] * 2)
            )
        )
        data = data[:start] + middle + data[end:]
    return data


@st.composite
def _damaged_json(draw: st.DrawFn, data: bytes) -> bytes:
    """A value in it, at any depth, is another one, gone, or there under another name."""
    try:
        value = json.loads(data)
    except ValueError:
        return draw(_damaged_bytes(data))
    top = [value]
    holder: Any = top
    key: Any = 0
    while draw(st.integers(0, 3)) and isinstance(holder[key], dict | list) and holder[key]:
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
    how = draw(st.sampled_from(("replace", "replace", "replace", "drop", "add")))
    if how == "drop" and holder is not top:
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("x", "", "v", key)))] = draw(st.sampled_from(ODD_VALUES))
    else:
        holder[key] = draw(st.sampled_from(ODD_VALUES))
    text = json.dumps(top[0], separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")
