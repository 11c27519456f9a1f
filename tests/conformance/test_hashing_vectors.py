"""BLAKE3 as its authors publish it."""

from __future__ import annotations

from typing import Any

import pytest

from provledger import hashing
from tests.conformance.vectors import cases


@pytest.mark.parametrize(
    "case",
    cases(
        "blake3/test_vectors.json",
        lambda file: ((str(case["input_len"]), case) for case in file["cases"]),
    ),
)
def test_blake3(case: Any) -> None:
    data = bytes(i % 251 for i in range(case["input_len"]))
    assert hashing.blake3(data).hex() == case["hash"][:64]
