"""The slow and exact half of `provledger.jcs`: finds out what is wrong with a document, and where.

It also writes what orjson would write differently from RFC 8785. Nothing here recurses, except
the standard library's scanner, whose RecursionError is turned into our error, and `rfc8785`,
which sees only values whose depth is checked.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

import orjson
import rfc8785

from provledger.errors import InvalidJSONError
from provledger.pointer import escape_token

MAX_INTEGER: Final = 2**53 - 1
"""Largest integer that a double, and so every JSON reader, holds exactly (RFC 7493 §2.2)."""

_MAX_POINTER_CHARS = 1024

# Doubles from here on are integers too big to be read exactly elsewhere ...
_INTEGER_TOO_BIG = 2.0**53
# ... up to here, where the canonical form gets an exponent (ECMA-262 Number::toString).
_EXPONENT_FROM = 1e21

# The way to a value: None at the root, else the way to its parent and its own token.
_Way: TypeAlias = "tuple[_Way, str] | None"


class _Fault:
    """A mark that the scanner's hooks leave in place of something unacceptable."""

    __slots__ = ("member", "message")

    def __init__(self, message: str, member: str | None = None) -> None:
        self.message = message
        self.member = member


def parse(data: bytes, max_depth: int, max_fields: int) -> Any:
    """See `provledger.jcs.parse`."""
    if not isinstance(data, bytes):
        raise InvalidJSONError("JSON must be given as bytes")
    if data.startswith(b"\xef\xbb\xbf"):
        raise InvalidJSONError("byte order mark before the JSON text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJSONError(f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise InvalidJSONError(f"nested deeper than {max_depth}") from None
    except ValueError as error:
        raise InvalidJSONError(f"not JSON: {error}") from None
    _check(value, max_depth, parsed=True)
    if count_fields(value) > max_fields:
        raise InvalidJSONError(f"more than {max_fields} fields")
    try:
        # Two readers must agree that it is JSON at all.
        orjson.loads(data)
    except ValueError as error:
        raise InvalidJSONError(f"not JSON: {error}") from None
    return value


def encode(value: Any, max_depth: int) -> bytes:
    """See `provledger.jcs.encode`."""
    _check(value, max_depth, parsed=False)
    try:
        return rfc8785.dumps(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidJSONError(f"cannot be made canonical: {type(error).__name__}") from None


def count_fields(root: Any) -> int:
    """Scalars, arrays and empty objects in `root`; objects are walked, arrays are not."""
    fields = 0
    objects = [root]
    for node in objects:
        if type(node) is dict and node:
            children = node.values()
            inner = [child for child in children if type(child) is dict]
            fields += len(children) - len(inner)
            objects += inner
        else:
            fields += 1
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Fault:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return _Fault("duplicate member name", name)
        seen.add(name)
    raise AssertionError("unreachable: some name must repeat")


def _integer(text: str) -> int | _Fault:
    # Longer literals are out of range anyway, and int() would take time quadratic in them.
    return int(text) if len(text) <= 17 else _Fault("integer beyond 2^53-1")


def _constant(name: str) -> _Fault:
    return _Fault(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=float, parse_constant=_constant
)


def _check(root: Any, max_depth: int, *, parsed: bool) -> None:
    """Raise InvalidJSONError for the first fault, level by level.

    `parsed` says that the value comes from a text: then a float that its canonical form would
    turn into an integer beyond 2^53-1 is a fault as well, since that form would not parse.
    """
    level: list[tuple[Any, _Way]] = [(root, None)]
    depth = 0
    while level:
        below: list[tuple[Any, _Way]] = []
        for node, way in level:
            kind = type(node)
            if kind is dict or kind is list or kind is tuple:
                if depth == max_depth:
                    raise _error(f"nested deeper than {max_depth}", way)
                if kind is dict:
                    _check_names(node, way)
                    below += [(child, (way, name)) for name, child in node.items()]
                else:
                    below += [(child, (way, str(place))) for place, child in enumerate(node)]
            else:
                message = _scalar_fault(node, parsed)
                if message:
                    if kind is _Fault and node.member is not None:
                        way = (way, node.member)
                    raise _error(message, way)
        level = below
        depth += 1


def _check_names(node: dict[Any, Any], way: _Way) -> None:
    for name in node:
        if type(name) is not str:
            raise _error("member name is not a string", way)
        if not name.isascii() and _has_surrogate(name):
            raise _error("lone surrogate in a member name", way)


def _scalar_fault(node: Any, parsed: bool) -> str:
    """What is wrong with a value that is no container; "" when nothing is."""
    kind = type(node)
    if kind is str:
        return "lone surrogate" if not node.isascii() and _has_surrogate(node) else ""
    if kind is int:
        return "" if -MAX_INTEGER <= node <= MAX_INTEGER else "integer beyond 2^53-1"
    if kind is float:
        size = abs(node)
        if size < _INTEGER_TOO_BIG or (not parsed and size < float("inf")):
            return ""
        if size < _EXPONENT_FROM:
            return "number whose canonical form is an integer beyond 2^53-1"
        return "" if size < float("inf") else "number beyond the range of a double"
    if kind is bool or node is None:
        return ""
    if kind is _Fault:
        return str(node.message)
    return f"{kind.__name__} is not a JSON type"


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _error(message: str, way: _Way) -> InvalidJSONError:
    """The error at the end of `way`.

    A pointer too long for an error, or one that UTF-8 cannot write, gives way to that of the
    nearest parent.
    """
    tokens: list[str] = []
    while way is not None:
        way, name = way
        tokens.append(escape_token(name))
    tokens.reverse()
    chars = 0
    for place, token in enumerate(tokens):
        chars += len(token) + 1
        if chars > _MAX_POINTER_CHARS or _has_surrogate(token):
            del tokens[place:]
            break
    return InvalidJSONError(message, "".join(f"/{token}" for token in tokens))
