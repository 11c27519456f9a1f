"""Looking into a request before it is parsed: the text of its first field, from its raw bytes.

Of the protobuf encoding (protobuf.dev, "Encoding") this needs only that a message is a sequence of
tags and values. Field 1 of type LEN looks like this, and is what serialisers write first::

    0x0a | length as varint, one or two bytes | UTF-8 text

What is found is a hint: senders may write fields in any order, and of a field that stands twice,
parsers take the last.
"""

from __future__ import annotations

from typing import Final

MAX_TEXT_BYTES: Final = 255
_FIELD_1_LEN: Final = 0x0A


def first_string(data: bytes) -> str:
    """The text of field 1, if the message begins with it and it is no longer than
    `MAX_TEXT_BYTES`; "" otherwise."""
    if len(data) < 2 or data[0] != _FIELD_1_LEN:
        return ""
    length, start = data[1], 2
    if length & 0x80:
        # The second byte of the varint has the higher seven bits.
        if len(data) < 3 or data[2] & 0x80:
            return ""
        length, start = (length & 0x7F) | data[2] << 7, 3
    if length > MAX_TEXT_BYTES or len(data) < start + length:
        return ""
    return data[start : start + length].decode("utf-8", "replace")
