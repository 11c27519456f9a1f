"""Strict JSON in, canonical JSON out: RFC 8259 and RFC 7493 for `parse`, RFC 8785 for `encode`.

`parse` refuses whatever two readers could understand differently (design §4): duplicate member
names, NaN and infinities, numbers that overflow a double, integers beyond 2^53-1 whether written
as such or reached by rounding or an exponent, lone surrogates, invalid UTF-8, a byte order mark,
nesting and field counts over the limits. The error names the place by its RFC 6901 pointer.

Both have a fast path through orjson, taken only where its answer is provably that of the slow
path (the reasons stand at the code), and the tests compare the two on generated documents.

* slow `parse`: the standard library's scanner, hooked to leave a mark where something is wrong;
* slow `encode`: the `rfc8785` package, after a check of every value. Between the two, what orjson
  writes of unusual numbers or names is put right in its text (`provledger._jcs_text`), and what
  has very many values is looked over there: a call for each of them would take ten times as long.

A *value* is None, bool, int, float, str, list (or tuple, for `encode`) or dict with str keys, by
exact type. A *field* is a scalar, an array or an empty object; objects are walked, arrays are
not, as in the payload commitment. Depth counts nested arrays and objects: a scalar has depth 0.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import orjson

from provledger import _jcs_slow, _jcs_text
from provledger._jcs_slow import MAX_INTEGER

__all__ = [
    "MAX_DEPTH",
    "MAX_ENCODE_DEPTH",
    "MAX_FIELDS",
    "MAX_INTEGER",
    "JSONValue",
    "canonical_part",
    "canonicalize",
    "encode",
    "encode_parsed",
    "parse",
]

JSONValue: TypeAlias = Any
"""A JSON value as Python knows it; see the module's docstring."""

MAX_DEPTH: Final = 64
"""Default limit for nested arrays and objects in `parse`."""

MAX_FIELDS: Final = 4096
"""Default limit for fields in `parse`."""

MAX_ENCODE_DEPTH: Final = 200
"""Limit for nested arrays and objects in `encode`: under orjson's own 254 and Python's stack,
over MAX_DEPTH, because a document of ours may hold a whole payload."""

_LEAVES = frozenset((str, bool, type(None), int))
_only_leaves = _LEAVES.issuperset
_INTEGER_TOO_BIG = 2.0**53

_INFINITY = float("inf")

_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER

# What `_scan` found.
_PLAIN = 0  # orjson writes it as RFC 8785 does
_UNUSUAL = 1  # good JSON, but orjson would write it otherwise
_LARGE = 2  # the same with numbers from 2^53 on, which orjson may have made of integers
_MANY = 3  # more values than it was to look at
_REFUSED = 4  # over a limit, or something that is not JSON's: the slow path says what

_ESCAPE = re.compile(rb"\\(?:(u003[aA])|.)")

# Containers and floats in what `parse` looks over value by value; beyond, their text is quicker.
_MOST_WALKED = 2000


def parse(data: bytes, *, max_depth: int = MAX_DEPTH, max_fields: int = MAX_FIELDS) -> JSONValue:
    """The value that `data`, UTF-8 JSON, stands for. Raises InvalidJSONError.

    -0 and 1.0 keep their Python types; they lose them in `encode`.
    """
    if type(data) is not bytes:
        return _jcs_slow.parse(data, max_depth, max_fields)
    try:
        value = orjson.loads(data)
        written = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError):
        return _jcs_slow.parse(data, max_depth, max_fields)
    if _is_kept(data, value, written, max_fields) and (
        _scan(value, max_depth, _MOST_WALKED) <= _UNUSUAL
        or _jcs_text.is_good(data, written, max_depth)
    ):
        return value
    return _jcs_slow.parse(data, max_depth, max_fields)


def encode(value: JSONValue, *, max_depth: int = MAX_ENCODE_DEPTH) -> bytes:
    """The canonical bytes (RFC 8785) of `value`.

    Raises InvalidJSONError for a type that is not JSON's, a key that is no string, an integer
    beyond 2^53-1, NaN, an infinity, a lone surrogate, or nesting deeper than `max_depth`, which
    is at most MAX_ENCODE_DEPTH.
    """
    found = _scan(value, max_depth)
    try:
        if found == _PLAIN:
            return orjson.dumps(value, option=_SORTED)
        if found != _REFUSED:
            return encode_parsed(value)
    except TypeError:
        pass  # A lone surrogate or a big integer; the slow path names its place.
    return _jcs_slow.encode(value, max_depth)


def encode_parsed(value: JSONValue) -> bytes:
    """The canonical bytes of what `parse` returned, or of a part of it, without another check."""
    return _jcs_text.canonical(orjson.dumps(value, option=_SORTED))


def canonicalize(
    data: bytes, *, max_depth: int = MAX_DEPTH, max_fields: int = MAX_FIELDS
) -> tuple[JSONValue, bytes]:
    """`parse` and `encode` in one: the value and its canonical bytes. Raises InvalidJSONError."""
    if type(data) is bytes:
        try:
            value = orjson.loads(data)
            written = orjson.dumps(value, option=_SORTED)
            if _is_kept(data, value, written, max_fields):
                found = _scan(value, max_depth, _MOST_WALKED)
                if found == _PLAIN:
                    return value, written
                if found == _UNUSUAL or _jcs_text.is_good(data, written, max_depth):
                    return value, _jcs_text.canonical(written)
        except (ValueError, TypeError):
            pass  # Something is wrong with it; `parse` says what and where.
    value = parse(data, max_depth=max_depth, max_fields=max_fields)
    return value, encode(value)


def canonical_part(value: JSONValue) -> bytes | None:
    """The canonical bytes of a value that orjson read as a part of some text, None if unsure.

    `parse` makes that very value of these bytes, if they have less than `MAX_FIELDS` commas. None
    is for the other functions to judge. That no member was lost is for the caller to make sure of:
    the whole text must come out again as it was.
    """
    if _scan(value, MAX_DEPTH) != _PLAIN:
        return None
    try:
        return orjson.dumps(value, option=_SORTED)
    except TypeError:
        return None


# --- why the fast path is right ------------------------------------------------------------
#
# orjson reads RFC 8259 in UTF-8 and nothing beyond it: no byte order mark, NaN, overflow, lone
# surrogate or raw control character. It is looser than we are in two places only:
#
# * it keeps the last of duplicate members in silence: `_keeps_all_members` finds out;
# * it reads integers beyond 64 bits as floats: as floats they are 2^53 or more, and what has those
#   (_LARGE) is looked at once more, as text. Integers from 2^53 to 2^64 it refuses to write
#   (OPT_STRICT_INTEGER).
#
# It writes as RFC 8785 does, strings included, except for floats (1.0, 1e-7, 1e16; between the
# bounds in `_scan` both write the shortest digits, without an exponent) and for the order of keys
# (code points, where RFC 8785 §3.2.3 wants UTF-16 code units), and it knows types that JSON does
# not (UUID, Enum, ...). `_scan` tells, and `_jcs_text` puts right what it writes.


def _is_kept(data: bytes, value: JSONValue, written: bytes, max_fields: int) -> bool:
    """Whether what orjson read in `data` is all of it, and has no more than `max_fields` fields."""
    return _keeps_all_members(data, written) and (
        data.count(b",") < max_fields or _jcs_slow.count_fields(value) <= max_fields
    )


def _keeps_all_members(data: bytes, written: bytes) -> bool:
    r"""Whether `written`, made from what orjson read in `data`, still has every member.

    A colon in `data` separates a member or stands inside a string, keys included; inside a
    string it could also be an escape, `\u003a`. `written` has one colon for each surviving member
    and one for each in surviving strings. A lost member takes its own colon with it, so the counts
    are equal if and only if none was lost.
    """
    colons = data.count(b":")
    if b"\\u003a" in data or b"\\u003A" in data:
        # Backslashes are in strings only, each before what it escapes: it may be another one.
        escaped = _ESCAPE.findall(data)
        colons += len(escaped) - escaped.count(b"")
    return colons == written.count(b":")


def _scan(root: JSONValue, max_depth: int, most: float = _INFINITY) -> int:
    """What there is; strings and integers are left to orjson itself. Looks at `most` values that
    are neither, or says _MANY.

    Goes down level by level and handles the children of a node at once, so that the usual
    object of strings costs two calls and no loop over its members.
    """
    found = _PLAIN
    level = [root]
    depth = 0
    while level:
        below: list[JSONValue] = []
        for node in level:
            kind = type(node)
            if kind is dict:
                try:
                    names = "".join(node)
                except TypeError:
                    return _REFUSED
                # Without characters beyond U+FFFF the two orders are the same.
                if not names.isascii() and max(names) > "\uffff":
                    found = found or _UNUSUAL
                children = node.values()
            elif kind is list or kind is tuple:
                children = node
            elif kind is float:
                if not -_INTEGER_TOO_BIG < node < _INTEGER_TOO_BIG:
                    if not -_INFINITY < node < _INFINITY:
                        return _REFUSED
                    found = _LARGE
                elif node.is_integer() or not 1e-4 < abs(node) < 1e15:
                    found = found or _UNUSUAL
                continue
            elif kind in _LEAVES:
                continue
            else:
                return _REFUSED
            if depth == max_depth:
                return _REFUSED
            if not _only_leaves(map(type, children)):
                below += [child for child in children if type(child) not in _LEAVES]
        level = below
        most -= len(level)
        if most < 0:
            return _MANY
        depth += 1
    return found
