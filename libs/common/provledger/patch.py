"""JSON Patch (RFC 6902): applied strictly, and made so that it certainly applies.

`apply` keeps to the letter: unknown operations and missing members are errors, unknown members
are ignored, `true` is not 1 while 1 is 1.0, removing the whole document is refused, and all or
nothing happens, to a copy. Its work is bounded whatever the patch says: the number of
operations, the bytes that `copy` multiplies, the elements that shift when arrays change, and the
depth of the result.

`make` compares two documents in time linear in their size, objects by member, arrays by what is
left between a common start and end. It never emits `move`, `copy` or `test`. What it makes is
applied again and must give the new document, up to JCS; else, or when it grows too long,
the patch is the replacement of the whole document.

By our convention an absent state is null: creation is a patch from null, deletion one to null.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import orjson

from provledger import jcs
from provledger.errors import InvalidJSONError, PatchError, PatchLimitError
from provledger.pointer import (
    child,
    element,
    escape_token,
    parse_pointer,
    pointer_error,
    pointer_get,
)

__all__ = [
    "MAX_COPIED_BYTES",
    "MAX_MADE_OPERATIONS",
    "MAX_OPERATIONS",
    "MAX_SHIFTED_ELEMENTS",
    "apply",
    "escape_token",
    "make",
    "parse_pointer",
    "pointer_get",
]

MAX_OPERATIONS: Final = 10_000
"""Most operations that `apply` takes."""

MAX_MADE_OPERATIONS: Final = 1_000
"""Most operations that `make` gives before it replaces the whole document instead."""

MAX_MADE_PATH_CHARS: Final = 1024 * 1024
"""Longest paths of the operations that `make` gives, together: each repeats the names above it."""

MAX_COPIED_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of JSON that the `copy` operations of one patch may copy together."""

MAX_SHIFTED_ELEMENTS: Final = 50_000_000
"""Most elements of arrays that may have to make room or close up, all operations together."""

_MAX_DEPTH = jcs.MAX_ENCODE_DEPTH

_REQUIRED: Final = {
    "add": "value",
    "remove": None,
    "replace": "value",
    "move": "from",
    "copy": "from",
    "test": "value",
}


def apply(document: Any, operations: Any, *, max_copied_bytes: int = MAX_COPIED_BYTES) -> Any:
    """`document` with the patch `operations` applied; neither argument is changed.

    Raises PatchError, with the operation's index and the pointer it was about, when the patch is
    malformed, does not apply or fails a test; PatchLimitError when it asks for too much.
    """
    if not isinstance(operations, list | tuple):
        raise PatchError("patch is not an array")
    if len(operations) > MAX_OPERATIONS:
        raise PatchLimitError(f"patch has more than {MAX_OPERATIONS} operations")
    quick = _quick_copy(document)
    target = _Target(quick[0] if quick else _copy(document, _MAX_DEPTH), max_copied_bytes)
    for index, operation in enumerate(operations):
        try:
            _apply_one(target, operation)
        except PatchError as error:
            raise type(error)(str(error), index=index, pointer=error.pointer) from None
    _check_depth(target.root)
    return target.root


def make(
    old: Any,
    new: Any,
    *,
    max_operations: int = MAX_MADE_OPERATIONS,
    texts: tuple[bytes, bytes] | None = None,
) -> list[dict[str, Any]]:
    """A patch that turns `old` into `new`, up to JCS; [] when they are the same.

    `texts` are the canonical bytes of the two, from whoever has them already: large documents
    take long to write. The operations may share values with `new`. Raises InvalidJSONError when
    one of the two is no JSON value.
    """
    old_text, new_text = texts or (jcs.encode(old), jcs.encode(new))
    if old_text == new_text:
        return []
    made = _Made(max_operations)
    try:
        _compare(old, new, None, made)
        if _is_same(apply(old, made.operations), new):
            return made.operations
    except PatchError:
        pass  # Too long, or wrong after all: the whole document always works.
    return [{"op": "replace", "path": "", "value": new}]


def _is_same(result: Any, new: Any) -> bool:
    """Whether two JSON values have the same canonical bytes, without making these.

    Where orjson writes the same, it is the same: shortest digits tell doubles apart, true is not
    1, and it sorts both alike. Else `_equal` says what RFC 8785 does: equal numbers are written
    alike, since integers beyond 2^53-1 are none, and others are not.
    """
    try:
        sort = orjson.OPT_SORT_KEYS
        if orjson.dumps(result, option=sort) == orjson.dumps(new, option=sort):
            return True
    except TypeError:
        pass
    return _equal(result, new, _MAX_DEPTH, {})


# --- applying ------------------------------------------------------------------------------


class _Target:
    """A document under a patch, and how much work the patch has caused so far."""

    __slots__ = ("copied_bytes", "max_copied_bytes", "root", "shifted")

    def __init__(self, root: Any, max_copied_bytes: int) -> None:
        self.root = root
        self.copied_bytes = 0
        self.max_copied_bytes = max_copied_bytes
        self.shifted = 0

    def get(self, tokens: list[str], pointer: str) -> Any:
        node = self.root
        for token in tokens:
            node = child(node, token, pointer)
        return node

    def add(self, tokens: list[str], pointer: str, value: Any) -> None:
        if not tokens:
            self.root = value
            return
        parent, last = self.get(tokens[:-1], pointer), tokens[-1]
        if isinstance(parent, dict):
            parent[last] = value
        elif isinstance(parent, list):
            index = element(parent, last, pointer, after_last=True)
            self._shift(len(parent) - index)
            parent.insert(index, value)
        else:
            raise pointer_error("a value that is no object or array has nothing inside", pointer)

    def replace(self, tokens: list[str], pointer: str, value: Any) -> None:
        if not tokens:
            self.root = value
            return
        parent, last = self.get(tokens[:-1], pointer), tokens[-1]
        child(parent, last, pointer)
        parent[last if isinstance(parent, dict) else int(last)] = value

    def remove(self, tokens: list[str], pointer: str) -> Any:
        if not tokens:
            # RFC 6902 leaves it open, and no JSON value could be the result.
            raise pointer_error("the whole document cannot be removed", pointer)
        parent, last = self.get(tokens[:-1], pointer), tokens[-1]
        removed = child(parent, last, pointer)
        if isinstance(parent, dict):
            del parent[last]
        else:
            index = int(last)
            self._shift(len(parent) - index)
            del parent[index]
        return removed

    def copy_of(self, value: Any, pointer: str) -> Any:
        quick = _quick_copy(value, self.max_copied_bytes - self.copied_bytes)
        try:
            self.copied_bytes += quick[1] if quick else len(jcs.encode(value))
        except InvalidJSONError as error:
            raise pointer_error(f"cannot be copied: {error.message}", pointer) from None
        if self.copied_bytes > self.max_copied_bytes:
            raise PatchLimitError(f"patch copies more than {self.max_copied_bytes} bytes")
        return quick[0] if quick else _copy(value, _MAX_DEPTH)

    def _shift(self, elements: int) -> None:
        self.shifted += elements
        if self.shifted > MAX_SHIFTED_ELEMENTS:
            raise PatchLimitError(
                f"patch makes more than {MAX_SHIFTED_ELEMENTS} array elements move up or down"
            )


def _apply_one(target: _Target, operation: Any) -> None:
    if not isinstance(operation, dict):
        raise PatchError("operation is not an object")
    name = operation.get("op")
    if not isinstance(name, str) or name not in _REQUIRED:
        raise PatchError("op is missing, or not one of " + ", ".join(_REQUIRED))
    if "path" not in operation:
        raise PatchError("path is missing")
    required = _REQUIRED[name]
    if required is not None and required not in operation:
        raise PatchError(f"{required} is missing")
    pointer = operation["path"]
    tokens = parse_pointer(pointer)
    if name == "add":
        target.add(tokens, pointer, _copy(operation["value"], _MAX_DEPTH))
    elif name == "replace":
        target.replace(tokens, pointer, _copy(operation["value"], _MAX_DEPTH))
    elif name == "remove":
        target.remove(tokens, pointer)
    elif name == "test":
        if not _equal(target.get(tokens, pointer), operation["value"], _MAX_DEPTH, {}):
            raise pointer_error("test failed: the value is another one", pointer)
    else:
        source = operation["from"]
        source_tokens = parse_pointer(source)
        if name == "copy":
            value = target.copy_of(target.get(source_tokens, source), source)
            target.add(tokens, pointer, value)
        else:
            _move(target, source_tokens, source, tokens, pointer)


def _move(
    target: _Target, source_tokens: list[str], source: str, tokens: list[str], pointer: str
) -> None:
    if source_tokens == tokens:
        target.get(source_tokens, source)
        return
    # SPEC: the "from" location MUST NOT be a proper prefix of the "path" location.
    if tokens[: len(source_tokens)] == source_tokens:
        raise pointer_error("a value cannot be moved into itself", pointer)
    target.add(tokens, pointer, target.remove(source_tokens, source))


def _copy(value: Any, depth: int) -> Any:
    """A copy that shares nothing that can change. Tuples become lists."""
    if isinstance(value, dict):
        if not depth:
            raise PatchError(f"value is nested deeper than {_MAX_DEPTH}")
        return {
            name: _copy(item, depth - 1) if isinstance(item, _CONTAINERS) else item
            for name, item in value.items()
        }
    if isinstance(value, _LISTS):
        if not depth:
            raise PatchError(f"value is nested deeper than {_MAX_DEPTH}")
        return [_copy(item, depth - 1) if isinstance(item, _CONTAINERS) else item for item in value]
    return value


def _quick_copy(value: Any, most: float = math.inf) -> tuple[Any, int] | None:
    """A copy as `_copy` makes it, in a tenth of the time, and its bytes as JSON; None if unsure.

    No copy is made (None) of more than `most` bytes. What orjson wrote it reads as the very same.
    What is not JSON it refuses, or makes something else of, such as null of NaN.
    """
    options = orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS
    try:
        text = orjson.dumps(value, option=options)
        if len(text) > most:
            return None, len(text)
        copied = orjson.loads(text)
    except (TypeError, ValueError):
        return None
    return (copied, len(text)) if copied == value else None


_LISTS = (list, tuple)
_CONTAINERS = (dict, list, tuple)
_SCALARS = frozenset((str, int, float, bool, type(None)))


_Apart: TypeAlias = dict[tuple[int, int], int]
"""Pairs of objects or arrays that were found to differ, by their ids; for arrays of one length, the
index of the first elements that do."""


def _equal(one: Any, two: Any, depth: int, apart: _Apart) -> bool:
    """Whether two values are the same JSON (RFC 6902 §4.6): Python has True == 1, JSON has not.

    What differs inside the two is noted in `apart`, and not walked again.
    """
    if isinstance(one, dict) and isinstance(two, dict):
        if len(one) != len(two) or not depth or (id(one), id(two)) in apart:
            return False
        for name, item in one.items():
            if name not in two or not _equal(item, two[name], depth - 1, apart):
                apart[id(one), id(two)] = 0
                return False
        return True
    if isinstance(one, _LISTS) and isinstance(two, _LISTS):
        if len(one) != len(two) or not depth or (id(one), id(two)) in apart:
            return False
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            # A call for each of many scalars would take most of the time.
            same = a == b if type(a) is type(b) in _SCALARS else _equal(a, b, depth - 1, apart)
            if not same:
                apart[id(one), id(two)] = index
                return False
        return True
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    return bool(one == two)


def _check_depth(root: Any) -> None:
    level = [root]
    for _ in range(_MAX_DEPTH + 1):
        level = [
            item
            for node in level
            if isinstance(node, _CONTAINERS)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise PatchError(f"result is nested deeper than {_MAX_DEPTH}")


# --- making --------------------------------------------------------------------------------


_Place: TypeAlias = "tuple[_Place, str | int] | None"
"""Where in a document: a name or index in the place around it; None is the document itself.

A place becomes a pointer only in an operation: with long names around them, the pointers of all
the elements of an array that are equal would be gigabytes.
"""


class _Made:
    """The operations made so far, which give up as soon as there are too many or too long ones.

    `apart` is what was found to differ on the way. Without it, an array would be compared anew at
    each level around it, and from both ends: more than a hundred times.
    """

    def __init__(self, most: int) -> None:
        self.operations: list[dict[str, Any]] = []
        self.apart: _Apart = {}
        self._most = most
        self._room = MAX_MADE_PATH_CHARS

    def add(self, op: str, place: _Place, **value: Any) -> None:
        path = _pointer(place)
        self._room -= len(path)
        if len(self.operations) == self._most or self._room < 0:
            raise PatchError("too many differences")
        self.operations.append({"op": op, "path": path, **value})


def _pointer(place: _Place) -> str:
    tokens = []
    while place is not None:
        place, token = place
        tokens.append(f"/{escape_token(str(token))}")
    return "".join(reversed(tokens))


def _compare(old: Any, new: Any, place: _Place, made: _Made) -> None:
    """Add what turns `old` into `new` at `place`; PatchError for too much."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() - new.keys()):
            made.add("remove", (place, name))
        for name in sorted(new):
            if name in old:
                _compare(old[name], new[name], (place, name), made)
            else:
                made.add("add", (place, name), value=new[name])
    elif isinstance(old, _LISTS) and isinstance(new, _LISTS):
        _compare_arrays(old, new, place, made)
    elif not _equal(old, new, _MAX_DEPTH, made.apart):
        made.add("replace", place, value=new)


def _compare_arrays(old: Any, new: Any, place: _Place, made: _Made) -> None:
    common = min(len(old), len(new))
    start = made.apart.get((id(old), id(new)), 0)
    while start < common and _equal(old[start], new[start], _MAX_DEPTH, made.apart):
        start += 1
    end = 0
    while end < common - start and _equal(old[-1 - end], new[-1 - end], _MAX_DEPTH, made.apart):
        end += 1
    paired = common - end
    for index in range(start, paired):
        _compare(old[index], new[index], (place, index), made)
    # Surplus elements go from the back, so that the indices before them stay what they are.
    for index in range(len(old) - end - 1, paired - 1, -1):
        made.add("remove", (place, index))
    for index in range(paired, len(new) - end):
        made.add("add", (place, index), value=new[index])
