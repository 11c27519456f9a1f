"""JSON Pointer (RFC 6901): the path to a value inside a JSON document.

::

    pointer = *( "/" token )         "" is the whole document
    token   = text with "~" written as "~0" and "/" as "~1"

Inside an array a token is a decimal index without leading zeros; "-", the place after the last
element, exists only as the target of a patch. The URI fragment form is not supported.
"""

from __future__ import annotations

import re
from typing import Any, Final

from provledger.errors import PatchError

MAX_POINTER_CHARS: Final = 65_536
"""Longest pointer that we read."""

_MAX_SHOWN_CHARS = 1024

_BAD_ESCAPE = re.compile(r"~(?![01])")
# Nine digits are more than any array here has; int() itself would also take "+1", "1_0" or "١".
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


def escape_token(name: str) -> str:
    """`name` as a token of a pointer (RFC 6901 §3)."""
    if "~" in name or "/" in name:
        return name.replace("~", "~0").replace("/", "~1")
    return name


def parse_pointer(text: str) -> list[str]:
    """The unescaped tokens of a pointer. Raises PatchError."""
    if not isinstance(text, str):
        raise PatchError("pointer is not a string")
    if text == "":
        return []
    if text[0] != "/" or len(text) > MAX_POINTER_CHARS:
        raise pointer_error(
            f"pointer must start with / and have {MAX_POINTER_CHARS} characters at most", text
        )
    if "~" not in text:
        return text[1:].split("/")
    if _BAD_ESCAPE.search(text):
        raise pointer_error("pointer holds a ~ that is not ~0 or ~1", text)
    # SPEC: first ~1, then ~0, so that ~01 becomes ~1 and not /.
    return [token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/")]


def pointer_get(document: Any, pointer: str) -> Any:
    """The value that `pointer` leads to in `document`. Raises PatchError when there is none."""
    value = document
    for token in parse_pointer(pointer):
        value = child(value, token, pointer)
    return value


def child(node: Any, token: str, pointer: str) -> Any:
    """The member or element `token` of `node`; `pointer` is what an error speaks of."""
    if isinstance(node, dict):
        if token in node:
            return node[token]
        raise pointer_error("there is no such member", pointer)
    if isinstance(node, list):
        return node[element(node, token, pointer)]
    raise pointer_error("a value that is no object or array has nothing inside", pointer)


def element(node: list[Any], token: str, pointer: str, *, after_last: bool = False) -> int:
    """The index that `token` stands for in the array `node`.

    With `after_last`, the place behind the last element will do as well, also by its name "-".
    """
    if after_last and token == "-":
        return len(node)
    if not _INDEX.fullmatch(token):
        raise pointer_error("not an array index", pointer)
    index = int(token)
    if index >= len(node) + after_last:
        raise pointer_error("array index out of range", pointer)
    return index


def pointer_error(message: str, pointer: str) -> PatchError:
    """The error about `pointer`, without it if it is too long or cannot be written."""
    try:
        pointer.encode("utf-8")
    except UnicodeEncodeError:
        return PatchError(message)
    return PatchError(message, pointer=pointer if len(pointer) <= _MAX_SHOWN_CHARS else None)
