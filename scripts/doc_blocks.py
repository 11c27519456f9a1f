"""Generated blocks in Markdown pages: what stands between two comments is made by a script.

A block looks like this; the script replaces what is between the comments, and nothing else::

    <!-- made: NAME -->
    ...
    <!-- end -->

Used by `worked_example.py` and `reference_docs.py`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

_BLOCK_RE = re.compile(r"<!-- made: ([a-z0-9-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def names_in(text: str) -> list[str]:
    """The names of the blocks of a page, in order."""
    return [match[1] for match in _BLOCK_RE.finditer(text)]


def read(text: str) -> dict[str, str]:
    """The blocks of a page by name, as they stand; of a fenced block only what is inside."""
    return {match[1]: _without_fence(match[2]) for match in _BLOCK_RE.finditer(text)}


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """The page with each block replaced; blocks that are not given stay as they are."""

    def replace(match: re.Match[str]) -> str:
        made = blocks.get(match[1])
        if made is None:
            return match[0]
        return f"<!-- made: {match[1]} -->\n{made.rstrip()}\n<!-- end -->"

    return _BLOCK_RE.sub(replace, text)


def fence(text: str, language: str = "text") -> str:
    """Text as a fenced block."""
    return f"```{language}\n{text}\n```"


def apply(files: Mapping[Path, bytes], *, check: bool) -> None:
    """Write files that differ, or with `check` exit with status 1, naming those that do."""
    stale = [path for path, data in files.items() if _bytes_of(path) != data]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[path])
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(REPO)}")
    if check and stale:
        sys.exit(1)


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _without_fence(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1] == "```":
        lines = lines[1:-1]
    return "\n".join(lines)
