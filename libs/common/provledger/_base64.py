"""Strict base64 (RFC 4648 §4): the canonical spelling of some bytes and no other.

Python's own decoder, even with `validate=True`, takes non-zero trailing bits (`AB==` reads like
`AA==`), so that one signature would have several spellings. Here the text is made again and
compared.
"""

from __future__ import annotations

import binascii

_TO_STANDARD = str.maketrans("-_", "+/")


def encode(data: bytes) -> str:
    """Standard alphabet, padded, on one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode(text: str) -> bytes | None:
    """The bytes whose `encode` is exactly `text`, or None when there are none."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        return None
    return data if encode(data) == text else None


def decode_either(text: str) -> bytes | None:
    """Like `decode`, but the URL-safe alphabet (RFC 4648 §5) will do as well; padded, unmixed."""
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            return None
        text = text.translate(_TO_STANDARD)
    return decode(text)
