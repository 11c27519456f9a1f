"""How much of JSON text is structure, counted before it is parsed.

What a value takes in memory depends on how many there are: `[],` are three bytes of text, and some
seventy of a list. Text that is mostly structure also compresses a thousandfold. So whoever reads
text much longer than the canonical text of anything that was issued asks here first.

Structure is what its canonical text (RFC 8785) takes with empty names and strings::

    [ ]    { }    1 for each pair; the other byte is counted with the comma before or after it
    ,      2      with a byte of the value beside it
    ""     1      one byte more than other values
    "":    3      the same and the colon: a name takes three bytes beside the value's own

So the count is never above the length of the canonical text, and spaces are not counted.
"""

from __future__ import annotations

import re
from typing import Final

MAX_BYTES: Final = (1 << 20) + (1 << 17)
"""Of a receipt: no payload has more than 1 MiB of canonical text, and some thousand hashes,
disclosures, pointers and pieces of evidence have less structure than the rest. What is longer is
long by its strings."""

# One that has no end goes on to that of the text: to look for it again and again takes too long.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def is_above(data: bytes, limit_bytes: int = MAX_BYTES) -> bool:
    """Whether the structure of JSON text takes more bytes than that; of other bytes, anything.

    Takes no memory to speak of.
    """
    if len(data) <= limit_bytes:
        return False
    total = end = 0
    for string in _STRING.finditer(data):
        total += 1 + _between(data, end, string.start())
        end = string.end()
        if total > limit_bytes:
            return True
    return total + _between(data, end, len(data)) > limit_bytes


def _between(data: bytes, start: int, end: int) -> int:
    """Of what is outside strings."""
    return (
        2 * (data.count(b",", start, end) + data.count(b":", start, end))
        + data.count(b"[", start, end)
        + data.count(b"{", start, end)
    )
