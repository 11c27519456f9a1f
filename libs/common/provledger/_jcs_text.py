"""The half of `provledger.jcs` that works on the text which orjson wrote, without a walk of values.

A megabyte of JSON can have half a million values, and each walk over them takes a good part of a
second; searching the text for what matters takes a tenth of it. In what orjson writes, strings are
the only place of quotes and backslashes, and a float is told from an integer by its point or
exponent. Every float is read again, as the very double that it was, and written by RFC 8785
§3.2.2.3 from the digits that Python gives, the shortest ones.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

import orjson

# Doubles from here on are integers too big to be read exactly elsewhere, up to where the canonical
# form gets an exponent (ECMA-262 Number::toString).
_INTEGER_TOO_BIG: Final = 2.0**53
_EXPONENT_FROM: Final = 1e21

# Possessive, for what could be taken back is remembered: a hundred bytes for each escape.
_STRING: Final = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
# For what is between strings, where no digits are many: in a megabyte of them it would take hours.
_FLOAT: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+(?:e[-+]?[0-9]+)?|e[-+]?[0-9]+)")
_MAYBE_FLOAT: Final = re.compile(rb"[0-9][.e]")
# Between strings, an integer that orjson may have read as a float of 1e21 or more: it may
# have been rounded up to that.
_LONG_INTEGER: Final = re.compile(rb"(?:^|[\[,:\s])-?[0-9]{21,}(?![0-9.eE])")

# An opening bracket as 1 and a closing one as -1, in a signed byte.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[{]}")

# How characters from U+E000 on begin in UTF-8: up to U+FFFF, and beyond.
_UPPER: Final = re.compile(rb"[\xee\xef]")
_BEYOND: Final = re.compile(rb"[\xf0-\xf4]")
_UPPER_OR_BEYOND: Final = re.compile("[\ue000-\U0010ffff]")


class _Texts(dict[bytes, bytes]):
    """Canonical text by orjson's text of a float."""

    def __missing__(self, text: bytes) -> bytes:
        self[text] = made = _number_text(float(text)).encode()
        return made


def is_good(data: bytes, written: bytes, max_depth: int) -> bool:
    """Whether the slow path takes `data`, of which orjson made what it wrote as `written`.

    What there is to refuse beside members that got lost: nesting deeper than `max_depth`, and
    integers beyond 2^53-1. False may also be said of what only looks like it.
    """
    bare = b"".join(_split(written)[::2])
    steps = memoryview(bare.translate(_STEPS, _NO_BRACKETS)).cast("b")
    if max(accumulate(steps), default=0) > max_depth:
        return False
    sizes = [
        size for text in set(_FLOAT.findall(bare)) if (size := abs(float(text))) >= _INTEGER_TOO_BIG
    ]
    if not sizes:
        return True
    # Of those with an exponent in their canonical form, the ones written as integers are refused.
    return min(sizes) >= _EXPONENT_FROM and not _LONG_INTEGER.search(b'"'.join(_split(data)[::2]))


def canonical(written: bytes) -> bytes:
    """The canonical bytes (RFC 8785) of what orjson wrote, sorted its way."""
    if not written.isascii() and _UPPER.search(written) and _BEYOND.search(written):
        written = _sorted(written)
    if not _MAYBE_FLOAT.search(written):
        return written
    parts = _split(written)
    # What stands between the strings is gone through at once.
    bare = b'"'.join(parts[::2])
    texts = _Texts()
    parts[::2] = _FLOAT.sub(lambda match: texts[match[0]], bare).split(b'"')
    return b'"'.join(parts)


def _split(written: bytes) -> list[bytes]:
    """Of JSON without a fault: what is before the first string, in it, behind it, and so on."""
    return _STRING.split(written) if b"\\" in written else written.split(b'"')


def _sorted(written: bytes) -> bytes:
    """The same with members in the order of UTF-16 code units (RFC 8785 §3.2.3).

    It is that of code points but for characters beyond U+FFFF, whose surrogates come before U+E000.
    So all from there on change places, beyond first, while orjson sorts.
    """
    text = _UPPER_OR_BEYOND.sub(_moved, written.decode())
    text = orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
    return _UPPER_OR_BEYOND.sub(_moved_back, text).encode()


def _moved(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(code - 0x2000 if code > 0xFFFF else code + 0x100000)


def _moved_back(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(code + 0x2000 if code < 0x10E000 else code - 0x100000)


def _number_text(number: float) -> str:
    """What ECMA-262 Number::toString (RFC 8785 §3.2.2.3) writes.

    The digits are the shortest ones, as Python's are; the two differ in when to use an exponent.
    """
    if not number:
        return "0"  # Of -0, too.
    digits, exponential, exponent_text = repr(number).partition("e")
    if not exponential:
        return digits.removesuffix(".0")
    exponent = int(exponent_text)
    if not -7 < exponent < 21:
        return f"{digits}e{exponent:+d}"
    sign = "-" if number < 0 else ""
    digits = digits.lstrip("-").replace(".", "")
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    return sign + digits.ljust(exponent + 1, "0")
