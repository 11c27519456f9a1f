"""Published vectors, read from the folder that PROVLEDGER_VECTORS names.

They are not part of this project. Where the folder or a file in it is missing, each test that
wants it is collected as one case that is skipped with the reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

_NAME = "PROVLEDGER_VECTORS"


def folder() -> Path | None:
    """The folder of vectors, or None."""
    given = os.environ.get(_NAME)
    return Path(given) if given else None


def read(path: str) -> bytes:
    """A file of the folder; skips the running test when there is none."""
    root = folder()
    if root is None:
        pytest.skip(f"{_NAME} is not set")
    file = root / path
    if not file.is_file():
        pytest.skip(f"{path} is not in {_NAME}")
    return file.read_bytes()


def load(path: str) -> Any:
    """A JSON file of the folder; skips the running test when there is none."""
    return json.loads(read(path))


def cases(path: str, pick: Callable[[Any], Iterable[tuple[str, Any]]]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: (id, case) pairs picked from a JSON file."""
    root = folder()
    file = None if root is None else root / path
    if file is None or not file.is_file():
        why = f"{_NAME} is not set" if root is None else f"{path} is not in {_NAME}"
        return [pytest.param(None, marks=pytest.mark.skip(reason=why), id=path)]
    found = pick(json.loads(file.read_bytes()))
    return [pytest.param(case, id=name) for name, case in found]
