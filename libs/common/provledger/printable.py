"""Text of others, fit for a terminal or a readable log: control characters are spelled out.

A terminal does what control characters say (ECMA-48), and shows what format characters such as
U+202E make of a line. Whoever answers us, or is quoted in a file we read, must not be able to
clear a screen, to write a line that looks like ours, or to show other text than there is.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with every control, format and separator character spelled as in Python: `\x1b`.

    keep: characters that stay as they are, such as line ends where several lines are wanted.
    """
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode()
        if each not in keep and unicodedata.category(each) in _UNSAFE
        else each
        for each in text
    )
